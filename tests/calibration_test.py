import math

import numpy as np
from absl.testing import absltest, parameterized

from r1jax import calibration


def logit(p):
  return math.log(p / (1 - p))


class CalibrationTest(parameterized.TestCase):
  def test_worked_example(self):
    # Confidences .95, .95 (one right), .62 (right); bins of width .05.
    margins_B = np.array([logit(0.95), -logit(0.95), logit(0.62)])
    want = (abs(1 - 2 * 0.95) + abs(1 - 0.62)) / 3
    self.assertAlmostEqual(calibration.calibration_error(margins_B), want)
    brier = (0.05**2 + 0.95**2 + 0.38**2) / 3
    self.assertAlmostEqual(calibration.brier(margins_B), brier)
    self.assertAlmostEqual(calibration.accuracy(margins_B), 2 / 3)

  def test_a_calibrated_model_has_no_error_and_a_bold_one_has(self):
    rng = np.random.default_rng(0)
    p_B = rng.uniform(0.5, 1.0, 20000)
    right_B = rng.uniform(size=20000) < p_B
    margins_B = np.where(right_B, 1, -1) * np.log(p_B / (1 - p_B))
    # Standard error of a bin's accuracy: 0.011 at most.
    self.assertLess(calibration.calibration_error(margins_B), 0.02)
    self.assertGreater(calibration.calibration_error(10 * margins_B), 0.1)

  def test_edges(self):
    self.assertEqual(calibration.accuracy(np.zeros(3)), 0.5)
    self.assertEqual(calibration.calibration_error(np.zeros(3)), 0.0)
    far_B = np.array([1e4, -1e4], np.float32)
    self.assertAlmostEqual(calibration.calibration_error(far_B), 0.5)
    self.assertAlmostEqual(calibration.brier(far_B), 0.5)

  def test_area_against_all_pairs(self):
    rng = np.random.default_rng(1)
    scores_B = rng.integers(0, 5, 40).astype(np.float32)
    labels_B = rng.uniform(size=40) < 0.3
    wins = [
      float(g > b) + 0.5 * float(g == b)
      for g in scores_B[labels_B]
      for b in scores_B[~labels_B]
    ]
    self.assertAlmostEqual(
      calibration.area_under_curve(scores_B, labels_B), np.mean(wins)
    )

  def test_area_of_one_kind_is_unknown(self):
    area = calibration.area_under_curve(np.ones(2), np.ones(2, bool))
    self.assertTrue(math.isnan(area))


if __name__ == "__main__":
  absltest.main()
