"""The processes of one run: who they are, and that all are alive.

Each holds a connection to the coordinator, a program of its own which
process 0 starts and which outlives it by seconds. There the processes are
counted and compared before jax is started; from then on each says now and
then that it is alive, and at which round. Where one dies or fails, all end
with one line that names it. jax's own service would abort them instead, with
a trace of its stack. Nothing here imports jax.
"""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

BEAT_SECS = 2.0
_CAUSE_SECS = 15.0  # In which the cause of a failed collective is found.
_PACKAGES = (
  *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain"),
  *("ml-collections", "chex", "safetensors", "sentencepiece", "transformers"),
  *("math-verify", "libtpu", "tokamax", "reasoning-gym"),
)
Message = dict[str, Any]


class Member(NamedTuple):
  """A process of a run of several.

  Attributes:
    coordinator: host:port of process 0.
    count: Processes of the run.
    index: Which one this is, from 0.
    devices: Local ids of the devices it has to itself; None for all.
    timeout_secs: In which all must have come, and after which one that is
      not heard of is dead.
  """

  coordinator: str
  count: int
  index: int
  devices: tuple[int, ...] | None = None
  timeout_secs: float = 60.0


class Wire:
  """A connection that carries JSON, a line a message."""

  def __init__(self, sock: socket.socket):
    self.socket = sock
    self._lock = threading.Lock()
    self._rest = b""

  def send(self, message: Message) -> bool:
    """Whether the message could be sent."""
    data = json.dumps(message).encode() + b"\n"
    try:
      with self._lock:
        self.socket.sendall(data)
    except OSError:
      return False
    return True

  def receive(self) -> list[Message] | None:
    """The messages that have come, after a wait for bytes; None at the end.

    Raises:
      TimeoutError: If nothing comes in the socket's timeout.
      ValueError: For what is no message.
    """
    try:
      data = self.socket.recv(1 << 16)
    except TimeoutError:
      raise
    except OSError:  # Reset by the peer.
      return None
    if not data:
      return None
    *lines, self._rest = (self._rest + data).split(b"\n")
    found = [json.loads(line) for line in lines]
    if not all(isinstance(each, dict) for each in found):
      raise ValueError("not an object")
    return found

  def close(self) -> None:
    """Closes the connection."""
    self.socket.close()


def facts(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
  """What must be the same in every process: config, code and packages.

  Args:
    config: Resolved, as JSON can hold it.
  """
  root = pathlib.Path(__file__).resolve().parent
  files = sorted(root.rglob("*.py"))
  if (root.parent / "configs").is_dir():
    files += sorted((root.parent / "configs").rglob("*.py"))
  packages = {"python": platform.python_version()}
  for name in _PACKAGES:
    try:
      packages[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      packages[name] = "none"
  return {
    "config": dict(_flat(config, "config")),
    "code": {
      str(path.relative_to(root.parent)): _digest(path) for path in files
    },
    "packages": packages,
  }


def _flat(value, field):
  if isinstance(value, dict) and value:
    for name, part in value.items():
      yield from _flat(part, f"{field}.{name}")
  else:
    yield field, json.dumps(value, sort_keys=True)


def _digest(path):
  return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
  """The first things in which another process's facts differ, or "".

  Args:
    ours: Facts of process 0.
    theirs: Of the other.
  """
  found = []
  for kind in ("config", "code", "packages"):
    a, b = ours[kind], theirs[kind]
    for name in sorted({*a, *b}):
      here, there = a.get(name, "none"), b.get(name, "none")
      if here != there:
        found.append(f"{name} is {there} there and {here} in process 0")
  more = f" and {len(found) - 3} more" if len(found) > 3 else ""
  return "; ".join(found[:3]) + more


def join(member: Member, known: Mapping[str, Any]) -> tuple["Watch", str]:
  """(watch, address of jax's service) once all processes have come.

  Args:
    member: This process. Index 0 starts the coordinator.
    known: Of `facts`.

  Raises:
    ValueError: If one did not come in time, differs, or the coordinator is
      out of reach; it names which.
  """
  host, port = address(member.coordinator)
  if member.index == 0:
    _start_coordinator(port, member)
    host = "localhost"
  wire = _connect(host, port, member)
  hello = {"index": member.index, "count": member.count}
  wire.send(hello | {"host": socket.gethostname(), "facts": known})
  wire.socket.settimeout(member.timeout_secs + 30)
  where = f"the coordinator at {member.coordinator}"
  try:
    messages = wire.receive()
  except (TimeoutError, ValueError) as error:
    raise ValueError(
      f"{where} is no coordinator of r1jax: it does not answer as one. "
      "Choose another port in --coordinator."
    ) from error
  if not messages:
    raise ValueError(
      f"{where} hung up before the run began. Look at the log of process 0, "
      "then start all processes again."
    )
  if "stop" in messages[0]:
    raise ValueError(messages[0]["stop"])
  watch = Watch(wire, member, messages[1:])
  return watch, f"{host}:{messages[0]['go']}"


def address(coordinator: str) -> tuple[str, int]:
  """(host, port) of --coordinator.

  Raises:
    ValueError: If it is no such thing.
  """
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
    raise ValueError(
      f"--coordinator is {coordinator!r}, but must be HOST:PORT of process "
      "0, as in 10.0.0.2:8476. Mend it."
    )
  return host.strip("[]"), int(port)


def _start_coordinator(port: int, member: Member) -> None:
  dual = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if dual else socket.AF_INET
  try:
    listener = socket.create_server(
      ("", port), family=family, backlog=1024, dualstack_ipv6=dual
    )
  except OSError as error:
    raise ValueError(
      f"--coordinator is {member.coordinator}, but port {port} cannot be had "
      f"({error.strerror}). Choose another, the same in all processes."
    ) from error
  command = [sys.executable, "-m", "r1jax.coordinator"]
  numbers = (listener.fileno(), member.count, member.timeout_secs)
  with listener:
    subprocess.Popen(
      [*command, *map(str, numbers)],
      stdin=subprocess.DEVNULL,
      pass_fds=[listener.fileno()],
      start_new_session=True,  # Ctrl-C is not for it.
    )


def _connect(host: str, port: int, member: Member) -> Wire:
  deadline = time.monotonic() + member.timeout_secs
  while True:
    try:
      sock = socket.create_connection((host, port), timeout=5.0)
    except OSError as error:
      if time.monotonic() > deadline:
        raise ValueError(
          f"process {member.index} of {member.count} cannot reach the "
          f"coordinator at {member.coordinator} in {member.timeout_secs:g} s "
          f"({error.strerror or error}). Start process 0 there, open the "
          "port, or mend --coordinator."
        ) from error
      time.sleep(0.25)
      continue
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Wire(sock)


class Watch:
  """This process's connection to the coordinator while the run lasts.

  A thread says that the process is alive, and ends it with the
  coordinator's line where another one has died.
  """

  def __init__(self, wire: Wire, member: Member, early: list[Message]):
    """Starts the thread; `early` messages have come already."""
    self._wire, self._member = wire, member
    self._early = early
    self._round: int | None = None
    self._ending = threading.Lock()
    self._done = False
    wire.socket.settimeout(BEAT_SECS)
    threading.Thread(target=self._listen, daemon=True).start()
    threading.Thread(target=self._beat, daemon=True).start()

  def note(self, round: int) -> None:
    """Says which round is finished."""
    self._round = round
    self._wire.send({"round": round})

  def finish(self) -> None:
    """Says that this process is through."""
    self._done = True
    self._wire.send({"done": True})
    self._wire.close()

  def fail(self, line: str, *, by_another: bool) -> NoReturn:
    """Tells all processes why this one ends, and ends it.

    Args:
      line: What it says of itself.
      by_another: Whether another one may be why, as where a collective
        failed. Its name is then waited for.
    """
    self._wire.send({"failed": line, "by_another": by_another})
    if by_another:
      time.sleep(_CAUSE_SECS)  # The thread ends the process meanwhile.
    self._end(line)

  def _end(self, line: str) -> NoReturn:
    self._ending.acquire()
    print(f"r1jax: {line}", file=sys.stderr, flush=True)
    os._exit(1)

  def _beat(self) -> None:
    while not self._done:
      time.sleep(BEAT_SECS)
      self._wire.send({"round": self._round})

  def _listen(self) -> None:
    heard = time.monotonic()
    messages: list[Message] | None = self._early
    while not self._done:
      for message in messages or ():
        if "stop" in message:
          self._end(message["stop"])
      silent = time.monotonic() - heard > self._member.timeout_secs
      if (messages is None or silent) and not self._done:
        self._end(
          f"the coordinator beside process 0 at {self._member.coordinator} "
          f"is gone; {last_round(self._round)} Run the same command again, "
          "which resumes."
        )
      try:
        messages = self._wire.receive()
        heard = time.monotonic()
      except TimeoutError:
        messages = []


def last_round(round: int | None) -> str:
  """How far a process had come."""
  if round is None:
    return "it had finished no round."
  return f"the last round it finished is {round}."


def ignore_signals() -> None:
  """Leaves Ctrl-C and SIGTERM to the processes of the run."""
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
