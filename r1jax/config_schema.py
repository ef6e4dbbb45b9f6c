"""The kinds of values that a config's fields may have.

A schema is a dict literal: field name to a Kind, a Choice, an EachOf or a
dict of the same. Imports no jax.
"""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_collections

from r1jax import registry


class Kind(NamedTuple):
  """A plain value: what it must be, in words and as a test."""

  words: str
  accepts: Callable[[Any], bool]


class Choice(NamedTuple):
  """`dict(name=..., **arguments)`.

  Attributes:
    names: Name to its arguments, or to None where the table that the name is
      looked up in checks them; None accepts every name.
    fields: Arguments that all names share.
  """

  names: dict[str, dict[str, Any] | None] | None
  fields: dict[str, Any] = {}


class EachOf(NamedTuple):
  """A list, or a dict of known names, of what looks alike."""

  item: Any
  names: tuple[str, ...] | None = None


def integer(low: int) -> Kind:
  """An int of `low` or more; no bool."""
  return Kind(
    f"an integer of {low} or more",
    lambda x: isinstance(x, int) and not isinstance(x, bool) and x >= low,
  )


def number(low: float = -math.inf, high: float = math.inf) -> Kind:
  """A finite int or float in [low, high]; no bool."""
  return Kind(
    f"a number in [{low}, {high}]",
    lambda x: (
      isinstance(x, (int, float))
      and not isinstance(x, bool)
      and math.isfinite(x)
      and low <= x <= high
    ),
  )


def one_of(*values: Any) -> Kind:
  """One of these values."""
  return Kind(
    f"one of {', '.join(map(str, values))}",
    lambda x: any(x is v or (type(x) is type(v) and x == v) for v in values),
  )


def named(*known: str) -> Choice:
  """A choice by these names, its arguments checked where it is made."""
  return Choice(dict.fromkeys(known))


TEXT = Kind("a text", lambda x: isinstance(x, str) and bool(x))
OPTIONAL_TEXT = Kind("a text or None", lambda x: x is None or TEXT.accepts(x))
TEXTS = Kind(
  "a dict of texts",
  lambda x: isinstance(x, Mapping) and all(map(TEXT.accepts, x.values())),
)
BOOL = Kind("True or False", lambda x: isinstance(x, bool))
# Checked by the class that it is made into.
OPEN = Kind("a dict", lambda x: isinstance(x, Mapping))


def paths(fields: dict[str, Any], prefix: str = "") -> Iterator[str]:
  """Dotted names of a schema's fields; a choice counts as one field."""
  for name, kind in fields.items():
    if isinstance(kind, dict):
      yield from paths(kind, f"{prefix}{name}.")
    else:
      yield prefix + name


def problems(value: Any, kind: Any, field: str) -> Iterator[str]:
  """What is wrong with a value, one line each."""
  if isinstance(kind, Kind):
    if not kind.accepts(value):
      yield f"{field} is {value!r}, but must be {kind.words}."
  elif isinstance(kind, EachOf):
    yield from _each_problems(value, kind, field)
  elif not isinstance(value, Mapping):
    yield f"{field} is {value!r}, but must be a dict."
  elif isinstance(kind, Choice):
    yield from _choice_problems(value, kind, field)
  else:
    yield from _unknown(value, kind, field)
    for name, inner in kind.items():
      if name in value:
        yield from problems(value[name], inner, f"{field}.{name}")
      else:
        yield f"{field}.{name} is missing. Set it{_words(inner)}."


def _each_problems(value: Any, kind: EachOf, field: str) -> Iterator[str]:
  if kind.names is not None:
    if not isinstance(value, Mapping):
      yield f"{field} is {value!r}, but must be a dict."
      return
    yield from _unknown(value, dict.fromkeys(kind.names), field)
    for name, item in value.items():
      if not isinstance(item, Mapping):
        yield f"{field}.{name} is {item!r}, but must be a dict."
      elif name in kind.names:
        item = {"name": name, **item}
        yield from problems(item, kind.item, f"{field}.{name}")
  elif not isinstance(value, (list, tuple)):
    yield f"{field} is {value!r}, but must be a list."
  else:
    for i, item in enumerate(value):
      yield from problems(item, kind.item, f"{field}[{i}]")


def _choice_problems(
  value: Mapping[str, Any], kind: Choice, field: str
) -> Iterator[str]:
  name = value.get("name")
  if not isinstance(name, str):
    yield f"{field}.name is {name!r}, but must be a text."
    return
  arguments = None
  if kind.names is not None:
    try:
      arguments = registry.lookup(kind.names, name, f"{field}.name")
    except ValueError as error:
      yield str(error)
      return
  known = {"name": TEXT, **kind.fields, **(arguments or {})}
  if arguments is None:  # The rest is checked where it is made.
    value = {k: v for k, v in value.items() if k in known}
  yield from problems(value, known, field)


def _unknown(
  value: Mapping[str, Any], known: Mapping[str, Any], field: str
) -> Iterator[str]:
  for name in value:
    if name not in known:
      close = difflib.get_close_matches(name, known, n=1)
      hint = f"Did you mean {field}.{close[0]}?" if close else "Delete it."
      listed = ", ".join(sorted(known)) or "none"
      yield f"{field}.{name} is unknown. {hint} Known: {listed}."


def _words(kind: Any) -> str:
  if isinstance(kind, Kind):
    return f" to {kind.words}"
  if isinstance(kind, Choice) and kind.names is not None:
    return f" to a dict with a name of {', '.join(kind.names)}"
  return ""


def plain(value: Any) -> Any:
  """Dicts and lists all the way down."""
  if isinstance(value, ml_collections.ConfigDict):
    value = dict(value.items())
  if isinstance(value, Mapping):
    return {k: plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(v) for v in value]
  return value
