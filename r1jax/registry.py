"""Choices in configs: `dict(name=..., **arguments)` against a table."""

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any


def make(
  table: Mapping[str, Callable[..., Any]],
  choice: Mapping[str, Any],
  field: str,
) -> Callable[..., Any]:
  """The table's entry for a choice, its arguments bound.

  Args:
    table: Name to function.
    choice: `name` and the function's keyword arguments.
    field: Where the choice stands in the config, for the error.

  Raises:
    ValueError: For an unknown name or argument, which lists the known ones,
      or an argument that is missing.
  """
  arguments = dict(choice)
  function = lookup(table, arguments.pop("name", None), f"{field}.name")
  check_arguments(function, arguments, field)
  return functools.partial(function, **arguments)


def lookup(table: Mapping[str, Any], name: Any, field: str) -> Any:
  """The table's entry for a name.

  Raises:
    ValueError: If there is none; it lists the known names.
  """
  if name in table:
    return table[name]
  known = ", ".join(sorted(table))
  close = difflib.get_close_matches(str(name), table, n=1)
  hint = f" Did you mean {close[0]}?" if close else ""
  raise ValueError(f"{field} is {name!r}. Known: {known}.{hint}")


def check_arguments(
  function: Callable[..., Any], arguments: Mapping[str, Any], field: str
) -> None:
  """Raises ValueError for an argument too many or one too few.

  What a choice may set are the function's keyword-only arguments, and it
  must set those without a default.
  """
  known = {
    p.name: p
    for p in inspect.signature(function).parameters.values()
    if p.kind is inspect.Parameter.KEYWORD_ONLY
  }
  listed = ", ".join(known) or "none"
  for name in arguments:
    if name not in known:
      raise ValueError(f"{field}.{name} is unknown. Known: {listed}.")
  for name, parameter in known.items():
    if parameter.default is parameter.empty and name not in arguments:
      raise ValueError(f"{field}.{name} is missing. Set it. Known: {listed}.")
