"""The programs of a config's loop on abstract arrays, ready to compile.

They are those that a run jits, made by the same functions; what one returns
lies where its compiled form says, and is the next one's argument.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from r1jax import experiment, objective, optim, policy, sharding, train
from r1jax.models import config as model_config
from r1jax.models import layout as layout_lib
from r1jax.models.config import ModelConfig
from r1jax.sampling import engine
from r1jax.types import Stage

SAMPLING = ("grpo", "on_policy_distill", "generate", "evaluate")
JOBS = (*objective.TRAINED, "generate", "evaluate")
# Stands in for what a tokenizer says; nothing but the drawn text depends on it.
_EOS_ID = 1


class Program(NamedTuple):
  """A program to compile.

  Attributes:
    name: Of `NAMES`.
    function: Jitted.
    arguments: Abstract, each with its place.
    parts: What the arguments are, by group: "weights", "moments",
      "reference", "gradients", "cache", "batch", "other".
    resident: What else lies on the devices meanwhile, by group.
    calls: How often a round runs it, responses at full length.
  """

  name: str
  function: Any
  arguments: tuple[Any, ...]
  parts: dict[str, Any]
  resident: dict[str, Any]
  calls: int


class Loop(NamedTuple):
  """What the programs are made of, all abstract.

  Attributes:
    dims: The model's.
    mesh: Of the target's devices.
    weights: (params, buffers).
    objective: None where nothing is trained.
    state: None where nothing is trained.
  """

  config: ml_collections.ConfigDict
  dims: ModelConfig
  mesh: jax.sharding.Mesh
  layout: layout_lib.Layout
  weights: tuple[Any, Any]
  objective: objective.Objective | None
  optimizer: Any
  state: train.TrainState | None


# (program's name, jitted function, arguments) -> its outputs, with places.
Outputs = Callable[[str, Any, tuple[Any, ...]], Any]


def loop(config: ml_collections.ConfigDict, devices: list[Any]) -> Loop:
  """The loop of a config on a target's devices.

  Raises:
    ValueError: If the mesh fits neither the devices nor the model, or the
      job has no programs.
  """
  if config.job not in JOBS:
    raise ValueError(
      f"config.job is {config.job!r}, of which there is no plan. Plan the "
      f"config of one of its stages: {', '.join(JOBS)}."
    )
  dims = model_config.from_dict(config.model.to_dict())
  mesh = sharding.make_mesh(config.mesh, devices)
  layout = layout_lib.of(mesh, config.kernels)
  if config.job not in objective.TRAINED:
    model = policy.make(dims, temperature=1.0, layout=layout)
    weights = experiment.abstract_weights(model, mesh)
    return Loop(config, dims, mesh, layout, weights, None, None, None)
  made = objective.of(config, dims, layout)
  weights = experiment.abstract_weights(made.model, mesh)
  optimizer, _ = optim.make(config.optimizer.to_dict(), 1 << 30)
  places = sharding.optimizer_shardings(
    optimizer, weights[0], jax.tree.map(lambda x: x.sharding, weights[0])
  )
  moments = with_places(jax.eval_shape(optimizer.init, weights[0]), places)
  updates = jax.ShapeDtypeStruct(
    (), jnp.int32, sharding=sharding.replicated(mesh)
  )
  reference = _again(weights) if made.with_reference else None
  state = train.TrainState(*weights, moments, reference, updates)
  return Loop(config, dims, mesh, layout, weights, made, optimizer, state)


def with_places(shapes: Any, places: Any) -> Any:
  """Shapes and types, each with its sharding."""
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    shapes,
    places,
  )


def _again(shapes):
  """The same shapes and places, of other arrays."""
  return with_places(shapes, jax.tree.map(lambda x: x.sharding, shapes))


def programs(made: Loop, outputs_of: Outputs) -> Iterator[Program]:
  """The loop's programs in the order of a round.

  Args:
    made: Of `loop`.
    outputs_of: Gives the outputs of the small programs whose places the later
      ones take: `unstack` and `empty`, and of `prefill`.
  """
  if made.config.job in SAMPLING:
    yield from _sampler(made, outputs_of)
  if made.objective is not None:
    yield from _trainer(made)


def _kept(made, *, but=()):
  """By group, the state's arrays that no sampling program is given."""
  if made.state is None:
    return {}
  kept = {
    "weights": made.weights,
    "moments": made.state.opt_state,
    "reference": made.state.reference,
  }
  return {k: v for k, v in kept.items() if k not in but and v is not None}


def _sampler(made: Loop, outputs_of: Outputs) -> Iterator[Program]:
  config = made.config
  sampling = config.sampling
  settings = sampling if "temperature" in sampling else config.eval_sampling
  model = policy.make(
    made.dims, temperature=settings.temperature, layout=made.layout
  )
  names = _Ids(_EOS_ID, ())
  jitted = experiment.programs(config, model, names, settings)
  unstacked = outputs_of("unstack", jitted.unstack, made.weights)
  slots = outputs_of("empty", jitted.empty, unstacked)
  tokens_BT = np.zeros(
    (jitted.prefill_rows, jitted.max_prompt_tokens), np.int32
  )
  arguments = (*unstacked, _abstract(tokens_BT))
  rounds, prompts, waves = _sampler_calls(config)
  base = _kept(made)
  if made.state is None:
    base = {"weights": made.weights}
  yield Program(
    "unstack",
    jitted.unstack,
    made.weights,
    {"weights": made.weights},
    {k: v for k, v in base.items() if k != "weights"},
    rounds,
  )
  yield Program(
    "prefill",
    jitted.prefill,
    arguments,
    {"decode weights": unstacked, "batch": arguments[2]},
    base | {"cache": slots},
    prompts,
  )
  caches, _ = outputs_of("prefill", jitted.prefill, arguments)
  yield Program(
    "insert",
    jitted.insert,
    (slots, caches, *_new_rows(jitted)),
    {"cache": (slots, caches)},
    base | {"decode weights": unstacked},
    prompts,
  )
  yield Program(
    "decode",
    jitted.decode,
    (*unstacked, slots, jax.ShapeDtypeStruct((), jnp.int32)),
    {"decode weights": unstacked, "cache": slots},
    base | {"prompt cache": caches},
    waves * jitted.max_response_tokens,
  )


class _Ids(NamedTuple):
  """What the sampler's programs ask of a tokenizer."""

  eos_id: int
  stop_ids: tuple[int, ...]


def _abstract(array):
  return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _new_rows(jitted: engine.Programs) -> tuple[Any, ...]:
  """What `insert` is told of new rows, on the host."""
  B = (jitted.slots,)
  ints_B = jax.ShapeDtypeStruct(B, jnp.int32)
  keys_B = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), B[0]))
  chosen_B = jax.ShapeDtypeStruct(B, jnp.bool_)
  return (chosen_B, ints_B, ints_B, ints_B, ints_B, keys_B)


def _sampler_calls(config) -> tuple[int, int, int]:
  """(rollouts, prefills, times that all slots are filled) of a round."""
  if "questions_per_round" not in config:
    return 1, 1, 1
  questions = config.questions_per_round
  responses = questions * config.samples_per_question
  prefills = math.ceil(questions / config.sampling.prefill_rows)
  return 1, prefills, math.ceil(responses / config.sampling.slots)


def microbatches(config: ml_collections.ConfigDict) -> int:
  """Of a round, every row filled by one response or document."""
  for field in ("sequences_per_round", "records_per_round"):
    if field in config:
      return math.ceil(config[field] / config.rows_per_microbatch)
  rows = config.questions_per_round * config.samples_per_question
  return math.ceil(rows / config.rows_per_microbatch)


def _trainer(made: Loop) -> Iterator[Program]:
  config, state, goal = made.config, made.state, made.objective
  params, buffers = made.weights
  rows = sharding.rows(made.mesh)
  batch = with_places(goal.batch, jax.tree.map(lambda _: rows, goal.batch))
  waiting = [batch] * max(0, microbatches(config) - 1)
  count = microbatches(config)
  others = {"batch": waiting} if waiting else {}
  if goal.scores:
    plain = batch._replace(old_logprobs_BT=None, ref_logprobs_BT=None)
    score = jax.jit(lambda *a: goal.model.logprobs(*a).logprobs_BT)
    yield Program(
      "logprobs",
      score,
      (params, buffers, plain),
      {"weights": made.weights, "batch": plain},
      _kept(made, but=("weights",)) | others,
      count * len(goal.scores),
    )
  update = train.make_update(
    train_stage(goal),
    made.optimizer,
    config.router_bias_rate,
    state,
    goal.frozen,
  )
  batch, grads = _with_teacher(made, batch), _again(params)
  yield Program(
    "update",
    update.accumulate,
    (params, buffers, grads, batch),
    {"weights": made.weights, "gradients": grads, "batch": batch},
    _kept(made, but=("weights",)) | others,
    count,
  )
  yield Program(
    "apply",
    update.apply,
    (state, grads, _load(made, batch)),
    _kept(made) | {"gradients": grads},
    others,
    config.updates_per_round if "updates_per_round" in config else 1,
  )


def train_stage(goal: objective.Objective) -> Stage:
  """The loss as a stage that collects nothing."""
  return Stage(None, goal.loss_fn)


def _with_teacher(made, batch):
  """The microbatch with the teacher's weights, where the loss reads them."""
  goal = made.objective
  if goal.teacher is None or "teacher" in goal.scores:
    return batch
  theirs = policy.make(goal.teacher, temperature=1.0)
  teacher = experiment.abstract_weights(theirs, made.mesh)
  return batch._replace(teacher=teacher)


def _load(made, batch):
  """Tokens by expert as `train.run_update` hands them on, or None."""
  _, aux = jax.eval_shape(made.objective.loss_fn, *made.weights, batch)
  load_LE = aux.sums.get("moe/load_LE")
  if load_LE is None:
    return None
  return jax.ShapeDtypeStruct(load_LE.shape, load_LE.dtype)
