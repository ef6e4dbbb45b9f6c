"""A program and its tests, in a sandbox each, and what passes between them.

  calls(...)   the parent asks for function values and compares them
  tests(...)   a tester runs test code that uses the program's names

Between the two processes go frames of plain data (`inside.plain`), handed on
by the parent, which reads of them only what kind they are. What a process
says of itself is never the verdict: a value is compared here, and a test
has passed if the tester, whom the program cannot reach, says that it ran to
its end.
"""

import contextlib
import json
import os
import pathlib
import secrets
import select
import time
from collections.abc import Iterator, Sequence
from typing import Any

from r1jax.rewards import sandbox
from r1jax.rewards.inside import plain

MODULES = ("plain", "values", "serve", "proxies", "tester")
MAX_FRAME = 16 << 20  # Of what is only handed on.

_FOLDER = pathlib.Path(__file__).parent / "inside"
# The modules lie flat in one folder, which stands for their packages.
_START = """
import sys, types
for name in ("r1jax", "r1jax.rewards", "r1jax.rewards.inside"):
  sys.modules[name] = module = types.ModuleType(name)
  module.__path__ = [sys.argv[1]]
from r1jax.rewards.inside import {module}
{module}.main()
"""


class Broken(Exception):
  """Why a process says nothing more."""


class Late(Broken):
  """It took too long."""


class _Peer:
  """Owns a sandbox that is spoken to in frames."""

  def __init__(
    self,
    module: str,
    files: dict[str, bytes],
    limits: sandbox.Limits,
    max_frame: int = MAX_FRAME,
  ):
    self._max_frame = max_frame
    parts = {f"{m}.py": (_FOLDER / f"{m}.py").read_bytes() for m in MODULES}
    code = _START.format(module=module)
    command = [*sandbox.INTERPRETER, "-c", code, "/box"]
    self._box = sandbox.Sandbox(command, files | parts, limits)
    self._incoming = bytearray()
    self._outgoing = bytearray()

  def __enter__(self) -> "_Peer":
    return self

  def __exit__(self, *exception: object) -> None:
    self._box.close()

  def send(self, kind: bytes, text: bytes) -> None:
    self._outgoing += plain.frame(kind, text)

  def frame(self) -> tuple[bytes, bytes] | None:
    """The next whole frame that has arrived."""
    if len(self._incoming) < plain.HEADER_BYTES:
      return None
    kind, length = plain.header(bytes(self._incoming[: plain.HEADER_BYTES]))
    if length > self._max_frame:
      raise Broken("it says too much at once")
    end = plain.HEADER_BYTES + length
    if len(self._incoming) < end:
      return None
    text = bytes(self._incoming[plain.HEADER_BYTES : end])
    del self._incoming[:end]
    return kind, text

  def handles(self) -> tuple[list[int], list[int]]:
    """What to wait for: readable, writable."""
    out = [self._box.stdin.fileno()] if self._outgoing else []
    return [self._box.stdout.fileno()], out

  def move(self, ready: Sequence[int]) -> None:
    """Moves bytes where there is room.

    Raises:
      Broken: If the process has ended.
    """
    if self._box.stdin.fileno() in ready and self._outgoing:
      try:
        sent = os.write(self._box.stdin.fileno(), self._outgoing[: 1 << 16])
        del self._outgoing[:sent]
      except BlockingIOError:
        pass
      except BrokenPipeError:
        self._outgoing.clear()
    if self._box.stdout.fileno() in ready:
      with contextlib.suppress(BlockingIOError):
        data = os.read(self._box.stdout.fileno(), 1 << 16)
        if not data:
          raise Broken(self._ending())
        self._incoming += data

  def _ending(self) -> str:
    try:
      return self._box.ending() or "it ended before the tests did"
    except TimeoutError:
      return "it closed its output"


def _wait(peers: Sequence[_Peer], deadline: float) -> list[int]:
  """Descriptors of the peers that are ready.

  Raises:
    Late: If none is until the deadline.
  """
  reads, writes = [], []
  for peer in peers:
    r, w = peer.handles()
    reads, writes = reads + r, writes + w
  secs = deadline - time.monotonic()
  if secs <= 0:
    raise Late("it took too long")
  ready, room, _ = select.select(reads, writes, [], secs)
  return [*ready, *room]


def _reply(peer: _Peer, deadline: float) -> dict[str, Any]:
  """The program's answer to a request, as JSON has it."""
  while (found := peer.frame()) is None:
    peer.move(_wait([peer], deadline))
  try:
    reply = json.loads(found[1])
  except (ValueError, RecursionError) as error:
    raise Broken("its answer is no plain data") from error
  if not isinstance(reply, dict):
    raise Broken("its answer is no plain data")
  return reply


def calls(
  program: str,
  function: str,
  arguments: Sequence[list[Any]],
  limits: sandbox.Limits,
) -> Iterator[Any]:
  """The plain value that the function returns for each list of arguments.

  One process serves them all, so state of the program lasts.

  Raises:
    Broken: Where there is no such value.
  """
  files = {"program.py": program.encode(errors="surrogatepass")}
  whole = limits._replace(timeout_secs=limits.timeout_secs * _ahead(arguments))
  with _Peer("serve", files, whole, limits.output_bytes) as peer:
    deadline = time.monotonic() + limits.timeout_secs
    peer.send(b"q", plain.dumps({"op": "load", "module": "program"}))
    _checked(_reply(peer, deadline))
    for args in arguments:
      request = {"op": "fn", "fn": function, "args": args}
      peer.send(b"q", plain.dumps(request))
      yield _checked(_reply(peer, time.monotonic() + limits.timeout_secs))


def _checked(reply: dict[str, Any]) -> Any:
  if "error" in reply:
    raise Broken(str(reply["error"])[:200])
  if "raise" in reply:
    raise Broken(f"it raises {_error_name(reply['raise'])}")
  try:
    return plain.decoded(reply.get("value"))
  except (ValueError, TypeError, RecursionError, OverflowError) as error:
    raise Broken("its answer is no plain data") from error


def _error_name(raised: Any) -> str:
  try:
    return f"{raised['mro'][0][1]}: {raised['text']}"[:200]
  except (TypeError, KeyError, IndexError):
    return "an error"


def _ahead(items: Sequence[Any]) -> int:
  return len(items) + 2


def tests(
  kind: str,
  module: str,
  program: str,
  sources: Sequence[str],
  limits: sandbox.Limits,
) -> Iterator[str | None]:
  """Why each test failed, None for those that passed, as they end.

  All tests see one process of the program, so its state lasts.

  Args:
    kind: "assert" or "unittest".
    module: Name by which unit tests import the program.
    program: Its source.
    sources: Of the tests.
    limits: Of the program; the time is that of each test.

  Raises:
    Broken: Where no verdict comes: the program ended, or took too long.
  """
  files = {f"{module}.py": program.encode(errors="surrogatepass")}
  nonce = secrets.token_hex(16)
  work = {"nonce": nonce, "kind": kind, "module": module, "tests": [*sources]}
  whole = limits._replace(timeout_secs=limits.timeout_secs * _ahead(sources))
  with (
    _Peer("serve", files, whole) as peer,
    _Peer("tester", {}, whole) as tester,
  ):
    tester.send(b"t", json.dumps(work).encode())
    for index in range(len(sources)):
      deadline = time.monotonic() + limits.timeout_secs
      verdict = _relay(peer, tester, deadline)
      if verdict.get("nonce") != nonce or verdict.get("index") != index:
        raise Broken("the tester was disturbed")
      yield verdict["why"]


def _relay(peer: _Peer, tester: _Peer, deadline: float) -> dict[str, Any]:
  """Hands frames on until the tester has a verdict.

  They speak in turns, so no more than one frame of each is ever held.
  """
  is_asked = False
  while True:
    while found := tester.frame():
      kind, text = found
      if kind == b"v":
        return json.loads(text)
      peer.send(kind, text)
      is_asked = True
    while found := peer.frame():
      kind, text = found
      if not is_asked or kind not in (b"r", b"c"):
        raise Broken("it speaks without being asked")
      tester.send(kind, text)
      is_asked = False
    ready = _wait([peer, tester], deadline)
    tester.move(ready)
    peer.move(ready)
