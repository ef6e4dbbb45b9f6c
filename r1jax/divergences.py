"""Divergences of a student's distribution from its teacher's, by token.

Each is a function (student_V, teacher_V) of log-probabilities over the whole
vocabulary, summed over the last axis; no gradient through the teacher's.
With p the teacher's and q the student's distribution of a token,

  forward_kl      KL(p || q), which spreads q over all that p may say
  reverse_kl      KL(q || p), which takes from q what p would not say
  jensen_shannon  between the two: beta KL(p || m) + (1 - beta) KL(q || m)
                  with m = beta p + (1 - beta) q

as in GKD (arXiv:2306.13649), §2 and eq. 1.
"""

import math

import jax
import jax.numpy as jnp


def forward_kl(student_V: jax.Array, teacher_V: jax.Array) -> jax.Array:
  """KL(p || q); its gradient by q's logits is q - p."""
  return _kl(jax.lax.stop_gradient(teacher_V), student_V)


def reverse_kl(student_V: jax.Array, teacher_V: jax.Array) -> jax.Array:
  """KL(q || p), as MiniLLM (arXiv:2306.08543) minimises."""
  return _kl(student_V, jax.lax.stop_gradient(teacher_V))


def jensen_shannon(
  student_V: jax.Array, teacher_V: jax.Array, *, beta: float
) -> jax.Array:
  """The generalised Jensen-Shannon divergence; at most log 2, at beta 0.5.

  Over beta it comes to forward_kl for beta to 0, and over 1 - beta to
  reverse_kl for beta to 1.

  Raises:
    ValueError: If beta is not inside (0, 1).
  """
  if not 0 < beta < 1:
    raise ValueError(
      f"config.divergence.beta is {beta}. Set it above 0 and below 1, or "
      "name forward_kl or reverse_kl."
    )
  teacher_V = jax.lax.stop_gradient(teacher_V)
  mean_V = jnp.logaddexp(
    teacher_V + math.log(beta), student_V + math.log1p(-beta)
  )
  return beta * _kl(teacher_V, mean_V) + (1 - beta) * _kl(student_V, mean_V)


DIVERGENCES = {
  "forward_kl": forward_kl,
  "reverse_kl": reverse_kl,
  "jensen_shannon": jensen_shannon,
}


def _kl(left_V: jax.Array, right_V: jax.Array) -> jax.Array:
  return jnp.sum(jnp.exp(left_V) * (left_V - right_V), axis=-1)
