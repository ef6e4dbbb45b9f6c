"""A GRPO round's speed, against what the machine can do in the same run.

  python -m benchmarks.step --workload=smol-fixed --rounds=3

Weights are random, of the workload's shapes; lengths are forced. The
reward is the parity of the sum of a response's ids. One round samples,
scores under the reference (KL 0.001) and makes one AdamW update.
"""

import json
import statistics
import time
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import ceilings
from configs import models
from r1jax import (
  advantages,
  losses,
  memory,
  optim,
  policy,
  rollout,
  sharding,
  train,
  tree,
  weighting,
)
from r1jax.models import config as model_config
from r1jax.records import Question, Response
from r1jax.sampling import engine
from r1jax.stages import grpo

# Log-normal quantiles: median 24, longest 192.
TAIL = (
  *(7, 12, 94, 34, 31, 10, 3, 16, 21, 60, 27, 37, 68, 44, 6, 40),
  *(8, 54, 11, 29, 17, 121, 14, 18, 23, 25, 13, 5, 20, 79, 192, 48),
)


class Workload(NamedTuple):
  """Shapes of a round.

  Attributes:
    lengths: Response tokens of each row; one number is every row's.
  """

  preset: str
  questions: int
  samples: int
  prompt_tokens: int
  lengths: tuple[int, ...]
  slots: int
  row_tokens: int
  rows: int


WORKLOADS = {
  "smol-fixed": Workload("smollm2-135m", 4, 4, 40, (64,), 16, 104, 16),
  "smol-tail": Workload("smollm2-135m", 8, 4, 40, TAIL, 16, 232, 4),
  "tiny-fixed": Workload("bench-tiny", 32, 8, 16, (96,), 256, 112, 32),
  "zero": Workload("tiny", 32, 8, 10, (60,), 128, 192, 12),
}

_WORKLOAD = flags.DEFINE_enum(
  "workload", "tiny-fixed", sorted(WORKLOADS), "What a round does."
)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Counted, after one that is not.")
_SLOTS = flags.DEFINE_integer("slots", 0, "Other slots than the workload's.")
_ROWS = flags.DEFINE_integer("rows", 0, "Other rows a microbatch.")
_JSON = flags.DEFINE_bool("json", False, "One JSON line instead of a table.")


class Parts(NamedTuple):
  """What a workload needs, built once."""

  work: Workload
  config: model_config.ModelConfig
  model: policy.Policy
  params: Any
  buffers: Any
  programs: engine.Programs
  lengths: list[int]


def build(work: Workload) -> Parts:
  """The model with random weights, and the sampler's programs."""
  dims = models.get_config(work.preset).to_dict()
  config = model_config.from_dict(dims)
  model = policy.make(config, temperature=1.0)
  mesh = sharding.make_mesh(dict(data=1, fsdp=1, expert=1, tensor=1))
  boxed = jax.eval_shape(model.init, jax.random.key(0))
  places = sharding.param_shardings(mesh, boxed)
  init = jax.jit(lambda key: nn.unbox(model.init(key)), out_shardings=places)
  params, buffers = init(jax.random.key(0))
  rows = work.questions * work.samples
  lengths = list(work.lengths) * (rows // len(work.lengths))
  programs = model.programs(
    eos_id=-1,  # No token ends a response; its limit does.
    chunk_tokens=16,
    slots=work.slots,
    prefill_rows=min(work.questions, 8),
    max_prompt_tokens=work.prompt_tokens,
    max_response_tokens=max(lengths),
  )
  return Parts(work, config, model, params, buffers, programs, lengths)


def make_roll(parts: Parts, clock: dict[str, float]) -> rollout.Roll:
  """A rollout of forced lengths; its seconds go into the clock."""
  work = parts.work
  rng = np.random.default_rng(0)
  size = (work.questions, work.prompt_tokens)
  prompts = rng.integers(3, parts.config.vocab_size, size).tolist()
  requests = [
    engine.Request(q, g)
    for q in range(work.questions)
    for g in range(work.samples)
  ]

  def roll(params, buffers, key, questions, samples, first=0):
    del questions, samples, first
    start = time.perf_counter()
    sampled, stats = engine.sample(
      parts.programs,
      params,
      buffers,
      key,
      dict(enumerate(prompts)),
      requests,
      limits=parts.lengths,
    )
    clock["generate"] = time.perf_counter() - start
    clock["steps"] = stats.steps
    rows = []
    for each in sampled:
      reward = float(each.tokens_T.sum() % 2)
      question = Question(str(each.question), "", "", "none")
      response = Response("", len(each.tokens_T), each.finish_reason)
      prompt = prompts[each.question]
      rows.append(rollout.Row(question, prompt, each, response, {}, reward))
    return rollout.Rollout(rows, stats.slot_utilization)

  return roll


def make_stage(parts: Parts, clock: dict[str, float]):
  """The GRPO stage of the workload."""
  work = parts.work
  settings = grpo.Settings(
    seed=0,
    questions=work.questions,
    samples=work.samples,
    updates=1,
    row_tokens=work.row_tokens,
    rows=work.rows,
    loss=lambda *a: losses.clipped_surrogate(*a, clip_low=0.2, clip_high=0.2),
    advantage=advantages.group_normalized,
    weigh=weighting.sequence_mean,
    importance=None,
    kl=dict(name="k3", coef=0.001, where="loss", importance_weighted=False),
    max_waves=1,
    filter_truncated=False,
    routing_replay=parts.config.num_moe_layers > 0,
    balance_coef=0.0,
  )
  return grpo.make(
    parts.model,
    make_roll(parts, clock),
    lambda index, n: [None] * n,
    lambda rows: None,
    jax.device_put,
    settings,
  )


def run_rounds(parts: Parts, rounds: int) -> list[dict[str, float]]:
  """Seconds of each round and of its parts; the first is not counted."""
  clock: dict[str, float] = {}
  stage = make_stage(parts, clock)
  optimizer, _ = optim.make(
    dict(
      name="adamw",
      learning_rate=1e-6,
      clip_norm=1.0,
      schedule=dict(name="constant"),
    ),
    rounds + 1,
  )
  update = train.make_update(stage, optimizer, 0.0)
  weights = jax.tree.map(jnp.copy, (parts.params, parts.buffers))
  state = train.initial_state(*weights, optimizer, True)
  out = []
  for round in range(rounds + 1):
    start = time.perf_counter()
    updates, _ = stage.collect(state, round)
    jax.block_until_ready(updates)
    collected = time.perf_counter()
    state, _ = train.run_update(update, state, updates[0])
    jax.block_until_ready(state)
    end = time.perf_counter()
    out.append(
      {
        "step": end - start,
        "generate": clock["generate"],
        "reference": collected - start - clock["generate"],
        "update": end - collected,
        "decode_steps": clock["steps"],
      }
    )
  return out[1:]


def decode_step_secs(parts: Parts) -> tuple[float, float]:
  """Seconds of a decode step with all slots busy, and of its matmuls."""
  programs, slots = parts.programs, parts.programs.slots
  weights = programs.unstack(parts.params, parts.buffers)
  tokens = np.ones((programs.prefill_rows, programs.max_prompt_tokens))
  caches, _ = programs.prefill(*weights, tokens.astype(np.int32))
  times = []
  full = np.ones(slots, np.int32)
  ids = np.arange(slots, dtype=np.int32)
  for repeat in range(6):
    state = programs.insert(
      programs.empty(*weights),
      caches,
      full > 0,
      ids % programs.prefill_rows,
      full,
      full * programs.max_prompt_tokens,
      full * programs.max_response_tokens,
      programs.keys(jax.random.key(repeat), ids, ids),
    )
    jax.block_until_ready(state)
    start = time.perf_counter()
    state, chunk = programs.decode(*weights, state, np.int32(1 << 30))
    jax.block_until_ready(state)
    times.append((time.perf_counter() - start) / int(chunk.steps))
  head = parts.params["embedding"]
  own = ceilings.own_matmuls(weights[0], head, slots)
  return statistics.median(times[1:]), own


def report(name: str, parts: Parts, rounds: list[dict[str, float]]):
  """The table's rows: name to number."""
  work = parts.work
  middle = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
  flops = ceilings.matmul_flops()
  parameters = tree.count(parts.params)
  response = sum(parts.lengths)
  positions = response + len(parts.lengths) * work.prompt_tokens
  step, own = decode_step_secs(parts)
  return {
    "workload": name,
    "device": jax.devices()[0].device_kind,
    "parameters": parameters,
    "round_secs": middle["step"],
    "round_secs_min_max": [f(r["step"] for r in rounds) for f in (min, max)],
    "generate_secs": middle["generate"],
    "reference_secs": middle["reference"],
    "update_secs": middle["update"],
    "sampler_tokens_per_sec": response / middle["generate"],
    "update_tokens_per_sec": positions / middle["update"],
    "matmul_gflops": flops / 1e9,
    "update_matmul_frac": 6 * parameters * positions / middle["update"] / flops,
    "reference_matmul_frac": (
      2 * parameters * positions / middle["reference"] / flops
    ),
    "read_gb_per_sec": ceilings.read_bytes() / 1e9,
    "slots": parts.programs.slots,
    "decode_steps": middle["decode_steps"],
    "decode_step_ms": step * 1e3,
    "decode_tokens_per_sec": parts.programs.slots / step,
    "own_matmuls_ms": own * 1e3,
    "decode_over_own_matmuls": step / own,
  }


def main(argv: list[str]) -> None:
  """Prints the workload's table."""
  del argv
  memory.keep_freed()
  work = WORKLOADS[_WORKLOAD.value]
  work = work._replace(
    slots=_SLOTS.value or work.slots, rows=_ROWS.value or work.rows
  )
  parts = build(work)
  table = report(_WORKLOAD.value, parts, run_rounds(parts, _ROUNDS.value))
  if _JSON.value:
    print(json.dumps(table))
    return
  for key, value in table.items():
    shown = f"{value:.4g}" if isinstance(value, float) else value
    print(f"{key:26} {shown}")


if __name__ == "__main__":
  app.run(main)
