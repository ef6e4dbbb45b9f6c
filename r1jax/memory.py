"""The host's memory, for the CPU backend."""

import ctypes

# malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed() -> bool:
  """Whether malloc could be told to keep what is freed for the next use.

  XLA's CPU backend takes its temporaries anew in every call. By default
  glibc hands large blocks back to the kernel, and touching fresh pages
  again costs a tenth to a quarter of an update (EXPERIMENTS.md, "Speed on
  two cores"). False where the C library has no mallopt.
  """
  libc = ctypes.CDLL(None)
  if not hasattr(libc, "mallopt"):
    return False
  settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1))
  return all(libc.mallopt(name, value) for name, value in settings)
