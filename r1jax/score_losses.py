"""Losses of reward models, by response.

A loss is a pure function

  (scores_BT, rival_scores_BT, targets_BT, mask_BT) -> loss_BT

of arrays whose entry t describes the response that ends at token t; the mask
is True on last tokens alone. What is minimised is sum(weights_BT * loss_BT),
weights_BT from `weighting`. Outside of the mask the arrays may hold anything,
inf and NaN too; losses and gradients are finite there, and the first are 0.
"""

import chex
import jax
import jax.numpy as jnp


def pairwise(
  scores_BT: jax.Array,
  rival_scores_BT: jax.Array,
  targets_BT: jax.Array,
  mask_BT: jax.Array,
  *,
  margin_coef: float = 0.0,
) -> jax.Array:
  """Loss of Bradley and Terry, the same on both members of a pair.

    loss = -log sigmoid(r_chosen - r_rejected - margin_coef * m)

  InstructGPT (arXiv:2203.02155), eq. 1; the margin is Llama 2's
  (arXiv:2307.09288), eq. 2. R1 prints no formula (arXiv:2501.12948, §3.1).

  Args:
    scores_BT: Of the response that ends here.
    rival_scores_BT: Of the other member of its pair.
    targets_BT: m > 0 where the response was chosen, -m where it was
      rejected; m is how clearly.
    mask_BT: True on the last token of each member.
    margin_coef: 0 asks for no margin.

  Raises:
    ValueError: If margin_coef is negative.
  """
  if margin_coef < 0:
    raise ValueError(
      f"config.loss.margin_coef is {margin_coef}. Set it to 0 or more."
    )
  margins_BT = margins(scores_BT, rival_scores_BT, targets_BT, mask_BT)
  m_BT = jnp.abs(jnp.where(mask_BT, targets_BT, 0.0))
  loss_BT = jax.nn.softplus(margin_coef * m_BT - margins_BT)
  return jnp.where(mask_BT, loss_BT, 0.0)


def pointwise(
  scores_BT: jax.Array,
  rival_scores_BT: jax.Array,
  targets_BT: jax.Array,
  mask_BT: jax.Array,
) -> jax.Array:
  """Binary cross-entropy of sigmoid(score) against the label.

    loss = -log sigmoid(r)  if the label is good,  -log sigmoid(-r)  if not

  R1 says "point-wise" and no more (arXiv:2501.12948, §3.1).

  Args:
    scores_BT: Of the response that ends here.
    rival_scores_BT: Unused; a response without a rival is one whose rival
      has the score 0.
    targets_BT: 1 where the label is good, -1 where it is not.
    mask_BT: True on last tokens.
  """
  rival_scores_BT = jnp.zeros_like(rival_scores_BT)
  margins_BT = margins(scores_BT, rival_scores_BT, targets_BT, mask_BT)
  return jnp.where(mask_BT, jax.nn.softplus(-margins_BT), 0.0)


LOSSES = {"pairwise": pairwise, "pointwise": pointwise}


def margins(
  scores_BT: jax.Array,
  rival_scores_BT: jax.Array,
  targets_BT: jax.Array,
  mask_BT: jax.Array,
) -> jax.Array:
  """How far a score is on the right side; 0 outside of the mask.

    (r - r_rival) sign(target)

  sigmoid of it is the probability of what the label says.
  """
  arrays = [scores_BT, rival_scores_BT, targets_BT, mask_BT]
  chex.assert_equal_shape(arrays)
  chex.assert_type(arrays, [jnp.float32] * 3 + [bool])
  # Masked before anything is computed, so that no NaN meets a gradient.
  scores_BT, rival_scores_BT, targets_BT = (
    jnp.where(mask_BT, values_BT, 0.0) for values_BT in arrays[:3]
  )
  return (scores_BT - rival_scores_BT) * jnp.sign(targets_BT)
