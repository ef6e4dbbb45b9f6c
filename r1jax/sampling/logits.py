"""From logits to a token: temperature, top-k, top-p, and the draw."""

import jax
import jax.numpy as jnp

BLOCK = 256


def log_softmax_at(
  logits_BV: jax.Array, tokens_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Log-probability of one token a row, and the rows' log-normalisers."""
  lse_B = jax.nn.logsumexp(logits_BV, axis=-1)
  picked_B1 = jnp.take_along_axis(logits_BV, tokens_B[:, None], axis=-1)
  return picked_B1[:, 0] - lse_B, lse_B


def _largest_threshold(values_BV, enough):
  """The largest float a row for which `enough(kept_BV)` holds.

  Bisects over the bit patterns of non-negative floats, which are ordered
  as the floats are, so the result is exact; ties are kept together.
  """
  bits_BV = jax.lax.bitcast_convert_type(values_BV, jnp.int32)

  def halve(_, bounds):
    low_B1, high_B1 = bounds
    middle_B1 = low_B1 + (high_B1 - low_B1) // 2
    good_B1 = enough(bits_BV >= middle_B1)
    return (
      jnp.where(good_B1, middle_B1, low_B1),
      jnp.where(good_B1, high_B1, middle_B1),
    )

  low_B1 = jnp.zeros_like(bits_BV[:, :1])
  high_B1 = jnp.max(bits_BV, axis=-1, keepdims=True) + 1
  low_B1, _ = jax.lax.fori_loop(0, 31, halve, (low_B1, high_B1))
  return bits_BV >= low_B1


def keep_top_k(probs_BV: jax.Array, top_k: int) -> jax.Array:
  """True on each row's `top_k` likeliest tokens, and on what ties."""
  return _largest_threshold(
    probs_BV,
    lambda kept_BV: jnp.sum(kept_BV, axis=-1, keepdims=True) >= top_k,
  )


def keep_top_p(probs_BV: jax.Array, top_p: float) -> jax.Array:
  """True on the fewest likeliest tokens that hold `top_p` of the mass.

  Nucleus sampling (arXiv:1904.09751, eq. 2); what ties is kept as well.
  """
  total_B1 = jnp.sum(probs_BV, axis=-1, keepdims=True)
  return _largest_threshold(
    probs_BV,
    lambda kept_BV: (
      jnp.sum(jnp.where(kept_BV, probs_BV, 0), axis=-1, keepdims=True)
      >= top_p * total_B1
    ),
  )


def _invert(mass_BX, uniform_B):
  """The first index at which the cumulated mass exceeds u * total."""
  cumulated_BX = jnp.cumsum(mass_BX, axis=-1)
  target_B1 = uniform_B[:, None] * cumulated_BX[:, -1:]
  return jnp.argmax(cumulated_BX > target_B1, axis=-1)


def draw(mass_BV: jax.Array, uniforms_B2: jax.Array) -> jax.Array:
  """A token a row, with probability in proportion to its mass.

  Two inversions, of a block of tokens and then inside it, need two
  uniform numbers a row in place of one a token, and no cumulated sum over
  the vocabulary. A token of mass 0 is never drawn.

  Args:
    mass_BV: Non-negative, not all 0 in any row.
    uniforms_B2: In [0, 1).
  """
  B, V = mass_BV.shape
  blocks = -(-V // BLOCK)
  padded_BV = jnp.pad(mass_BV, ((0, 0), (0, blocks * BLOCK - V)))
  mass_BXY = padded_BV.reshape(B, blocks, BLOCK)
  block_B = _invert(jnp.sum(mass_BXY, axis=-1), uniforms_B2[:, 0])
  inside_BY = jnp.take_along_axis(mass_BXY, block_B[:, None, None], axis=1)
  token_B = _invert(inside_BY[:, 0], uniforms_B2[:, 1])
  return (block_B * BLOCK + token_B).astype(jnp.int32)


def sample(
  keys_B: jax.Array,
  logits_BV: jax.Array,
  *,
  temperature: float,
  top_k: int,
  top_p: float,
  barred_BV: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """A token a row and its log-probability at this temperature.

  The log-probability is the untruncated distribution's, the one that the
  trainer computes; top-k, top-p and what is barred narrow only the draw.

  Args:
    keys_B: One key a row; consumed.
    logits_BV: float32.
    temperature: 0 takes the likeliest token, and log-probabilities are
      then those of temperature 1.
    top_k: 0 is off.
    top_p: 1 is off.
    barred_BV: True on tokens that must not be drawn.
  """
  open_BV = logits_BV
  if barred_BV is not None:
    open_BV = jnp.where(barred_BV, -jnp.inf, logits_BV)
  if not temperature:
    tokens_B = jnp.argmax(open_BV, axis=-1).astype(jnp.int32)
    return tokens_B, log_softmax_at(logits_BV, tokens_B)[0]
  logits_BV, open_BV = logits_BV / temperature, open_BV / temperature
  peak_B1 = jnp.max(open_BV, axis=-1, keepdims=True)
  kept_BV = jnp.exp(open_BV - peak_B1)
  if top_k:
    kept_BV = jnp.where(keep_top_k(kept_BV, top_k), kept_BV, 0)
  if top_p < 1:
    kept_BV = jnp.where(keep_top_p(kept_BV, top_p), kept_BV, 0)
  uniforms_B2 = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys_B)
  tokens_B = draw(kept_BV, uniforms_B2)
  return tokens_B, log_softmax_at(logits_BV, tokens_B)[0]
