"""Estimates, by token, of the KL divergence from the frozen reference.

With l = log(pi_ref / pi) at a token that pi sampled, k1, k2 and k3 are
Schulman's ("Approximating KL divergence", 2020). As values k1 and k3 have no
bias. Their gradients inside a loss are another matter; s = grad log pi:

  term in the loss          gradient       on average over pi
  k1                        s              0, so it holds nothing back
  k2                        -l s           grad KL(pi || pi_ref)
  k3                        (1 - e^l) s    grad KL(pi_ref || pi)
  pi / sg(mu) * k1 or k3                   grad KL(pi || pi_ref), also over mu
  sg(pi / mu) * k2                         grad KL(pi || pi_ref), also over mu

R1 (arXiv:2501.12948), eq. 2, puts plain k3 into the loss; DeepSeek-V3.2
(arXiv:2512.02556), section 3.1, weighs it by pi / pi_old. In the reward
`in_reward("k1", ...)` is the one without bias.
"""

import jax
import jax.numpy as jnp

from r1jax import losses, registry


def k1(log_ratio_BT: jax.Array) -> jax.Array:
  """-l; no bias, high variance, of either sign."""
  return -log_ratio_BT


def k2(log_ratio_BT: jax.Array) -> jax.Array:
  """l^2 / 2; biased, but little near the reference; never negative."""
  return 0.5 * log_ratio_BT**2


def k3(log_ratio_BT: jax.Array) -> jax.Array:
  """e^l - 1 - l; no bias, low variance, never negative."""
  return jnp.expm1(log_ratio_BT) - log_ratio_BT


KL = {"k1": k1, "k2": k2, "k3": k3}


def penalty(
  name: str,
  logprobs_BT: jax.Array,
  ref_logprobs_BT: jax.Array,
  old_logprobs_BT: jax.Array | None,
  mask_BT: jax.Array,
  *,
  importance_weighted: bool,
) -> jax.Array:
  """KL of each token, to be added to a loss, with the gradient named above.

  Args:
    name: One of KL.
    logprobs_BT: Of the policy at hand.
    ref_logprobs_BT: Of the frozen reference.
    old_logprobs_BT: Of mu, the policy that sampled, or None if it is the same.
    mask_BT: True on the tokens the loss is about.
    importance_weighted: False for the estimator as it is; True to multiply
      it by pi / mu, detached for k2, which mends value and gradient.

  Returns:
    kl_BT, 0 outside of the mask, where the arrays may hold anything.

  Raises:
    ValueError: For an unknown name.
  """
  estimator = registry.lookup(KL, name, "config.kl.name")
  log_ratio_BT = -losses.log_ratio(logprobs_BT, ref_logprobs_BT, mask_BT)
  kl_BT = estimator(log_ratio_BT)
  if not importance_weighted:
    return kl_BT
  ratio_BT = jnp.exp(losses.log_ratio(logprobs_BT, old_logprobs_BT, mask_BT))
  if name == "k2":
    ratio_BT = jax.lax.stop_gradient(ratio_BT)
  return ratio_BT * kl_BT


def in_reward(
  name: str,
  logprobs_BT: jax.Array,
  ref_logprobs_BT: jax.Array,
  mask_BT: jax.Array,
) -> jax.Array:
  """KL of each token, to be taken off its reward; no gradient through it.

  The gradient of E[reward] is -grad KL(pi || pi_ref) for k1 and biased for k2
  and k3. Pass the logprobs of the policy that sampled.

  Returns:
    kl_BT, 0 outside of the mask, where the arrays may hold anything.

  Raises:
    ValueError: For an unknown name.
  """
  estimator = registry.lookup(KL, name, "config.kl.name")
  log_ratio_BT = -losses.log_ratio(logprobs_BT, ref_logprobs_BT, mask_BT)
  return jax.lax.stop_gradient(estimator(log_ratio_BT))
