"""Sequences of any length into microbatches of one shape, and back.

Rows are filled best-fit-decreasing, so that little is spent on padding, and
each row says by `segments_BT` and `positions_BT` which sequences it holds.
"""

import bisect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Slot(NamedTuple):
  """Where a sequence lies: microbatch, row, first token and length."""

  microbatch: int
  row: int
  start: int
  length: int


def best_fit(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
  """Indices of the sequences of each row, none longer than row_tokens.

  Best-fit decreasing: the longest sequence first (of equals the first given),
  each into the row it leaves least room in (of equals the first opened). Over
  many rows that is at most 11/9 of the fewest possible (Johnson et al. 1974).

  Raises:
    ValueError: If a sequence is longer than row_tokens.
  """
  rows: list[list[int]] = []
  spaces: list[tuple[int, int]] = []  # (tokens left, row), sorted.
  for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
    length = int(lengths[index])
    if length > row_tokens:
      raise ValueError(
        f"config.row_tokens is {row_tokens}, but sequence {index} has "
        f"{length} tokens. Set it to the longest prompt plus the longest "
        "response or more."
      )
    fit = bisect.bisect_left(spaces, (length, -1))
    if fit == len(spaces):
      space, row = row_tokens, len(rows)
      rows.append([])
    else:
      space, row = spaces.pop(fit)
    rows[row].append(index)
    bisect.insort(spaces, (space - length, row))
  return rows


def pack(
  sequences: Sequence[Mapping[str, np.ndarray]],
  *,
  row_tokens: int,
  rows: int,
  pad_values: Mapping[str, Any] | None = None,
) -> tuple[list[dict[str, np.ndarray]], list[Slot]]:
  """Microbatches of [rows, row_tokens], and where each sequence lies in them.

  Args:
    sequences: Each a dict of arrays whose first axis is the sequence's tokens,
      named so: `tokens_T`, `mask_T`, `experts_TLP`. All have the same fields,
      `tokens_T` among them. `segments_T` (1, 2, ... in order) divides what
      must share a row, as a preference pair, into parts that do not see each
      other; without it a sequence is one part.
    row_tokens: T of the microbatches.
    rows: B of the microbatches.
    pad_values: By field, what a row holds after its last sequence, where that
      is not 0 or False.

  Returns:
    As many microbatches as it takes, every one but the last with all its rows
    in use; each has the fields of the sequences with B put before T, as in
    `tokens_BT`, besides segments_BT (1, 2, ... in a row, 0 on padding) and
    positions_BT (from 0 in each sequence). And a Slot for each sequence.

  Raises:
    ValueError: If a sequence is longer than row_tokens.
  """
  if not sequences:
    return [], []
  lengths = [len(sequence["tokens_T"]) for sequence in sequences]
  parts = [
    np.asarray(sequence.get("segments_T", np.ones(length)), np.int32)
    for sequence, length in zip(sequences, lengths)
  ]
  counts = [int(part.max(initial=1)) for part in parts]
  packed = best_fit(lengths, row_tokens)
  layout, befores = _layout(packed, lengths, counts, rows)
  shape = (max(slot.microbatch for slot in layout) + 1, rows, row_tokens)
  for sequence, length in zip(sequences, lengths):
    assert sequence.keys() == sequences[0].keys()
    assert all(len(values) == length for values in sequence.values())
  fields = {
    name: [np.asarray(sequence[name]) for sequence in sequences]
    for name in sequences[0]
  }
  fields["segments_T"] = [before + part for part, before in zip(parts, befores)]
  fields["positions_T"] = [_positions(part) for part in parts]
  pad_values = dict(pad_values or {})
  arrays = {
    name: _fill(values, layout, shape, pad_values.pop(name, 0))
    for name, values in fields.items()
  }
  assert not pad_values, f"no such fields: {sorted(pad_values)}"
  microbatches = [
    {_packed_name(name): array[m] for name, array in arrays.items()}
    for m in range(shape[0])
  ]
  return microbatches, layout


def unpack(
  arrays: Sequence[np.ndarray], layout: Sequence[Slot]
) -> list[np.ndarray]:
  """The part of each sequence, in the order given to `pack`.

  Args:
    arrays: One [B, T, ...] array a microbatch, as its logprobs_BT.
    layout: From `pack`.

  Returns:
    One [length, ...] array a sequence, a copy.
  """
  return [
    np.array(arrays[slot.microbatch][slot.row, slot.start :][: slot.length])
    for slot in layout
  ]


def _layout(
  packed: list[list[int]], lengths: list[int], counts: list[int], rows: int
) -> tuple[list[Slot], list[int]]:
  """Slot of each sequence and the segments before it in its row."""
  layout: dict[int, Slot] = {}
  befores: dict[int, int] = {}
  for row, indices in enumerate(packed):
    start = before = 0
    for index in indices:
      layout[index] = Slot(*divmod(row, rows), start, lengths[index])
      befores[index] = before
      start += lengths[index]
      before += counts[index]
  order = range(len(lengths))
  return [layout[i] for i in order], [befores[i] for i in order]


def _positions(segments_T: np.ndarray) -> np.ndarray:
  """Place of each token inside its part."""
  starts_T = np.searchsorted(segments_T, segments_T)
  return np.arange(len(segments_T), dtype=np.int32) - starts_T.astype(np.int32)


def _fill(
  values: list[np.ndarray],
  layout: list[Slot],
  shape: tuple[int, int, int],
  pad_value: Any,
) -> np.ndarray:
  dtype, trailing = values[0].dtype, values[0].shape[1:]
  array = np.full(shape + trailing, pad_value, dtype)
  for part, slot in zip(values, layout):
    assert part.dtype == dtype and part.shape[1:] == trailing
    stop = slot.start + slot.length
    array[slot.microbatch, slot.row, slot.start : stop] = part
  return array


def _packed_name(name: str) -> str:
  """`experts_BTLP` of `experts_TLP`."""
  stem, axes = name.rsplit("_", 1)
  assert axes.startswith("T"), f"{name} has no token axis"
  return f"{stem}_B{axes}"
