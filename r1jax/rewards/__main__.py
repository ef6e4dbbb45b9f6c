"""Grades question/response lines of a file, as a run would.

  python -m r1jax.rewards FILE.jsonl [--rewards=accuracy,format] [--quiet]

What a line holds is in r1jax/rewards/offline.py. The exit status is 0 if
every line with `expect` agrees, 1 if one does not, 2 for what cannot be
graded.
"""

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import rich.console
import rich.progress
import rich.table
import rich.text

from r1jax import grading
from r1jax.records import Reward
from r1jax.rewards import offline

MAX_PROBLEMS = 20  # Shown, of the lines that cannot be graded.
_TELL_SECS = 5.0


class Verdict(NamedTuple):
  """One reward of a line, and how it differs from what is expected of it.

  Attributes:
    item: The line.
    name: Of the reward.
    reward: None for a line that only a harness can grade.
    secs: That the whole line took its worker.
    disagreement: None where it agrees or nothing is expected.
  """

  item: offline.Item
  name: str
  reward: Reward | None
  secs: float
  disagreement: str | None

  @property
  def outcome(self) -> str:
    """In one word."""
    if self.reward is None:
      return "skipped"
    if self.name not in self.item.expect:
      return "unchecked"
    return "disagrees" if self.disagreement else "agrees"


def grade(
  lines: Sequence[offline.Item],
  rewards: dict[str, dict[str, Any]],
  *,
  workers: int,
  timeout_secs: float,
  mem_mb: int,
  tell: Callable[[int], None],
) -> list[Verdict]:
  """The verdicts of all lines, in their order.

  Args:
    lines: To grade.
    rewards: Name to arguments.
    workers: Processes.
    timeout_secs: For all rewards of one line.
    mem_mb: Of a worker.
    tell: Called with the number of lines that are graded.
  """
  groups = defaultdict(list)
  for item in lines:
    groups[item.rewards if item.is_gradable else ()].append(item)
  skipped = groups.pop((), [])
  got, done = {}, len(skipped)
  for names, members in groups.items():
    with grading.Grader(
      {name: rewards[name] for name in names},
      workers=min(workers, len(members)),
      timeout_secs=timeout_secs,
      worker_mem_mb=mem_mb,
    ) as grader:
      for item in members:
        grader.submit(item.line, item.question, item.response)
      while left := grader.poll():
        tell(done + len(members) - left)
        time.sleep(0.02)
      graded, secs = grader.collect_timed()
    done += len(members)
    got |= {line: (graded[line], secs[line]) for line in graded}
  tell(done)
  return [
    verdict
    for item in lines
    for verdict in _verdicts(item, *got.get(item.line, ({}, 0.0)))
  ]


def shown(text: str, chars: int) -> str:
  """The text on one line of a terminal, whatever it holds.

  What is not printable, escape sequences and changes of direction among it,
  is escaped; the middle of what is too long is left out.
  """
  if len(text) > 4 * chars:  # Escapes may be longer than that.
    text = text[: 2 * chars] + text[-2 * chars :]
  out = "".join(
    c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
  )
  if len(out) > chars:
    head = chars // 3
    out = f"{out[:head]}…{out[len(out) - (chars - head - 1) :]}"
  return out


def _verdicts(
  item: offline.Item, graded: dict[str, Reward], secs: float
) -> list[Verdict]:
  found = []
  for name in item.rewards:
    reward, differs = graded.get(name), None
    if reward is not None and name in item.expect:
      differs = offline.disagreement(item, name, reward, secs)
    found.append(Verdict(item, name, reward, secs, differs))
  return found


_COLUMNS = ("line", "id", "reward", "value", "status", "outcome", "reason")


def _row(verdict: Verdict, chars: int) -> tuple[str, ...]:
  item, reward = verdict.item, verdict.reward
  told = [verdict.disagreement] if verdict.disagreement else []
  if reward is not None:
    told.append(reward.reason)
  if item.skipped:
    told.append(f"not checked, needs a harness: {', '.join(item.skipped)}")
  return (
    str(item.line),
    shown(item.question.id, 24),
    verdict.name,
    f"{reward.value:.4g}" if reward else "-",
    reward.status if reward else "-",
    verdict.outcome,
    shown("; ".join(told), chars),
    shown(item.response.text, chars // 2),
  )


def summary(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
  """Counts and mean value by reward, class and status."""
  groups = defaultdict(list)
  for each in verdicts:
    status = each.reward.status if each.reward else "-"
    groups[each.name, each.item.cls, status].append(each)
  return [
    {
      "reward": name,
      "class": cls,
      "status": status,
      "rows": len(members),
      "mean": sum(v.reward.value if v.reward else 0.0 for v in members)
      / len(members),
      "agrees": sum(v.outcome == "agrees" for v in members),
      "disagrees": sum(v.outcome == "disagrees" for v in members),
    }
    for (name, cls, status), members in sorted(groups.items())
  ]


def _print_table(
  title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
  """A table on a terminal, else lines with tabs between the columns."""
  console = rich.console.Console(highlight=False)
  if not console.is_terminal:
    print(*columns, sep="\t")
    for row in rows:
      print(*row, sep="\t")
    return
  table = rich.table.Table(*columns, title=title)
  styles = {"disagrees": "red", "failed": "red", "timeout": "yellow"}
  for row in rows:
    style = next((styles[cell] for cell in row if cell in styles), None)
    table.add_row(*map(rich.text.Text, row), style=style)
  console.print(table)


def _report(verdicts: Sequence[Verdict], is_quiet: bool) -> None:
  told = [
    v
    for v in verdicts
    if not is_quiet
    or v.disagreement
    or (v.reward and v.reward.status != "ok" and v.outcome != "agrees")
  ]
  if told:
    rows = [_row(v, 100) for v in told]
    _print_table("Verdicts", (*_COLUMNS, "response"), rows)
    print()
  counted = summary(verdicts)
  rows = [
    tuple(
      f"{x:.4g}" if isinstance(x, float) else shown(str(x), 30)
      for x in row.values()
    )
    for row in counted
  ]
  _print_table("Summary", tuple(counted[0]), rows)
  print()
  outcomes = [v.outcome for v in verdicts]
  print(
    f"{len(verdicts)} verdicts: {outcomes.count('agrees')} agree, "
    f"{outcomes.count('disagrees')} disagree, {outcomes.count('unchecked')} "
    f"have no expectation, {outcomes.count('skipped')} need a harness."
  )


def _record(verdict: Verdict) -> dict[str, Any]:
  return {
    "line": verdict.item.line,
    "id": verdict.item.question.id,
    "class": verdict.item.cls,
    "reward": verdict.name,
    **(verdict.reward._asdict() if verdict.reward else {}),
    "secs": verdict.secs,
    "expect": verdict.item.expect.get(verdict.name),
    "outcome": verdict.outcome,
    "disagreement": verdict.disagreement,
    "skipped": verdict.item.skipped,
  }


def _read(path: str, rewards: Sequence[str]) -> list[offline.Item]:
  """The lines to grade.

  Raises:
    ValueError: For a file or lines that cannot be graded.
  """
  name = "standard input" if path == "-" else path
  try:
    if path == "-":
      found, problems = offline.items(sys.stdin.buffer, rewards)
    else:
      with open(path, "rb") as file:
        found, problems = offline.items(file, rewards)
  except OSError as error:
    raise ValueError(f"{name} cannot be read: {error.strerror}.") from None
  if problems:
    more = len(problems) - MAX_PROBLEMS
    told = [f"{name}: {shown(p, 400)}" for p in problems[:MAX_PROBLEMS]]
    told += [f"{name}: {more} more such lines"] if more > 0 else []
    raise ValueError("\n".join(told))
  if not found:
    raise ValueError(
      f"{name} has no line that the rewards {', '.join(rewards)} can grade."
    )
  return found


def _rewards(text: str) -> dict[str, dict[str, Any]]:
  """Names, or an object of names and arguments, as --rewards gives them."""
  if not text.startswith("{"):
    return {name: {} for name in text.split(",") if name}
  rewards = json.loads(text)
  if not all(isinstance(value, dict) for value in rewards.values()):
    raise ValueError(f"--rewards is {text}. Give each name an object.")
  return rewards


def _teller(total: int, is_quiet: bool) -> Callable[[int], None]:
  """Says on standard error every five seconds how far it is."""
  told_at = time.monotonic()

  def tell(done: int) -> None:
    nonlocal told_at
    if not is_quiet and time.monotonic() > told_at + _TELL_SECS:
      told_at = time.monotonic()
      print(f"{done} of {total} lines are graded", file=sys.stderr)

  return tell


def _flags(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m r1jax.rewards",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("file", help="JSON lines; - is standard input")
  parser.add_argument(
    "--rewards",
    default="accuracy,format,language",
    help="names, or a JSON object of names and their arguments",
  )
  parser.add_argument("--workers", type=int, default=2)
  parser.add_argument(
    "--timeout-secs", type=float, default=30.0, help="for a line's rewards"
  )
  parser.add_argument("--mem-mb", type=int, default=2048, help="of a worker")
  parser.add_argument("--json", metavar="OUT", help="write verdicts there")
  parser.add_argument(
    "--quiet", action="store_true", help="print no verdict that is as expected"
  )
  return parser.parse_args(argv)


def _in_flags(text: str) -> str:
  """A message about a config, in the words of the command line."""
  for field, flag in (
    ("config.grader.workers", "--workers"),
    ("config.grader.timeout_secs", "--timeout-secs"),
    ("config.grader.worker_mem_mb", "--mem-mb"),
    ("config.rewards", "--rewards"),
  ):
    text = text.replace(field, flag)
  return text


def main(argv: Sequence[str] | None = None) -> int:
  """The exit status."""
  args = _flags(argv)
  limits = {
    "workers": args.workers,
    "timeout_secs": args.timeout_secs,
    "mem_mb": args.mem_mb,
  }
  try:
    rewards = _rewards(args.rewards)
    grading.Grader(
      rewards,
      workers=args.workers,
      timeout_secs=args.timeout_secs,
      budget_secs=args.timeout_secs,
      worker_mem_mb=args.mem_mb,
    )  # Complains of what is asked for before the file is read.
    lines = _read(args.file, tuple(rewards))
    tell = _teller(len(lines), args.quiet)
    verdicts = grade(lines, rewards, tell=tell, **limits)
    if args.json:
      with open(args.json, "w", encoding="utf-8") as file:
        rows = [_record(v) for v in verdicts]
        json.dump({"rows": rows, "summary": summary(verdicts)}, file, indent=1)
  except (ValueError, OSError, RuntimeError) as error:
    print(_in_flags(str(error)), file=sys.stderr)
    return 2
  _report(verdicts, args.quiet)
  return int(any(v.disagreement for v in verdicts))


if __name__ == "__main__":
  try:
    status = main()
    sys.stdout.flush()
  except KeyboardInterrupt:
    status = 130
  except BrokenPipeError:  # Whoever read it has seen enough.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    status = 1
  sys.exit(status)
