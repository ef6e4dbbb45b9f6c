"""What a config's loop needs of devices that are not there.

  python -m r1jax.main --config=configs/zero.py:deepseek-v3 --plan=v5p:8x8x8

Each program of the loop is compiled for the named devices; nothing runs.
Memory is the compiler's own assignment, and what else of the loop lies on the
devices meanwhile is added: the plan fits if the whole loop does. Seconds are
estimates from published peak rates.
"""

import importlib.metadata
import json
import math
import os
import resource
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
from absl import logging

from r1jax import (
  plan_cost,
  plan_flops,
  plan_hlo,
  plan_programs,
  plan_read,
  plan_topology,
  sharding,
  tree,
)

PROGRAMS = (
  *("unstack", "prefill", "insert", "decode"),
  *("logprobs", "update", "apply"),
)
_VERSIONS = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin")


class Options(NamedTuple):
  """What of a plan the command line chooses.

  Attributes:
    programs: Of PROGRAMS; empty is all.
    lower_only: Shapes, places and products alone, without compiling.
    json_path: Where the plan goes after each program, or "". Programs of the
      same plan that stand there already and are not chosen stay.
    text_dir: Where each compiled program's text goes, or "".
  """

  programs: Sequence[str] = ()
  lower_only: bool = False
  json_path: str = ""
  text_dir: str = ""


def make(
  config: ml_collections.ConfigDict,
  target: plan_topology.Target,
  options: Options,
) -> dict[str, Any]:
  """The plan of a config, as JSON holds it.

  Args:
    config: Checked.
    target: `plan_topology.prepare` was called for it before jax was imported.
    options: Of the command line.

  Raises:
    ValueError: For a program, topology or mesh that there is not.
  """
  for name in options.programs:
    if name not in PROGRAMS:
      known = ", ".join(PROGRAMS)
      raise ValueError(f"--plan_programs has {name!r}. Known: {known}.")
  made = plan_programs.loop(config, plan_topology.describe(target))
  plan = _heading(made, target)
  rows = _earlier(plan, options)
  compiled: dict[str, Any] = {}
  for program in plan_programs.programs(made, _helper(made, compiled)):
    if options.programs and program.name not in options.programs:
      continue
    rows[program.name] = _row(made, target, program, options, compiled)
    logging.info("%s", _line(rows[program.name]))
    plan["programs"] = [rows[name] for name in PROGRAMS if name in rows]
    save(plan, options.json_path)
  save(plan, options.json_path)
  return plan


def _heading(made, target):
  """What a plan is of; plans of one heading may be joined."""
  return {
    "command": shlex.join(["python", "-m", "r1jax.main", *_asked()]),
    "name": made.config.name,
    "job": made.config.job,
    "target": target.name,
    "devices": target.devices,
    "hbm_bytes": int(target.chip.hbm_bytes),
    "mesh": dict(made.mesh.shape),
    "kernels": {"attention": made.layout.attention, "experts": _experts(made)},
    "parameters": tree.count(made.weights[0]),
    "shapes": _shapes(made.config) | {"param_dtype": made.dims.param_dtype},
    "versions": _versions(),
    "expected": _expected(made),
    "programs": [],
  }


def _expected(made):
  """The programs of the whole loop."""
  sampled = made.config.job in plan_programs.SAMPLING
  goal = made.objective
  trained = () if goal is None else PROGRAMS[4 if goal.scores else 5 :]
  return [*(PROGRAMS[:4] if sampled else ()), *trained]


def _asked():
  """The command line without what chooses among programs and files."""
  left_out = ("--plan_programs", "--plan_json", "--plan_text")
  return [arg for arg in sys.argv[1:] if arg.split("=")[0] not in left_out]


def _earlier(plan, options):
  """Rows of the same plan that its file holds, by name."""
  if not (options.json_path and os.path.exists(options.json_path)):
    return {}
  with open(options.json_path, encoding="utf-8") as file:
    old = json.load(file)
  fields = set(plan) - {"programs"}
  if any(old[name] != plan[name] for name in fields):
    return {}
  return {row["name"]: row for row in old["programs"]}


def _experts(made):
  return made.layout.experts or made.dims.moe_impl


def _shapes(config):
  """The config's numbers that the programs' shapes follow from."""
  fields = (
    *("max_prompt_tokens", "max_response_tokens", "row_tokens"),
    *("rows_per_microbatch", "questions_per_round", "samples_per_question"),
    *("updates_per_round", "sequences_per_round", "records_per_round"),
  )
  found = {name: config[name] for name in fields if name in config}
  if "sampling" in config:
    found["slots"] = config.sampling.slots
  return found


def _versions():
  found = {}
  for name in _VERSIONS:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def _helper(made, compiled):
  """plan_programs.Outputs: outputs where the program puts them, or else
  where its compiled form leaves them."""
  here = set(made.mesh.devices.flat)
  whole = sharding.replicated(made.mesh)

  def outputs_of(name, function, arguments):
    shapes = jax.eval_shape(function, *arguments)
    leaves = jax.tree.leaves(shapes)
    if all(leaf.sharding is not None for leaf in leaves):
      return shapes
    if made.mesh.size == 1:
      return plan_programs.with_places(
        shapes, jax.tree.map(lambda _: whole, shapes)
      )
    key = (name, jax.tree.structure(arguments))
    if key not in compiled:
      compiled[key] = function.trace(*arguments).lower().compile()
    places = jax.tree.map(
      lambda place: place if set(place.device_set) <= here else whole,
      compiled[key].output_shardings,
    )
    return plan_programs.with_places(shapes, places)

  return outputs_of


def _row(made, target, program, options, compiled):
  """One program of the plan."""
  start = time.perf_counter()
  traced = program.function.trace(*program.arguments)
  row: dict[str, Any] = {"name": program.name, "calls": program.calls}
  row["flops"] = plan_flops.count(traced.jaxpr)
  kept, dropped = _arguments(program, traced)
  resident = {
    name: shard_bytes(part) for name, part in program.resident.items()
  }
  for name, size in dropped.items():
    if size:
      resident[name] = resident.get(name, 0) + size
  row["argument_bytes"], row["resident_bytes"] = kept, resident
  lowered = traced.lower()
  row["lower_secs"] = round(time.perf_counter() - start, 1)
  row["fits"], row["warnings"] = True, []
  if options.lower_only:
    return row
  start = time.perf_counter()
  key = (program.name, jax.tree.structure(program.arguments))
  try:
    if key not in compiled:
      compiled[key] = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    row |= plan_cost.too_large(error, row, target)
    row["compile_secs"] = round(time.perf_counter() - start, 1)
    return row
  row["compile_secs"] = round(time.perf_counter() - start, 1)
  row["peak_rss_bytes"] = (
    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
  )
  _compiled(made, target, program, compiled[key], options, row)
  return row


def _arguments(program, traced):
  """Bytes on a device by group: (what the program reads, what it drops)."""
  used = {id(v) for each in traced.jaxpr.jaxpr.eqns for v in each.invars}
  used |= {id(v) for v in traced.jaxpr.jaxpr.outvars}
  leaves = jax.tree.leaves(program.arguments)
  reads = {
    id(leaf): id(var) in used
    # Constants of the program come before what it is given.
    for leaf, var in zip(reversed(leaves), reversed(traced.jaxpr.jaxpr.invars))
  }
  kept, dropped = {}, {}
  for name, part in program.parts.items():
    leaves = jax.tree.leaves(part)
    kept[name] = sum(shard_bytes(x) for x in leaves if reads.get(id(x)))
    dropped[name] = shard_bytes(part) - kept[name]
  return kept, dropped


def shard_bytes(part: Any) -> int:
  """Bytes of a tree on one device, by hand: shapes over shards."""
  total = 0
  for leaf in jax.tree.leaves(part):
    shape = leaf.shape
    if getattr(leaf, "sharding", None) is not None:
      shape = leaf.sharding.shard_shape(shape)
    total += math.prod(shape) * leaf.dtype.itemsize
  return total


def _compiled(made, target, program, compiled, options, row):
  """Adds what the compiled program says."""
  memory = compiled.memory_analysis()
  row["compiler_bytes"] = {
    "arguments": memory.argument_size_in_bytes,
    "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    "temporaries": memory.temp_size_in_bytes,
    "code": memory.generated_code_size_in_bytes,
  }
  total = sum(row["compiler_bytes"].values())
  total += sum(row["resident_bytes"].values())
  row["total_bytes"] = total
  row["over_bytes"] = total - int(target.chip.hbm_bytes)
  row["fits"] = row["over_bytes"] <= 0
  text = compiled.as_text()
  if options.text_dir:
    path = f"{options.text_dir}/{made.config.name}-{program.name}.txt"
    with open(path, "w", encoding="utf-8") as file:
      file.write(text)
  module = plan_hlo.parse(text)
  sizes = dict(made.mesh.shape)
  rows = plan_read.collectives(module, sizes)
  caches = jax.tree.leaves(program.parts.get("cache", ()))
  cache = frozenset(
    shard_bytes(x) for x in caches if program.name == "decode" and x.ndim > 2
  )
  row["padding_bytes"] = plan_read.padding(module)
  row["temporaries"] = [x._asdict() for x in plan_read.temporaries(module)]
  row["traffic_bytes"] = plan_read.traffic(module)
  row["collectives"] = [x._asdict() for x in rows]
  row["warnings"] = plan_read.warnings(module, cache)
  row["estimate"] = plan_cost.estimate(made.mesh, target, row, rows)


def _line(row):
  """What the log says of a program."""
  text = f"{row['name']}: lowered in {row['lower_secs']} s"
  if "compile_secs" in row:
    state = (
      "fits" if row["fits"] else f"is {row['over_bytes'] / 1e9:.1f} GB over"
    )
    text += f", compiled in {row['compile_secs']} s, {state}"
  return text


def save(plan: dict[str, Any], path: str) -> None:
  """Writes a plan as JSON, with a path."""
  if path:
    with open(path, "w", encoding="utf-8") as file:
      json.dump(plan, file, indent=1)
      file.write("\n")


def round_secs(plan: dict[str, Any]) -> tuple[float, float] | None:
  """Estimated seconds of a round at full length, (low, high); None where a
  program has no estimate."""
  low = high = 0.0
  rows = {row["name"]: row for row in plan["programs"]}
  if any("estimate" not in rows.get(name, ()) for name in plan["expected"]):
    return None
  for row in plan["programs"]:
    low += row["calls"] * row["estimate"]["low_secs"]
    high += row["calls"] * row["estimate"]["high_secs"]
  return low, high


def missing(rows: Iterable[dict[str, Any]]) -> list[str]:
  """A line for each program that does not fit."""
  return [
    f"{row['name']} is {row['over_bytes'] / 1e9:.1f} GB over"
    for row in rows
    if not row["fits"]
  ]
