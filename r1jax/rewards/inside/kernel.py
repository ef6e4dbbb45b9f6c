"""The Linux calls that a sandbox is made of and Python 3.11 lacks.

Every function raises OSError where the kernel refuses.
"""

import ctypes
import os
import platform

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20, 0x1000, 0x4000, 0x40000
_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_CAP_VERSION_3 = 0x20080522

# asm/unistd_64.h and asm-generic/unistd.h of Linux.
_NUMBERS = {
  "x86_64": dict(pivot_root=155, capset=126),
  "aarch64": dict(pivot_root=41, capset=91),
}
_MOUNT_SETATTR, _CLOSE_RANGE = 442, 436
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446

_LIBC = ctypes.CDLL(None, use_errno=True)


def machine() -> str:
  """The processor's family as the kernel names it."""
  return platform.machine()


def unshare(flags: int) -> None:
  """Puts this process, or its children, into new namespaces."""
  _checked(_LIBC.unshare(flags), "unshare")


def mount(
  source: str, target: str, kind: str = "", flags: int = 0, data: str = ""
) -> None:
  """mount(2)."""
  result = _LIBC.mount(
    source.encode(),
    target.encode(),
    kind.encode() or None,
    ctypes.c_ulong(flags),
    data.encode() or None,
  )
  _checked(result, f"mount {target}")


def bind_read_only(source: str, target: str) -> None:
  """Shows a tree at another place, with all mounts in it read-only."""
  mount(source, target, flags=MS_BIND | MS_REC)
  flags = MS_RDONLY | MS_NOSUID | MS_NODEV  # The attributes' bits are equal.
  attributes = (ctypes.c_uint64 * 4)(flags, 0, 0, 0)
  result = _syscall(
    _MOUNT_SETATTR,
    _AT_FDCWD,
    target.encode(),
    _AT_RECURSIVE,
    ctypes.byref(attributes),
    ctypes.sizeof(attributes),
  )
  if result < 0:  # Before Linux 5.12; mounts inside stay as they are.
    mount("none", target, flags=MS_REMOUNT | MS_BIND | flags)


def detach(target: str) -> None:
  """Unmounts a tree, even in use."""
  _checked(_LIBC.umount2(target.encode(), _MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
  """Makes `new` the root and shows the root there was at `old`."""
  number = _NUMBERS[machine()]["pivot_root"]
  _checked(_syscall(number, new.encode(), old.encode()), "pivot_root")


def die_with_parent(signal: int) -> None:
  """Has the signal sent when the parent thread ends."""
  _prctl(_PR_SET_PDEATHSIG, signal)


def adopt_orphans() -> None:
  """Makes this process the parent of its descendants' orphans."""
  _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> None:
  """Closes /proc/PID/{mem,fd,...} of this process to its own user."""
  _prctl(_PR_SET_DUMPABLE, 0)


def drop_bounding_set() -> None:
  """Gives up capabilities for every program started from here on."""
  for capability in range(64):
    if _LIBC.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
      break  # EINVAL beyond the last one; EPERM without CAP_SETPCAP.


def drop_capabilities() -> None:
  """Gives up all capabilities, and what would give new ones."""
  _LIBC.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
  header = (ctypes.c_uint32 * 2)(_CAP_VERSION_3, 0)
  empty = (ctypes.c_uint32 * 6)()
  number = _NUMBERS[machine()]["capset"]
  _checked(
    _syscall(number, ctypes.byref(header), ctypes.byref(empty)), "capset"
  )


def no_new_privileges() -> None:
  """Makes set-user-id bits and file capabilities do nothing."""
  _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def close_on_exec(first: int) -> None:
  """Lets no descriptor from `first` on survive an exec."""
  result = _syscall(_CLOSE_RANGE, first, 0xFFFFFFFF, 4)
  if result < 0:  # Before Linux 5.11.
    for name in os.listdir("/proc/self/fd"):
      if int(name) >= first:
        os.set_inheritable(int(name), False)


def install_filter(instructions: list[tuple[int, int, int, int]]) -> None:
  """Installs a seccomp filter of (code, if true, if false, value)."""

  class Instruction(ctypes.Structure):
    _fields_ = [
      ("code", ctypes.c_uint16),
      ("jt", ctypes.c_uint8),
      ("jf", ctypes.c_uint8),
      ("k", ctypes.c_uint32),
    ]

  class Program(ctypes.Structure):
    _fields_ = [
      ("length", ctypes.c_uint16),
      ("filter", ctypes.POINTER(Instruction)),
    ]

  array = (Instruction * len(instructions))(*instructions)
  program = Program(len(instructions), array)
  result = _LIBC.prctl(
    _PR_SET_SECCOMP,
    ctypes.c_ulong(_SECCOMP_MODE_FILTER),
    ctypes.byref(program),
    0,
    0,
  )
  _checked(result, "seccomp")


def landlock_version() -> int:
  """The version of Landlock in the kernel; 0 for none."""
  return max(0, _syscall(_LANDLOCK_CREATE, None, 0, 1))


def landlock(
  rights: int, networks: int, scopes: int, paths: dict[str, int]
) -> None:
  """Takes the rights from this process, but for some of them below paths.

  Args:
    rights: On files, LANDLOCK_ACCESS_FS_*.
    networks: LANDLOCK_ACCESS_NET_*; all are taken.
    scopes: LANDLOCK_SCOPE_*; none reaches beyond this process's domain.
    paths: Path to the rights that stay.
  """
  ruleset = (ctypes.c_uint64 * 3)(rights, networks, scopes)
  size = 24 if scopes else 16 if networks else 8
  handle = _syscall(_LANDLOCK_CREATE, ctypes.byref(ruleset), size, 0)
  _checked(handle, "landlock_create_ruleset")
  for path, kept in paths.items():
    try:
      place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
      continue  # Nothing to see there.

    class Rule(ctypes.Structure):
      _pack_ = 1
      _fields_ = [("kept", ctypes.c_uint64), ("place", ctypes.c_int32)]

    if not os.path.isdir(path):
      kept &= 0b0100_0000_0000_0111  # Execute, write, read, truncate.
    rule = Rule(kept & rights, place)
    result = _syscall(_LANDLOCK_ADD, handle, 1, ctypes.byref(rule), 0)
    _checked(result, f"landlock_add_rule {path}")
    os.close(place)
  _checked(_syscall(_LANDLOCK_RESTRICT, handle, 0), "landlock_restrict_self")
  os.close(handle)


def _prctl(option: int, value: int) -> None:
  _checked(_LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0), "prctl")


def _syscall(number: int, *arguments: object) -> int:
  """syscall(2), every number passed as a long."""
  wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
  return _LIBC.syscall(ctypes.c_long(number), *wide)


def _checked(result: int, what: str) -> None:
  if result < 0:
    error = ctypes.get_errno()
    raise OSError(error, f"{what}: {os.strerror(error)}")
