"""Reports: one HTML file about a run, or about several as a chain.

  python -m r1jax.report WORKDIR... [--out=FILE]

The file needs nothing but itself. Its data are base64 of gzip of JSON, which
no text of a model can end or escape, and its policy forbids requests, other
scripts, and markup made from text.
"""

import argparse
import base64
import gzip
import hashlib
import html
import importlib.resources
import json
import os
import re
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from r1jax import report_data

MAX_MIB = 64  # Of rollouts, as JSON, that a browser holds with ease.
_BLOCK_CHARS = 1 << 20
_SCRIPTS = (
  "report_curves.js",
  "report_filter.js",
  "report_rollouts.js",
  "report.js",
)
# No source but the page itself; text can become markup nowhere.
_POLICY = (
  "default-src 'none'; script-src 'sha256-{script}'; "
  "style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; "
  "require-trusted-types-for 'script'; trusted-types 'none'"
)


class Written(NamedTuple):
  """What a report holds.

  Attributes:
    rollouts: Shown, of `total` that there are.
    notes: What was missing or broken in the workdirs.
  """

  path: str
  size: int
  rollouts: int
  total: int
  notes: list[str]


def write(workdir: str) -> Written:
  """Writes a run's report into its workdir, as report.html.

  Raises:
    ValueError: If the workdir has none of the files of a run.
    OSError: If they cannot be read, or the report not be written.
  """
  return write_all([workdir], os.path.join(workdir, "report.html"))


def write_all(
  workdirs: Sequence[str], path: str, max_mib: float = MAX_MIB
) -> Written:
  """Writes one report about the workdirs, in their order.

  Runs of one config that differ in their seed are drawn as a band. Rollouts
  are streamed; where they have more than max_mib, the same questions are kept
  of every run and round, whole groups of them.

  Raises:
    ValueError: For a workdir that is named twice, or holds no run.
    OSError: If they cannot be read, or the report not be written.
  """
  runs = [
    report_data.read_run(workdir, name)
    for workdir, name in zip(workdirs, names(workdirs))
  ]
  parts = report_data.groups(runs)
  columns, table = report_data.stage_table(runs, parts)
  title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
  before, after = _page(title)
  # The old report stays until the new one is whole.
  with open(path + ".new", "wb") as file:
    file.write(before)
    rows = Rows(runs, _kept_share(workdirs, max_mib))
    for block in _blocks(rows):
      file.write(_block("rollouts", block))
    notes = [f"{run.name}: {note}" for run in runs for note in run.notes]
    if rows.shown < rows.total:
      notes.append(
        f"{rows.shown} of {rows.total} rollouts are here, all those of some "
        "questions: a report with all would be too large for a browser."
      )
    head = {
      "title": title,
      "runs": [_about(run) for run in runs],
      "groups": [part._asdict() for part in parts],
      "curves": report_data.curves(runs, parts),
      "columns": columns,
      "table": table,
      "rollouts": rows.shown,
      "notes": notes,
    }
    file.write(_block("head", _json(head)))
    file.write(after)
    size = file.tell()
  os.replace(path + ".new", path)
  return Written(path, size, rows.shown, rows.total, notes)


def names(workdirs: Sequence[str]) -> list[str]:
  """A short name of each workdir: its last part where that tells them apart.

  Raises:
    ValueError: If a workdir is named twice.
  """
  paths = [os.path.realpath(workdir) for workdir in workdirs]
  for i, path in enumerate(paths):
    if path in paths[:i]:
      raise ValueError(f"{workdirs[i]} is named twice. Name each run once.")
  short = [os.path.basename(path) for path in paths]
  if len(set(short)) == len(short):
    return short
  return [os.path.relpath(path, os.path.commonpath(paths)) for path in paths]


class Rows:
  """The runs' rollouts that are shown, and counts of what went by."""

  def __init__(self, runs: Sequence[report_data.Run], share: float):
    self.total = self.shown = 0
    self._runs, self._share = runs, share

  def __iter__(self) -> Iterator[dict[str, Any]]:
    for i, run in enumerate(self._runs):
      for row in report_data.rollouts(run):
        self.total += 1
        place = zlib.crc32(row["question"].encode("utf-8", "replace")) / 2**32
        if place < self._share:
          self.shown += 1
          yield {**row, "run": i}


def _kept_share(workdirs: Sequence[str], max_mib: float) -> float:
  """What share of the questions fits."""
  paths = [report_data.rollouts_path(workdir) for workdir in workdirs]
  size = sum(os.path.getsize(path) for path in paths if os.path.exists(path))
  return max_mib * 2**20 / size if size > max_mib * 2**20 else 1.0


def _blocks(rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
  """JSON arrays of about a mebibyte each."""
  lines, chars = [], 0
  for row in rows:
    lines.append(_json(row))
    chars += len(lines[-1])
    if chars >= _BLOCK_CHARS:
      yield b"[" + b",".join(lines) + b"]"
      lines, chars = [], 0
  if lines:
    yield b"[" + b",".join(lines) + b"]"


def _json(value: Any) -> bytes:
  # Half a surrogate pair has no UTF-8; JSON's own escape stands for it.
  text = json.dumps(value, ensure_ascii=False, allow_nan=False)
  return text.encode("utf-8", "backslashreplace")


def _block(name: str, content: bytes) -> bytes:
  """A data block: an element that is never run, of letters and digits."""
  packed = base64.b64encode(gzip.compress(content, 6, mtime=0))
  start = f'<script type="text/plain" class="{name}">'.encode()
  return start + packed + b"</script>\n"


def _about(run: report_data.Run) -> dict[str, Any]:
  return {
    "name": run.name,
    "card": run.card,
    "rounds": run.rounds,
    "prefilled": report_data.think_prefilled(run),
  }


def _page(title: str) -> tuple[bytes, bytes]:
  """(what stands before the data, what stands after)."""
  script = "".join(_asset(name) for name in _SCRIPTS)
  style = _asset("report.css")
  policy = _POLICY.format(script=_sha256(script), style=_sha256(style))
  fields = {
    "policy": policy,
    "title": html.escape(title),
    "style": style,
    "script": script,
  }
  before, after = (
    re.sub(r"\{\{(\w+)\}\}", lambda field: fields[field[1]], part)
    for part in _asset("report.html").split("{{data}}")
  )
  return before.encode("utf-8", "backslashreplace"), after.encode()


def _asset(name: str) -> str:
  place = importlib.resources.files("r1jax") / "assets" / name
  return place.read_text(encoding="utf-8")


def _sha256(text: str) -> str:
  return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def main(argv: Sequence[str] | None = None) -> None:
  """Writes the report that the command line asks for, and says so."""
  parser = argparse.ArgumentParser(
    prog="python -m r1jax.report",
    description="One HTML file about a run, or about several as a chain.",
  )
  parser.add_argument(
    "workdirs", nargs="+", metavar="WORKDIR", help="In the order of the chain."
  )
  parser.add_argument(
    "--out",
    help="By default report.html in the workdir, or in the directory that "
    "holds them all.",
  )
  parser.add_argument(
    "--max_mib",
    type=float,
    default=MAX_MIB,
    help="Of rollouts; above it some questions are left out. Default "
    "%(default)s.",
  )
  flags = parser.parse_args(argv)
  paths = [os.path.realpath(workdir) for workdir in flags.workdirs]
  out = flags.out or os.path.join(os.path.commonpath(paths), "report.html")
  start = time.monotonic()
  try:
    written = write_all(flags.workdirs, out, flags.max_mib)
  except (ValueError, OSError) as error:
    sys.exit(f"r1jax: {error}")
  for note in written.notes:
    print(note)
  print(
    f"{written.path}: {written.rollouts} rollouts, "
    f"{written.size / 2**20:.1f} MiB, {time.monotonic() - start:.1f} s"
  )


if __name__ == "__main__":
  main()
