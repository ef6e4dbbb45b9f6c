"""A module of the tests, run in a process of its own."""

import functools
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
EIGHT_DEVICES = (
  "--xla_force_host_platform_device_count=8 "
  "--xla_backend_optimization_level=0"  # Compiles in half the time.
)


def result(module: str, *arguments: str, flags: str = "") -> Any:
  """The JSON of the last line it prints; once for the same call.

  Args:
    module: As `tests.mesh_samples`.
    arguments: Its own.
    flags: XLA_FLAGS, as EIGHT_DEVICES.
  """
  done = _run(module, *arguments, flags=flags)
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


@functools.lru_cache  # A failure too: the next test need not wait for another.
def _run(module, *arguments, flags):
  return subprocess.run(
    [sys.executable, "-m", module, *arguments],
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
    capture_output=True,
    text=True,
    timeout=1200,
    check=False,
  )
