"""The loop: collect, then update, round after round.

One loop serves every stage. Checkpoints fall between rounds, and data and
keys are functions of (seed, round), so a run that was killed and started
again is the unbroken run.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from r1jax import checkpoint, distributed, interrupt, metrics, sharding, tree
from r1jax.models import moe
from r1jax.types import Aux, Batch, Params, Stage

SHOWN = (
  "train/loss",
  "rollout/accuracy_mean",
  "rollout/format_mean",
  "rollout/response_tokens_mean",
  "rollout/mixed_language_frac",
  "train/grad_norm",
  "time/total_secs",
)


class TrainState(NamedTuple):
  """All that training changes.

  Attributes:
    params: The model's.
    buffers: What the model reads and no gradient changes: router biases.
    opt_state: The optimizer's.
    reference: Frozen (params, buffers) for the KL; None without one.
    updates: Updates made, int32.
  """

  params: Params
  buffers: Params
  opt_state: Any
  reference: tuple[Params, Params] | None
  updates: jax.Array


class Loop(NamedTuple):
  """The loop's part of a config.

  Attributes:
    bias_rate: Of the router bias (moe.update_bias).
    reference_refresh_rounds: 0 never refreshes the reference.
    evaluate: (state, round) -> metrics; called before the first round,
      every eval_every_rounds and after the last one; 0 never.
  """

  rounds: int
  bias_rate: float
  reference_refresh_rounds: int
  checkpoint_every_rounds: int
  eval_every_rounds: int
  evaluate: Callable[[TrainState, int], dict[str, float]]


class Update(NamedTuple):
  """The jitted programs of an update."""

  start: Callable[[Params], Params]
  accumulate: Callable[..., tuple[Params, Aux]]
  norm: Callable[[Params], jax.Array]
  apply: Callable[..., TrainState]


class NotFinite(ValueError):
  """A loss or gradient was not finite; the state is still the last good."""


def initial_state(
  params: Params,
  buffers: Params,
  optimizer: optax.GradientTransformation,
  with_reference: bool,
) -> TrainState:
  """The state before the first update, on the parameters' devices."""
  shardings = jax.tree.map(lambda leaf: leaf.sharding, params)
  mesh = jax.tree.leaves(shardings)[0].mesh
  places = sharding.optimizer_shardings(optimizer, params, shardings)
  opt_state = jax.jit(optimizer.init, out_shardings=places)(params)
  reference = None
  if with_reference:
    reference = jax.tree.map(jnp.copy, (params, buffers))
  updates = distributed.place(np.int32(0), sharding.replicated(mesh))
  return TrainState(params, buffers, opt_state, reference, updates)


def make_update(
  stage: Stage,
  optimizer: optax.GradientTransformation,
  bias_rate: float,
  state: TrainState | None = None,
  frozen: Sequence[str] = (),
) -> Update:
  """The programs: the gradient is summed over microbatches, then applied.

  Args:
    stage: Has the loss.
    optimizer: Of `optim.make`.
    bias_rate: Of `moe.update_bias`.
    state: Where its arrays lie, what the programs return will lie; None
      leaves it to the compiler, which is the same on one device.
    frozen: Names of parameters that keep their bits, decay or not.
  """

  def accumulate(params, buffers, grads, batch):
    (_, aux), new = jax.value_and_grad(stage.loss_fn, has_aux=True)(
      params, buffers, batch
    )
    return jax.tree.map(jnp.add, grads, new), aux

  def apply(state, grads, load_LE):
    changes, opt_state = optimizer.update(grads, state.opt_state, state.params)
    buffers = state.buffers
    if load_LE is not None and bias_rate:
      buffers = moe.update_buffers(buffers, load_LE, bias_rate)
    kept = {k: v for k, v in state.params.items() if k in frozen}
    return state._replace(
      params=optax.apply_updates(state.params, changes) | kept,
      buffers=buffers,
      opt_state=opt_state,
      updates=state.updates + 1,
    )

  places = jax.tree.map(lambda leaf: leaf.sharding, state)
  grads = aux = None
  if state is not None:
    grads = places.params
    # Every process reads them whole.
    aux = sharding.replicated(jax.tree.leaves(grads)[0].mesh)
  return Update(
    start=jax.jit(
      functools.partial(jax.tree.map, jnp.zeros_like), out_shardings=grads
    ),
    accumulate=jax.jit(
      accumulate, donate_argnums=2, out_shardings=(grads, aux)
    ),
    norm=jax.jit(optax.tree.norm),
    apply=jax.jit(apply, donate_argnums=0, out_shardings=places),
  )


def add_aux(auxes: list[Aux]) -> Aux:
  """Sums added, maxima taken, over microbatches."""
  return Aux(
    jax.tree.map(
      lambda *xs: sum(xs[1:], start=xs[0]), *(a.sums for a in auxes)
    ),
    jax.tree.map(lambda *xs: max(xs), *(a.maxima for a in auxes)),
  )


def run_update(
  update: Update, state: TrainState, batches: list[Batch]
) -> tuple[TrainState, Aux]:
  """The state after one update, and its metrics as plain numbers.

  Raises:
    NotFinite: Before anything is applied.
  """
  grads = update.start(state.params)
  auxes = []
  for batch in batches:
    grads, aux = update.accumulate(state.params, state.buffers, grads, batch)
    auxes.append(aux)
  norm = float(update.norm(grads))
  aux = add_aux(jax.device_get(auxes))
  loss = float(aux.sums["train/loss"])
  if not np.isfinite(norm + loss):
    raise NotFinite(f"loss {loss}, gradient norm {norm}")
  load_LE = aux.sums.pop("moe/load_LE", None)
  state = update.apply(state, grads, load_LE)
  aux.sums["train/grad_norm"] = norm
  if load_LE is not None:
    mean_L = np.mean(load_LE, axis=-1)
    aux.sums["moe/load_max_over_mean"] = np.max(load_LE / mean_L[:, None])
  return state, jax.tree.map(float, aux)


def over_updates(parts: list[Aux]) -> dict[str, float]:
  """A round's metrics from its updates': means of sums, maxima of maxima."""
  if not parts:
    return {}
  sums, maxima = (
    {name: [each[name] for each in dicts] for name in dicts[0]}
    for dicts in zip(*parts)
  )
  return {
    **{name: float(np.mean(values)) for name, values in sums.items()},
    **{name: max(values) for name, values in maxima.items()},
  }


def run(
  stage: Stage,
  update: Update,
  state: TrainState,
  schedule: Callable[[Any], Any],
  loop: Loop,
  checkpointer: checkpoint.Checkpointer,
  writer: metrics.MetricWriter,
  first_round: int,
) -> TrainState:
  """The state after the last round, or after the round a signal ended.

  Raises:
    NotFinite: The state before the round is saved first.
  """
  saved = first_round
  with interrupt.watch() as stopped:
    if first_round == 0 and loop.eval_every_rounds:
      writer.write(-1, loop.evaluate(state, -1))
    rounds = range(first_round, loop.rounds)
    for round in metrics.progress(rounds, "rounds"):
      state, row = _round(stage, update, state, loop, round, checkpointer)
      row["train/lr"] = float(schedule(int(state.updates) - 1))
      last = round + 1 == loop.rounds
      if loop.eval_every_rounds and (
        last or (round + 1) % loop.eval_every_rounds == 0
      ):
        row |= loop.evaluate(state, round)
      writer.write(round, row)
      logging.info(metrics.console_line(round, loop.rounds, row, SHOWN))
      distributed.note_round(round)
      due = (round + 1) % loop.checkpoint_every_rounds == 0
      stops = stopped()
      if due or last or stops:
        checkpointer.save(round, state, {"next_round": round + 1})
        saved = round + 1
      if stops:
        logging.info("Stopped by a signal; %d rounds are saved.", saved)
        break
  checkpointer.wait()
  return state


def _round(stage, update, state, loop, round, checkpointer):
  """(state, metrics) of one round."""
  start = time.perf_counter()
  updates, row = stage.collect(state, round)
  collected = time.perf_counter()
  parts = []
  for batches in updates:
    try:
      state, part = run_update(update, state, batches)
    except NotFinite as error:
      where = f"round {round}, update {len(parts)}: {error}"
      if not parts and checkpointer.latest() != round - 1 and round:
        checkpointer.save(round - 1, state, {"next_round": round})
      checkpointer.wait()
      latest = checkpointer.latest()
      good = f"checkpoint {latest} is" if latest is not None else "nothing is"
      raise NotFinite(
        f"Not finite in {where}. Of the rounds before, {good} saved. Lower "
        "config.optimizer.learning_rate, or look at that round in "
        "rollouts.jsonl."
      ) from error
    parts.append(part)
  jax.block_until_ready(state.params)
  end = time.perf_counter()
  every = loop.reference_refresh_rounds
  if state.reference is not None and every and (round + 1) % every == 0:
    fresh = jax.tree.map(jnp.copy, (state.params, state.buffers))
    state = state._replace(reference=fresh)
  row |= over_updates(parts)
  row["time/collect_secs"] = collected - start
  tokens = sum(int(b.mask_BT.sum()) for batches in updates for b in batches)
  row["time/tokens_per_sec"] = tokens / (end - start)
  row["time/update_secs"] = end - collected
  row["time/total_secs"] = end - start
  return state, row


def digests(state: TrainState) -> dict[str, str]:
  """Fingerprints of the parameters and of the whole state."""
  return {"params": tree.digest(state.params), "state": tree.digest(state)}
