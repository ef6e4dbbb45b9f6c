"""Policy losses by token, and weights for who sampled the tokens.

A loss is a pure function of arrays that all describe token t at index t,

  (logprobs_BT, old_logprobs_BT, advantages_BT, mask_BT, segments_BT)
    -> (token_loss_BT, stats),

and what is minimised is sum(weights_BT * token_loss_BT), weights_BT from
`weighting`. Outside of mask_BT the arrays may hold anything, inf and NaN too;
losses, statistics and gradients are finite there, and the first are 0.

With old_logprobs_BT None the policy that sampled is the policy at hand: the
ratio is 1 exactly, whatever the rounding, and has the policy's gradient.

The statistics are `ratio_BT`, pi / pi_old as the loss sees it, 1 outside of the
mask, and `clipped_BT`, 1.0 on tokens whose loss the clip changed.
"""

import chex
import jax
import jax.numpy as jnp

Stats = dict[str, jax.Array]


def clipped_surrogate(
  logprobs_BT: jax.Array,
  old_logprobs_BT: jax.Array | None,
  advantages_BT: jax.Array,
  mask_BT: jax.Array,
  segments_BT: jax.Array,
  *,
  clip_low: float,
  clip_high: float,
  dual_clip: float | None = None,
) -> tuple[jax.Array, Stats]:
  """Loss of PPO and GRPO: the ratio earns nothing outside of an interval.

    rho = pi / pi_old
    loss = -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)
    loss = -max(that minimum, dual_clip A)  where A < 0

  PPO (arXiv:1707.06347), eq. 7, by token as in DeepSeekMath
  (arXiv:2402.03300), eq. 3. Set the two clips equal for GRPO as printed; R1
  (arXiv:2501.12948) has 10, so only ratios above 11 with A > 0 are clipped.
  Unequal is DAPO's clip-higher (arXiv:2503.14476), eq. 10; dual_clip is
  arXiv:1912.09729.

  Args:
    logprobs_BT: Of the policy at hand.
    old_logprobs_BT: Of the policy that sampled, or None if it is the same.
    advantages_BT: Of the token's response.
    mask_BT: True on the tokens the loss is about.
    segments_BT: Unused.
    clip_low: How far below 1 the ratio counts where A < 0; at least 0.
    clip_high: How far above 1 the ratio counts where A > 0; at least 0.
    dual_clip: The largest ratio that counts where A < 0, above 1; None for
      no limit.

  Raises:
    ValueError: If a clip is negative or dual_clip is not above 1.
  """
  del segments_BT
  _check_clips(clip_low, clip_high)
  if dual_clip is not None and dual_clip <= 1:
    raise ValueError(
      f"config.loss.dual_clip is {dual_clip}. Set it above 1 (3 is usual), "
      "or to None for no limit."
    )
  ratio_BT = jnp.exp(log_ratio(logprobs_BT, old_logprobs_BT, mask_BT))
  advantages_BT = _where(mask_BT, advantages_BT)
  high_if_worse = jnp.inf if dual_clip is None else dual_clip
  return _clipped_loss(
    ratio_BT, advantages_BT, 1 - clip_low, 1 + clip_high, high_if_worse
  )


def gspo(
  logprobs_BT: jax.Array,
  old_logprobs_BT: jax.Array | None,
  advantages_BT: jax.Array,
  mask_BT: jax.Array,
  segments_BT: jax.Array,
  *,
  clip_low: float,
  clip_high: float,
) -> tuple[jax.Array, Stats]:
  """Loss of GSPO: one ratio for a sequence, clipped as a whole.

    s_i = exp(mean over t of log pi / pi_old)
    loss = -min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i)

  GSPO (arXiv:2507.18071), eqs. 5 and 7. Every token of sequence i has the loss
  of sequence i, so the mean over tokens inside a sequence leaves it as it is:
  `sequence_mean` gives the paper's objective, other weightings weigh longer
  sequences up. The gradient reaches each token with s_i / |y_i|.

  Args:
    logprobs_BT: Of the policy at hand.
    old_logprobs_BT: Of the policy that sampled, or None if it is the same.
    advantages_BT: Of the token's response, the same on all its tokens.
    mask_BT: True on the tokens the loss is about.
    segments_BT: Which sequence of its row a token belongs to; 0 is padding.
    clip_low: As in clipped_surrogate; the paper has 3e-4.
    clip_high: As in clipped_surrogate; the paper has 4e-4.

  Raises:
    ValueError: If a clip is negative.
  """
  _check_clips(clip_low, clip_high)
  log_ratio_BT = log_ratio(logprobs_BT, old_logprobs_BT, mask_BT)
  mean_BT = _segment_mean(log_ratio_BT, mask_BT, segments_BT)
  ratio_BT = jnp.exp(_where(mask_BT, mean_BT))
  advantages_BT = _where(mask_BT, advantages_BT)
  return _clipped_loss(
    ratio_BT, advantages_BT, 1 - clip_low, 1 + clip_high, jnp.inf
  )


def cispo(
  logprobs_BT: jax.Array,
  old_logprobs_BT: jax.Array | None,
  advantages_BT: jax.Array,
  mask_BT: jax.Array,
  segments_BT: jax.Array,
  *,
  clip_high: float,
  clip_low: float | None = None,
) -> tuple[jax.Array, Stats]:
  """Loss of CISPO: the ratio is a capped weight, every token keeps a gradient.

    loss = -sg(clip(rho, 1 - clip_low, 1 + clip_high)) A log pi

  MiniMax-M1 (arXiv:2506.13585), eqs. 4 and 5; sg stops the gradient.

  Args:
    logprobs_BT: Of the policy at hand.
    old_logprobs_BT: Of the policy that sampled, or None if it is the same.
    advantages_BT: Of the token's response.
    mask_BT: True on the tokens the loss is about.
    segments_BT: Unused.
    clip_high: The cap is 1 + clip_high, not clip_high itself; at least 0.
    clip_low: The floor is 1 - clip_low; None for none, as in the paper.

  Raises:
    ValueError: If a clip is negative.
  """
  del segments_BT
  _check_clips(0.0 if clip_low is None else clip_low, clip_high)
  low = 0.0 if clip_low is None else 1 - clip_low
  log_ratio_BT = log_ratio(logprobs_BT, old_logprobs_BT, mask_BT)
  ratio_BT = jax.lax.stop_gradient(jnp.exp(log_ratio_BT))
  used_BT = jnp.clip(ratio_BT, low, 1 + clip_high)
  advantages_BT = _where(mask_BT, advantages_BT)
  token_loss_BT = -used_BT * advantages_BT * _where(mask_BT, logprobs_BT)
  changed_BT = used_BT * advantages_BT != ratio_BT * advantages_BT
  return token_loss_BT, _stats(ratio_BT, changed_BT)


def cross_entropy(
  logprobs_BT: jax.Array,
  old_logprobs_BT: jax.Array | None,
  advantages_BT: jax.Array | None,
  mask_BT: jax.Array,
  segments_BT: jax.Array | None,
) -> tuple[jax.Array, Stats]:
  """Loss of next-token prediction, -log pi; all but the mask may be None."""
  del old_logprobs_BT, advantages_BT, segments_BT
  _check_arrays(logprobs_BT, mask_BT)
  return -_where(mask_BT, logprobs_BT), {}


LOSSES = {
  "clipped_surrogate": clipped_surrogate,
  "gspo": gspo,
  "cispo": cispo,
  "cross_entropy": cross_entropy,
}


def log_ratio(
  logprobs_BT: jax.Array,
  old_logprobs_BT: jax.Array | None,
  mask_BT: jax.Array,
) -> jax.Array:
  """log pi / pi_old, 0 outside of the mask; no gradient through pi_old.

  With old_logprobs_BT None pi_old is pi: the value is 0, the gradient pi's.
  Both terms are masked before anything is computed from them: to mask a result
  is too late for its gradient, where 0 times the slope of an infinity is NaN.
  """
  _check_arrays(logprobs_BT, mask_BT)
  if old_logprobs_BT is None:
    old_logprobs_BT = logprobs_BT
  chex.assert_equal_shape([logprobs_BT, old_logprobs_BT])
  old_logprobs_BT = jax.lax.stop_gradient(old_logprobs_BT)
  return _where(mask_BT, logprobs_BT) - _where(mask_BT, old_logprobs_BT)


def token_truncate(
  old_logprobs_BT: jax.Array,
  sampler_logprobs_BT: jax.Array,
  mask_BT: jax.Array,
  segments_BT: jax.Array,
  *,
  cap: float,
) -> jax.Array:
  """Factor min(k, cap) of each token, k = pi_old / mu, mu the sampler's.

  Truncated importance sampling (Yao et al. 2025, "Your efficient RL framework
  secretly brings you off-policy RL training"); caps of 2 to 5 are in use.
  """
  del segments_BT
  log_ratio_BT = log_ratio(old_logprobs_BT, sampler_logprobs_BT, mask_BT)
  return _factor(log_ratio_BT, mask_BT, high=cap, truncate=True)


def token_mask(
  old_logprobs_BT: jax.Array,
  sampler_logprobs_BT: jax.Array,
  mask_BT: jax.Array,
  segments_BT: jax.Array,
  *,
  low: float,
  high: float,
) -> jax.Array:
  """Factor k = pi_old / mu of each token where low <= k <= high, else 0.

  IcePop (arXiv:2510.18855); 0.5 and 5 are usual.
  """
  del segments_BT
  log_ratio_BT = log_ratio(old_logprobs_BT, sampler_logprobs_BT, mask_BT)
  return _factor(log_ratio_BT, mask_BT, low=low, high=high)


def sequence_truncate(
  old_logprobs_BT: jax.Array,
  sampler_logprobs_BT: jax.Array,
  mask_BT: jax.Array,
  segments_BT: jax.Array,
  *,
  cap: float,
) -> jax.Array:
  """Factor min(prod_t k_t, cap) of each sequence, the same on its tokens.

  Without bias below the cap, but of high variance; caps of 2 to 10 are in use.
  """
  log_ratio_BT = log_ratio(old_logprobs_BT, sampler_logprobs_BT, mask_BT)
  sum_BT = _segment_sum(log_ratio_BT, segments_BT)
  return _factor(sum_BT, mask_BT, high=cap, truncate=True)


def sequence_mask(
  old_logprobs_BT: jax.Array,
  sampler_logprobs_BT: jax.Array,
  mask_BT: jax.Array,
  segments_BT: jax.Array,
  *,
  low: float,
  high: float,
) -> jax.Array:
  """Factor prod_t k_t of each sequence where it is in [low, high], else 0."""
  log_ratio_BT = log_ratio(old_logprobs_BT, sampler_logprobs_BT, mask_BT)
  sum_BT = _segment_sum(log_ratio_BT, segments_BT)
  return _factor(sum_BT, mask_BT, low=low, high=high)


IMPORTANCE = {
  "token_truncate": token_truncate,
  "token_mask": token_mask,
  "sequence_truncate": sequence_truncate,
  "sequence_mask": sequence_mask,
}


def off_policy_mask(
  logprobs_BT: jax.Array,
  old_logprobs_BT: jax.Array,
  advantages_BT: jax.Array,
  mask_BT: jax.Array,
  segments_BT: jax.Array,
  *,
  max_log_ratio: float,
) -> jax.Array:
  """Factor 0 of each sequence that is bad and that the policy has left, else 1.

    0 if A < 0 and mean over t of log pi_old / pi > max_log_ratio

  DeepSeek-V3.2 (arXiv:2512.02556), section 3.1, where pi_old is what the
  sampler returned. The threshold is undisclosed; 0.5 is in use.
  """
  log_ratio_BT = log_ratio(logprobs_BT, old_logprobs_BT, mask_BT)
  mean_BT = -_segment_mean(log_ratio_BT, mask_BT, segments_BT)
  drop_BT = (_where(mask_BT, advantages_BT) < 0) & (mean_BT > max_log_ratio)
  return _where(mask_BT & ~drop_BT, jnp.ones_like(logprobs_BT))


def _where(mask_BT: jax.Array, values_BT: jax.Array) -> jax.Array:
  return jnp.where(mask_BT, values_BT, jnp.zeros_like(values_BT))


def _clipped_loss(
  ratio_BT: jax.Array,
  advantages_BT: jax.Array,
  low: float,
  high: float,
  high_if_worse: float,
) -> tuple[jax.Array, Stats]:
  """The pessimistic loss, as bounds on the ratio by the advantage's sign.

  Where A >= 0, min(rho A, clip(rho) A) is A min(rho, high): no lower bound.
  Where A < 0, it is A max(rho, low), and dual clipping bounds that above.
  """
  worse_BT = advantages_BT < 0
  used_BT = jnp.clip(
    ratio_BT,
    jnp.where(worse_BT, low, 0.0),
    jnp.where(worse_BT, high_if_worse, high),
  )
  changed_BT = used_BT * advantages_BT != ratio_BT * advantages_BT
  return -used_BT * advantages_BT, _stats(ratio_BT, changed_BT)


def _stats(ratio_BT: jax.Array, changed_BT: jax.Array) -> Stats:
  stats = {"ratio_BT": ratio_BT, "clipped_BT": changed_BT.astype(jnp.float32)}
  return jax.lax.stop_gradient(stats)


def _factor(
  log_ratio_BT: jax.Array,
  mask_BT: jax.Array,
  *,
  low: float = 0.0,
  high: float,
  truncate: bool = False,
) -> jax.Array:
  ratio_BT = jax.lax.stop_gradient(jnp.exp(_where(mask_BT, log_ratio_BT)))
  if truncate:
    return _where(mask_BT, jnp.minimum(ratio_BT, high))
  return _where(mask_BT & (low <= ratio_BT) & (ratio_BT <= high), ratio_BT)


def _segment_sum(values_BT: jax.Array, segments_BT: jax.Array) -> jax.Array:
  """Sum over the token's segment, at every token; no mask, so pass zeros."""
  T = values_BT.shape[1]

  def row(values_T, segments_T):
    sums_T = jax.ops.segment_sum(values_T, segments_T, num_segments=T + 1)
    return sums_T[segments_T]

  return jax.vmap(row)(values_BT, segments_BT)


def _segment_mean(
  values_BT: jax.Array, mask_BT: jax.Array, segments_BT: jax.Array
) -> jax.Array:
  """Sum over the token's segment by its masked tokens; 0 if it has none."""
  counts_BT = _segment_sum(mask_BT.astype(jnp.float32), segments_BT)
  return _segment_sum(values_BT, segments_BT) / jnp.maximum(counts_BT, 1.0)


def _check_arrays(logprobs_BT: jax.Array, mask_BT: jax.Array) -> None:
  chex.assert_rank(logprobs_BT, 2)
  chex.assert_equal_shape([logprobs_BT, mask_BT])
  chex.assert_type([logprobs_BT, mask_BT], [jnp.float32, bool])


def _check_clips(clip_low: float, clip_high: float) -> None:
  for name, clip in [("clip_low", clip_low), ("clip_high", clip_high)]:
    if clip < 0:
      raise ValueError(
        f"config.loss.{name} is {clip}. Set it to 0 or more; the ratio is "
        "clipped to [1 - clip_low, 1 + clip_high]."
      )
