"""How much each token counts in a loss: sum(weights_BT * token_loss_BT).

A choice works on all the responses of an update, before they are packed into
microbatches, so an update's loss and gradient are plain sums over any split of
it. No other file divides by a count of tokens or of responses.

B counts the responses of the update here; every token of a response has the
same weight.
"""

import numpy as np


def token_mean(lengths_B: np.ndarray, keep_B: np.ndarray) -> np.ndarray:
  """Weights of a mean over all tokens of the update.

    w[b] = keep[b] / sum_i keep[i] length[i]

  DAPO (arXiv:2503.14476), eq. 8.

  Args:
    lengths_B: Tokens of each response that the loss is about.
    keep_B: False for a response left out of the loss and of its divisor.

  Returns:
    weights_B, float32; 0 for responses left out and for empty ones.
  """
  lengths_B, keep_B = _checked(lengths_B, keep_B)
  used_B = keep_B & (lengths_B > 0)
  return _inverse(np.full(lengths_B.shape, lengths_B[used_B].sum()), used_B)


def sequence_mean(lengths_B: np.ndarray, keep_B: np.ndarray) -> np.ndarray:
  """Weights of a mean over responses of each response's mean over tokens.

    w[b] = keep[b] / (sum_i keep[i] * length[b])

  GRPO as printed: DeepSeekMath (arXiv:2402.03300), eq. 3. An empty response
  that is kept is one of the responses, with loss 0.

  Args:
    lengths_B: Tokens of each response that the loss is about.
    keep_B: False for a response left out of the loss and of its divisor.

  Returns:
    weights_B, float32; 0 for responses left out and for empty ones.
  """
  lengths_B, keep_B = _checked(lengths_B, keep_B)
  return _inverse(keep_B.sum() * lengths_B, keep_B & (lengths_B > 0))


def fixed_length(
  lengths_B: np.ndarray, keep_B: np.ndarray, *, max_tokens: int
) -> np.ndarray:
  """Weights of a mean over responses of a sum over tokens / a constant.

    w[b] = keep[b] / (sum_i keep[i] * max_tokens)

  Dr. GRPO (arXiv:2503.20783): a long wrong response is not let off for its
  length.

  Args:
    lengths_B: Tokens of each response that the loss is about.
    keep_B: False for a response left out of the loss and of its divisor.
    max_tokens: The constant; the generation budget, not a padded length.

  Returns:
    weights_B, float32; 0 for responses left out and for empty ones.

  Raises:
    ValueError: If max_tokens is below 1.
  """
  if max_tokens < 1:
    raise ValueError(
      f"fixed_length got max_tokens={max_tokens}, but it divides by it. "
      "Set it to the most tokens that a response may have."
    )
  lengths_B, keep_B = _checked(lengths_B, keep_B)
  divisor_B = np.full(lengths_B.shape, keep_B.sum() * max_tokens)
  return _inverse(divisor_B, keep_B & (lengths_B > 0))


WEIGHTINGS = {
  "token_mean": token_mean,
  "sequence_mean": sequence_mean,
  "fixed_length": fixed_length,
}


def _checked(
  lengths_B: np.ndarray, keep_B: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  lengths_B = np.asarray(lengths_B, np.int64)
  keep_B = np.asarray(keep_B)
  assert lengths_B.ndim == 1 and lengths_B.shape == keep_B.shape
  assert keep_B.dtype == bool, "a mask is bool, never a count or an id"
  assert (lengths_B >= 0).all()
  return lengths_B, keep_B


def _inverse(divisor_B: np.ndarray, used_B: np.ndarray) -> np.ndarray:
  weights_B = np.zeros(divisor_B.shape, np.float32)
  weights_B[used_B] = 1.0 / divisor_B[used_B]
  return weights_B
