import numpy as np
from absl.testing import parameterized

from r1jax import weighting
from tests import oracle

ARGUMENTS = {
  "token_mean": {},
  "sequence_mean": {},
  "fixed_length": {"max_tokens": 10},
}


def weights(name, lengths, keep=None):
  lengths_B = np.array(lengths, np.int64)
  keep_B = np.ones(len(lengths), bool) if keep is None else np.array(keep, bool)
  return weighting.WEIGHTINGS[name](lengths_B, keep_B, **ARGUMENTS[name])


class WeightingTest(parameterized.TestCase):
  @parameterized.parameters(
    ("token_mean", [0.125, 0.125]),
    ("sequence_mean", [0.25, 1 / 12]),
    ("fixed_length", [0.05, 0.05]),
  )
  def test_worked_example(self, name, expected_B):
    np.testing.assert_allclose(weights(name, [2, 6]), expected_B, rtol=1e-7)

  @parameterized.parameters(
    ("token_mean", [0.125, 0.125, 0.0]),
    ("sequence_mean", [0.25, 1 / 12, 0.0]),
    ("fixed_length", [0.05, 0.05, 0.0]),
  )
  def test_response_left_out_does_not_count(self, name, expected_B):
    got_B = weights(name, [2, 6, 5], [True, True, False])
    np.testing.assert_allclose(got_B, expected_B, rtol=1e-7)

  @parameterized.parameters(
    ("token_mean", [0.125, 0.125, 0.0]),
    ("sequence_mean", [1 / 6, 1 / 18, 0.0]),
    ("fixed_length", [1 / 30, 1 / 30, 0.0]),
  )
  def test_empty_response_is_a_response(self, name, expected_B):
    np.testing.assert_allclose(weights(name, [2, 6, 0]), expected_B, rtol=1e-6)

  @parameterized.parameters(*ARGUMENTS)
  def test_agrees_with_loops(self, name):
    rng = np.random.default_rng(0)
    lengths_B = rng.integers(0, 9, 40)
    keep_B = rng.random(40) < 0.7
    np.testing.assert_allclose(
      weights(name, lengths_B, keep_B),
      getattr(oracle, name)(lengths_B, keep_B, **ARGUMENTS[name]),
      rtol=1e-7,
    )

  @parameterized.parameters("token_mean", "sequence_mean")
  def test_weights_sum_to_one_over_tokens(self, name):
    lengths = [1, 7, 30000, 12]
    got_B = weights(name, lengths, [True, True, True, False])
    self.assertAlmostEqual(float(np.dot(got_B, lengths)), 1.0, places=6)

  @parameterized.parameters(*ARGUMENTS)
  def test_permutation_permutes(self, name):
    lengths_B = np.array([3, 1, 0, 8])
    keep_B = np.array([True, False, True, True])
    order = np.array([2, 3, 1, 0])
    np.testing.assert_array_equal(
      weights(name, lengths_B[order], keep_B[order]),
      weights(name, lengths_B, keep_B)[order],
    )

  @parameterized.product(
    name=list(ARGUMENTS),
    case=[
      ([], []),
      ([0, 0], [True, True]),
      ([3, 5], [False, False]),
      ([0, 5], [True, False]),
    ],
  )
  def test_nothing_to_weigh_gives_zeros(self, name, case):
    with np.errstate(all="raise"):
      got_B = weights(name, *case)
    np.testing.assert_array_equal(got_B, np.zeros(len(case[0])))
    self.assertEqual(got_B.dtype, np.float32)

  def test_fixed_length_refuses_a_budget_of_zero(self):
    with self.assertRaisesRegex(ValueError, "max_tokens=0"):
      weighting.fixed_length(np.array([1]), np.array([True]), max_tokens=0)

  def test_mask_must_be_bool(self):
    with self.assertRaises(AssertionError):
      weighting.token_mean(np.array([1, 2]), np.array([1, 2]))
