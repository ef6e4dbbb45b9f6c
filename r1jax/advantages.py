"""How much better a response was than expected, from rewards alone.

Every function takes the rewards of whole groups, G responses to each of Q
questions, before any minibatch is drawn from them.
"""

import jax
import jax.numpy as jnp


def group_normalized(
  rewards_QG: jax.Array, *, eps: float = 1e-6, ddof: int = 0
) -> jax.Array:
  """Advantage of each response over the others to its question.

    A[q, g] = (r[q, g] - mean(r[q])) / (std(r[q]) + eps)

  DeepSeek-R1 (arXiv:2501.12948), eq. 3, which leaves eps and the kind of
  standard deviation open.

  Args:
    rewards_QG: Any range; only differences inside a row matter.
    eps: Keeps the division defined; equal rewards give exactly 0.
    ddof: 0 for the population's standard deviation, 1 for the sample's.

  Returns:
    advantages_QG, with mean 0 in each row.

  Raises:
    ValueError: If G is 1, where every advantage would be 0.
  """
  _require_group(rewards_QG, "group_normalized")
  deviations_QG = _deviations(rewards_QG)
  return deviations_QG / (_std(deviations_QG, ddof) + eps)


def group_centered(rewards_QG: jax.Array) -> jax.Array:
  """Advantage over the group's mean, without the division by its std.

    A[q, g] = r[q, g] - mean(r[q])

  Dr. GRPO (arXiv:2503.20783): dividing by the standard deviation weighs very
  easy and very hard questions up.

  Raises:
    ValueError: If G is 1, where every advantage would be 0.
  """
  _require_group(rewards_QG, "group_centered")
  return _deviations(rewards_QG)


def leave_one_out(rewards_QG: jax.Array) -> jax.Array:
  """Advantage over the mean of the group's other responses.

    A[q, g] = r[q, g] - sum_{j != g} r[q, j] / (G - 1)
            = G / (G - 1) * (r[q, g] - mean(r[q]))

  RLOO (arXiv:2402.14740).

  Raises:
    ValueError: If G is 1, where there is no other response.
  """
  G = _require_group(rewards_QG, "leave_one_out")
  return _deviations(rewards_QG) * (G / (G - 1))


def batch_normalized(rewards_QG: jax.Array, *, eps: float = 1e-6) -> jax.Array:
  """Advantage of each response over all the responses of the round.

    A[q, g] = (r[q, g] - mean(r)) / (std(r) + eps)

  REINFORCE++ (arXiv:2501.03262); mean and population std over Q and G, so G
  may be 1.

  Raises:
    ValueError: If there is only one response.
  """
  if rewards_QG.size == 1:
    raise ValueError(
      "batch_normalized got one response in all, so its advantage is 0. "
      "Set config.questions_per_round to 2 or more."
    )
  deviations_1B = _deviations(jnp.reshape(rewards_QG, (1, -1)))
  advantages_1B = deviations_1B / (_std(deviations_1B, 0) + eps)
  return jnp.reshape(advantages_1B, rewards_QG.shape)


ADVANTAGES = {
  "group_normalized": group_normalized,
  "group_centered": group_centered,
  "leave_one_out": leave_one_out,
  "batch_normalized": batch_normalized,
}


def has_signal_Q(rewards_QG: jax.Array) -> jax.Array:
  """True for each question whose responses' rewards differ.

  The others have advantage 0 everywhere; dynamic sampling replaces them, DAPO
  (arXiv:2503.14476), section 3.2.
  """
  rewards_QG = jnp.asarray(rewards_QG, jnp.float32)
  return jnp.any(rewards_QG != rewards_QG[:, :1], axis=1)


def _require_group(rewards_QG: jax.Array, name: str) -> int:
  G = rewards_QG.shape[1]
  if G == 1:
    raise ValueError(
      f"{name} got G=1, so a response has no others to compare with. "
      "Set config.samples_per_question to 2 or more."
    )
  return G


def _deviations(rewards_QG: jax.Array) -> jax.Array:
  """Rewards less the mean of their row; exactly 0 where a row is constant.

  The mean of equal numbers is off by rounding, which the division by a std of
  the same tiny size would blow up; differences from the first are exact there.
  """
  rewards_QG = jnp.asarray(rewards_QG, jnp.float32)
  offsets_QG = rewards_QG - rewards_QG[:, :1]
  return offsets_QG - jnp.mean(offsets_QG, axis=1, keepdims=True)


def _std(deviations_QG: jax.Array, ddof: int) -> jax.Array:
  squares_Q1 = jnp.sum(deviations_QG**2, axis=1, keepdims=True)
  return jnp.sqrt(squares_Q1 / (deviations_QG.shape[1] - ddof))
