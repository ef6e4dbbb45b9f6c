"""Grading in worker processes, while the sampler goes on."""

import math
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from r1jax import grading_worker, registry
from r1jax.records import Question, Response, Reward
from r1jax.rewards import worker

Rewards = dict[str, Reward]

MIN_WORKER_MEM_MB = 64  # What Python itself wants, and a reward.
_MAX_FAILED_STARTS = 3
_MAX_DEATHS = 2  # Of workers by a signal, before the row is to blame.
_CLOSE_SECS = 2.0


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


class Grader:
  """Owns the worker processes that grade responses.

    with Grader(
      {"accuracy": {}}, workers=2, timeout_secs=10, budget_secs=300
    ) as grader:
      grader.submit(key, question, response)  # As rows finish.
      grader.poll()  # Now and then.
      rewards = grader.collect()[key]["accuracy"]

  Workers start at the first row and stay for the next rounds. None of the
  methods blocks on a pipe; only `collect` and `close` wait at all. A row's
  rewards depend neither on the number of workers nor on when it is polled;
  the one exception is time: how long a row takes, and a batch, depends on
  the machine and its load.

  A row that cannot be graded earns 0 in all rewards, with a status:

    timeout: it took longer than timeout_secs, stopped or made itself deaf
      to its deadline; or collect's budget was used up while it was open.
    failed: its worker ended by itself or answered nonsense; or a signal
      killed two workers at it. One may have been killed from outside, for
      want of memory, so the row is tried once more.
  """

  def __init__(
    self,
    rewards: Mapping[str, Mapping[str, Any]],
    *,
    workers: int,
    timeout_secs: float,
    budget_secs: float = 600.0,
    worker_mem_mb: int = 2048,
    table: str = worker.DEFAULT_TABLE,
  ):
    """Checks what is asked for; starts nothing.

    Args:
      rewards: Name in the table to the reward's keyword arguments.
      workers: Number of processes, 1 or more.
      timeout_secs: For all rewards of one response together.
      budget_secs: For what is open when `collect` is called; timeout_secs
        or more.
      worker_mem_mb: For each worker, and for each process that it starts.
      table: "module:NAME" of the table of rewards.

    Raises:
      ValueError: For what no worker could run, by field.
    """
    _check_number("workers", workers, 1)
    _check_number("timeout_secs", timeout_secs, 0.001)
    _check_number("budget_secs", budget_secs, timeout_secs)
    _check_number("worker_mem_mb", worker_mem_mb, MIN_WORKER_MEM_MB)
    _check_rewards(worker.load_table(table), rewards)
    self._rewards = {name: dict(args) for name, args in rewards.items()}
    self._timeout_secs = timeout_secs
    self._budget_secs = budget_secs
    self._command = [sys.executable, "-m", "r1jax.rewards.worker", "--quiet"]
    self._command += [f"--table={table}", f"--timeout-secs={timeout_secs}"]
    self._command += [f"--mem-mb={worker_mem_mb}"]
    self._selector = selectors.DefaultSelector()
    self._workers: list[grading_worker.Worker | None] = [None] * workers
    self._queue: deque[grading_worker.Job] = deque()
    self._keys: dict[int, Hashable] = {}
    self._graded: dict[Hashable, Rewards | None] = {}
    self._secs: dict[Hashable, float] = {}
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
      question: JSON must hold its fields. It is kept, not copied.
      response: Likewise.

    Raises:
      ValueError: If the key was submitted since the last `collect`.
    """
    if key in self._graded:
      raise ValueError(f"key {key!r} was submitted twice. Give each row one.")
    self._keys[self._next_id] = key
    self._graded[key] = None
    self._queue.append(grading_worker.Job(self._next_id, question, response))
    self._next_id += 1
    self.poll()

  def poll(self) -> int:
    """Moves rows to and from the workers; how many are still open."""
    self._pump(0.0)
    return len(self._keys)

  def collect(self) -> dict[Hashable, Rewards]:
    """The rewards of all rows submitted since the last call, in that order.

    Waits for the last one, at most budget_secs and what it takes to end the
    workers.

    Raises:
      RuntimeError: If workers cannot be started.
    """
    return self.collect_timed()[0]

  def collect_timed(
    self,
  ) -> tuple[dict[Hashable, Rewards], dict[Hashable, float]]:
    """What `collect` returns, and the seconds each row took its worker."""
    deadline = time.monotonic() + self._budget_secs
    while self._keys:
      self._pump(0.1)
      if time.monotonic() > deadline:
        self._expire()
    graded, self._graded = self._graded, {}
    secs, self._secs = self._secs, {}
    return graded, secs

  def close(self) -> None:
    """Ends all workers; rows still open are forgotten."""
    workers = [w for w in self._workers if w is not None]
    self._workers = [None] * len(self._workers)
    for each in workers:
      each.stop("dismissed")
    deadline = time.monotonic() + _CLOSE_SECS
    for each in workers:
      each.end(max(0.0, deadline - time.monotonic()))
    self._queue.clear()
    self._keys.clear()
    self._graded.clear()
    self._secs.clear()

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
        for job, rewards, secs in each.read():
          self._finish(job, rewards, secs)
          self._failed_starts = 0
    for slot, each in enumerate(self._workers):
      if each is None:
        continue
      each.check(self._timeout_secs)
      if each.is_dead:
        self._workers[slot] = None
        self._bury(each)
    self._assign()

  def _assign(self) -> None:
    """Gives queued rows to the workers that hold the fewest."""
    while self._queue:
      slots = [
        (len(each.jobs) if each else 0, slot)
        for slot, each in enumerate(self._workers)
        if each is None or each.takes_more
      ]
      if not slots:
        return
      _, slot = min(slots)
      if self._workers[slot] is None:
        self._workers[slot] = grading_worker.Worker(
          self._command, self._rewards, self._selector
        )
      self._workers[slot].give(self._queue.popleft())

  def _finish(
    self, job: grading_worker.Job, rewards: Rewards, secs: float
  ) -> None:
    key = self._keys.pop(job.id)
    self._graded[key] = rewards
    self._secs[key] = secs

  def _fail(self, job: grading_worker.Job, reason: str, status: str) -> None:
    reward = Reward(0.0, reason, status)
    self._finish(job, dict.fromkeys(self._rewards, reward), self._timeout_secs)

  def _expire(self) -> None:
    """Ends all rows that are open, and the workers that hold any."""
    reason = f"not graded in the {self._budget_secs:g} s for all rows"
    open_jobs = list(self._queue)
    self._queue.clear()
    for each in self._workers:
      if each is not None and each.jobs:
        open_jobs += each.jobs
        each.jobs.clear()
        each.stop("dismissed")
    for job in open_jobs:
      self._fail(job, reason, "timeout")
    while any(each and each.fault for each in self._workers):
      self._pump(0.1)

  def _bury(self, each: grading_worker.Worker) -> None:
    """Blames the row a dead worker was at; its other rows queue again.

    Raises:
      RuntimeError: If none of the last few workers came to take up a row.
    """
    code, errors = each.end(0.0)
    ending = grading_worker.ending(code)
    if not each.is_proven and each.fault != "dismissed":
      self._failed_starts += 1
    if each.has_begun and each.jobs:
      job = each.jobs.popleft()
      job = job._replace(deaths=job.deaths + 1)
      if each.fault == "late" or code == -signal.SIGALRM:
        reason = f"took longer than {self._timeout_secs:g} s"
        self._fail(job, reason, "timeout")
      elif each.fault == "broken":
        self._fail(job, "worker sent no valid reply", "failed")
      elif code >= 0:
        self._fail(job, f"worker {ending}", "failed")
      elif job.deaths >= _MAX_DEATHS:
        self._fail(job, f"worker {ending}, {_MAX_DEATHS} times", "failed")
      else:
        each.jobs.appendleft(job)
    self._queue.extendleft(reversed(each.jobs))
    if self._failed_starts >= _MAX_FAILED_STARTS:
      self._failed_starts = 0
      raise RuntimeError(
        f"{_MAX_FAILED_STARTS} workers in a row could not be started; the "
        f"last {ending}: {' '.join(self._command)}\n{errors}"
      )


def _check_number(name: str, value: float, least: float) -> None:
  if not least <= value < math.inf:
    raise ValueError(
      f"config.grader.{name} is {value}. Set it to {least} or more, finite."
    )


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
