"""A sandbox around a program that nobody trusts.

  with Sandbox(command, files) as box: ...   a program to talk to
  run(command, files, given=b"...")          a program to run to its end
  layers()                                   what holds it, on this machine

What a program finds in there: a fresh interpreter or binary, its files in
/box (read-only), a small scratch folder in memory as /tmp and current
folder, /usr and the interpreter's own library, an environment of five
variables, no network. What holds it there is LAYERS, of which this machine
may lack some; `inside/launch.py` and `inside/confine.py` put them on.
"""

import base64
import contextlib
import functools
import json
import os
import pathlib
import secrets
import select
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

LAYERS = {
  "namespaces": "processes, files, network and IPC of its own",
  "uid": "a user id that owns nothing",
  "seccomp": "no system calls that programs do not need",
  "landlock": "no files but its own, where there are no namespaces",
}
ROOT = pathlib.Path(__file__).parents[2]
PYTHON = getattr(sys, "_base_executable", sys.executable)
INTERPRETER = (os.path.realpath(PYTHON), "-s", "-P", "-S", "-B", "-X", "utf8")

_START_SECS = 30.0
_END_SECS = 10.0
_FIRST_UID = 0x6000_0000  # To 0x6fff_ffff: in no range that systems give out.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache")
_ENVIRONMENT = {
  "HOME": "/tmp",
  "LANG": "C.UTF-8",
  "PATH": "/usr/bin:/bin",
  "PYTHONHASHSEED": "0",  # The same order of sets in every run.
  "TMPDIR": "/tmp",
}


class Limits(NamedTuple):
  """What a program may use.

  Attributes:
    timeout_secs: Wall time from its start.
    mem_mb: Address space of each process; all together may fill twice it.
    output_bytes: Of its output, beyond which it is stopped.
    processes: Processes and threads at a time.
    file_mb: Size of one file, and of the whole scratch folder.
  """

  timeout_secs: float = 5.0
  mem_mb: int = 1024
  output_bytes: int = 4 << 20
  processes: int = 64
  file_mb: int = 64


DEFAULT_LIMITS = Limits()


class Outcome(NamedTuple):
  """How a program ended.

  Attributes:
    output: What it wrote to standard output, as far as it was allowed.
    ending: "" if it ended by itself with status 0, else what it did.
    is_late: Whether it was stopped for its time.
  """

  output: bytes
  ending: str
  is_late: bool = False


class Refused(RuntimeError):
  """The machine does not allow a layer."""

  def __init__(self, layer: str, error: str):
    super().__init__(f"the sandbox cannot be built: {error}")
    self.layer = layer


class Sandbox:
  """Owns a program's processes, its pipes and its scratch folder."""

  def __init__(
    self,
    command: Sequence[str],
    files: Mapping[str, bytes],
    limits: Limits = DEFAULT_LIMITS,
    *,
    active: frozenset[str] | None = None,
  ):
    """Starts the program.

    Args:
      command: An absolute path and its arguments; /box and /tmp are where
        the program will find them.
      files: Name in /box to content.
      limits: What it may use.
      active: Layers to put on; those of `layers()` if None.

    Raises:
      Refused: If a layer cannot be put on.
    """
    self.limits = limits
    active = active_layers() if active is None else active
    orders_out, orders_in = os.pipe()
    self.report, report_in = os.pipe()
    try:
      self._launcher = _launched(orders_out, report_in)
    finally:
      os.close(orders_out)
      os.close(report_in)
    self.stdin = self._launcher.stdin
    self.stdout = self._launcher.stdout
    self._said = b""
    with contextlib.ExitStack() as stack:
      stack.callback(self.close)
      with (
        os.fdopen(orders_in, "wb") as file,
        contextlib.suppress(BrokenPipeError),
      ):
        file.write(_orders(command, files, limits, active))
      began = self._next_report(time.monotonic() + _START_SECS)
      if "refused" in began:
        raise Refused(began["refused"], began["error"])
      if "began" not in began:
        raise RuntimeError(f"the sandbox did not start, it said {began}")
      stack.pop_all()
    self.deadline = time.monotonic() + limits.timeout_secs
    for pipe in (self.stdin, self.stdout):
      os.set_blocking(pipe.fileno(), False)

  def __enter__(self) -> "Sandbox":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def ending(self) -> str:
    """Waits for the program's end; how it came, "" for status 0."""
    match self._next_report(self.deadline):
      case {"exit": 0}:
        return ""
      case {"exit": status}:
        return f"exit status {status}"
      case {"signal": number}:
        return _signal_name(number)
      case {"memory": used_mb}:
        return f"more than {used_mb:.0f} MB in all its processes"
      case _:
        return "killed with its sandbox"

  def close(self) -> None:
    """Ends all that runs in the sandbox and waits until it is gone."""
    with contextlib.suppress(ProcessLookupError):
      self._launcher.send_signal(signal.SIGTERM)
    for pipe in (self.stdin, self.stdout):
      pipe.close()
    try:
      self._launcher.wait(_END_SECS)
    except subprocess.TimeoutExpired:
      self._launcher.kill()
      self._launcher.wait()
    if self.report >= 0:
      os.close(self.report)
      self.report = -1

  def _next_report(self, deadline: float) -> dict:
    """The launcher's next line; empty if it ended without one.

    Raises:
      TimeoutError: If there is none in time.
    """
    while b"\n" not in self._said:
      ready, _, _ = select.select(
        [self.report], [], [], max(0.0, deadline - time.monotonic())
      )
      if not ready:
        raise TimeoutError("no word from the sandbox in time")
      data = os.read(self.report, 4096)
      if not data:
        return {}
      self._said += data
    line, _, self._said = self._said.partition(b"\n")
    return json.loads(line)


def _launched(orders: int, report: int) -> subprocess.Popen:
  """The launcher, reading orders and reporting by these descriptors."""
  code = (
    f"import sys; sys.path.append({str(ROOT)!r}); "
    "from r1jax.rewards.inside import launch; launch.main()"
  )
  return subprocess.Popen(
    [*INTERPRETER, "-c", code, str(orders), str(report)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    bufsize=0,
    cwd="/",
    env=_ENVIRONMENT,
    pass_fds=(orders, report),
    start_new_session=True,
  )


def run(
  command: Sequence[str],
  files: Mapping[str, bytes],
  limits: Limits = DEFAULT_LIMITS,
  *,
  given: bytes = b"",
  active: frozenset[str] | None = None,
) -> Outcome:
  """Runs a program to its end, or to the end of what it may use.

  Args:
    command: As for `Sandbox`.
    files: As for `Sandbox`.
    limits: What it may use.
    given: Its standard input.
    active: As for `Sandbox`.
  """
  output = bytearray()
  with Sandbox(command, files, limits, active=active) as box:
    rest = memoryview(given)
    reads, writes = [box.stdout], [box.stdin]
    while reads:
      secs = box.deadline - time.monotonic()
      if secs <= 0:
        break
      if not rest and writes:
        box.stdin.close()
        writes = []
      # Children of the program may hold its output open for ever.
      ready, room, _ = select.select([*reads, box.report], writes, [], secs)
      if room:
        rest = _write_some(box.stdin.fileno(), rest)
      if box.stdout in ready:
        data = os.read(box.stdout.fileno(), 1 << 16)
        output += data
        if not data:
          reads = []
        if len(output) > limits.output_bytes:
          return Outcome(bytes(output), "too much output")
      elif box.report in ready:
        break
    try:
      ending = box.ending()
    except TimeoutError:
      ending = f"stopped after {limits.timeout_secs:g} s"
      return Outcome(bytes(output), ending, is_late=True)
    if reads and len(output) <= limits.output_bytes:
      output += _rest(box.stdout.fileno(), limits.output_bytes)
  return Outcome(bytes(output), ending)


def _write_some(handle: int, data: memoryview) -> memoryview:
  """What is left of the data once the pipe took what it could."""
  try:
    return data[os.write(handle, data[: 1 << 16]) :]
  except BlockingIOError:
    return data
  except BrokenPipeError:  # It reads no more, which is its right.
    return data[:0]


def _rest(handle: int, most: int) -> bytes:
  """What lies in a pipe whose writers are done."""
  output = bytearray()
  with contextlib.suppress(BlockingIOError):
    while len(output) <= most and (data := os.read(handle, 1 << 16)):
      output += data
  return bytes(output)


def _orders(
  command: Sequence[str],
  files: Mapping[str, bytes],
  limits: Limits,
  active: frozenset[str],
) -> bytes:
  visible, hidden = _view()
  orders = {
    "parent": os.getpid(),
    "command": list(command),
    "files": {k: base64.b64encode(v).decode() for k, v in files.items()},
    "environment": _ENVIRONMENT,
    "layers": sorted(active),
    "uid": _FIRST_UID + secrets.randbelow(1 << 28),
    "visible": visible,
    "hidden": hidden,
    "scratch_mb": limits.file_mb,
    "limits": {
      "cpu_secs": int(limits.timeout_secs) + 1,
      "mem_mb": limits.mem_mb,
      "processes": limits.processes,
      "file_mb": limits.file_mb,
    },
  }
  return json.dumps(orders).encode()


@functools.cache
def _view() -> tuple[list[str], list[str]]:
  """Paths that a program may see, and those below them that it may not."""
  visible = [path for path in _SYSTEM if os.path.lexists(path)]
  for prefix in {sys.base_prefix, sys.base_exec_prefix}:
    for name in ("bin", "lib", "lib64"):
      path = os.path.join(prefix, name)
      if os.path.isdir(path) and not path.startswith("/usr/"):
        visible.append(path)
  hidden = {str(ROOT)}
  for scheme in sysconfig.get_scheme_names():
    for name in ("purelib", "platlib"):
      path = sysconfig.get_path(name, scheme, {"base": sys.base_prefix})
      hidden.add(path)
  for pattern in (
    "lib/python3*/dist-packages",
    "local/lib/python3*/*-packages",
  ):
    hidden |= set(map(str, pathlib.Path("/usr").glob(pattern)))
  return visible, sorted(
    path for path in hidden if any(_is_below(path, top) for top in visible)
  )


def _is_below(path: str, top: str) -> bool:
  return os.path.isdir(path) and path.startswith(f"{top.rstrip('/')}/")


def _signal_name(number: int) -> str:
  with contextlib.suppress(ValueError):
    return f"killed by {signal.Signals(number).name}"
  return f"killed by signal {number}"


@functools.cache
def active_layers() -> frozenset[str]:
  """The layers that this machine allows; raises as `probed`."""
  return probed(LAYERS)


def layers() -> dict[str, str | None]:
  """What each layer gives, or None where it is not put on here.

  Raises:
    RuntimeError: As `probed`.
  """
  active = active_layers()
  return {k: LAYERS[k] if k in active else None for k in LAYERS}


def probed(wanted: Iterable[str]) -> frozenset[str]:
  """Those of the layers that this machine allows, found by trying.

  Raises:
    RuntimeError: If they are too few to run foreign programs at all.
  """
  active = set(wanted)
  if os.geteuid() != 0:
    active.discard("uid")
  while True:
    try:
      program = "print(sum(range(5)))"
      outcome = run([*INTERPRETER, "-c", program], {}, active=frozenset(active))
      break
    except Refused as refused:
      if refused.layer not in active:
        raise
      active.discard(refused.layer)
  if outcome != Outcome(b"10\n", ""):
    raise RuntimeError(f"a sandboxed program ends with {outcome}")
  if "namespaces" in active:
    active.discard("landlock")
  elif not {"seccomp"} <= active:
    raise RuntimeError(
      "this machine allows neither namespaces nor seccomp, so programs cannot "
      "be kept from its files and network. Grade code on Linux 5.13 or newer."
    )
  return frozenset(active)
