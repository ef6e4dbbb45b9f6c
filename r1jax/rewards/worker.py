"""A process that grades responses: JSON lines in, JSON lines out.

  python -m r1jax.rewards.worker --table=r1jax.rewards.table:REWARDS

It says {"ready": true}, then reads from standard input lines of

  {"id": 3, "question": [...], "response": [...], "rewards": {name: {...}}}

where the lists are the fields of the records, and answers each line when it
takes it up and when it is done with

  {"began": 3}
  {"id": 3, "rewards": {name: [value, reason, status]}}

It ends when its input does, so it does not outlive its parent. A line that
takes longer than --timeout-secs ends the process by SIGALRM, and not by a
handler of Python's: even a loop inside C code cannot hold that up, and a
worker whose parent was killed cannot hang on.
"""

import argparse
import importlib
import json
import math
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from r1jax.records import Question, Response, Reward

DEFAULT_TABLE = "r1jax.rewards.table:REWARDS"
MAX_REASON_CHARS = 300

RewardTable = Mapping[str, Callable[..., Reward]]


def load_table(spec: str) -> RewardTable:
  """The table of rewards that "module:NAME" names."""
  module, _, name = spec.partition(":")
  return getattr(importlib.import_module(module), name)


def grade(
  table: RewardTable,
  question: Question,
  response: Response,
  rewards: Mapping[str, Mapping[str, Any]],
) -> dict[str, Reward]:
  """Every named reward of one response; "failed" where one raised.

  Args:
    table: Name to function.
    question: What was asked.
    response: What is graded.
    rewards: Name to keyword arguments.
  """
  graded = {}
  for name, arguments in rewards.items():
    try:
      graded[name] = _checked(table[name](question, response, **arguments))
    except Exception as error:  # A reward is foreign code: report, go on.
      reason = _line(f"{type(error).__name__}: {error}")
      graded[name] = Reward(0.0, reason, "failed")
  return graded


def _checked(reward: Reward) -> Reward:
  value, reason, status = reward
  if not math.isfinite(value):
    raise ValueError(f"the reward's value is {value}; it must be finite.")
  return Reward(float(value), _line(reason), status)


def _line(text: str) -> str:
  """One line of at most MAX_REASON_CHARS."""
  return " ".join(text[: 4 * MAX_REASON_CHARS].split())[:MAX_REASON_CHARS]


def _serve(
  table: RewardTable, lines: BinaryIO, replies: BinaryIO, timeout_secs: float
) -> None:
  def reply(message: dict[str, Any]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()

  reply({"ready": True})
  for line in lines:
    job = json.loads(line)
    question = Question(*job["question"])
    response = Response(*job["response"])
    reply({"began": job["id"]})
    signal.setitimer(signal.ITIMER_REAL, timeout_secs)
    graded = grade(table, question, response, job["rewards"])
    signal.setitimer(signal.ITIMER_REAL, 0)
    reply({"id": job["id"], "rewards": graded})


def main() -> None:
  """Grades standard input until it ends."""
  parser = argparse.ArgumentParser(description="Grade responses.")
  parser.add_argument("--table", default=DEFAULT_TABLE)
  parser.add_argument("--timeout-secs", type=float, default=10.0)
  parser.add_argument(
    "--quiet", action="store_true", help="drop what rewards print"
  )
  args = parser.parse_args()

  signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent ends a worker.
  signal.signal(signal.SIGALRM, signal.SIG_DFL)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
  table = load_table(args.table)

  # Rewards and what they start get no hold of the protocol's pipes.
  lines, replies = os.dup(0), os.dup(1)
  null = os.open(os.devnull, os.O_RDWR)
  os.dup2(null, 0)
  if args.quiet:
    os.dup2(null, 2)
  os.dup2(2, 1)
  with os.fdopen(lines, "rb") as source, os.fdopen(replies, "wb") as sink:
    _serve(table, source, sink, args.timeout_secs)


if __name__ == "__main__":
  main()
