"""Grading in worker processes, while the sampler goes on."""

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

from r1jax import registry
from r1jax.records import Question, Response, Reward
from r1jax.rewards import worker

Rewards = dict[str, Reward]

_ROWS_AHEAD = 8  # Rows a worker holds, so that it works between two polls.
_START_SECS = 60.0
_MAX_FAILED_STARTS = 3
_CLOSE_SECS = 1.0
_GRACE_SECS = 2.0  # After which a worker that missed its deadline is killed.


def weighted_sum(
  rewards: Mapping[str, Reward], weights: Mapping[str, float]
) -> float:
  """Sum of the rewards' values, each times its weight."""
  return sum(weights[name] * reward.value for name, reward in rewards.items())


def counts(graded: Iterable[Mapping[str, Reward]]) -> dict[str, int]:
  """Number of responses on which a reward failed, and timed out."""
  statuses = [{reward.status for reward in row.values()} for row in graded]
  return {
    f"grade/{status}_count": sum(status in row for row in statuses)
    for status in ("failed", "timeout")
  }


class _Job(NamedTuple):
  id: int
  line: bytes


class Grader:
  """Owns the worker processes that grade responses.

    with Grader({"accuracy": {}}, workers=2, timeout_secs=10) as grader:
      grader.submit(key, question, response)  # As rows finish.
      grader.poll()  # Now and then.
      rewards = grader.collect()[key]["accuracy"]

  Workers start at the first row and stay for the next rounds. None of the
  methods blocks on a pipe; only `collect` and `close` wait at all. A row's
  rewards depend neither on the number of workers nor on when it is polled.
  """

  def __init__(
    self,
    rewards: Mapping[str, Mapping[str, Any]],
    *,
    workers: int,
    timeout_secs: float,
    table: str = worker.DEFAULT_TABLE,
  ):
    """Checks what is asked for; starts nothing.

    Args:
      rewards: Name in the table to the reward's keyword arguments.
      workers: Number of processes, 1 or more.
      timeout_secs: For all rewards of one response together.
      table: "module:NAME" of the table of rewards.

    Raises:
      ValueError: For what no worker could run, by field.
    """
    if workers < 1:
      raise ValueError(
        f"config.grader.workers is {workers}. Set it to 1 or more."
      )
    if not 0 < timeout_secs < math.inf:
      raise ValueError(
        f"config.grader.timeout_secs is {timeout_secs}. Set it above 0, finite."
      )
    _check_rewards(worker.load_table(table), rewards)
    self._rewards = {name: dict(args) for name, args in rewards.items()}
    self._timeout_secs = timeout_secs
    self._command = [sys.executable, "-m", "r1jax.rewards.worker", "--quiet"]
    self._command += [f"--table={table}", f"--timeout-secs={timeout_secs}"]
    self._selector = selectors.DefaultSelector()
    self._workers: list[_Worker | None] = [None] * workers
    self._queue: deque[_Job] = deque()
    self._keys: dict[int, Hashable] = {}
    self._graded: dict[Hashable, Rewards | None] = {}
    self._next_id = 0
    self._failed_starts = 0

  def __enter__(self) -> "Grader":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def submit(
    self, key: Hashable, question: Question, response: Response
  ) -> None:
    """Queues one response for grading.

    Args:
      key: What `collect` shall call it.
      question: JSON must hold its fields.
      response: Likewise.

    Raises:
      ValueError: If the key was submitted since the last `collect`.
    """
    if key in self._graded:
      raise ValueError(f"key {key!r} was submitted twice. Give each row one.")
    job = {"id": self._next_id, "question": question, "response": response}
    line = json.dumps(job | {"rewards": self._rewards}).encode() + b"\n"
    self._keys[self._next_id] = key
    self._graded[key] = None
    self._queue.append(_Job(self._next_id, line))
    self._next_id += 1
    self.poll()

  def poll(self) -> int:
    """Moves rows to and from the workers; how many are still open."""
    self._pump(0.0)
    return len(self._keys)

  def collect(self) -> dict[Hashable, Rewards]:
    """The rewards of all rows submitted since the last call, in that order.

    Waits for the last one, at most its share of rows times the timeout.

    Raises:
      RuntimeError: If workers cannot be started.
    """
    while self._keys:
      self._pump(0.1)
    graded, self._graded = self._graded, {}
    return graded

  def close(self) -> None:
    """Ends all workers; rows still open are forgotten."""
    workers = [w for w in self._workers if w is not None]
    self._workers = [None] * len(self._workers)
    for each in workers:
      each.close_input()
    deadline = time.monotonic() + _CLOSE_SECS
    for each in workers:
      each.end(max(0.0, deadline - time.monotonic()))
    self._queue.clear()
    self._keys.clear()
    self._graded.clear()

  def pids(self) -> list[int]:
    """Process ids of the workers that run."""
    return [w.process.pid for w in self._workers if w is not None]

  def _pump(self, wait_secs: float) -> None:
    self._assign()
    for selected, events in self._selector.select(wait_secs):
      each = selected.data
      if events & selectors.EVENT_WRITE:
        each.write()
      if events & selectors.EVENT_READ:
        for reply in each.read():
          self._take(each, reply)
    now = time.monotonic()
    for slot, each in enumerate(self._workers):
      if each is None:
        continue
      if now > each.deadline(self._timeout_secs):
        each.kill()
      if each.is_dead:
        self._workers[slot] = None
        self._bury(each)
    self._assign()

  def _assign(self) -> None:
    """Gives queued rows to the workers that hold the fewest."""
    while self._queue:
      slot = min(
        range(len(self._workers)),
        key=lambda i: len(w.jobs) if (w := self._workers[i]) else 0,
      )
      each = self._workers[slot]
      if each is None:
        each = _Worker(self._command, self._selector)
        self._workers[slot] = each
      if len(each.jobs) >= _ROWS_AHEAD:
        return
      each.give(self._queue.popleft())

  def _take(self, each: "_Worker", reply: dict[str, Any]) -> None:
    if "ready" in reply:
      each.is_ready = True
      return
    if "began" in reply:
      each.is_proven = each.has_begun = True
      self._failed_starts = 0
      return
    each.has_begun = False
    job = each.jobs.popleft()
    assert job.id == reply["id"], (job.id, reply["id"])
    rewards = {n: Reward(*fields) for n, fields in reply["rewards"].items()}
    self._graded[self._keys.pop(job.id)] = rewards

  def _bury(self, each: "_Worker") -> None:
    """Blames the row a dead worker was at; its other rows queue again.

    Raises:
      RuntimeError: If none of the last few workers came to take up a row.
    """
    code, errors = each.end(0.0)
    if each.has_begun:
      job = each.jobs.popleft()
      if each.was_late or code == -signal.SIGALRM:
        reason = f"took longer than {self._timeout_secs:g} s"
        reward = Reward(0.0, reason, "timeout")
      else:
        reward = Reward(0.0, f"worker {_ending(code)}", "failed")
      row = dict.fromkeys(self._rewards, reward)
      self._graded[self._keys.pop(job.id)] = row
    elif not each.is_proven:
      self._failed_starts += 1
    self._queue.extendleft(reversed(each.jobs))
    if self._failed_starts >= _MAX_FAILED_STARTS:
      self._failed_starts = 0
      raise RuntimeError(
        f"{_MAX_FAILED_STARTS} workers in a row could not be started; the "
        f"last {_ending(code)}: {' '.join(self._command)}\n{errors}"
      )


class _Worker:
  """Owns one process and the bytes under way to and from it."""

  def __init__(
    self, command: list[str], selector: selectors.BaseSelector
  ) -> None:
    self.process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      bufsize=0,
      env=_environment(),
      start_new_session=True,  # A group to kill, and no Ctrl-C for it.
    )
    self.jobs: deque[_Job] = deque()
    self.is_ready = False
    self.is_proven = False  # It took up some row.
    self.has_begun = False  # It took up the first of its jobs.
    self.is_dead = False
    self.was_late = False
    self._since = time.monotonic()  # Of the last sign that it moves.
    self._outgoing = bytearray()
    self._incoming = bytearray()
    self._selector = selector
    self._in, self._out = self.process.stdin, self.process.stdout
    for pipe in (self._in, self._out, self.process.stderr):
      os.set_blocking(pipe.fileno(), False)
    selector.register(self._out, selectors.EVENT_READ, self)

  def give(self, job: _Job) -> None:
    """Takes over a job; the line goes out as the pipe has room."""
    self.jobs.append(job)
    self._outgoing += job.line
    self.write()

  def write(self) -> None:
    """Writes what the pipe takes, and waits for room for the rest."""
    try:
      while self._outgoing:
        del self._outgoing[: os.write(self._in.fileno(), self._outgoing)]
        self._since = time.monotonic()
    except BlockingIOError:
      if self._in not in self._selector.get_map():
        self._selector.register(self._in, selectors.EVENT_WRITE, self)
      return
    except BrokenPipeError:  # It died; `read` will tell.
      self._outgoing.clear()
    if self._in in self._selector.get_map():
      self._selector.unregister(self._in)

  def read(self) -> list[dict[str, Any]]:
    """The replies that arrived."""
    try:
      while data := os.read(self._out.fileno(), 1 << 16):
        self._incoming += data
      self.is_dead = True
    except BlockingIOError:
      pass
    *lines, rest = self._incoming.split(b"\n")
    self._incoming = rest
    if lines:
      self._since = time.monotonic()
    return [json.loads(line) for line in lines]

  def deadline(self, timeout_secs: float) -> float:
    """When to stop waiting for what it does; it should end itself before."""
    if not self.is_ready:
      return self._since + _START_SECS
    if not self.jobs:
      return float("inf")
    return self._since + timeout_secs + _GRACE_SECS

  def kill(self) -> None:
    """Kills it and what it started, for being late."""
    self.was_late = self.is_dead = True
    self._kill_group()

  def close_input(self) -> None:
    """Asks it to end; nothing can be given afterwards."""
    if self._in.closed:
      return
    for pipe in (self._in, self._out):
      if pipe in self._selector.get_map():
        self._selector.unregister(pipe)
    self._in.close()

  def end(self, wait_secs: float) -> tuple[int, str]:
    """Waits, then kills it and all it started.

    Returns:
      Its exit status, minus the signal if one ended it, and the last that
      it wrote to standard error before it was ready.
    """
    self.close_input()
    deadline = time.monotonic() + wait_secs
    with selectors.DefaultSelector() as selector:
      selector.register(self._out, selectors.EVENT_READ)
      while selector.select(max(0.0, deadline - time.monotonic())):
        if not os.read(self._out.fileno(), 1 << 16):
          break
    self._kill_group()
    code = self.process.wait()
    try:
      errors = os.read(self.process.stderr.fileno(), 1 << 16) or b""
    except BlockingIOError:
      errors = b""
    self._out.close()
    self.process.stderr.close()
    return code, errors.decode(errors="replace")[-2000:]

  def _kill_group(self) -> None:
    # Until it is waited for, its id cannot belong to another group.
    with contextlib.suppress(ProcessLookupError, PermissionError):
      os.killpg(self.process.pid, signal.SIGKILL)


def _check_rewards(
  table: worker.RewardTable, rewards: Mapping[str, Mapping[str, Any]]
) -> None:
  if not rewards:
    known = ", ".join(sorted(table))
    raise ValueError(f"config.rewards is empty. Known: {known}.")
  for name, arguments in rewards.items():
    field = f"config.rewards.{name}"
    function = registry.lookup(table, name, "config.rewards")
    registry.check_arguments(function, arguments, field)


def _environment() -> dict[str, str]:
  """The worker imports what this process can, and starts no threads."""
  return os.environ | {
    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    "PYTHONHASHSEED": "0",  # Same order of sets in every worker.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
  }


def _ending(code: int) -> str:
  """How a process ended, in words."""
  if code >= 0:
    return f"exited with status {code}"
  try:
    return f"was killed by {signal.Signals(-code).name}"
  except ValueError:
    return f"was killed by signal {-code}"
