"""Plain data as JSON, for what crosses between two processes.

None, bool, int, float, complex, str, bytes, list, tuple, dict, set and
frozenset, nested, keep their exact types; of a subclass, the content of its
plain base class crosses. Everything else goes through a function that the
caller gives, and which may refuse.
"""

import json
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

MAX_DEPTH = 150
_SMALL = 1 << 53
_HEADER = struct.Struct(">cI")
HEADER_BYTES = _HEADER.size

# Tags of those that JSON has no form for.
_GROUPS = {"t": tuple, "s": set, "z": frozenset}


class NotPlain(TypeError):
  """A value that cannot cross."""


def dumps(value: Any, other: Callable[[Any], Any] | None = None) -> bytes:
  """The value as JSON text.

  Args:
    value: What shall cross.
    other: Form of what is not plain, a dict; None refuses it.

  Raises:
    NotPlain: If it is not plain or too deep.
  """
  return json.dumps(encoded(value, other)).encode()


def loads(text: bytes, other: Callable[[Any], Any] | None = None) -> Any:
  """The value of `dumps`.

  Raises:
    ValueError: If the text is not from `dumps`.
  """
  try:
    return decoded(json.loads(text), other)
  except (RecursionError, TypeError, KeyError, OverflowError) as error:
    raise ValueError(f"no plain data: {type(error).__name__}") from None


def encoded(
  value: Any, other: Callable[[Any], Any] | None = None, depth: int = 0
) -> Any:
  """The value in lists, dicts and scalars that JSON has."""
  if depth > MAX_DEPTH:
    raise NotPlain(f"nested deeper than {MAX_DEPTH}")
  if value is None or value is True or value is False:
    return value
  kind = type(value)
  if other is not None and kind not in EXACT:
    form = other(value)
    if form is not None:
      return form

  def inner(items: Any) -> list[Any]:
    return [encoded(item, other, depth + 1) for item in items]

  for base, form in _FORMS:
    if issubclass(kind, base):
      return form(value, inner)
  raise NotPlain(f"{kind.__name__} is no plain data")


def _int(value: int, inner: Any) -> Any:
  value = int.__index__(value)
  return value if -_SMALL < value < _SMALL else {"i": hex(value)}


def _float(value: float, inner: Any) -> Any:
  value = float.__float__(value)
  return value if value - value == 0 else {"f": str(value)}


_FORMS = (
  (int, _int),
  (float, _float),
  (str, lambda v, inner: str.__getitem__(v, slice(None))),
  (list, lambda v, inner: inner(list.__iter__(v))),
  (tuple, lambda v, inner: {"t": inner(tuple.__iter__(v))}),
  (dict, lambda v, inner: {"d": [inner(pair) for pair in dict.items(v)]}),
  (set, lambda v, inner: {"s": inner(set.__iter__(v))}),
  (frozenset, lambda v, inner: {"z": inner(frozenset.__iter__(v))}),
  (complex, lambda v, inner: {"c": inner([v.real, v.imag])}),
  (bytes, lambda v, inner: {"b": bytes.hex(v)}),
  (bytearray, lambda v, inner: {"B": bytearray.hex(v)}),
)
EXACT = {base for base, _ in _FORMS}


def decoded(form: Any, other: Callable[[Any], Any] | None = None) -> Any:
  """The value of `encoded`."""
  if isinstance(form, list):
    return [decoded(item, other) for item in form]
  if not isinstance(form, dict):
    return form
  if len(form) != 1:
    if other is None:
      raise ValueError("no plain data")
    return other(form)
  ((tag, content),) = form.items()
  if tag in _GROUPS:
    return _GROUPS[tag](decoded(item, other) for item in content)
  match tag:
    case "d":
      return {decoded(k, other): decoded(v, other) for k, v in content}
    case "i":
      return int(content, 16)
    case "f":
      return float(content)
    case "c":
      return complex(*decoded(content))
    case "b":
      return bytes.fromhex(content)
    case "B":
      return bytearray.fromhex(content)
  if other is None:
    raise ValueError(f"no plain data: {str(tag)[:20]!r}")
  return other(form)


def frame(kind: bytes, text: bytes) -> bytes:
  """A message: one byte that says what it is, its length, its text."""
  return _HEADER.pack(kind, len(text)) + text


def header(data: bytes) -> tuple[bytes, int]:
  """Kind and length of the message that begins with these bytes."""
  return _HEADER.unpack(data)


def read_frame(file: BinaryIO) -> tuple[bytes, bytes]:
  """The next message.

  Raises:
    EOFError: If there is none.
  """
  start = file.read(HEADER_BYTES)
  if len(start) < HEADER_BYTES:
    raise EOFError
  kind, length = header(start)
  text = file.read(length)
  if len(text) < length:
    raise EOFError
  return kind, text
