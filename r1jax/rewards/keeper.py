"""A process around a worker that leaves nothing of it behind.

  trainer
    keeper: waits; runs no reward and reads no response
      worker: grades, and may be killed at any time
        what the rewards start, and what that starts

The keeper is the subreaper of all below it (prctl(2)): whatever loses its
parent there becomes the keeper's child, in whatever session or group it hid.
When the worker has ended, by itself or killed, or when the trainer is gone,
however it ended, the keeper kills all that is left, removes the worker's
scratch folder and ends as the worker ended. If the keeper itself is killed,
the kernel kills the worker.

Off Linux there is no keeper: the worker runs alone.
"""

import contextlib
import ctypes
import os
import pathlib
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TICK_SECS = 0.2  # Between looks whether the trainer is still there.
_SWEEP_SECS = 5.0  # After which something cannot be killed.
_under: list[int] = []  # In a worker: its keeper.
_AWAITED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def run(work: Callable[[], None]) -> None:
  """Runs work() in a child process, then ends this one as the child ended.

  SIGTERM ends both; SIGINT and SIGHUP, which a terminal sends to all, are
  the trainer's to act on. The child's temporary files go to a folder of
  their own, which is removed.
  """
  if sys.platform != "linux":
    work()
    return
  trainer, keeper = os.getppid(), os.getpid()
  adopt_orphans()
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # Ignored, no status comes.
  before = signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
  scratch = tempfile.mkdtemp(prefix="r1jax-grader-")
  os.chmod(scratch, 0o711)  # Another user may run below, but not look around.
  os.environ["TMPDIR"] = tempfile.tempdir = scratch
  worker = os.fork()
  if not worker:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
      os._exit(1)
    os.setpgid(0, 0)  # What it sends to its group is not for the keeper.
    _under.append(keeper)
    signal.pthread_sigmask(signal.SIG_SETMASK, before - _AWAITED)
    work()
    return
  os.close(0)  # The worker's alone; 1 stays open until all is gone.
  status = _watch(worker, trainer)
  kill_below(keeper)
  shutil.rmtree(scratch, ignore_errors=True)
  if os.WIFSIGNALED(status):
    number = os.WTERMSIG(status)
    if number not in (signal.SIGKILL, signal.SIGSTOP):
      signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.kill(keeper, number)
  os._exit(os.waitstatus_to_exitcode(status))


def adopt_orphans() -> None:
  """Makes this process the parent of all below it that lose theirs."""
  _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill_strays() -> None:
  """In a worker, kills all that runs below it or was left to its keeper."""
  for keeper in _under:
    kill_below(keeper, spared=(os.getpid(),))


def kill_below(root: int, spared: Iterable[int] = ()) -> None:
  """Kills all processes below one, but for the spared, and reaps its own.

  Gives up after five seconds on what cannot be killed.
  """
  deadline = time.monotonic() + _SWEEP_SECS
  while left := [p for p in below(root) if p not in spared and is_alive(p)]:
    for pid in left:
      with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    if time.monotonic() > deadline:
      return
    _reap()
    time.sleep(0.001)


def below(root: int) -> list[int]:
  """Ids of the processes below one, parents first; zombies among them."""
  found, place = _children(root), 0
  while place < len(found):
    found += _children(found[place])
    place += 1
  return found


def in_session(session: int) -> list[int]:
  """Ids of the processes of a session."""
  return [pid for pid in _pids() if _stat(pid)[3:4] == [str(session)]]


def is_alive(pid: int) -> bool:
  """Whether a process is there and not a zombie."""
  return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def _watch(worker: int, trainer: int) -> int:
  """The status with which the worker ended, or a SIGKILL's.

  Until then, or until the trainer is gone or sends SIGTERM.
  """
  while True:
    got = signal.sigtimedwait(_AWAITED, _TICK_SECS)
    status = _reap().get(worker)
    if status is not None:
      return status
    is_asked = got is not None and got.si_signo == signal.SIGTERM
    if is_asked or os.getppid() != trainer:
      return signal.SIGKILL


def _reap() -> dict[int, int]:
  """Status by process id of the children that ended."""
  ended = {}
  with contextlib.suppress(ChildProcessError):
    while True:
      pid, status = os.waitpid(-1, os.WNOHANG)
      if not pid:
        break
      ended[pid] = status
  return ended


def _children(pid: int) -> list[int]:
  found = []
  try:
    for path in pathlib.Path(f"/proc/{pid}/task").iterdir():
      found += map(int, (path / "children").read_text().split())
  except (FileNotFoundError, ProcessLookupError):
    # It ended; or the kernel was built without lists of children.
    if not os.path.exists("/proc/thread-self/children"):
      found = [p for p in _pids() if _stat(p)[1:2] == [str(pid)]]
  return found


def _pids() -> list[int]:
  if not os.path.isdir("/proc"):
    return []
  return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> list[str]:
  """State, parent, group, session and more of a process; [] if it ended."""
  try:
    text = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace")
  except (FileNotFoundError, ProcessLookupError):
    return []
  return text.rpartition(")")[2].split()


def _prctl(option: int, value: int) -> None:
  libc = ctypes.CDLL(None, use_errno=True)
  if libc.prctl(option, value, 0, 0, 0):
    error = ctypes.get_errno()
    raise OSError(error, f"prctl({option}): {os.strerror(error)}")
