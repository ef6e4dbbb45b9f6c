"""The README's table of plans: python -m r1jax.plan_table docs/plans."""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

HEADINGS = (
  *("config", "hardware", "mesh", "GB a device", "of", "fits"),
  *("estimated round, s", "tokens"),
)


def rows(plans: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
  """A row of HEADINGS for each plan.

  GB are of the program that needs most, with all that lies beside it; a
  round's seconds are estimates, all hidden to nothing hidden, and its tokens
  those of responses at full length.
  """
  return [_row(plan) for plan in plans]


def _row(plan):
  planned = [row for row in plan["programs"] if "total_bytes" in row]
  most = max(planned, key=lambda row: row["total_bytes"], default=None)
  names = {row["name"] for row in planned}
  left = [name for name in plan["expected"] if name not in names]
  over = [
    f"{row['name']} is {row['over_bytes'] / 1e9:.1f} GB over"
    for row in planned
    if not row["fits"]
  ]
  fits = "; ".join(over) or "yes"
  if left:
    fits += f"; not planned: {', '.join(left)}"
  mesh = " ".join(f"{k} {v}" for k, v in plan["mesh"].items() if v > 1)
  need = f"{most['total_bytes'] / 1e9:.1f} ({most['name']})" if most else ""
  return (
    *(plan["name"], plan["target"], mesh or "1", need),
    *(f"{plan['hbm_bytes'] / 1e9:.1f}", fits, _secs(plan), _tokens(plan)),
  )


def _secs(plan):
  found = [row for row in plan["programs"] if "estimate" in row]
  if {row["name"] for row in found} != {*plan["expected"]}:
    return ""
  low, high = (
    sum(row["calls"] * row["estimate"][key] for row in found)
    for key in ("low_secs", "high_secs")
  )
  return f"{low:,.0f} to {high:,.0f}"


def _tokens(plan):
  shapes = plan["shapes"]
  if "questions_per_round" not in shapes:
    return f"{shapes.get('sequences_per_round', 0) * shapes['row_tokens']:,}"
  responses = shapes["questions_per_round"] * shapes["samples_per_question"]
  return f"{responses * shapes['max_response_tokens']:,}"


def text(plans: Sequence[dict[str, Any]]) -> str:
  """The table in Markdown."""
  lines = [HEADINGS, ("---",) * len(HEADINGS), *rows(plans)]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def read(folder: str) -> list[dict[str, Any]]:
  """The plans of a folder, by file name.

  Raises:
    ValueError: If there is none.
  """
  files = sorted(pathlib.Path(folder).glob("*.json"))
  if not files:
    raise ValueError(f"{folder} has no plans. Make some with --plan_json.")
  return [json.loads(file.read_text(encoding="utf-8")) for file in files]


if __name__ == "__main__":
  if len(sys.argv) != 2:
    sys.exit("r1jax: Usage: python -m r1jax.plan_table FOLDER")
  try:
    print(text(read(sys.argv[1])))
  except (ValueError, OSError) as error:
    sys.exit(f"r1jax: {error}")
