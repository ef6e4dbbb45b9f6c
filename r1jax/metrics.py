"""What a run writes down and shows: JSON lines, TensorBoard, progress."""

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import rich.progress

from r1jax import distributed

LOGS = ("metrics.jsonl", "rollouts.jsonl", "eval.jsonl", "kept.jsonl")
_PLAIN_SECS = 10.0  # Between two progress lines where no terminal is.


class JsonLines:
  """Appends rows to a file of JSON lines, UTF-8; the first process does."""

  def __init__(self, path: str | os.PathLike):
    if not distributed.is_first():
      path = os.devnull
    # Half a surrogate pair, which UTF-8 has no bytes for, becomes \uXXXX,
    # which is what JSON calls it.
    self._file = open(  # noqa: SIM115
      path, "a", encoding="utf-8", errors="backslashreplace"
    )

  def write(self, rows: Iterable[Mapping[str, Any]]) -> int:
    """Appends the rows and flushes; the count of numbers that were not
    finite and became null."""
    lost = 0
    for row in rows:
      plain, bad = _plain(row)
      lost += bad
      line = json.dumps(plain, ensure_ascii=False, allow_nan=False)
      self._file.write(line + "\n")
    self._file.flush()
    return lost

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


class MetricWriter:
  """Appends a round's metrics to metrics.jsonl and to TensorBoard."""

  def __init__(self, workdir: str | os.PathLike, first_round: int = 0):
    """Opens both; TensorBoard hides what it has from first_round on."""
    os.makedirs(workdir, exist_ok=True)
    self._lines = JsonLines(os.path.join(workdir, LOGS[0]))
    self._board = None
    if not distributed.is_first():
      return
    import tensorboardX  # Imports torch where there is one: seconds.

    self._board = tensorboardX.SummaryWriter(
      os.path.join(workdir, "tensorboard"), purge_step=first_round
    )

  def write(self, round: int, metrics: Mapping[str, Any]) -> None:
    """Writes one row, `round` first.

    A number that is not finite becomes null; `log/nonfinite_count` says
    how many of a row did.
    """
    plain, bad = _plain(metrics)
    if bad:
      plain["log/nonfinite_count"] = bad
    self._lines.write([{"round": round, **plain}])
    if self._board is None:
      return
    for name, value in plain.items():
      if isinstance(value, (int, float)):
        self._board.add_scalar(name.replace("@", "_at_"), value, round)
    self._board.flush()

  def close(self) -> None:
    """Closes both."""
    self._lines.close()
    if self._board is not None:
      self._board.close()


def read_jsonl(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Rows of a file of JSON lines; a torn last line is left out.

  Raises:
    ValueError: For a malformed line, with its file and number.
  """
  return [row for _, row in _rows(path)]


def next_round(workdir: str | os.PathLike) -> int:
  """The round after the last one in metrics.jsonl; 0 where there is none."""
  path = os.path.join(workdir, LOGS[0])
  rows = read_jsonl(path) if os.path.exists(path) else []
  return rows[-1]["round"] + 1 if rows else 0


def truncate_from(workdir: str | os.PathLike, round: int) -> None:
  """Drops rows of this round and later from a workdir's logs.

  A run that resumes at `round` calls this, and its logs become those of
  an unbroken run. One truncation a file: a kill leaves it old or new. The
  first process does it.

  Raises:
    ValueError: For a malformed line that is not the last.
  """
  for name in LOGS if distributed.is_first() else ():
    path = os.path.join(workdir, name)
    if os.path.exists(path):
      end = 0
      for line_end, row in _rows(path):
        if row["round"] >= round:
          break
        end = line_end
      os.truncate(path, end)


def progress(
  items: Iterable[Any], label: str, total: int | None = None
) -> Iterator[Any]:
  """The items, with a progress bar on a terminal and plain lines elsewhere.

  Args:
    items: What is worked through.
    label: Stands before the bar.
    total: How many there are; None asks `len`.
  """
  total = len(items) if total is None else total
  if not distributed.is_first():
    yield from items
    return
  if sys.stderr.isatty():
    console = rich.console.Console(stderr=True)
    yield from rich.progress.track(items, label, total, console=console)
    return
  start = last = time.monotonic()
  for done, item in enumerate(items, 1):
    yield item
    elapsed = time.monotonic() - start
    if time.monotonic() - last >= _PLAIN_SECS or (
      done == total and elapsed >= _PLAIN_SECS
    ):
      last = time.monotonic()
      print(
        f"{label}: {done}/{total}, {elapsed:.0f} s", file=sys.stderr, flush=True
      )


def console_line(
  round: int, rounds: int, metrics: Mapping[str, Any], shown: Iterable[str]
) -> str:
  """One line about a round: the shown metrics that it has, by last name."""
  parts = [f"round {round + 1}/{rounds}"]
  for name in shown:
    if metrics.get(name) is not None:
      parts.append(f"{name.split('/')[-1]} {float(metrics[name]):.4g}")
  return "  ".join(parts)


def _rows(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
  """(offset of the line's end, row) of each line."""
  end = 0
  with open(path, "rb") as file:
    for number, line in enumerate(file, 1):
      end += len(line)
      if not line.endswith(b"\n"):  # Torn: rows end with their newline.
        return
      try:
        yield end, json.loads(line)
      except ValueError as error:
        raise ValueError(
          f"{os.fspath(path)}:{number} is not JSON ({error}). Mend or delete "
          "the line."
        ) from error


def _plain(value: Any) -> tuple[Any, int]:
  """(value as JSON can hold it, numbers that were not finite)."""
  if isinstance(value, Mapping):
    pairs = {str(k): _plain(v) for k, v in value.items()}
    plain = {k: v for k, (v, _) in pairs.items()}
    return plain, sum(bad for _, bad in pairs.values())
  if isinstance(value, (list, tuple)):
    pairs = [_plain(v) for v in value]
    return [v for v, _ in pairs], sum(bad for _, bad in pairs)
  if value is None or isinstance(value, (str, bool, int)):
    return value, 0
  if not isinstance(value, float):
    value = np.asarray(value).tolist()  # Arrays of jax and NumPy, scalars.
    return _plain(value)
  return (value, 0) if math.isfinite(value) else (None, 1)
