"""A training job: first weights or the newest checkpoint, loop, export."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from absl import logging

from r1jax import (
  checkpoint,
  experiment,
  metrics,
  optim,
  policy,
  preference,
  run_card,
  tree,
)
from r1jax import run as run_lib
from r1jax import train as loop_lib
from r1jax.data import tokenizer as tokenizer_lib
from r1jax.models import mtp, store
from r1jax.types import Params, Stage

EXPORT = "params.safetensors"


def train(
  run: run_lib.Run,
  model: policy.Policy | preference.RewardModel,
  make_stage: Callable[[], Stage],
  *,
  with_reference: bool,
  rounds: int,
  updates_per_round: int,
  data_digest: str,
  load_weights: Callable[..., tuple[Params, Params]] = experiment.weights,
  evaluate: Callable[..., dict[str, float]] | None = None,
  notes: dict[str, Any] | None = None,
  frozen: Sequence[str] = (mtp.NAME,),
) -> None:
  """Trains a stage, from the newest checkpoint if there is one.

  `load_weights` gives (config, model, mesh) -> the first (params, buffers);
  `evaluate` is config.eval_data's where it is None; `notes` go into the
  run card and the exported file; `frozen` parameters keep their bits.
  """
  config, workdir = run.config, run.workdir
  total_updates = rounds * updates_per_round
  saved = os.path.join(workdir, "checkpoints")
  checkpointer = checkpoint.Checkpointer(saved, keep=config.keep_checkpoints)
  run.stack.callback(checkpointer.close)
  optimizer, schedule = optim.make(config.optimizer.to_dict(), total_updates)
  weights = load_weights(config, model, run.mesh)
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
  state = loop_lib.initial_state(*weights, optimizer, with_reference)
  state, first_round = _resume(workdir, checkpointer, state)
  writer = metrics.MetricWriter(workdir, first_round)
  run.stack.callback(writer.close)
  stage = make_stage()
  loop = loop_lib.Loop(
    rounds,
    config.router_bias_rate,
    config.reference_refresh_rounds if with_reference else 0,
    config.checkpoint_every_rounds,
    config.eval_every_rounds,
    evaluate or run_lib.evaluator(run),
  )
  update = loop_lib.make_update(
    stage, optimizer, config.router_bias_rate, state, frozen
  )
  state = loop_lib.run(
    stage, update, state, schedule, loop, checkpointer, writer, first_round
  )
  if checkpointer.latest() == rounds - 1:
    _finish(run, state, notes)


def _finish(
  run: run_lib.Run, state: loop_lib.TrainState, notes: dict[str, Any]
) -> None:
  """Exports the weights and writes the card's last line."""
  path = os.path.join(run.workdir, EXPORT)
  store.save(path, run.dims, state.params, state.buffers, notes)
  run_card.write(run.workdir, {"final_digests": loop_lib.digests(state)})


def _resume(
  workdir: str,
  checkpointer: checkpoint.Checkpointer,
  state: loop_lib.TrainState,
) -> tuple[loop_lib.TrainState, int]:
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
