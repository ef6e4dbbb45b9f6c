"""The jobs: each assembles its parts from the config and runs them."""

import contextlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import rich.console
import rich.table
from absl import logging

import r1jax
from r1jax import (
  checkpoint,
  evaluate,
  experiment,
  metrics,
  optim,
  policy,
  registry,
  sharding,
  train,
  tree,
  weighting,
)
from r1jax.data import sources
from r1jax.data import tokenizer as tokenizer_lib
from r1jax.models import store
from r1jax.stages import grpo, lm

EXPORT = "params.safetensors"


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Runs config.job in the workdir.

  Raises:
    ValueError: For what the config asks and cannot be had.
    OSError: If the workdir cannot be written.
  """
  os.makedirs(workdir, exist_ok=True)
  claim(config, workdir)
  with contextlib.ExitStack() as stack:
    registry.lookup(JOBS, config.job, "config.job")(config, workdir, stack)


def claim(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Writes the config into run.json, or checks it against the one there.

  Raises:
    ValueError: If the workdir was made by another config.
  """
  path = os.path.join(workdir, "run.json")
  wanted = json.loads(config.to_json())
  if os.path.exists(path):
    with open(path, encoding="utf-8") as file:
      found = json.load(file)["config"]
    different = sorted(_differences(found, wanted, "config"))
    if different:
      raise ValueError(
        f"{workdir} was made by another config: {'; '.join(different[:5])}. "
        "Choose another --workdir, or run the config that made it."
      )
    return
  write_card(workdir, {"config": wanted})


def write_card(workdir: str, fields: dict[str, Any]) -> None:
  """Adds fields to run.json, in one step."""
  path = os.path.join(workdir, "run.json")
  card = {}
  if os.path.exists(path):
    with open(path, encoding="utf-8") as file:
      card = json.load(file)
  with open(path + ".new", "w", encoding="utf-8") as file:
    json.dump(card | fields, file, indent=2, ensure_ascii=False)
  os.replace(path + ".new", path)


def _differences(found, wanted, field):
  if isinstance(found, dict) and isinstance(wanted, dict):
    for name in {*found, *wanted}:
      yield from _differences(
        found.get(name), wanted.get(name), f"{field}.{name}"
      )
  elif found != wanted:
    yield f"{field} is {wanted!r}, was {found!r}"


def _machine() -> dict[str, Any]:
  device = jax.devices()[0]
  commit = subprocess.run(
    ["git", "-C", os.path.dirname(__file__), "rev-parse", "HEAD"],
    capture_output=True,
    text=True,
    check=False,
  ).stdout.strip()
  return {
    "r1jax": r1jax.__version__,
    "commit": commit or None,
    "python": platform.python_version(),
    "jax": jax.__version__,
    "device": f"{device.platform} {device.device_kind}",
    "device_count": jax.device_count(),
    "cpu_count": os.cpu_count(),
  }


def _train(config, workdir, stack, make_stage, with_reference):
  """Trains a stage, from the newest checkpoint if there is one."""
  start = time.time()
  tokenizer = tokenizer_lib.load(config.tokenizer)
  dims = experiment.dimensions(config, tokenizer)
  suites = _suites(config)
  mesh = sharding.make_mesh(config.mesh)
  temperature = config.sampling.temperature if config.job == "grpo" else 1.0
  model = policy.make(
    dims, temperature=temperature, with_balance=config.balance_coef > 0
  )
  checkpointer = checkpoint.Checkpointer(
    os.path.join(workdir, "checkpoints"), keep=config.keep_checkpoints
  )
  stack.callback(checkpointer.close)
  if checkpointer.latest() == config.rounds - 1:
    logging.info("%s is finished: %d rounds.", workdir, config.rounds)
    return
  total_updates = config.rounds * (
    config.updates_per_round if "updates_per_round" in config else 1
  )
  optimizer, schedule = optim.make(config.optimizer.to_dict(), total_updates)
  weights = experiment.weights(config, model, dims, mesh)
  initial_digest = tree.digest(weights[0])
  state = train.initial_state(*weights, optimizer, with_reference)
  first_round = 0
  restored = checkpointer.restore(state)
  if restored:
    state, info = restored
    first_round = info["next_round"]
    logging.info("Resuming %s at round %d.", workdir, first_round)
  metrics.truncate_from(workdir, first_round)
  writer = metrics.MetricWriter(workdir, first_round)
  stack.callback(writer.close)
  parts = Parts(config, workdir, stack, model, tokenizer, mesh)
  stage = make_stage(parts)
  write_card(
    workdir,
    {
      "machine": _machine(),
      "parameters": tree.count(weights[0]),
      "initial_digest": initial_digest,
      "tokenizer_digest": experiment.file_digest(
        tokenizer_lib.path_of(config.tokenizer)
      ),
      "learning_rate": optim.first_and_last(schedule, total_updates),
    },
  )
  loop = train.Loop(
    config.rounds,
    config.router_bias_rate,
    config.reference_refresh_rounds if with_reference else 0,
    config.checkpoint_every_rounds,
    config.eval_every_rounds,
    parts.evaluator(suites),
  )
  update = train.make_update(stage, optimizer, config.router_bias_rate)
  state = train.run(
    stage, update, state, schedule, loop, checkpointer, writer, first_round
  )
  if checkpointer.latest() == config.rounds - 1:
    store.save(os.path.join(workdir, EXPORT), dims, state.params, state.buffers)
    write_card(workdir, {"final_digests": train.digests(state)})
  logging.info("%s: %.0f s.", workdir, time.time() - start)


class Parts:
  """Parts of a run that own files or processes, made at first use."""

  def __init__(self, config, workdir, stack, model, tokenizer, mesh):
    self.config, self.model = config, model
    self.tokenizer, self.mesh = tokenizer, mesh
    self._stack, self._workdir = stack, workdir
    self._grader = None

  def lines(self, name: str) -> metrics.JsonLines:
    """A file of JSON lines in the workdir."""
    lines = metrics.JsonLines(os.path.join(self._workdir, name))
    self._stack.callback(lines.close)
    return lines

  def grader(self):
    """The grading processes."""
    if self._grader is None:
      self._grader = experiment.grader(self.config)
      self._stack.callback(self._grader.close)
    return self._grader

  def roll(self, sampling) -> Any:
    """The rollout function at a sampling setting."""
    config = self.config
    model = self.model
    if sampling["temperature"] != getattr(config.sampling, "temperature", None):
      dims = experiment.dimensions(config, self.tokenizer)
      model = policy.make(dims, temperature=sampling["temperature"])
    programs = experiment.programs(config, model, self.tokenizer, sampling)
    return experiment.roll(config, self.tokenizer, programs, self.grader())

  def evaluator(self, suites) -> Callable[..., dict[str, float]]:
    """The evaluation function of config.eval_data."""
    if not suites:
      return lambda state, round: {}
    lines = self.lines("eval.jsonl")
    return evaluate.make(
      self.roll(self.config.eval_sampling),
      suites,
      seed=self.config.seed,
      samples=self.config.eval_sampling.samples_per_question,
      write_row=lambda row: lines.write([row]),
    )


def _suites(config) -> dict[str, list[Any]]:
  """Questions of each evaluation suite, the same for every checkpoint."""
  suites = {}
  for i, choice in enumerate(config.eval_data):
    data = choice.to_dict() if hasattr(choice, "to_dict") else dict(choice)
    name = data.pop("suite")
    questions = experiment.questions(data, f"config.eval_data[{i}]")
    order = sources.order(questions, 0)
    n = min(config.eval_sampling.questions, len(questions))
    suites[name] = [order[j] for j in range(n)]
  return suites


def _grpo(config, workdir, stack):
  choices = [
    registry.make(table, config[name].to_dict(), f"config.{name}")
    for name, table in (
      ("loss", grpo.TABLES["loss"]),
      ("advantage", grpo.TABLES["advantage"]),
      ("weighting", weighting.WEIGHTINGS),
    )
  ]
  importance = None
  if config.importance.name != "none":
    importance = registry.make(
      grpo.TABLES["importance"],
      config.importance.to_dict(),
      "config.importance",
    )
  settings = grpo.settings_of(config, [*choices, importance])
  data = experiment.questions(config.data.to_dict(), "config.data")
  for suite in _suites(config).values():
    sources.check_disjoint(data, suite)

  def make_stage(parts):
    rows = sharding.rows(parts.mesh)
    return grpo.make(
      parts.model,
      parts.roll(config.sampling),
      experiment.question_order(data, config.seed),
      parts.lines("rollouts.jsonl").write,
      lambda batch: jax.device_put(batch, rows),
      settings,
    )

  _train(config, workdir, stack, make_stage, config.kl.coef > 0)


def _lm(config, workdir, stack):
  weigh = registry.make(
    weighting.WEIGHTINGS, config.weighting.to_dict(), "config.weighting"
  )

  def make_stage(parts):
    stage = lm.make(
      parts.model,
      experiment.documents(config, parts.tokenizer),
      loss_on=config.loss_on,
      weigh=weigh,
      row_tokens=config.row_tokens,
      rows=config.rows_per_microbatch,
      balance_coef=config.balance_coef,
    )
    rows = sharding.rows(parts.mesh)

    def collect(state, round):
      updates, row = stage.collect(state, round)
      return jax.device_put(updates, rows), row

    return stage._replace(collect=collect)

  _train(config, workdir, stack, make_stage, False)


def _evaluate(config, workdir, stack):
  tokenizer = tokenizer_lib.load(config.tokenizer)
  dims = experiment.dimensions(config, tokenizer)
  suites = _suites(config)
  mesh = sharding.make_mesh(config.mesh)
  model = policy.make(dims, temperature=config.eval_sampling.temperature)
  params, buffers = experiment.weights(config, model, dims, mesh)
  parts = Parts(config, workdir, stack, model, tokenizer, mesh)
  state = train.TrainState(params, buffers, None, None, None)
  metrics.truncate_from(workdir, -1)
  result = parts.evaluator(suites)(state, -1)
  write_card(
    workdir, {"machine": _machine(), "params_digest": tree.digest(params)}
  )
  shown = rich.table.Table("suite", "metric", "value")
  for row in evaluate.table(result):
    shown.add_row(*row)
  rich.console.Console().print(shown)


JOBS = {"grpo": _grpo, "lm": _lm, "evaluate": _evaluate}
