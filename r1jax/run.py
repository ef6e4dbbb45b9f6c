"""What a job starts from, and what it makes of it."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections

from r1jax import (
  alignment,
  evaluate,
  experiment,
  grading,
  metrics,
  policy,
  rollout,
  run_card,
  sharding,
)
from r1jax.data import sources
from r1jax.data import tokenizer as tokenizer_lib
from r1jax.models import layout as layout_lib
from r1jax.models.config import ModelConfig
from r1jax.models.layout import Layout
from r1jax.records import Question
from r1jax.rewards import sandbox


class Run(NamedTuple):
  """What every job starts from.

  Attributes:
    stack: Closes what the run opens.
    suites: Questions of each evaluation suite, the same for every
      checkpoint.
    grader: Its processes start at the first response.
  """

  config: ml_collections.ConfigDict
  workdir: str
  stack: contextlib.ExitStack
  tokenizer: tokenizer_lib.Tokenizer
  dims: ModelConfig
  mesh: jax.sharding.Mesh
  layout: Layout
  suites: dict[str, list[Question]]
  grader: grading.Grader | None


def start(
  config: ml_collections.ConfigDict, workdir: str, stack: contextlib.ExitStack
) -> Run:
  """The run of a config, what it closes entered into the stack.

  Raises:
    ValueError: For what the config names and cannot be had.
  """
  tokenizer = tokenizer_lib.load(config.tokenizer)
  dims = experiment.dimensions(config, tokenizer)
  experiment.template(config)
  if "reward_models" in config:
    alignment.check_reward_models(config, tokenizer, dims)
  suites, grader = {}, None
  if "eval_sampling" in config:
    suites = _suites(config, tokenizer)
  mesh = sharding.make_mesh(config.mesh)
  layout = layout_lib.of(mesh, config.kernels)
  if "rewards" in config:  # Else nothing is sampled or graded.
    grader = experiment.grader(config)
    stack.callback(grader.close)
  return Run(
    config, workdir, stack, tokenizer, dims, mesh, layout, suites, grader
  )


def _suites(
  config: ml_collections.ConfigDict, tokenizer: tokenizer_lib.Tokenizer
) -> dict[str, list[Question]]:
  suites = {}
  for i, choice in enumerate(config.eval_data):
    data = dict(choice)
    name = data.pop("suite")
    field = f"config.eval_data[{i}]"
    questions = experiment.questions(data, field)
    questions = experiment.within_budget(config, tokenizer, questions, field)
    order = sources.order(questions, 0)
    n = min(config.eval_sampling.questions, len(questions))
    suites[name] = [order[j] for j in range(n)]
  return suites


def lines(run: Run, name: str) -> metrics.JsonLines:
  """A file of JSON lines in the workdir."""
  file = metrics.JsonLines(os.path.join(run.workdir, name))
  run.stack.callback(file.close)
  return file


def roll(
  run: Run,
  sampling: Mapping[str, Any],
  by_kind: Mapping[str, Sequence[str]] = {},
  models: Mapping[str, rollout.ModelReward] = {},
) -> rollout.Roll:
  """The rollout function at a sampling setting.

  Args:
    run: The run.
    sampling: Of the config.
    by_kind, models: As of `experiment.roll`.
  """
  model = policy.make(
    run.dims, temperature=sampling["temperature"], layout=run.layout
  )
  programs = experiment.programs(run.config, model, run.tokenizer, sampling)
  return experiment.roll(
    run.config, run.tokenizer, programs, run.grader, by_kind, models
  )


def evaluator(run: Run) -> Callable[..., dict[str, float]]:
  """The evaluation function of config.eval_data."""
  if not run.suites:
    return lambda state, round: {}
  note_sandbox(run, (q for suite in run.suites.values() for q in suite))
  file = lines(run, "eval.jsonl")
  return evaluate.make(
    roll(run, run.config.eval_sampling),
    run.suites,
    seed=run.config.seed,
    samples=run.config.eval_sampling.samples_per_question,
    write_row=lambda row: file.write([row]),
  )


def note_sandbox(run: Run, questions: Iterable[Question]) -> None:
  """Writes down what holds the programs that answers bring, if any do."""
  if any(question.verifier == "code" for question in questions):
    run_card.write(run.workdir, {"sandbox": sandbox.layers()})
