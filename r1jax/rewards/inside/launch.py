"""A process that puts one program into a sandbox and watches over it.

Started by `rewards.sandbox` with a clean interpreter; the two arguments are
descriptors: of its orders (a JSON object) and of its report (JSON lines).
Nothing secret ever comes here.

  grader -- launcher -- init (process 1 of its namespace) -- program

The launcher builds the namespaces and leaves. When init ends, the kernel
kills whatever else lives in its namespace; init dies with the launcher, and
the launcher ends when the grader does, however that came about. Without
namespaces the launcher does the work of init: it adopts every orphan of
the program and kills all of them at the end.

The report: {"refused": layer, "error": why} for a layer that the kernel
does not allow, else {"began": true} and one of {"exit": status},
{"signal": number} and {"memory": MB used by all its processes}.
"""

import base64
import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from r1jax.rewards.inside import confine, kernel

_NAMESPACES = (
  kernel.CLONE_NEWNS
  | kernel.CLONE_NEWPID
  | kernel.CLONE_NEWNET
  | kernel.CLONE_NEWIPC
  | kernel.CLONE_NEWUTS
)
_INSIDE_ID = 1000  # The user's id in its user namespace.
_DEVICES = ("null", "zero", "full", "random", "urandom")
_POLL_SECS = 0.05
_TIDY_SECS = 5.0

Orders = dict[str, Any]


class _Ended(Exception):
  """The grader is gone or wants no more."""


class Refused(Exception):
  """A layer that the kernel does not allow here."""

  def __init__(self, layer: str, error: OSError):
    super().__init__(f"{layer}: {error}")
    self.layer = layer


def main() -> None:
  """Does as ordered; ends when all that it started is dead."""
  orders_fd, report_fd = map(int, sys.argv[1:3])
  signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGCHLD})
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  with os.fdopen(orders_fd, "rb") as file:
    orders = json.load(file)

  def report(**fields: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
      os.write(report_fd, json.dumps(fields).encode() + b"\n")

  def end(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Ended

  try:
    signal.signal(signal.SIGTERM, end)
    kernel.die_with_parent(signal.SIGTERM)
    if os.getppid() != orders["parent"]:
      return
    if "namespaces" in orders["layers"]:
      _run_in_namespaces(orders, report)
    else:
      _run_in_the_open(orders, report)
  except Refused as refused:
    report(refused=refused.layer, error=str(refused))
  except _Ended:
    pass


def _run_in_namespaces(orders: Orders, report: confine.Report) -> None:
  try:
    _unshare()
    kernel.hide_memory()  # Before that, it could not map its user.
    _build_root(orders)
  except OSError as error:
    raise Refused("namespaces", error) from error
  ready_in, ready_out = os.pipe()
  go_in, go_out = os.pipe()
  init = 0
  try:
    init = os.fork()
    if not init:
      status = 1
      try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        kernel.die_with_parent(signal.SIGKILL)
        kernel.hide_memory()
        os.close(ready_in)
        os.close(go_out)
        os.write(ready_out, b"r")
        if os.read(go_in, 1):  # Nothing comes where the launcher is dead.
          _close_root()
          _watch(_start(orders, report), orders, report)
          status = 0
      except Refused as refused:
        report(refused=refused.layer, error=str(refused))
      finally:
        os._exit(status)
    os.close(ready_out)
    os.close(go_in)
    if os.read(ready_in, 1):
      os.write(go_out, b"g")
    os.close(go_out)
    os.waitpid(init, 0)
    init = 0
  finally:
    if init:
      os.kill(init, signal.SIGKILL)
      os.waitpid(init, 0)


def _run_in_the_open(orders: Orders, report: confine.Report) -> None:
  kernel.hide_memory()
  kernel.adopt_orphans()
  folder = tempfile.mkdtemp(prefix="r1jax-sandbox-")
  try:
    box, scratch = f"{folder}/box", f"{folder}/tmp"
    os.chmod(folder, 0o711)
    os.mkdir(box, 0o755)
    os.mkdir(scratch, 0o700)
    if "uid" in orders["layers"]:
      os.chown(scratch, orders["uid"], orders["uid"])
    _write_files(orders["files"], box)
    orders = confine.placed(orders, box, scratch)
    _watch(_start(orders, report), orders, report)
  finally:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _kill_descendants()
    shutil.rmtree(folder, ignore_errors=True)


def _unshare() -> None:
  """Enters new namespaces; without privileges, by way of a user's own."""
  user, group = os.geteuid(), os.getegid()
  if user == 0:
    try:
      kernel.unshare(_NAMESPACES)
      return
    except PermissionError:
      pass  # A container's root.
  kernel.unshare(_NAMESPACES | kernel.CLONE_NEWUSER)
  for name, text in (
    ("setgroups", "deny"),
    ("uid_map", f"{_INSIDE_ID} {user} 1"),
    ("gid_map", f"{_INSIDE_ID} {group} 1"),
  ):
    with open(f"/proc/self/{name}", "w") as file:
      file.write(text)


def _build_root(orders: Orders) -> None:
  """Makes a root of the few things that a program may see, read-only.

  /box holds its files, /tmp is its scratch folder in memory.
  """
  kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
  flags = kernel.MS_NOSUID | kernel.MS_NODEV
  kernel.mount("tmpfs", "/tmp", "tmpfs", flags, "size=64m,mode=755")
  os.mkdir("/tmp/old")
  kernel.pivot_root("/tmp", "/tmp/old")
  os.chdir("/")
  os.umask(0o022)
  for path in orders["visible"]:
    _show(path)
  for path in orders["hidden"]:
    if os.path.isdir(path):
      kernel.mount(
        "tmpfs", path, "tmpfs", flags, "size=4k,nr_inodes=1,mode=555"
      )
  for name in ("dev", "proc", "box", "tmp"):
    os.mkdir(f"/{name}")
  for name in _DEVICES:
    with open(f"/dev/{name}", "w"):
      pass
    kernel.mount(f"/old/dev/{name}", f"/dev/{name}", flags=kernel.MS_BIND)
  for name, target in (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("shm", "/tmp"),
  ):
    os.symlink(target, f"/dev/{name}")
  _write_files(orders["files"], "/box")
  owner = orders["uid"] if os.geteuid() == 0 else _INSIDE_ID
  size = f"size={orders['scratch_mb']}m,nr_inodes=4096,mode=700"
  kernel.mount(
    "tmpfs", "/tmp", "tmpfs", flags, f"{size},uid={owner},gid={owner}"
  )


def _close_root() -> None:
  """Lets go of the old root; until then its /proc vouches for a new one."""
  with contextlib.suppress(OSError):  # Masked in some containers.
    _mount_proc()
  flags = kernel.MS_NOSUID | kernel.MS_NODEV
  flags |= kernel.MS_REMOUNT | kernel.MS_RDONLY
  try:
    kernel.detach("/old")
    os.rmdir("/old")
    kernel.mount("tmpfs", "/", "tmpfs", flags, "size=64m,mode=755")
  except OSError as error:
    raise Refused("namespaces", error) from error


def _show(path: str) -> None:
  """Binds a path of the old root, or makes the same link."""
  old = f"/old{path}"
  if os.path.islink(old):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.symlink(os.readlink(old), path)
  elif os.path.isdir(old):
    os.makedirs(path, exist_ok=True)
    kernel.bind_read_only(old, path)
  elif os.path.exists(old):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w"):
      pass
    kernel.bind_read_only(old, path)


def _mount_proc() -> None:
  flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
  try:
    kernel.mount("proc", "/proc", "proc", flags, "subset=pid")
  except OSError:  # Before Linux 5.8.
    kernel.mount("proc", "/proc", "proc", flags)


def _write_files(files: dict[str, str], folder: str) -> None:
  for name, content in files.items():
    with open(f"{folder}/{name}", "wb") as file:
      file.write(base64.b64decode(content))
    os.chmod(f"{folder}/{name}", 0o755)


def _start(orders: Orders, report: confine.Report) -> int:
  """Starts the program with all its bonds on; its process id."""
  gone_in, gone_out = os.pipe()  # Closed by exec, so that failures show.
  child = os.fork()
  if not child:
    try:
      os.close(gone_in)
      confine.become(orders)
    except confine.Failed as failed:
      report(refused=failed.layer, error=str(failed))
    except (OSError, ValueError) as error:
      report(refused="start", error=f"{type(error).__name__}: {error}")
    finally:
      os._exit(127)
  os.close(gone_out)
  os.read(gone_in, 1)
  os.close(gone_in)
  report(began=True)
  return child


def _watch(child: int, orders: Orders, report: confine.Report) -> None:
  """Returns when the child has ended, or takes too much with its own."""
  allowed_mb = 2 * orders["limits"]["mem_mb"]
  while True:
    with contextlib.suppress(ChildProcessError):
      while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
        if ended[0] == child:
          code = os.waitstatus_to_exitcode(ended[1])
          report(**{"exit": code} if code >= 0 else {"signal": -code})
          return
    used_mb = sum(_private_mb(pid) for pid in _descendants())
    if used_mb > allowed_mb:
      report(memory=used_mb)
      return
    signal.sigtimedwait({signal.SIGCHLD}, _POLL_SECS)


def _private_mb(pid: int) -> float:
  """Memory that a process has alone or shares with its forks."""
  try:
    with open(f"/proc/{pid}/statm") as file:
      _, resident, shared = map(int, file.read().split()[:3])
  except OSError:
    return 0.0
  return (resident - shared) * resource.getpagesize() / 2**20


def _descendants() -> set[int]:
  """Living processes below this one."""
  parents = dict(_parents())
  below = {os.getpid()}
  while more := {p for p, q in parents.items() if q in below} - below:
    below |= more
  return below - {os.getpid()}


def _parents() -> Iterator[tuple[int, int]]:
  with contextlib.suppress(OSError):
    for name in os.listdir("/proc"):
      if name.isdecimal():
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
          state, parent = file.read().rpartition(")")[2].split()[:2]
          if state not in "ZX":
            yield int(name), int(parent)


def _kill_descendants() -> None:
  end = time.monotonic() + _TIDY_SECS
  while time.monotonic() < end:
    living = _descendants()
    for number in (signal.SIGSTOP, signal.SIGKILL):
      for pid in living:
        with contextlib.suppress(ProcessLookupError, PermissionError):
          os.kill(pid, number)
    try:
      while os.waitpid(-1, os.WNOHANG) != (0, 0):
        pass
    except ChildProcessError:
      if not living:
        return
    time.sleep(0.001)
