"""Optimizers and learning-rate schedules, chosen by name."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from r1jax import registry

Schedule = Callable[[Any], jax.Array]  # Update, from 0, to learning rate.
_UNDECAYED = ("norm", "bias", "scale")
MOMENT_DTYPES = ("", "float32", "bfloat16")
_SHARED = ("learning_rate", "clip_norm", "schedule")


def constant(
  update: jax.Array, total_updates: int, *, warmup_updates: int = 0
) -> jax.Array:
  """Fraction of the learning rate at an update: min(1, (u + 1) / warmup)."""
  del total_updates
  return jnp.minimum(1.0, (update + 1) / max(1, warmup_updates))


def linear(
  update: jax.Array,
  total_updates: int,
  *,
  warmup_updates: int = 0,
  final_fraction: float = 0.0,
) -> jax.Array:
  """Fraction of the learning rate: warmup, then 1 - (1 - final) p.

  p runs from 0 at the first update after the warmup to 1 at the last one.
  """
  p = _progress(update, total_updates, warmup_updates)
  fall = 1 - (1 - final_fraction) * p
  return constant(update, total_updates, warmup_updates=warmup_updates) * fall


def cosine(
  update: jax.Array,
  total_updates: int,
  *,
  warmup_updates: int = 0,
  final_fraction: float = 0.0,
) -> jax.Array:
  """Fraction of the learning rate: warmup, then half a cosine.

    final + (1 - final) (1 + cos(pi p)) / 2

  p runs from 0 at the first update after the warmup to 1 at the last one.
  """
  p = _progress(update, total_updates, warmup_updates)
  fall = final_fraction + (1 - final_fraction) * (1 + jnp.cos(jnp.pi * p)) / 2
  return constant(update, total_updates, warmup_updates=warmup_updates) * fall


def adamw(
  schedule: Schedule,
  *,
  b1: float = 0.9,
  b2: float = 0.95,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  moment_dtype: str = "",
) -> optax.GradientTransformation:
  """AdamW (arXiv:1711.05101, alg. 2), decay scaled by the learning rate.

    w <- w - lr (m / (sqrt(v) + eps) + decay w),  m, v without their bias

  Norms, biases and scales are not decayed; they are known by their names,
  since a stack of layers gives a vector a second axis. The moments are of
  `moment_dtype`, where it is given, and the step is computed in it; else
  they are of the parameters' dtype.

  Raises:
    ValueError: For a moment_dtype that there is not.
  """
  if moment_dtype not in MOMENT_DTYPES:
    known = ", ".join(filter(None, MOMENT_DTYPES))
    raise ValueError(
      f"config.optimizer.moment_dtype is {moment_dtype!r}. Leave it out for "
      f"the parameters' dtype, or set it to one of {known}."
    )
  made = optax.adamw(
    schedule, b1, b2, eps, weight_decay=weight_decay, mask=decayed
  )
  return _in_dtype(made, moment_dtype) if moment_dtype else made


def _in_dtype(
  optimizer: optax.GradientTransformation, dtype: str
) -> optax.GradientTransformation:
  """The optimizer, as if parameters and gradients were of a dtype."""

  def cast(tree):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)

  def update(gradients, state, params=None):
    return optimizer.update(cast(gradients), state, cast(params))

  return optax.GradientTransformation(
    lambda params: optimizer.init(cast(params)), update
  )


def sgd(
  schedule: Schedule, *, momentum: float = 0.0
) -> optax.GradientTransformation:
  """Gradient descent: m <- momentum m + g,  w <- w - lr m."""
  return optax.sgd(schedule, momentum or None)


SCHEDULES = {"constant": constant, "linear": linear, "cosine": cosine}
OPTIMIZERS = {"adamw": adamw, "sgd": sgd}


def make(
  config: Mapping[str, Any], total_updates: int
) -> tuple[optax.GradientTransformation, Schedule]:
  """The optimizer of `config.optimizer` and its learning-rate function.

  The gradient is first clipped to the global norm `clip_norm`; 0 or None
  leaves it alone.

  Args:
    config: A choice of OPTIMIZERS with learning_rate, clip_norm, schedule.
    total_updates: Updates of this run, for schedules that end.

  Raises:
    ValueError: For unknown names or arguments, or a warmup that the run
      does not finish.
  """
  choice = {k: v for k, v in config.items() if k not in _SHARED}
  optimizer = registry.make(OPTIMIZERS, choice, "config.optimizer")
  field = "config.optimizer.schedule"
  fraction = registry.make(SCHEDULES, config["schedule"], field)
  warmup_updates = fraction.keywords.get("warmup_updates", 0)
  if warmup_updates >= total_updates:
    raise ValueError(
      f"{field}.warmup_updates is {warmup_updates}, but the run has "
      f"{total_updates} updates, so the learning rate would never be "
      "reached. Set it below that."
    )

  def schedule(update: Any) -> jax.Array:
    return config["learning_rate"] * fraction(update, total_updates)

  steps = [optimizer(schedule)]
  if config["clip_norm"]:
    steps.insert(0, optax.clip_by_global_norm(config["clip_norm"]))
  return optax.chain(*steps), schedule


def first_and_last(
  schedule: Schedule, total_updates: int
) -> tuple[float, float]:
  """Learning rates of a run's first and last update, for the run card."""
  return float(schedule(0)), float(schedule(total_updates - 1))


def decayed(params: Any) -> Any:
  """A tree of bools: True where weight decay applies."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: (
      not any(word in jax.tree_util.keystr(path).lower() for word in _UNDECAYED)
    ),
    params,
  )


def _progress(
  update: jax.Array, total_updates: int, warmup_updates: int
) -> jax.Array:
  steps = max(1, total_updates - 1 - warmup_updates)
  return jnp.clip((update - warmup_updates) / steps, 0.0, 1.0)
