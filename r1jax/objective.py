"""What a job trains, apart from its data: the model, its loss, its batch.

Runs and plans assemble these here, so that a plan compiles what a run runs.
"""

from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from r1jax import (
  advantages,
  losses,
  policy,
  preference,
  registry,
  score_losses,
  weighting,
)
from r1jax.models import config as model_config
from r1jax.models import mtp
from r1jax.models.config import ModelConfig
from r1jax.models.layout import Layout
from r1jax.stages import distill, grpo, lm, reward_model
from r1jax.types import Batch

TRAINED = ("grpo", "lm", "distill", "on_policy_distill", "reward_model")


class Objective(NamedTuple):
  """What is trained.

  Attributes:
    model: Has `init`.
    loss_fn: (params, buffers, batch) -> (loss, Aux).
    batch: Shapes and types of a microbatch; no teacher in it.
    with_reference: Whether the state has a frozen copy.
    frozen: As of `training.train`.
    scores: Log-probabilities asked for beside the loss, of each microbatch:
      "old" or "reference".
    teacher: Dimensions of the teacher, None without one.
  """

  model: policy.Policy | preference.RewardModel
  loss_fn: Any
  batch: Batch
  with_reference: bool = False
  frozen: tuple[str, ...] = (mtp.NAME,)
  scores: tuple[str, ...] = ()
  teacher: ModelConfig | None = None


def choice(config: ml_collections.ConfigDict, name: str, table: Any) -> Any:
  """The function of a table that config.NAME chooses.

  Raises:
    ValueError: For an unknown name or argument.
  """
  return registry.make(table, config[name].to_dict(), f"config.{name}")


def grpo_settings(config: ml_collections.ConfigDict) -> grpo.Settings:
  """Of a config of job "grpo".

  Raises:
    ValueError: As `choice`.
  """
  importance = None
  if config.importance.name != "none":
    importance = choice(config, "importance", losses.IMPORTANCE)
  return grpo.settings_of(
    config,
    choice(config, "loss", losses.LOSSES),
    choice(config, "advantage", advantages.ADVANTAGES),
    choice(config, "weighting", weighting.WEIGHTINGS),
    importance,
  )


def trained_policy(
  config: ml_collections.ConfigDict, dims: ModelConfig, layout: Layout
) -> policy.Policy:
  """The policy that a config of job "grpo" or "lm" trains."""
  is_grpo = config.job == "grpo"
  return policy.make(
    dims,
    temperature=config.sampling.temperature if is_grpo else 1.0,
    with_balance=config.balance_coef > 0,
    with_mtp=not is_grpo and config.mtp_coef > 0,
    layout=layout,
  )


def of(
  config: ml_collections.ConfigDict, dims: ModelConfig, layout: Layout
) -> Objective:
  """The objective of a config whose job trains, of TRAINED.

  Raises:
    ValueError: For a choice that the config makes and cannot be had.
  """
  if config.job == "grpo":
    settings = grpo_settings(config)
    model = trained_policy(config, dims, layout)
    old = settings.updates > 1 or settings.importance is not None
    return Objective(
      model,
      grpo.make_loss(model, settings),
      grpo.abstract_batch(settings, dims),
      with_reference=config.kl.coef > 0,
      scores=("old",) * old + ("reference",) * (config.kl.coef > 0),
    )
  if config.job == "lm":
    return _lm(config, dims, layout)
  if config.job == "reward_model":
    return _reward_model(config, dims, layout)
  theirs = model_config.from_dict(config.teacher.model.to_dict())
  batch, scores = _batch(config), ()
  if config.divergence.to_dict()["name"] == distill.SAMPLED:
    scores = ("teacher",)
    batch = batch._replace(ref_logprobs_BT=_like(batch, np.float32))
  return Objective(
    policy.make(dims, temperature=1.0, layout=layout),
    distill.loss_of(config, dims, theirs, layout),
    batch,
    scores=scores,
    teacher=theirs,
  )


def _lm(config, dims, layout):
  model = trained_policy(config, dims, layout)
  stage = lm.make(
    model,
    None,
    None,
    loss_on=config.loss_on,
    weigh=None,
    row_tokens=config.row_tokens,
    rows=config.rows_per_microbatch,
    balance_coef=config.balance_coef,
    mtp_coef=config.mtp_coef,
  )
  frozen = () if config.mtp_coef else (mtp.NAME,)
  return Objective(model, stage.loss_fn, _batch(config), frozen=frozen)


def _reward_model(config, dims, layout):
  model = preference.make(
    dims, with_balance=config.balance_coef > 0, layout=layout
  )
  stage = reward_model.make(
    model,
    None,
    None,
    loss=choice(config, "loss", score_losses.LOSSES),
    row_tokens=config.row_tokens,
    rows=config.rows_per_microbatch,
    balance_coef=config.balance_coef,
  )
  batch = _batch(config)
  batch = batch._replace(
    targets_BT=_like(batch, np.float32), rivals_BT=_like(batch, np.int32)
  )
  return Objective(model, stage.loss_fn, batch)


def _batch(config):
  """Shapes and types of a microbatch of next-token training."""
  [batch] = lm.pack_update(
    [lm.sequence([0], [0])],
    weighting.token_mean,
    row_tokens=config.row_tokens,
    rows=1,
  )
  return jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(
      (config.rows_per_microbatch, *a.shape[1:]), a.dtype
    ),
    batch,
  )


def _like(batch, dtype):
  return jax.ShapeDtypeStruct(batch.tokens_BT.shape, dtype)
