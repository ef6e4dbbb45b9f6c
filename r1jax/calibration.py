"""How far a reward model's probabilities and order can be trusted."""

import numpy as np


def brier(margins_B: np.ndarray) -> float:
  """Mean of (1 - p)^2, p the probability of what the label says.

  Brier (1950), halved for two classes.

  Args:
    margins_B: p is sigmoid(margin).
  """
  return float(np.mean(_sigmoid(-np.asarray(margins_B, np.float64)) ** 2))


def accuracy(margins_B: np.ndarray) -> float:
  """Share of margins above 0; one that is 0 is half right."""
  return float(np.mean(_right(margins_B)))


def calibration_error(margins_B: np.ndarray, bins: int = 10) -> float:
  """Expected calibration error of the model's own choice.

    sum over bins of share |accuracy - mean confidence|

  Guo et al. (arXiv:1706.04599), eq. 3, over bins of equal width from 1/2 to
  1; the confidence is sigmoid(|margin|), and the choice is right where the
  margin is above 0.
  """
  confidence_B = _sigmoid(np.abs(np.asarray(margins_B, np.float64)))
  bins_B = np.minimum((confidence_B - 0.5) * 2 * bins, bins - 1).astype(int)
  gaps = np.bincount(bins_B, _right(margins_B) - confidence_B)
  return float(np.sum(np.abs(gaps)) / len(confidence_B))


def area_under_curve(scores_B: np.ndarray, labels_B: np.ndarray) -> float:
  """Probability that a good response scores above a bad one; ties half.

  NaN where one of the two kinds is missing.
  """
  good, bad = np.sort(scores_B[labels_B]), np.sort(scores_B[~labels_B])
  if not len(good) or not len(bad):
    return float("nan")
  below = np.searchsorted(bad, good, "left").sum()
  equal = np.searchsorted(bad, good, "right").sum() - below
  return float((below + equal / 2) / (len(good) * len(bad)))


def _right(margins_B: np.ndarray) -> np.ndarray:
  return 0.5 * (1 + np.sign(margins_B))


def _sigmoid(x: np.ndarray) -> np.ndarray:
  return np.exp(-np.logaddexp(0.0, -x))
