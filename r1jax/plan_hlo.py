"""What a compiled program's text says: loops, collectives, large arrays.

XLA's own counts see a loop's body once; here every instruction counts as
often as its loops turn. A loop whose turns no constant says, as that of
decoding or of a dispatch by passes, counts as one turn.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
)
_BITS = {"pred": 8, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# Hold no array of their own.
VIEWS = ("parameter", "get-tuple-element", "tuple", "bitcast", "while", "call")
FREE = (
  *VIEWS,
  "constant",
  "conditional",
  "partition-id",
  "after-all",
  "iota",
)


class Array(NamedTuple):
  """A shape with its layout.

  Attributes:
    size: Bytes as stored, the tiles' padding with it.
    bare: Bytes without it.
    in_hbm: False in a memory on the chip.
  """

  text: str
  dims: tuple[int, ...]
  size: int
  bare: int
  in_hbm: bool


class Instruction(NamedTuple):
  """One line of the text."""

  name: str
  opcode: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  text: str
  is_root: bool

  @property
  def op_name(self) -> str:
    """Which line of the model it came from, as jax names it."""
    found = _OP_NAME.search(self.text)
    return found.group(1) if found else ""

  @property
  def size(self) -> int:
    """Bytes of its result in the device's memory."""
    return sum(array.size for array in self.arrays if array.in_hbm)


class Module(NamedTuple):
  """A program's text, parsed.

  Attributes:
    computations: Name to instructions.
    runs: Name to how often it runs; inside fusions as their owner.
    fused: Names of those that are inside a fusion, to their owner.
  """

  computations: Mapping[str, list[Instruction]]
  runs: Mapping[str, int]
  fused: Mapping[str, str]

  def steps(self) -> Iterator[tuple[Instruction, int]]:
    """Instructions outside of fusions, and how often each runs."""
    for name, count in self.runs.items():
      if name not in self.fused:
        for instruction in self.computations[name]:
          yield instruction, count


def parse(text: str) -> Module:
  """The module of `compiled.as_text()`."""
  computations: dict[str, list[Instruction]] = {}
  entry, current = "", None
  for line in text.splitlines():
    if line.rstrip() == "}":  # A kernel's own text may begin so too.
      current = None
    elif not line.startswith(" ") and line.endswith("{"):
      name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
      current = computations.setdefault(name, [])
      entry = name if line.startswith("ENTRY ") else entry
    elif current is not None and (found := _INSTRUCTION.match(line)):
      current.append(_instruction(found, line[found.end() :]))
  runs: dict[str, int] = {}
  fused: dict[str, str] = {}
  _walk(computations, entry, 1, None, runs, fused)
  return Module(computations, runs, fused)


def _instruction(found, rest):
  end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
  shape, rest = rest[:end], rest[end:].lstrip()
  opcode, _, arguments = rest.partition("(")
  close = _closing("(" + arguments, 0) - 1
  operands = re.findall(r"%([\w.\-]+)", arguments[:close])
  arrays = tuple(_array(match) for match in _SHAPE.finditer(shape))
  return Instruction(
    found.group(2), opcode, arrays, tuple(operands), rest, bool(found.group(1))
  )


def _closing(text, start):
  """Where the parenthesis that opens at `start` closes."""
  depth = 0
  for i in range(start, len(text)):
    depth += {"(": 1, ")": -1}.get(text[i], 0)
    if not depth:
      return i
  return len(text)


def _array(match) -> Array:
  kind, sizes, layout = match.group(1), match.group(2), match.group(3) or ""
  dims = tuple(int(d.lstrip("<=")) for d in sizes.split(",") if d)
  bits = _BITS.get(kind)
  if bits is None:
    found = re.search(r"\d+", kind)
    bits = int(found.group()) if found else 8
  order = [int(d) for d in re.match(r"[\d,]*", layout).group().split(",") if d]
  padded = {axis: dims[axis] for axis in order}
  tile = re.search(r":.*?T\(([\d,]+)\)", layout)
  if tile:
    sides = [int(x) for x in tile.group(1).split(",")]
    for axis, side in zip(order, reversed(sides)):
      padded[axis] = -(-padded[axis] // side) * side
  elements = math.prod(padded.values()) if padded else math.prod(dims)
  text = f"{kind}[{','.join(map(str, dims))}]"
  in_hbm = re.search(r"S\([1-9]\)", layout) is None
  bare = math.prod(dims) * bits // 8
  return Array(text, dims, elements * bits // 8, bare, in_hbm)


def _walk(computations, name, count, owner, runs, fused):
  """Adds what a computation runs to `runs`, with what it calls."""
  if name not in computations:
    return
  runs[name] = runs.get(name, 0) + count
  if owner is not None:
    fused[name] = owner
  for each in computations[name]:
    if each.opcode == "while":
      attributes = dict(re.findall(r"(body|condition)=%?([\w.\-]+)", each.text))
      turns = _turns(computations, each, attributes["condition"])
      body = attributes["body"]
      _walk(computations, body, count * turns, owner, runs, fused)
    elif each.opcode == "conditional":
      for branch in _branches(each.text):
        _walk(computations, branch, count, owner, runs, fused)
    elif each.opcode == "fusion":
      for called in _CALLED.findall(each.text):
        _walk(computations, called, count, owner or name, runs, fused)
    elif each.opcode in ("call", "async-start", "custom-call"):
      for called in _CALLED.findall(each.text):
        _walk(computations, called, count, owner, runs, fused)


def _branches(text):
  found = _BRANCHES.search(text)
  if found:
    return re.findall(r"[\w.\-]+", found.group(1))
  return re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", text)


def _turns(computations, loop, condition) -> int:
  """How often a loop turns: as its text says, or its condition's constant,
  where that is nothing but a counter's comparison with it; else 1."""
  known = _TRIPS.search(loop.text)
  if known:
    return int(known.group(1))
  inside = list(computations.get(condition, ()))
  for each in computations.get(condition, ()):
    if each.opcode == "fusion":
      for called in _CALLED.findall(each.text):
        inside += computations.get(called, ())
  compares = [x for x in inside if x.opcode == "compare"]
  constants = [
    int(found.group(1))
    for x in inside
    if x.opcode == "constant"
    and (found := re.match(r"constant\((\d+)\)", x.text))
  ]
  one = len(compares) == 1 and len(constants) == 1
  if one and "direction=LT" in compares[0].text:
    return constants[0]
  return 1


def first_group(text: str, devices: int) -> tuple[int, ...]:
  """Of a collective's replica groups, the one with device 0, by their places
  in the mesh; all devices where the text names none.

  The text lists groups, or says how the devices are cut and turned, in
  either of two forms.
  """
  listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
  if listed:
    return tuple(map(int, listed.group(1).split(",")))
  iota = re.search(
    r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](T\(.*?\))?", text
  )
  if iota:
    order = _turned(iota.group(3), iota.group(4))
    width = int(iota.group(2))
    rows = [order[i : i + width] for i in range(0, len(order), width)]
    return tuple(next(row for row in rows if 0 in row))
  named = re.search(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\(\[([\d,]+)\](T\(.*?\))?\))?(?: \{([^}]*)\})?",
    text,
  )
  if named:
    return _mesh_group(*named.groups())
  return tuple(range(devices))


def _turned(sizes: str, turn: str | None) -> list[int]:
  """Device ids in the order of an array of these sizes, transposed."""
  shape = [int(x) for x in sizes.split(",")]
  axes = list(range(len(shape)))
  if turn:
    axes = [int(x) for x in re.findall(r"\d+", turn)]
  strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
  ids = [0]
  for axis in axes:
    ids = [i + k * strides[axis] for i in ids for k in range(shape[axis])]
  return ids


def _mesh_group(axes, sizes, turn, chosen):
  names = dict(re.findall(r"'([^']+)'=(\d+)", axes))
  total = math.prod(map(int, names.values()))
  order = _turned(sizes, turn) if sizes else list(range(total))
  group = [0]
  stride = total
  parts = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen or "")
  for name, size in names.items():
    stride //= int(size)
    for part, before, width in parts:
      if part == name:
        inner = int(size) // (int(before) * int(width)) if width else 1
        steps = range(int(width or size))
        group = [i + k * inner * stride for i in group for k in steps]
  if not parts:
    group = list(range(total))
  return tuple(sorted(order[i] for i in group))


def axes_of(group: tuple[int, ...], sizes: Mapping[str, int]) -> str:
  """The mesh axes along which a group's devices differ, as `fsdp+expert`."""
  varied = []
  stride = math.prod(sizes.values())
  for axis, size in sizes.items():
    stride //= size
    if len({i // stride % size for i in group}) > 1:
      varied.append(axis)
  return "+".join(varied) or "none"
