"""What the program's own process does to itself before it is the program."""

import os
import resource
import signal
import stat
from collections.abc import Callable
from typing import Any

from r1jax.rewards.inside import kernel, seccomp

BOX, SCRATCH = "/box", "/tmp"
# LANDLOCK_ACCESS_FS_*
_READ, _READ_NAMES, _CHANGE = 0b1101, 0b1000, 0b0111_1111_1111_0010
_RIGHTS_OF_VERSION = ((5, 16), (3, 15), (2, 14), (1, 13))  # Number of bits.

Report = Callable[..., None]


class Failed(Exception):
  """A layer that could not be put on."""

  def __init__(self, layer: str, error: Exception):
    super().__init__(f"{layer}: {error}")
    self.layer = layer


def placed(orders: dict[str, Any], box: str, scratch: str) -> dict[str, Any]:
  """The orders with other folders in place of BOX and SCRATCH."""

  def moved(text: str) -> str:
    for old, new in ((BOX, box), (SCRATCH, scratch)):
      if text == old or text.startswith(f"{old}/"):
        return new + text.removeprefix(old)
    return text

  return orders | {
    "command": [moved(part) for part in orders["command"]],
    "environment": {k: moved(v) for k, v in orders["environment"].items()},
    "scratch": scratch,
    "box": box,
  }


def become(orders: dict[str, Any]) -> None:
  """Gives up what the program must not have, then becomes it.

  Raises:
    Failed: Where a layer could not be put on.
    OSError: If the program cannot be started.
  """
  layers = orders["layers"]
  os.setsid()
  os.chdir(orders.get("scratch", SCRATCH))
  os.umask(0o077)
  kernel.drop_bounding_set()
  if "uid" in layers:
    _layer("uid", _change_user, orders)
  _limit(orders)
  kernel.drop_capabilities()
  kernel.die_with_parent(signal.SIGKILL)
  kernel.no_new_privileges()
  if "landlock" in layers:
    _layer("landlock", _landlock, orders)
  kernel.close_on_exec(3)
  if "seccomp" in layers:
    _layer("seccomp", _filter, orders)
  for number in range(1, signal.NSIG):
    if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
      signal.signal(number, signal.SIG_DFL)
  signal.pthread_sigmask(signal.SIG_SETMASK, set())
  os.execve(orders["command"][0], orders["command"], orders["environment"])


def _layer(name: str, apply: Callable[..., None], orders: Any) -> None:
  try:
    apply(orders)
  except (OSError, KeyError) as error:
    raise Failed(name, error) from error


def _change_user(orders: dict[str, Any]) -> None:
  for number in range(3):  # So that it can open /dev/stdin.
    if stat.S_ISFIFO(os.fstat(number).st_mode):
      os.fchown(number, orders["uid"], orders["uid"])
  os.setgroups([])
  os.setresgid(orders["uid"], orders["uid"], orders["uid"])
  os.setresuid(orders["uid"], orders["uid"], orders["uid"])
  os.stat(orders["command"][0])  # Not below a folder closed to others.


def _limit(orders: dict[str, Any]) -> None:
  limits = orders["limits"]
  memory = limits["mem_mb"] * 2**20
  processes = limits["processes"]
  if not {"namespaces", "uid"} & set(orders["layers"]):
    processes += _processes_of_user()
  for name, soft, hard in (
    ("CPU", limits["cpu_secs"], limits["cpu_secs"] + 1),
    ("AS", memory, memory),
    ("NPROC", processes, processes),
    ("FSIZE", limits["file_mb"] * 2**20, limits["file_mb"] * 2**20),
    ("NOFILE", 128, 128),
    ("CORE", 0, 0),
    ("STACK", 2**26, memory),
    ("MEMLOCK", 0, 0),
    ("MSGQUEUE", 0, 0),
  ):
    which = getattr(resource, f"RLIMIT_{name}")
    highest = resource.getrlimit(which)[1]
    if highest != resource.RLIM_INFINITY:
      soft, hard = min(soft, highest), min(hard, highest)
    resource.setrlimit(which, (min(soft, hard), hard))


def _processes_of_user() -> int:
  """Threads of this user, which count against RLIMIT_NPROC."""
  count = 0
  for name in os.listdir("/proc"):
    if name.isdecimal():
      try:
        if os.stat(f"/proc/{name}").st_uid == os.getuid():
          count += len(os.listdir(f"/proc/{name}/task"))
      except OSError:
        continue  # It ended.
  return count


def _landlock(orders: dict[str, Any]) -> None:
  version = kernel.landlock_version()
  if not version:
    raise OSError("not in this kernel")
  bits = next(bits for least, bits in _RIGHTS_OF_VERSION if version >= least)
  paths = {}
  hidden = [os.path.realpath(path) for path in orders["hidden"]]
  for path in {os.path.realpath(path) for path in orders["visible"]}:
    paths |= _without(path, hidden)
  paths |= {
    orders["box"]: _READ,
    orders["scratch"]: _READ | _CHANGE,
    "/dev/null": _READ | _CHANGE,
    "/dev/zero": _READ,
    "/dev/random": _READ,
    "/dev/urandom": _READ,
  }
  kernel.landlock(
    2**bits - 1,
    0b11 if version >= 4 else 0,
    0b11 if version >= 6 else 0,
    paths,
  )


def _without(path: str, hidden: list[str]) -> dict[str, int]:
  """Rights on all below a path but what is hidden, whose names alone show.

  Landlock grants and never takes back, so the siblings are granted.
  """
  if path in hidden:
    return {}
  if not any(place.startswith(f"{path}/") for place in hidden):
    return {path: _READ}
  found = {path: _READ_NAMES}
  for name in os.listdir(path):
    found |= _without(f"{path}/{name}", hidden)
  return found


def _filter(orders: dict[str, Any]) -> None:
  layers = orders["layers"]
  apart = "namespaces" in layers
  scoped = "landlock" in layers and kernel.landlock_version() >= 6
  program = seccomp.instructions(
    kernel.machine(),
    no_signals=not (apart or scoped or "uid" in layers),
    no_metadata=not apart,
    read_only=not (apart or "landlock" in layers),
  )
  kernel.install_filter(program)
