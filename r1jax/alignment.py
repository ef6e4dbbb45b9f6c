"""Rewards and questions by kind, for the second stage of RL.

DeepSeek-R1 (arXiv:2501.12948), §3.2.2: rules reward reasoning questions,
reward models the general prompts, which come in the last part alone.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import ml_collections

from r1jax import (
  distributed,
  experiment,
  preference,
  records,
  rollout,
  sharding,
  tree,
)
from r1jax.data import tokenizer as tokenizer_lib
from r1jax.models import config as model_config
from r1jax.models.layout import SINGLE, Layout
from r1jax.records import Question


def check_kinds(
  config: ml_collections.ConfigDict, data: Sequence[Question], field: str
) -> None:
  """Raises ValueError for a kind of question too many, or one missing."""
  found = {records.kind(question) for question in data}
  wanted = {records.REASONING, *config.reward_models}
  for kind in sorted(wanted - found):
    raise ValueError(
      f"{field} has no question of kind {kind!r}, which the config rewards. "
      "Add a data set with some, or leave that reward out."
    )
  for kind in sorted(found - wanted):
    raise ValueError(
      f"{field} has questions of kind {kind!r}, but config.reward_models has "
      f"no {kind!r}. Remove the questions, or give the model."
    )


def check_reward_models(
  config: ml_collections.ConfigDict,
  tokenizer: tokenizer_lib.Tokenizer,
  dims: model_config.ModelConfig,
) -> None:
  """Raises ValueError unless all of config.reward_models fit the policy."""
  digest = experiment.file_digest(tokenizer_lib.path_of(config.tokenizer))
  for name, fields in config.reward_models.items():
    try:
      preference.read_description(fields.path, dims, tokenizer, digest)
    except ValueError as error:
      raise ValueError(f"config.reward_models.{name}.path: {error}") from error


def model_rewards(
  config: ml_collections.ConfigDict,
  tokenizer: tokenizer_lib.Tokenizer,
  dims: model_config.ModelConfig,
  mesh: jax.sharding.Mesh,
  layout: Layout = SINGLE,
) -> tuple[dict[str, rollout.ModelReward], dict[str, str]]:
  """The rewards by config.reward_models, and the models' digests.

  All of them score with one program of one shape.

  Raises:
    ValueError: As `check_reward_models`.
  """
  model = preference.make(dims, layout=layout)
  abstract = experiment.abstract_weights(model, mesh)
  rows = sharding.rows(mesh)
  score = preference.make_scorer(
    model,
    lambda arrays: distributed.place(arrays, rows),
    row_tokens=config.row_tokens,
    rows=config.rows_per_microbatch,
  )
  digest = experiment.file_digest(tokenizer_lib.path_of(config.tokenizer))
  rewards, digests = {}, {}
  for name, fields in config.reward_models.items():
    *parts, reading = preference.restore(
      fields.path, dims, tokenizer, digest, abstract
    )
    digests[name] = tree.digest(parts[0])
    rewards[name] = functools.partial(
      preference.reward,
      score,
      reading,
      *parts,
      floor=config.rewards[name].floor,
      clip=config.rewards[name].clip,
      max_tokens=config.row_tokens,
    )
  return rewards, digests


def scheduled_questions(
  config: ml_collections.ConfigDict, data: Sequence[Question]
) -> Callable[[int, int], list[Question]]:
  """(index, n) -> the n questions of a round, or of a wave of one.

  The index counts questions, so index / n counts rounds times waves. From
  config.general_from_round on, config.general_frac of the n are general
  prompts; those and the reasoning questions each have an order of their own.
  """
  waves = config.dynamic_sampling_max_waves if config.dynamic_sampling else 1
  first = config.general_from_round * waves
  general = [q for q in data if records.kind(q) != records.REASONING]
  if not config.general_frac:
    return experiment.question_order(data, config.seed)
  rest = [q for q in data if records.kind(q) == records.REASONING]
  take_general = experiment.question_order(general, config.seed)
  take_rest = experiment.question_order(rest, config.seed)

  def take(index, n):
    before = index // n
    share = round(config.general_frac * n)
    mixed = max(0, before - first)
    now = share if before >= first else 0
    return [
      *take_rest(index - mixed * share, n - now),
      *take_general(mixed * share, now),
    ]

  return take
