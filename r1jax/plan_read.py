"""What a compiled program moves and keeps: collectives, traffic, arrays."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from r1jax.plan_hlo import (
  COLLECTIVES,
  FREE,
  VIEWS,
  Instruction,
  Module,
  axes_of,
  first_group,
)

_CHANNEL = re.compile(r"channel_id=(\d+)")
_CHAIN = re.compile(r'chain_id="(\d+)"')
_SLICES = ("slice", "dynamic-slice")


class Collective(NamedTuple):
  """Collectives of one kind along the same axes of the mesh.

  Attributes:
    group: Devices that take part in one.
    count: How many run.
    bytes: Of the whole buffers, all runs together, on one device.
  """

  kind: str
  axes: str
  group: int
  count: int
  bytes: int


class Temporary(NamedTuple):
  """Arrays of one shape that one line of the model makes.

  Attributes:
    bytes: Of one.
    count: Of instructions; they need not live at once.
  """

  shape: str
  bytes: int
  count: int
  opcode: str
  op_name: str


def collectives(module: Module, sizes: Mapping[str, int]) -> list[Collective]:
  """The program's, largest first.

  One that the compiler cuts into steps, or writes into several fusions, is
  counted once: those are of one owner, channel and chain.

  Args:
    module: Of `plan_hlo.parse`.
    sizes: Of the mesh's axes.
  """
  devices = 1
  for size in sizes.values():
    devices *= size
  found: dict[tuple[str, str, int], list[int]] = {}
  for each, kind, owner in _each_collective(module):
    group = first_group(each.text, devices)
    if kind == "collective-permute":
      pair = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", each.text)
      group = tuple(map(int, pair.groups())) if pair else group
    size = _buffer(each, kind, len(group))
    key = (kind, axes_of(group, sizes), len(group))
    totals = found.setdefault(key, [0, 0])
    totals[0] += module.runs[owner]
    totals[1] += module.runs[owner] * size
  rows = [Collective(*key, *totals) for key, totals in found.items()]
  return sorted(rows, key=lambda row: -row.bytes)


def _each_collective(module) -> Iterator[tuple[Instruction, str, str]]:
  """(instruction, kind, computation that runs it), each once."""
  seen = set()
  for name in module.runs:
    owner = module.fused.get(name, name)
    for each in module.computations[name]:
      kind = each.opcode.removesuffix("-start")
      if kind not in COLLECTIVES:
        continue
      chain = _CHAIN.search(each.text)
      if owner != name and chain:
        channel = _CHANNEL.search(each.text)
        key = (owner, channel and channel.group(1), chain.group(1))
        if key in seen:
          continue
        seen.add(key)
      # The TPU's form of it: a fusion of an all-reduce and its slices.
      if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter (fused)"
      yield each, kind, owner


def _buffer(each, kind, group):
  """Bytes of the whole array that a collective is about."""
  arrays = each.arrays
  if each.opcode.endswith("-start") and len(arrays) > 1:
    arrays = arrays[len(arrays) // 2 :]  # Operands, then results.
  size = sum(array.size for array in arrays)
  return size * group if kind == "reduce-scatter" else size


def wire_bytes(row: Collective) -> float:
  """What one device sends, on a ring: all-reduce goes round twice."""
  share = (row.group - 1) / max(1, row.group)
  if row.kind == "collective-permute":
    share = 1.0
  return row.bytes * share * (2 if row.kind == "all-reduce" else 1)


def temporaries(module: Module, most: int = 10) -> list[Temporary]:
  """The largest arrays that the program makes, largest first."""
  found: dict[tuple, int] = {}
  for each, _ in module.steps():
    moves = each.opcode.startswith(("copy-", "slice-"))  # To the chip.
    if each.opcode in FREE or each.is_root or moves:
      continue
    for array in each.arrays:
      if array.in_hbm and array.size:
        key = (array.text, array.size, each.opcode, _short(each.op_name))
        found[key] = found.get(key, 0) + 1
  rows = [
    Temporary(shape, size, count, opcode, line)
    for (shape, size, opcode, line), count in found.items()
  ]
  return sorted(rows, key=lambda row: -row.bytes)[:most]


def _short(op_name):
  """The end of an op's name, which says which layer and product."""
  return "/".join(op_name.split("/")[-4:])


def traffic(module: Module) -> int:
  """Bytes that the program reads and writes in the device's memory.

  Every operand and result once a run; of what is only sliced, or updated in
  place, the slice alone.
  """
  total = 0
  sliced = {name: _sliced(module.computations[name]) for name in module.fused}
  for name, count in module.runs.items():
    if name in module.fused:
      continue
    sizes = {each.name: each.size for each in module.computations[name]}
    for each in module.computations[name]:
      total += count * _moved(each, sizes, sliced)
  return total


def _moved(each, sizes, sliced):
  if each.opcode in FREE or each.opcode.endswith(("-done", "-update")):
    return 0
  if each.opcode in _SLICES:
    return 2 * each.size
  if each.opcode == "dynamic-update-slice":
    return 2 * sizes.get(each.operands[1], 0)
  reads, written = [sizes.get(x, 0) for x in each.operands], each.size
  if each.opcode == "fusion":
    called = re.search(r"calls=%?([\w.\-]+)", each.text)
    inside, updated = sliced.get(called.group(1), ({}, None))
    for i, size in inside.items():
      if i < len(reads):
        reads[i] = min(reads[i], size)
    written = written if updated is None else min(written, updated)
  return sum(reads) + written


def _sliced(instructions) -> tuple[dict[int, int], int | None]:
  """Of a fusion: parameters of which only slices are read, to their bytes,
  and the bytes that it writes where it updates an array in place."""
  numbers, uses, sizes = {}, {}, {}
  updated = None
  for each in instructions:
    sizes[each.name] = sum(array.size for array in each.arrays)
    if each.opcode == "parameter":
      numbers[each.name] = int(re.search(r"parameter\((\d+)\)", each.text)[1])
    for i, operand in enumerate(each.operands):
      uses.setdefault(operand, []).append((each, i))
    if each.opcode == "dynamic-update-slice":
      updated = (updated or 0) + sizes.get(each.operands[1], 0)
  found = {}
  for name, number in numbers.items():
    read = 0
    for each, i in uses.get(name, []):
      if each.opcode in _SLICES and i == 0:
        read += sizes[each.name]
      elif each.opcode != "dynamic-update-slice" or i != 0:
        break
    else:
      found[number] = read
  return found, updated


def warnings(
  module: Module, cache_bytes: frozenset[int] = frozenset()
) -> list[str]:
  """What of the layout costs more than it should, a line each.

  Args:
    module: Of `plan_hlo.parse`.
    cache_bytes: Sizes on a device of a cache's arrays, where it is decoded.
  """
  lines = []
  padded = {each.name: n for each, n in _gathers_by_adding(module)}
  if padded:
    lines.append(
      f"{sum(padded.values())} all-gathers are done as all-reduce of padded "
      f"arrays, the first {next(iter(padded))}"
    )
  dense = [
    each
    for name in module.runs
    for each in module.computations[name]
    if each.opcode in ("dot", "convolution")
    and "ragged_dot" in each.op_name
    and "transpose" in each.op_name
  ]
  if dense:
    lines.append(
      f"{len(dense)} gradients of experts are dense products, the first "
      f"{dense[0].arrays[0].text}"
    )
  copied = sum(
    count
    for each, count in module.steps()
    if each.opcode in ("copy", "copy-start")
    and any(a.in_hbm and a.size in cache_bytes for a in each.arrays[:1])
  )
  if copied:
    lines.append(f"the cache, or a layer's, is copied {copied} times")
  return lines


def _gathers_by_adding(module):
  """All-reduces of an array that is zero but for this device's part."""
  for name, count in module.runs.items():
    if name in module.fused:
      continue
    made = {each.name: each for each in module.computations[name]}
    for each in module.computations[name]:
      if each.opcode.removesuffix("-start") != "all-reduce":
        continue
      if any(_is_padded(module, made.get(x), made) for x in each.operands):
        yield each, count


def _is_padded(module, each, made):
  """Whether an array is zeros with one part written into them."""
  while each is not None and each.opcode in (*VIEWS, "copy", "reshape"):
    if not each.operands or each.opcode == "parameter":
      return False
    each = made.get(each.operands[0])
  if each is None:
    return False
  body = made.values()
  if each.opcode == "fusion":
    called = re.search(r"calls=%?([\w.\-]+)", each.text).group(1)
    body = module.computations.get(called, [])
    inside = {x.name: x for x in body}
    updates = [x for x in body if x.opcode == "dynamic-update-slice"]
  else:
    inside = made
    updates = [each] if each.opcode == "dynamic-update-slice" else []
  for update in updates:
    base = inside.get(update.operands[0])
    while base is not None and base.opcode in ("bitcast", "copy", "reshape"):
      base = inside.get(base.operands[0])
    if base is not None and base.opcode == "broadcast":
      return True
  return False


def padding(module: Module) -> int:
  """Bytes of the program's arguments that only fill up tiles."""
  entry = next(iter(module.runs))
  return sum(
    array.size - array.bare
    for each in module.computations[entry]
    if each.opcode == "parameter"
    for array in each.arrays
  )
