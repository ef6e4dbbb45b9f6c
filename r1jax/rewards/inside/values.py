"""Forms for values of the standard library that tests and programs share.

Beyond plain data there cross, by value: named tuples, and what TYPES lists;
by name: modules of MODULES and the classes in TYPES, both ways. Tests may
name any function and class of MODULES to the program, but not the program
to the tests: a program that says its function is `eval`, and hands it text
of its own, would run in the tests' process.
"""

import importlib
import sys
import types
from collections import namedtuple
from collections.abc import Callable
from typing import Any

MODULES = frozenset(
  [
    "bisect",
    "builtins",
    "calendar",
    "cmath",
    "collections",
    "copy",
    "datetime",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "heapq",
    "itertools",
    "math",
    "numbers",
    "operator",
    "random",
    "re",
    "statistics",
    "string",
    "textwrap",
    "time",
    "typing",
  ]
)

# Type, named by its module and itself, to the arguments that make its like.
TYPES: dict[str, Callable[[Any], list[Any]]] = {
  "builtins.range": lambda v: [v.start, v.stop, v.step],
  "builtins.slice": lambda v: [v.start, v.stop, v.step],
  "collections.Counter": lambda v: [dict(v)],
  "collections.OrderedDict": lambda v: [list(v.items())],
  "collections.defaultdict": lambda v: [None, dict(v)],
  "collections.deque": lambda v: [list(v), v.maxlen],
  "datetime.date": lambda v: [v.year, v.month, v.day],
  "datetime.datetime": lambda v: [*v.timetuple()[:6], v.microsecond],
  "datetime.time": lambda v: [v.hour, v.minute, v.second, v.microsecond],
  "datetime.timedelta": lambda v: [v.days, v.seconds, v.microseconds],
  "decimal.Decimal": lambda v: [str(v)],
  "fractions.Fraction": lambda v: [v.numerator, v.denominator],
}

Encode = Callable[[Any], Any]


def form(
  value: Any, encode: Encode, *, by_program: bool
) -> dict[str, Any] | None:
  """The form of a value of the library; None for others."""
  kind = type(value)
  if isinstance(value, types.ModuleType):
    name = value.__name__
    if name in MODULES and not (by_program and name == "builtins"):
      return {"lib": name, "name": ""}
    return None
  if kind.__module__ in MODULES:
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name in TYPES and library(*name.split(".")) is kind:
      return {"make": name, "args": encode(TYPES[name](value))}
  if issubclass(kind, tuple) and kind.__bases__ == (tuple,):
    fields = getattr(kind, "_fields", None)
    if isinstance(fields, tuple):
      parts = {"fields": list(fields), "items": encode(list(value))}
      return {"tuple": kind.__name__} | parts
  module = getattr(value, "__module__", None)
  name = getattr(value, "__qualname__", None)
  if isinstance(value, types.BuiltinFunctionType):
    name = value.__name__
  is_named = isinstance(module, str) and isinstance(name, str)
  if not is_named or (by_program and f"{module}.{name}" not in TYPES):
    return None
  if module in MODULES and library(module, name) is value:
    return {"lib": module, "name": name}
  return None


def value(form: dict[str, Any], decode: Encode, *, by_program: bool) -> Any:
  """The value of `form`.

  Raises:
    KeyError: If it is no such form.
    ValueError: If it is a broken one, or not for a program to say.
  """
  if "lib" in form:
    module, name = form["lib"], form["name"]
    is_shared = f"{module}.{name}" in TYPES or (
      name == "" and module != "builtins"
    )
    if by_program and not is_shared:
      raise ValueError(f"the program names {module}.{name}")
    found = library(module, name)
    if found is None:
      raise ValueError("no such name in the library")
    return found
  if "tuple" in form:
    kind = namedtuple(form["tuple"], form["fields"])
    return kind(*decode(form["items"]))
  name = form["make"]
  TYPES[name]  # Nothing else is ever called.
  return library(*name.split("."))(*decode(form["args"]))


def library(module: str, name: str) -> Any:
  """What a name means in a module of the library; None if nothing."""
  if module not in MODULES or name.startswith("_") or "." in name:
    return None
  found = sys.modules.get(module) or importlib.import_module(module)
  return getattr(found, name, None) if name else found
