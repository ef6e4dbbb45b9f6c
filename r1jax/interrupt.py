"""Stopping by signal: noted at once, obeyed where nothing is lost."""

import contextlib
import contextvars
import signal
from collections.abc import Callable, Iterator

from absl import logging

from r1jax import distributed

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
# Signals that came, while someone watches for them.
_received: contextvars.ContextVar[list[int] | None] = contextvars.ContextVar(
  "received", default=None
)


@contextlib.contextmanager
def watch() -> Iterator[Callable[[], bool]]:
  """A function that says whether SIGTERM or SIGINT has come.

  The first one is only noted; the next one does what it did before. Inside
  another watch it is that one's function, so that a signal that ends a stage
  is also seen by the chain around it. Of several processes it is enough
  that one had a signal, and all must ask together.
  """
  outer = _received.get()
  if outer is not None:
    yield lambda: distributed.any_process(bool(outer))
    return
  received: list[int] = []
  before = {number: signal.getsignal(number) for number in _NUMBERS}

  def restore():
    for number in _NUMBERS:
      signal.signal(number, before[number])

  def note(number, _):
    received.append(number)
    restore()
    logging.info("Stopping after this round; a second signal stops at once.")

  for number in _NUMBERS:
    signal.signal(number, note)
  token = _received.set(received)
  try:
    yield lambda: distributed.any_process(bool(received))
  finally:
    _received.reset(token)
    restore()
