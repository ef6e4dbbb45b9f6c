"""The jobs: each assembles its parts from the config and runs them."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import rich.console
import rich.table
from absl import logging

from r1jax import (
  advantages,
  checkpoint,
  evaluate,
  experiment,
  generate,
  grading,
  losses,
  memory,
  metrics,
  optim,
  policy,
  preference,
  registry,
  rollout,
  run_card,
  sharding,
  train,
  tree,
  weighting,
)
from r1jax.data import sources, templates
from r1jax.data import tokenizer as tokenizer_lib
from r1jax.models import store
from r1jax.models.config import ModelConfig
from r1jax.records import Question
from r1jax.stages import grpo, lm, reward_model
from r1jax.types import Params, Stage

EXPORT = "params.safetensors"


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
  suites: dict[str, list[Question]]
  grader: grading.Grader | None


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Runs config.job in the workdir; the same again resumes.

  Raises:
    ValueError: For what the config asks and cannot be had.
    OSError: If the workdir cannot be written.
  """
  job = registry.lookup(JOBS, config.job, "config.job")
  memory.keep_freed()
  os.makedirs(workdir, exist_ok=True)
  run_card.claim(config, workdir)
  if "final_digests" in run_card.read(workdir):
    logging.info("%s is finished.", workdir)
    return
  with contextlib.ExitStack() as stack:
    job(_start(config, workdir, stack))


def _start(
  config: ml_collections.ConfigDict, workdir: str, stack: contextlib.ExitStack
) -> Run:
  tokenizer = tokenizer_lib.load(config.tokenizer)
  dims = experiment.dimensions(config, tokenizer)
  registry.lookup(templates.TEMPLATES, config.template, "config.template")
  if "rewards" not in config:  # Nothing is sampled or graded.
    mesh = sharding.make_mesh(config.mesh)
    return Run(config, workdir, stack, tokenizer, dims, mesh, {}, None)
  suites = _suites(config, tokenizer)
  mesh = sharding.make_mesh(config.mesh)
  grader = experiment.grader(config)
  stack.callback(grader.close)
  return Run(config, workdir, stack, tokenizer, dims, mesh, suites, grader)


def _suites(
  config: ml_collections.ConfigDict, tokenizer: tokenizer_lib.Tokenizer
) -> dict[str, list[Question]]:
  suites = {}
  for i, choice in enumerate(config.eval_data):
    data = dict(choice)
    name = data.pop("suite")
    field = f"config.eval_data[{i}]"
    questions = experiment.questions(data, field)
    experiment.check_prompts(config, tokenizer, questions, field)
    order = sources.order(questions, 0)
    n = min(config.eval_sampling.questions, len(questions))
    suites[name] = [order[j] for j in range(n)]
  return suites


def _lines(run: Run, name: str) -> metrics.JsonLines:
  """A file of JSON lines in the workdir."""
  lines = metrics.JsonLines(os.path.join(run.workdir, name))
  run.stack.callback(lines.close)
  return lines


def _roll(run: Run, sampling: Mapping[str, Any]) -> rollout.Roll:
  """The rollout function at a sampling setting."""
  model = policy.make(run.dims, temperature=sampling["temperature"])
  programs = experiment.programs(run.config, model, run.tokenizer, sampling)
  return experiment.roll(run.config, run.tokenizer, programs, run.grader)


def _evaluator(run: Run) -> Callable[..., dict[str, float]]:
  """The evaluation function of config.eval_data."""
  if not run.suites:
    return lambda state, round: {}
  lines = _lines(run, "eval.jsonl")
  return evaluate.make(
    _roll(run, run.config.eval_sampling),
    run.suites,
    seed=run.config.seed,
    samples=run.config.eval_sampling.samples_per_question,
    write_row=lambda row: lines.write([row]),
  )


def _train(
  run: Run,
  model: policy.Policy | preference.RewardModel,
  make_stage: Callable[[], Stage],
  *,
  with_reference: bool,
  rounds: int,
  updates_per_round: int,
  data_digest: str,
  load: Callable[..., tuple[Params, Params]] = experiment.weights,
  evaluate: Callable[..., dict[str, float]] | None = None,
  notes: dict[str, Any] | None = None,
) -> None:
  """Trains a stage, from the newest checkpoint if there is one.

  `load` gives (config, model, mesh) -> the first (params, buffers);
  `evaluate` is config.eval_data's where it is None; `notes` go into the
  run card and into the exported file.
  """
  start = time.time()
  config, workdir = run.config, run.workdir
  total_updates = rounds * updates_per_round
  checkpointer = checkpoint.Checkpointer(
    os.path.join(workdir, "checkpoints"), keep=config.keep_checkpoints
  )
  run.stack.callback(checkpointer.close)
  optimizer, schedule = optim.make(config.optimizer.to_dict(), total_updates)
  weights = load(config, model, run.mesh)
  notes = notes or {}
  fields = notes | {
    "machine": run_card.machine(),
    "parameters": tree.count(weights[0]),
    "initial_digest": tree.digest(weights[0]),
    "tokenizer_digest": experiment.file_digest(
      tokenizer_lib.path_of(config.tokenizer)
    ),
    "data_digest": data_digest,
    "learning_rate": optim.first_and_last(schedule, total_updates),
  }
  run_card.write(workdir, fields)
  state = train.initial_state(*weights, optimizer, with_reference)
  state, first_round = _resume(workdir, checkpointer, state)
  writer = metrics.MetricWriter(workdir, first_round)
  run.stack.callback(writer.close)
  stage = make_stage()
  loop = train.Loop(
    rounds,
    config.router_bias_rate,
    config.reference_refresh_rounds if with_reference else 0,
    config.checkpoint_every_rounds,
    config.eval_every_rounds,
    evaluate or _evaluator(run),
  )
  update = train.make_update(stage, optimizer, config.router_bias_rate, state)
  state = train.run(
    stage, update, state, schedule, loop, checkpointer, writer, first_round
  )
  if checkpointer.latest() == rounds - 1:
    _finish(run, state, notes)
  logging.info("%s: %.0f s.", workdir, time.time() - start)


def _finish(run: Run, state: train.TrainState, notes: dict[str, Any]) -> None:
  """Exports the weights and writes the card's last line."""
  path = os.path.join(run.workdir, EXPORT)
  texts = {name: json.dumps(note) for name, note in notes.items()}
  store.save(path, run.dims, state.params, state.buffers, texts)
  run_card.write(run.workdir, {"final_digests": train.digests(state)})


def _resume(
  workdir: str, checkpointer: checkpoint.Checkpointer, state: train.TrainState
) -> tuple[train.TrainState, int]:
  """(state, first round) of the newest checkpoint, the logs cut to it."""
  first_round = 0
  restored = checkpointer.restore(state)
  if restored:
    state, info = restored
    first_round = info["next_round"]
    logging.info("Resuming %s at round %d.", workdir, first_round)
  # Before the first round, round -1 may have been evaluated.
  metrics.truncate_from(workdir, first_round or -1)
  return state, first_round


def _choice(config, name, table):
  return registry.make(table, config[name].to_dict(), f"config.{name}")


def _grpo(run: Run) -> None:
  config = run.config
  importance = None
  if config.importance.name != "none":
    importance = _choice(config, "importance", losses.IMPORTANCE)
  settings = grpo.settings_of(
    config,
    _choice(config, "loss", losses.LOSSES),
    _choice(config, "advantage", advantages.ADVANTAGES),
    _choice(config, "weighting", weighting.WEIGHTINGS),
    importance,
  )
  data = experiment.questions(config.data.to_dict(), "config.data")
  experiment.check_prompts(config, run.tokenizer, data, "config.data")
  for suite in run.suites.values():
    sources.check_disjoint(data, suite)
  model = policy.make(
    run.dims,
    temperature=config.sampling.temperature,
    with_balance=config.balance_coef > 0,
  )
  rows = sharding.rows(run.mesh)

  def make_stage():
    return grpo.make(
      model,
      _roll(run, config.sampling),
      experiment.question_order(data, config.seed),
      _lines(run, "rollouts.jsonl").write,
      lambda batch: jax.device_put(batch, rows),
      settings,
    )

  _train(
    run,
    model,
    make_stage,
    with_reference=config.kl.coef > 0,
    rounds=config.rounds,
    updates_per_round=config.updates_per_round,
    data_digest=experiment.digest_of(data),
  )


def _lm(run: Run) -> None:
  config = run.config
  weigh = _choice(config, "weighting", weighting.WEIGHTINGS)
  documents = experiment.documents(config, run.tokenizer)
  model = policy.make(
    run.dims, temperature=1.0, with_balance=config.balance_coef > 0
  )
  rows = sharding.rows(run.mesh)

  def make_stage():
    return lm.make(
      model,
      documents,
      lambda batch: jax.device_put(batch, rows),
      loss_on=config.loss_on,
      weigh=weigh,
      row_tokens=config.row_tokens,
      rows=config.rows_per_microbatch,
      balance_coef=config.balance_coef,
    )

  _train(
    run,
    model,
    make_stage,
    with_reference=False,
    rounds=experiment.rounds(config),
    updates_per_round=1,
    data_digest=experiment.digest_of(documents(0)),
  )


def _generate(run: Run) -> None:
  config, workdir = run.config, run.workdir
  data = experiment.questions(config.data.to_dict(), "config.data")
  experiment.check_prompts(config, run.tokenizer, data, "config.data")
  for suite in run.suites.values():
    sources.check_disjoint(data, suite)
  settings = generate.settings_of(config)
  order = experiment.question_order(data, config.seed)
  n = config.questions_per_round
  rounds = -(-len(data) // n)
  model = policy.make(run.dims, temperature=config.sampling.temperature)
  params, buffers = experiment.weights(config, model, run.mesh)
  run_card.write(
    workdir,
    {
      "machine": run_card.machine(),
      "initial_digest": tree.digest(params),
      "data_digest": experiment.digest_of(data),
    },
  )
  first_round = metrics.next_round(workdir)
  metrics.truncate_from(workdir, first_round)
  writer = metrics.MetricWriter(workdir, first_round)
  run.stack.callback(writer.close)
  roll = _roll(run, config.sampling)

  def collect(round):
    questions = order(round * n, min(n, len(data) - round * n))
    return generate.collect(roll, params, buffers, questions, round, settings)

  result = generate.run(
    workdir, collect, rounds, settings, writer.write, first_round
  )
  run_card.write(
    workdir,
    {"generated": result, "final_digests": {"data": result["digest"]}},
  )


def _reward_model(run: Run) -> None:
  lines = _lines(run, "eval.jsonl")
  parts = reward_model.assemble(
    run.config,
    run.tokenizer,
    run.dims,
    run.mesh,
    lambda row: lines.write([row]),
  )
  _train(
    run,
    parts.model,
    parts.make_stage,
    with_reference=False,
    rounds=parts.rounds,
    updates_per_round=1,
    data_digest=parts.digest,
    load=experiment.reward_weights,
    evaluate=parts.evaluate,
    notes=parts.notes,
  )


def _evaluate(run: Run) -> None:
  temperature = run.config.eval_sampling.temperature
  model = policy.make(run.dims, temperature=temperature)
  params, buffers = experiment.weights(run.config, model, run.mesh)
  state = train.TrainState(params, buffers, None, None, None)
  metrics.truncate_from(run.workdir, -1)
  result = _evaluator(run)(state, -1)
  run_card.write(
    run.workdir,
    {"machine": run_card.machine(), "params_digest": tree.digest(params)},
  )
  shown = rich.table.Table("suite", "metric", "value")
  for row in evaluate.table(result):
    shown.add_row(*row)
  rich.console.Console().print(shown)


JOBS: dict[str, Callable[[Run], None]] = {
  "grpo": _grpo,
  "lm": _lm,
  "reward_model": _reward_model,
  "evaluate": _evaluate,
  "generate": _generate,
}
