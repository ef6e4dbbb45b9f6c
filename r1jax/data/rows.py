"""Rows of files as questions: fields renamed, formats read."""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from r1jax import registry
from r1jax.data import formats
from r1jax.records import Question


def existing(path: str) -> pathlib.Path:
  """The path of a file; raises ValueError if there is none."""
  file = pathlib.Path(path)
  if not file.is_file():
    raise ValueError(f"path is {str(path)!r}, which is no file.")
  return file


def json_rows(path: str) -> Iterator[tuple[str, Any]]:
  """File and number of each line of a JSON-lines file, and what it holds.

  Raises:
    ValueError: If there is no such file, or for a line that is no JSON.
  """
  file = existing(path)
  with file.open("rb") as lines:
    for number, line in enumerate(lines, start=1):
      where = f"{file}, line {number}"
      try:
        yield where, json.loads(line.decode("utf-8"))
      except UnicodeDecodeError as error:
        raise ValueError(f"{where}: no UTF-8 ({error.reason}).") from error
      except json.JSONDecodeError as error:
        raise ValueError(
          f"{where}: no JSON ({error.msg} at column {error.colno})."
        ) from error


def question(
  row: Any,
  where: str,
  default_id: str,
  fields: Mapping[str, str] | None,
  verifier: str | None,
  format: str | None,
) -> Question:
  """The question of a row.

  Args:
    row: Of a file or data set.
    where: The row, for errors.
    default_id: For a row without an id.
    fields: Question field to the row's name for it, where they differ.
    verifier: For a row without one.
    format: Of `formats.FORMATS`, or None where the row is as it is.

  Raises:
    ValueError: For a row that does not fit, by `where`.
  """
  if not isinstance(row, dict):
    raise ValueError(f"{where}: is {row!r:.80}, not an object.")
  for name in fields or {}:
    if name not in Question._fields:
      raise ValueError(
        f"fields.{name} is unknown. Known: {', '.join(Question._fields)}."
      )
  layout = None
  if format is not None:
    layout = registry.lookup(formats.FORMATS, format, "format")
    verifier = verifier or layout.verifier
    fields = {**layout.fields, **(fields or {})}
  values = _values(row, where, default_id, fields or {}, verifier)
  if layout is not None:
    try:
      values = layout.read(values)
    except ValueError as error:
      raise ValueError(f"{where}: {error}; it is not {format}.") from None
  return _whole(values, where)


def _values(
  row: Mapping[str, Any],
  where: str,
  default_id: str,
  fields: Mapping[str, str],
  verifier: str | None,
) -> dict[str, Any]:
  """A question's values as the row has them."""
  values = {"id": default_id, "verifier": verifier}
  needed = {"question", "answer", *fields}
  # The verifier first, for with "none" there need be no answer.
  for name in sorted(Question._fields, key="verifier".__ne__):
    column = fields.get(name, name)
    if row.get(column) is not None:
      values[name] = row[column]
    elif name == "answer" and values["verifier"] == "none":
      values[name] = None
    elif name in needed:
      raise ValueError(
        f"{where}: has no {column!r}. It has: {', '.join(map(str, row))}."
      )
  return values


def _whole(values: dict[str, Any], where: str) -> Question:
  """The question of these values; raises ValueError for one that is none."""
  if isinstance(values["id"], int):
    values["id"] = str(values["id"])
  for name in ("id", "question", "verifier", "language"):
    value = values.get(name, "en")
    if not isinstance(value, str) or not value.strip():
      raise ValueError(
        f"{where}: {name} is {value!r:.80}. It must be a text, not blank."
      )
  if not isinstance(values.get("meta", {}), dict):
    raise ValueError(f"{where}: meta is {values['meta']!r:.80}, not an object.")
  return Question(**values)


def decoded(
  row: Mapping[str, Any], json_fields: Sequence[str], where: str
) -> dict[str, Any]:
  """The row with plain values; TFDS hands out bytes and NumPy scalars."""
  plain = {}
  for name, value in row.items():
    if isinstance(value, bytes):
      value = value.decode("utf-8")
    elif hasattr(value, "tolist"):
      value = value.tolist()
    plain[name] = value
  for name in json_fields:
    try:
      plain[name] = json.loads(plain[name])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
      raise ValueError(
        f"{where}: {name} of json_fields is {plain.get(name)!r:.80}, no JSON."
      ) from error
  return plain
