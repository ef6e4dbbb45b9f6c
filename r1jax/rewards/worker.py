"""A process that grades responses: JSON lines in, JSON lines out.

  python -m r1jax.rewards.worker --table=r1jax.rewards.table:REWARDS

It says {"ready": true}, then reads from standard input the rewards and their
arguments, once, and then the rows:

  {"name": {"argument": 1}}
  {"id": 3, "question": [...], "response": [...]}

where the lists are the fields of the records. It answers each row when it
takes it up and when it is done with

  {"began": true}
  {"id": 3, "secs": 0.2, "rewards": {"name": [value, reason, status]}}

What bounds it:

* It ends when its input does, so it does not outlive its parent.
* A row that takes longer than --timeout-secs, all its rewards together,
  ends the process by SIGALRM, and not by a handler of Python's: even a loop
  inside C code cannot hold that up.
* RLIMIT_DATA is --mem-mb, of this process and of each that a reward starts,
  unless that sets another: what does not fit is a MemoryError, and "failed".
* What a row started and left running is killed before its reply.
* It ends after a row that left it larger by a quarter of --mem-mb than its
  first row did; rows it has not taken up are given to another.
* On Linux `keeper` runs it, and kills what it leaves behind.
"""

import argparse
import importlib
import json
import math
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from r1jax.records import Question, Response, Reward
from r1jax.rewards import keeper

DEFAULT_TABLE = "r1jax.rewards.table:REWARDS"
MAX_REASON_CHARS = 300
STATUSES = ("ok", "failed", "timeout")

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
    # A reward is foreign code: report, go on, also when it asks to exit.
    except (Exception, SystemExit, KeyboardInterrupt) as error:
      reason = _line(f"{type(error).__name__}: {error}")
      graded[name] = Reward(0.0, reason, "failed")
  return graded


def _checked(reward: Reward) -> Reward:
  value, reason, status = reward
  if not math.isfinite(value):
    raise ValueError(f"the reward's value is {value}; it must be finite.")
  if status not in STATUSES:
    raise ValueError(
      f"the reward's status is {status!r:.80}. Known: {', '.join(STATUSES)}."
    )
  return Reward(float(value), _line(reason), status)


def _line(text: str) -> str:
  """One line of at most MAX_REASON_CHARS that UTF-8 can hold."""
  text = " ".join(text[: 4 * MAX_REASON_CHARS].split())[:MAX_REASON_CHARS]
  return text.encode(errors="replace").decode()


def _serve(
  table: RewardTable,
  lines: BinaryIO,
  replies: BinaryIO,
  timeout_secs: float,
  mem_mb: int,
) -> None:
  def reply(message: dict[str, Any]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()

  reply({"ready": True})
  rewards = json.loads(lines.readline() or b"{}")
  first_mb = None
  for line in lines:
    reply({"began": True})
    began = time.monotonic()
    # Whatever the row before made of it.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, timeout_secs)
    job = json.loads(line)
    question = Question(*job["question"])
    response = Response(*job["response"])
    graded = grade(table, question, response, rewards)
    keeper.kill_strays()
    signal.setitimer(signal.ITIMER_REAL, 0)
    secs = time.monotonic() - began
    reply({"id": job["id"], "secs": secs, "rewards": graded})
    first_mb = first_mb or _resident_mb()
    if _resident_mb() - first_mb > mem_mb / 4:
      return


def _resident_mb() -> float:
  """Memory that this process holds now; 0 where the system does not say."""
  try:
    with open("/proc/self/statm", "rb") as file:
      pages = int(file.read().split()[1])
  except FileNotFoundError:
    return 0.0
  return pages * resource.getpagesize() / 2**20


def _work(args: argparse.Namespace) -> None:
  # The parent ends a worker. A handler, unlike SIG_IGN, is not passed on.
  signal.signal(signal.SIGINT, lambda number, frame: None)
  signal.signal(signal.SIGALRM, signal.SIG_DFL)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
  _, most = resource.getrlimit(resource.RLIMIT_DATA)
  limit = args.mem_mb << 20
  if most != resource.RLIM_INFINITY:
    limit = min(limit, most)
  resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
  table = load_table(args.table)

  # Rewards and what they start get no hold of the protocol's pipes.
  lines, replies = os.dup(0), os.dup(1)
  null = os.open(os.devnull, os.O_RDWR)
  os.dup2(null, 0)
  if args.quiet:
    os.dup2(null, 2)
  os.dup2(2, 1)
  with os.fdopen(lines, "rb") as source, os.fdopen(replies, "wb") as sink:
    _serve(table, source, sink, args.timeout_secs, args.mem_mb)


def main() -> None:
  """Grades standard input until it ends."""
  parser = argparse.ArgumentParser(description="Grade responses.")
  parser.add_argument("--table", default=DEFAULT_TABLE)
  parser.add_argument("--timeout-secs", type=float, default=10.0)
  parser.add_argument("--mem-mb", type=int, default=2048)
  parser.add_argument(
    "--quiet", action="store_true", help="drop what rewards print"
  )
  args = parser.parse_args()
  keeper.run(lambda: _work(args))


if __name__ == "__main__":
  main()
