"""What a report shows, read from the files of workdirs.

Whatever is missing, cut or broken is left out and told in notes: a report is
most wanted of a run that went wrong.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from r1jax.data import templates
from r1jax.rewards import language

# Every graded response, or where the run only sampled, those it kept.
_ROLLOUTS = ("rollouts.jsonl", "kept.jsonl")
FILES = ("run.json", "metrics.jsonl", "eval.jsonl", *_ROLLOUTS)
MAX_POINTS = 400  # Of a curve; more rounds than that share points.
# Fields of an evaluation row that say what was measured, not how it came out.
_EVAL_KEYS = ("round", "questions", "samples")
_TOO_LARGE, _TOO_LONG = 1e100, 20


class Run(NamedTuple):
  """A workdir.

  Attributes:
    name: Short, unique in the report.
    card: Dotted field to value, of run.json.
    rounds: How many metrics.jsonl has.
    points: Metric name to points of its curve by their place.
    scores: Round to (suite, metric) to value, of eval.jsonl.
    notes: What is missing or broken.
  """

  workdir: str
  name: str
  card: dict[str, Any]
  rounds: int
  points: dict[str, dict[int, "Point"]]
  scores: dict[int, dict[tuple[str, str], float]]
  notes: list[str]


class Point(NamedTuple):
  """Values that one point of a curve stands for.

  Attributes:
    round: Of the first of them.
  """

  round: int
  mean: float
  low: float
  high: float
  count: int


class Group(NamedTuple):
  """Runs that differ in nothing but their seed."""

  name: str
  runs: list[int]


def read_run(workdir: str, name: str) -> Run:
  """The workdir, but for its rollouts.

  Raises:
    ValueError: If it has none of the files of a run.
  """
  if not any(os.path.exists(os.path.join(workdir, f)) for f in FILES):
    raise ValueError(
      f"{workdir} has none of {', '.join(FILES)}. Name the work directory of "
      "a run, as --workdir was."
    )
  notes = []
  card = _card(os.path.join(workdir, FILES[0]), notes)
  points, rounds = _points(workdir, card.get("config.rounds"), notes)
  scores = _scores(workdir, notes)
  if not _is_finished(card):
    wanted = card.get("config.rounds")
    of = f" of {wanted}" if is_number(wanted) else ""
    notes.append(f"Not finished: {rounds}{of} rounds are there.")
  return Run(workdir, name, card, rounds, points, scores, notes)


def groups(runs: Sequence[Run]) -> list[Group]:
  """Runs of one config and different seeds together, in order."""
  members: list[list[int]] = []
  kinds = []
  for i, run in enumerate(runs):
    kind, seed = _kind(run), run.card.get("config.seed")
    for known, others in zip(kinds, members):
      seeds = [runs[j].card.get("config.seed") for j in others]
      if kind and known == kind and seed not in seeds:
        others.append(i)
        break
    else:
      kinds.append(kind if seed is not None else None)
      members.append([i])
  out = []
  for ids in members:
    first, last = runs[ids[0]], runs[ids[-1]]
    name = first.name
    if len(ids) > 1:
      title = first.card.get("config.name", "runs")
      name = f"{title}, {len(ids)} seeds ({first.name} to {last.name})"
    out.append(Group(name, ids))
  return out


def curves(runs: Sequence[Run], parts: Sequence[Group]) -> dict[str, list]:
  """Metric name to a curve of each group, or None where it has none.

  A curve is a list of (round, mean, least, most, runs). The mean is that of
  the runs' means; least and most are of all values.
  """
  names = {}  # As an ordered set.
  for run in runs:
    names |= dict.fromkeys(run.points)
  return {name: [_curve(runs, g, name) for g in parts] for name in names}


def stage_table(
  runs: Sequence[Run], parts: Sequence[Group]
) -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
  """(columns, rows) of the evaluations.

  A column is (suite, metric); a row has `group`, `round`, whether it is its
  group's `first` or `last`, and `cells`, each (mean, least, most, runs) or
  None.
  """
  columns, out = {}, []
  for g, part in enumerate(parts):
    members = [runs[i] for i in part.runs]
    rounds = sorted({r for run in members for r in run.scores})
    for round in rounds:
      scores = [run.scores[round] for run in members if round in run.scores]
      columns |= {key: None for score in scores for key in score}
      out.append(
        {
          "group": g,
          "round": round,
          "first": round == rounds[0],
          "last": round == rounds[-1],
          "scores": scores,
        }
      )
  for row in out:
    scores = row.pop("scores")
    row["cells"] = [
      _cell([s[key] for s in scores if key in s]) for key in columns
    ]
  return list(columns), out


def rollouts(run: Run) -> Iterator[dict[str, Any]]:
  """The run's rollouts one by one, with `mixed`; notes grow at the end."""
  broken = 0
  path = rollouts_path(run.workdir)
  for row in _rows(path, run.notes):
    asked = row.get("question")
    if isinstance(asked, dict):  # The record that it was sampled from.
      row |= {"question": asked.get("id"), "prompt": asked.get("question")}
    if not all(isinstance(row.get(k), str) for k in ("question", "response")):
      broken += 1
      continue
    rewards = row.get("rewards")
    if not isinstance(rewards, dict):
      rewards = {}
    row["rewards"] = {k: r for k, r in rewards.items() if isinstance(r, dict)}
    text = row["response"]
    # ASCII has letters of one script, which is soon seen.
    row["mixed"] = not text.isascii() and language.is_mixed(text)
    yield row
  if broken:
    run.notes.append(
      f"{os.path.basename(path)}: {broken} rows without question or response "
      "left out."
    )


def rollouts_path(workdir: str) -> str:
  """Where the rollouts are, or would be."""
  paths = [os.path.join(workdir, name) for name in _ROLLOUTS]
  return next(filter(os.path.exists, paths), paths[0])


def think_prefilled(run: Run) -> bool:
  """Whether the run's prompts ended with an opening <think>."""
  template = templates.TEMPLATES.get(run.card.get("config.template"))
  return template is not None and template.think_prefilled


def is_number(value: Any) -> bool:
  """Whether it is an int or a float, and no bool."""
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_finished(card: dict[str, Any]) -> bool:
  is_evaluation = card.get("config.job") == "evaluate"
  return is_evaluation or any(k.startswith("final_digests.") for k in card)


def _card(path: str, notes: list[str]) -> dict[str, Any]:
  try:
    with open(path, encoding="utf-8") as file:
      card = json.load(file, **_NUMBERS)
  except FileNotFoundError:
    notes.append("There is no run.json: config and versions are unknown.")
    return {}
  except (ValueError, RecursionError):
    notes.append("run.json is not JSON: config and versions are unknown.")
    return {}
  return dict(_flat(card, "")) if isinstance(card, dict) else {}


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
  """(dotted path, plain value) of what is nested; plain lists are plain."""
  if isinstance(value, dict) and value:
    pairs = value.items()
  elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
    pairs = enumerate(value)
  else:
    yield path, value
    return
  for key, inner in pairs:
    yield from _flat(inner, f"{path}.{key}" if path else str(key))


def _kind(run: Run) -> dict[str, Any] | None:
  """The config without its seed, paths as seen from the workdir."""
  kind = {
    k: os.path.relpath(v, run.workdir) if k.endswith("path") and v else v
    for k, v in run.card.items()
    if k.startswith("config.") and k != "config.seed"
  }
  return kind or None


def _points(
  workdir: str, rounds: Any, notes: list[str]
) -> tuple[dict[str, dict[int, Point]], int]:
  """(points of every metric, number of rounds)."""
  wide = math.ceil(rounds / MAX_POINTS) if is_number(rounds) and rounds else 1
  points: dict[str, dict[int, Point]] = {}
  empty: dict[str, int] = {}
  seen = 0
  for row in _rows(os.path.join(workdir, "metrics.jsonl"), notes):
    round = row["round"]
    seen = max(seen, round + 1)
    for name, value in row.items():
      if value is None:
        empty[name] = empty.get(name, 0) + 1
      if name == "round" or not is_number(value):
        continue
      places = points.setdefault(name, {})
      places[round // wide] = _add(places.get(round // wide), round, value)
  if empty:
    listed = ", ".join(f"{name} ({n} rounds)" for name, n in empty.items())
    notes.append(f"Not finite and left out of the curves: {listed}.")
  return points, seen


def _add(point: Point | None, round: int, value: float) -> Point:
  if point is None:
    return Point(round, value, value, value, 1)
  n = point.count + 1
  return Point(
    point.round,
    point.mean + (value - point.mean) / n,
    min(point.low, value),
    max(point.high, value),
    n,
  )


def _curve(
  runs: Sequence[Run], group: Group, name: str
) -> list[tuple[float, ...]] | None:
  curves = [runs[i].points[name] for i in group.runs if name in runs[i].points]
  out = []
  for place in sorted({place for curve in curves for place in curve}):
    points = [curve[place] for curve in curves if place in curve]
    out.append(
      (
        min(p.round for p in points),
        sum(p.mean for p in points) / len(points),
        min(p.low for p in points),
        max(p.high for p in points),
        len(points),
      )
    )
  return out or None


def _scores(
  workdir: str, notes: list[str]
) -> dict[int, dict[tuple[str, str], float]]:
  """What eval.jsonl holds; text beside the suite becomes part of its name."""
  out: dict[int, dict[tuple[str, str], float]] = {}
  for row in _rows(os.path.join(workdir, "eval.jsonl"), notes):
    suite = " ".join(v for v in row.values() if isinstance(v, str))
    scores = out.setdefault(row["round"], {})
    for name, value in row.items():
      if name not in _EVAL_KEYS and is_number(value):
        scores[suite, name] = value
  return out


def _cell(values: Sequence[float]) -> tuple[float, ...] | None:
  if not values:
    return None
  return sum(values) / len(values), min(values), max(values), len(values)


def _rows(path: str, notes: list[str]) -> Iterator[dict[str, Any]]:
  """Rows that have a round; what else is there is counted in a note."""
  name = os.path.basename(path)
  if not os.path.exists(path):
    notes.append(f"There is no {name}.")
    return
  count = broken = 0
  is_cut = False
  with open(path, "rb") as file:
    for line in file:
      row = _row(line)
      is_cut = not line.endswith(b"\n")
      if row is None or is_cut:
        broken += not is_cut
      else:
        count += 1
        yield row
  if is_cut:
    notes.append(f"{name}: the last line is cut off and left out.")
  if broken:
    notes.append(f"{name}: {broken} lines are no rows and left out.")
  if not count:
    notes.append(f"{name} has no rows.")


def _row(line: bytes) -> dict[str, Any] | None:
  """The row, its numbers finite or None; None if the line is none."""
  try:
    row = json.loads(line, **_NUMBERS)
  except (ValueError, RecursionError):
    return None
  is_row = isinstance(row, Mapping) and type(row.get("round")) is int
  return row if is_row else None


def _float(text: str) -> float | None:
  value = float(text)
  return value if abs(value) < _TOO_LARGE else None


def _int(text: str) -> int | None:
  return int(text) if len(text) < _TOO_LONG else None


# How JSON is read: what is no number, or too large to add up, is None.
_NUMBERS = {
  "parse_float": _float,
  "parse_int": _int,
  "parse_constant": lambda text: None,
}
