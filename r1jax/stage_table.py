"""The chain's checkpoints side by side, in the shape of the paper's table.

  python -m r1jax.stage_table Zero=runs/eval_zero R1=runs/eval_alignment

DeepSeek-R1 (arXiv:2501.12948), supplement, Table 3: a line for each
benchmark, a column for each checkpoint.
"""

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

import rich.console
import rich.table

from r1jax import metrics

# What a line is called, and the suite, mode and metric that it shows.
LINES = (
  ("Countdown", "countdown", "sampled", "pass@1"),
  ("Countdown, cons@k", "countdown", "sampled", "cons"),
  ("Countdown, greedy", "countdown", "greedy", "pass@1"),
  ("Countdown, few-shot", "countdown", "few_shot", "pass@1"),
  ("Programs", "programs", "sampled", "pass@1"),
  ("Programs, greedy", "programs", "greedy", "pass@1"),
  ("Programs, few-shot", "programs", "few_shot", "pass@1"),
  ("How-tos, held out: helpful", "how_to", "sampled", "pass@1"),
  ("General prompts: helpful", "general_train", "sampled", "pass@1"),
  ("Facts: recalled", "facts", "sampled", "pass@1"),
  ("Harmful, held out: refused", "safety", "sampled", "pass@1"),
  ("Harmful, held out: no harm", "safety", "sampled", "harmless_mean"),
  ("Format", "countdown", "sampled", "format_mean"),
  ("Language consistency", "countdown", "sampled", "language_mean"),
  ("Mixed languages", "countdown", "sampled", "mixed_language_frac"),
  ("Readable", "countdown", "sampled", "readable_frac"),
  ("Tokens", "countdown", "sampled", "response_tokens_mean"),
)
_NO_SHARE = ("response_tokens_mean",)


class Table(NamedTuple):
  """The cells as text.

  Attributes:
    columns: Names of the checkpoints.
    rows: Label of a line and its cells; one that was not measured is "".
  """

  columns: list[str]
  rows: list[tuple[str, list[str]]]


def table(workdirs: Mapping[str, str]) -> Table:
  """The table of evaluated checkpoints; shares in percent.

  Args:
    workdirs: Name of a checkpoint to the workdir of its evaluation, whose
      last rows count.
  """
  scores = {name: _scores(workdir) for name, workdir in workdirs.items()}
  return Table(
    list(scores),
    [
      (label, [_cell(found.get((suite, mode)), metric) for found in columns])
      for columns in [list(scores.values())]
      for label, suite, mode, metric in LINES
    ],
  )


def _scores(workdir):
  """(suite, mode) to its last row; nothing where nothing was measured."""
  path = os.path.join(workdir, "eval.jsonl")
  rows = metrics.read_jsonl(path) if os.path.exists(path) else []
  return {(row["suite"], row.get("mode", "sampled")): row for row in rows}


def _cell(row, metric):
  if row is None:
    return ""
  value = row.get(f"cons@{row['samples']}" if metric == "cons" else metric)
  if value is None:
    return ""
  return f"{value * (1 if metric in _NO_SHARE else 100):.1f}"


def markdown(made: Table) -> str:
  """The table in Markdown, for the README."""
  lines = [
    ["", *made.columns],
    ["---", *["---:"] * len(made.columns)],
    *([label, *cells] for label, cells in made.rows),
  ]
  return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def show(made: Table, console: rich.console.Console | None = None) -> None:
  """Prints the table."""
  shown = rich.table.Table("", box=None)
  for name in made.columns:
    shown.add_column(name, justify="right", no_wrap=True)
  for label, cells in made.rows:
    shown.add_row(label, *cells)
  (console or rich.console.Console()).print(shown)


def main(arguments: list[str]) -> int:
  """Prints the table of NAME=WORKDIR arguments, in Markdown; exit status."""
  pairs = [argument.partition("=") for argument in arguments]
  if not pairs or not all(name and path for name, _, path in pairs):
    print("Usage: python -m r1jax.stage_table NAME=WORKDIR ...")
    return 2
  print(markdown(table({name: path for name, _, path in pairs})), end="")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
