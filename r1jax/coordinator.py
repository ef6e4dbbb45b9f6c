"""The coordinator of a run of several processes.

  python -m r1jax.coordinator FILENO COUNT TIMEOUT_SECS

Process 0 starts it (r1jax.peers) with a socket that listens. It counts the
processes and compares what they run, starts the service by which jax's own
runtime finds its processes, and then listens until all are done or one has
died, and tells the others which one. It ends with the last connection.
"""

import math
import selectors
import socket
import sys
import time
from typing import Any

from r1jax import peers

_LINGER_SECS = 5.0  # For the others to read why they end.
_SETTLE_SECS = 1.0  # In which more may be heard of what went wrong.
_CAUSE_SECS = 5.0  # In which the cause of a failed collective is heard of.
_RERUN = "Run the same command again, which resumes."


class _Peer:
  """A process that has said who it is."""

  def __init__(self, wire: peers.Wire, hello: peers.Message):
    self.wire = wire
    self.index = int(hello["index"])
    self.count = int(hello["count"])
    self.host = str(hello["host"])
    self.facts = hello["facts"]
    self.round: int | None = None
    self.heard = time.monotonic()
    self.failed: str | None = None
    self.failed_at = 0.0
    self.by_another = False
    self.is_gone = self.is_done = False

  @property
  def name(self) -> str:
    """As every line calls it."""
    return f"process {self.index} ({self.host})"


class Coordinator:
  """Owns the sockets of a run."""

  def __init__(self, listener: socket.socket, count: int, timeout_secs: float):
    """Takes the listening socket.

    Args:
      listener: Whose port the processes were told.
      count: Of processes.
      timeout_secs: As of `peers.Member`.
    """
    self._count, self._timeout_secs = count, timeout_secs
    self._listener = listener
    self._selector = selectors.DefaultSelector()
    self._selector.register(listener, selectors.EVENT_READ, None)
    self._peers: dict[int, _Peer] = {}
    self._beaten = time.monotonic()

  def run(self) -> str | None:
    """Serves until all processes are done, or the line that ended them."""
    problem = self._gather()
    if problem is None:
      port, service = _jax_service(self._count)
      self._tell({"go": port})
      problem = self._attend()
      if problem is None:
        service.shutdown()
        return None
    self._tell({"stop": problem})
    deadline = time.monotonic() + _LINGER_SECS
    while self._open() and time.monotonic() < deadline:
      self._read(0.1)
    return problem

  def _gather(self) -> str | None:
    """Why the run cannot begin; None once all are there and alike."""
    deadline = time.monotonic() + self._timeout_secs
    while len(self._peers) < self._count:
      problem = self._read(0.1) or self._lost(math.inf)
      if problem:
        return problem
      if time.monotonic() > deadline:
        missing = sorted({*range(self._count)} - {*self._peers})
        shown = ", ".join(map(str, missing[:8]))
        shown += ", ..." if len(missing) > 8 else ""
        return (
          f"of {self._count} processes, {shown} did not come to the "
          f"coordinator in {self._timeout_secs:g} s. Start them, or set "
          "--num_processes to those there are."
        )
    first = self._peers[0]
    for _, peer in sorted(self._peers.items()):
      different = peers.difference(first.facts, peer.facts)
      if different:
        return (
          f"{peer.name} differs from {first.name}: {different}. Start all "
          "processes by one command, with the same code and packages."
        )
    return None

  def _attend(self) -> str | None:
    """Why the run ended early; None once all are done."""
    since = None
    for peer in self._peers.values():
      peer.heard = time.monotonic()
    while self._open():
      self._read(0.1)
      if time.monotonic() - self._beaten > peers.BEAT_SECS:
        self._beaten = time.monotonic()
        self._tell({"alive": True})
      found = self._lost(self._timeout_secs) or self._failed()
      if not found:
        continue
      since = time.monotonic() if since is None else since
      if time.monotonic() - since > _SETTLE_SECS:
        return found
    return None

  def _lost(self, timeout_secs: float) -> str | None:
    """What there is to say of a process that died or went silent."""
    for _, peer in sorted(self._peers.items()):
      if peer.is_done or peer.failed:
        continue
      silent = time.monotonic() - peer.heard
      how = "ended without a word" if peer.is_gone else ""
      if not how and silent > timeout_secs:
        how = f"is not heard of for {silent:.0f} s"
      if how:
        return f"{peer.name} {how}; {peers.last_round(peer.round)} {_RERUN}"
    return None

  def _failed(self) -> str | None:
    """What a process says of its own end, that of a cause before others."""
    failed = [p for _, p in sorted(self._peers.items()) if p.failed]
    failed.sort(key=lambda peer: peer.by_another)
    for peer in failed:
      if peer.by_another and time.monotonic() - peer.failed_at < _CAUSE_SECS:
        continue
      return f"{peer.name} failed: {peer.failed}"
    return None

  def _open(self) -> bool:
    return any(not p.is_gone for p in self._peers.values())

  def _tell(self, message: peers.Message) -> None:
    for peer in self._peers.values():
      if not peer.is_gone:
        peer.wire.send(message)

  def _read(self, wait_secs: float) -> str | None:
    """Takes what has come; why a newcomer cannot be let in, if one can't."""
    problem = None
    for key, _ in self._selector.select(wait_secs):
      if key.data is None:
        sock, _ = self._listener.accept()
        sock.settimeout(5.0)
        self._selector.register(
          sock, selectors.EVENT_READ, (peers.Wire(sock), [])
        )
        continue
      wire, owner = key.data
      messages: list[Any] | None
      try:
        messages = wire.receive()
      except TimeoutError:
        messages = []
      except ValueError:  # A stranger.
        messages = None
      for message in messages or ():
        if owner:
          _take(owner[0], message)
        else:
          problem = self._admit(wire, owner, message) or problem
      if messages is None:
        self._selector.unregister(wire.socket)
        wire.close()
        if owner:
          owner[0].is_gone = True
    return problem

  def _admit(self, wire, owner, hello) -> str | None:
    """Lets a process in; why not, if it cannot be."""
    try:
      peer = _Peer(wire, hello)
    except (KeyError, TypeError, ValueError):  # A stranger.
      return None
    if len(self._peers) == self._count:
      wire.send(
        {
          "stop": "another run is under way at the address that "
          f"{peer.name} was given. Choose another port in --coordinator."
        }
      )
      return None
    if not 0 <= peer.index < self._count:
      return None
    owner.append(peer)
    other = self._peers.setdefault(peer.index, peer)
    problem = None
    if other is not peer:
      problem = f"{other.name} and {peer.name} both have this --process_id"
      self._peers[-1] = peer  # To be told, too.
    elif peer.count != self._count:
      problem = (
        f"{peer.name} was given --num_processes={peer.count}, process 0 "
        f"{self._count}"
      )
    return problem and f"{problem}. Start all processes again."


def _take(peer: _Peer, message: peers.Message) -> None:
  peer.heard = time.monotonic()
  peer.round = message.get("round", peer.round)
  peer.is_done = peer.is_done or "done" in message
  if peer.failed is None and "failed" in message:
    peer.failed = str(message["failed"])
    peer.failed_at = peer.heard
    peer.by_another = bool(message["by_another"])


def _jax_service(count: int) -> tuple[int, Any]:
  """(port, service) through which jax's processes find each other.

  It lives here, and not in process 0, since jax aborts all processes at once
  where its service is gone, before any of them could say why.
  """
  from jaxlib import _jax  # The one part of jax that is needed.

  with socket.create_server(("", 0)) as free:
    port = free.getsockname()[1]
  return port, _jax.get_distributed_runtime_service(f"[::]:{port}", count)


def main(arguments: list[str]) -> None:
  """Runs the coordinator of a command line."""
  peers.ignore_signals()
  listener = socket.socket(fileno=int(arguments[0]))
  Coordinator(listener, int(arguments[1]), float(arguments[2])).run()


if __name__ == "__main__":
  main(sys.argv[1:])
