"""A worker process as the trainer sees it: bytes out, replies in, its end."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from r1jax.records import Question, Response, Reward
from r1jax.rewards import keeper
from r1jax.rewards import worker as worker_lib

GRACE_SECS = 2.0  # After which one that missed its deadline is told to end.
_START_SECS = 60.0
_STOP_SECS = 2.0  # Between telling it and killing it.
_MAX_REPLY_BYTES = 1 << 20
# A worker holds as many rows as take it a second, by those before, so that
# it works on between two polls and few wait behind a slow one.
_AHEAD_SECS = 1.0
_MIN_AHEAD, _MAX_AHEAD = 2, 32


class Job(NamedTuple):
  """A row to grade.

  Attributes:
    id: Its number in the order of submission.
    question: Kept, not copied.
    response: Likewise.
    deaths: Workers that a signal killed at it.
  """

  id: int
  question: Question
  response: Response
  deaths: int = 0


class Graded(NamedTuple):
  """What became of a job, and the seconds it took its worker."""

  job: Job
  rewards: dict[str, Reward]
  secs: float


class Worker:
  """Owns one process and the bytes under way to and from it.

  None of the methods but `end` waits.

  Attributes:
    jobs: What it was given and has not answered, the first one first.
    has_begun: Whether it took up the first of its jobs.
    is_proven: Whether it ever took up one.
    is_dead: Whether it ended, and all that it started.
    fault: Why it was told to end: "", "late", "broken" or "dismissed".
  """

  def __init__(
    self,
    command: list[str],
    rewards: Mapping[str, Mapping[str, Any]],
    selector: selectors.BaseSelector,
  ) -> None:
    self.process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      bufsize=0,
      env=_environment(),
      start_new_session=True,  # A session to kill, and no Ctrl-C for it.
    )
    self.jobs: deque[Job] = deque()
    self.has_begun = self.is_proven = self.is_dead = False
    self.fault = ""
    self._is_ready = False
    self._rewards = tuple(rewards)
    self._since = time.monotonic()  # Of the last sign that it moves.
    self._row_secs = _AHEAD_SECS / 8  # A guess until it answers.
    self._outgoing = bytearray(json.dumps(rewards).encode() + b"\n")
    self._incoming = bytearray()
    self._selector = selector
    self._in, self._out = self.process.stdin, self.process.stdout
    for pipe in (self._in, self._out, self.process.stderr):
      os.set_blocking(pipe.fileno(), False)
    selector.register(self._out, selectors.EVENT_READ, self)

  @property
  def takes_more(self) -> bool:
    """Whether it may be given another job."""
    ahead = _AHEAD_SECS / max(self._row_secs, 1e-3)
    ahead = min(_MAX_AHEAD, max(_MIN_AHEAD, ahead))
    return not self.fault and len(self.jobs) < ahead

  def give(self, job: Job) -> None:
    """Takes over a job; the line goes out as the pipe has room."""
    self.jobs.append(job)
    message = {
      "id": job.id,
      "question": job.question,
      "response": job.response,
    }
    self._outgoing += json.dumps(message).encode() + b"\n"
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

  def read(self) -> list[Graded]:
    """The jobs whose rewards arrived; nothing once it was told to end."""
    try:
      while len(self._incoming) <= _MAX_REPLY_BYTES:
        data = os.read(self._out.fileno(), 1 << 16)
        if not data:
          self.is_dead = True
          break
        self._incoming += data
    except BlockingIOError:
      pass
    *lines, rest = self._incoming.split(b"\n")
    self._incoming = rest
    graded = []
    for line in lines:
      if not self.fault and not self._understand(line, graded):
        self.stop("broken")
    if len(rest) > _MAX_REPLY_BYTES:
      self._incoming.clear()
      self.stop("broken")
    return graded

  def _understand(self, line: bytes, graded: list[Graded]) -> bool:
    """Acts on a line, if it is one that may come."""
    self._since = time.monotonic()
    try:
      reply = json.loads(line)
    except ValueError:
      return False
    if not self._is_ready:
      self._is_ready = reply == {"ready": True}
      return self._is_ready
    if not self.jobs:
      return False
    if not self.has_begun:
      self.has_begun = self.is_proven = reply == {"began": True}
      return self.has_begun
    row = _graded(reply, self.jobs[0], self._rewards)
    if row is None:
      return False
    self._row_secs += 0.3 * (row.secs - self._row_secs)
    self.has_begun = False
    self.jobs.popleft()
    graded.append(row)
    return True

  def check(self, timeout_secs: float) -> None:
    """Tells it to end if it should have answered; kills it if it does not."""
    now = time.monotonic()
    if self.fault:
      if now > self._since + _STOP_SECS:
        self._kill_session()
        self.is_dead = True
    elif not self._is_ready:
      if now > self._since + _START_SECS:
        self.stop("late")
    elif self.jobs and now > self._since + timeout_secs + GRACE_SECS:
      self.stop("late")

  def stop(self, fault: str) -> None:
    """Tells it to end; `is_dead` says when it and its children have."""
    self.fault = self.fault or fault
    self._since = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGCONT):
      with contextlib.suppress(ProcessLookupError):
        self.process.send_signal(number)

  def end(self, wait_secs: float) -> tuple[int, str]:
    """Waits, then kills it and all it started.

    Returns:
      Its exit status, minus the signal if one ended it, and the last that
      it wrote to standard error before it was ready.
    """
    for pipe in (self._in, self._out):
      if pipe in self._selector.get_map():
        self._selector.unregister(pipe)
    self._in.close()
    deadline = time.monotonic() + wait_secs
    with selectors.DefaultSelector() as selector:
      selector.register(self._out, selectors.EVENT_READ)
      while selector.select(max(0.0, deadline - time.monotonic())):
        if not os.read(self._out.fileno(), 1 << 16):
          break
      else:
        self._kill_session()
    code = self.process.wait()
    try:
      errors = os.read(self.process.stderr.fileno(), 1 << 16) or b""
    except BlockingIOError:
      errors = b""
    self._out.close()
    self.process.stderr.close()
    return code, errors.decode(errors="replace")[-2000:]

  def _kill_session(self) -> None:
    # Until it is waited for, its id cannot belong to another session.
    session = self.process.pid
    for pid in (session, *keeper.in_session(session)):
      with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def ending(code: int) -> str:
  """How a process ended, in words."""
  if code >= 0:
    return f"exited with status {code}"
  try:
    return f"was killed by {signal.Signals(-code).name}"
  except ValueError:
    return f"was killed by signal {-code}"


def _graded(reply: Any, job: Job, names: tuple[str, ...]) -> Graded | None:
  """The job as a reply grades it; None if the reply is not one to it."""
  match reply:
    case {"id": job.id, "secs": float(secs), "rewards": dict(rewards)}:
      pass
    case _:
      return None
  if tuple(rewards) != names:
    return None
  for fields in rewards.values():
    match fields:
      case [float(), str(reason), str(status)] if (
        len(reason) <= worker_lib.MAX_REASON_CHARS
        and status in worker_lib.STATUSES
      ):
        pass
      case _:
        return None
  rewards = {name: Reward(*fields) for name, fields in rewards.items()}
  return Graded(job, rewards, secs)


def _environment() -> dict[str, str]:
  """The worker imports what this process can, and starts no threads."""
  return os.environ | {
    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    "PYTHONHASHSEED": "0",  # Same order of sets in every worker.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
  }
