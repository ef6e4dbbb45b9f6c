"""Data sets of questions, and the order in which a run reads them.

A source is a function `(check_gold, *, ...) -> list of Question`, named in
a config as `dict(name=..., **arguments)`. `check_gold` raises ValueError
for a question whose gold answer its verifier cannot read; such a data set
is refused when it is loaded.
"""

import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from r1jax import registry
from r1jax.data import countdown as countdown_lib
from r1jax.data import general as general_lib
from r1jax.data import programs as programs_lib
from r1jax.data import split_by_content
from r1jax.records import Question

CheckGold = Callable[[Question], None]
_SHOWN = 5


def countdown(
  check_gold: CheckGold, *, split: str, test_frac: float = 0.2
) -> list[Question]:
  """Countdown questions of one split."""
  questions = countdown_lib.questions(split=split, test_frac=test_frac)
  return checked(questions, check_gold, "countdown")


def general(
  check_gold: CheckGold,
  *,
  split: str,
  test_frac: float = 0.2,
  prompt_set: str | None = None,
  kind: str | None = None,
  verifier: str = "none",
) -> list[Question]:
  """General prompts of one split; arguments as of `general.questions`."""
  asked = general_lib.questions(split, test_frac, prompt_set, kind, verifier)
  return checked(asked, check_gold, "general")


def programs(
  check_gold: CheckGold, *, split: str, test_frac: float = 0.2
) -> list[Question]:
  """Program questions of one split."""
  questions = programs_lib.questions(split=split, test_frac=test_frac)
  return checked(questions, check_gold, "programs")


def jsonl(
  check_gold: CheckGold,
  *,
  path: str,
  fields: Mapping[str, str] | None = None,
  verifier: str | None = None,
) -> list[Question]:
  """The questions of a JSON-lines file, one object a line, UTF-8.

  Args:
    check_gold: As the module says.
    path: The file.
    fields: Question field to the file's name for it, where they differ.
    verifier: For records without one.

  Raises:
    ValueError: For a malformed line, by file and number, and as
      `checked`.
  """
  stem = pathlib.Path(path).stem
  questions = [
    _question(row, where, f"{stem}:{number}", fields, verifier)
    for number, (where, row) in enumerate(json_rows(path), start=1)
  ]
  return checked(questions, check_gold, str(path))


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


def parquet(
  check_gold: CheckGold,
  *,
  path: str,
  fields: Mapping[str, str] | None = None,
  verifier: str | None = None,
  json_fields: Sequence[str] = (),
) -> list[Question]:
  """The questions of a Parquet file.

  Args:
    check_gold: As the module says.
    path: The file.
    fields: As of `jsonl`.
    verifier: As of `jsonl`.
    json_fields: Columns whose texts are JSON to be read.

  Raises:
    ValueError: For a file or row that does not fit, by file and row.
  """
  import pyarrow
  import pyarrow.parquet

  file = existing(path)
  try:
    rows = pyarrow.parquet.read_table(file).to_pylist()
  except pyarrow.ArrowInvalid as error:
    raise ValueError(f"{file}: no Parquet ({error}).") from error
  questions = []
  for number, row in enumerate(rows, start=1):
    where = f"{file}, row {number}"
    row = _decoded(row, json_fields, where)
    questions.append(
      _question(row, where, f"{file.stem}:{number}", fields, verifier)
    )
  return checked(questions, check_gold, str(file))


def tfds(
  check_gold: CheckGold,
  *,
  dataset: str,
  split: str,
  data_dir: str | None = None,
  fields: Mapping[str, str] | None = None,
  verifier: str | None = None,
  json_fields: Sequence[str] = (),
) -> list[Question]:
  """The questions of a TFDS data set, prepared first if it is not.

  Args:
    check_gold: As the module says.
    dataset: A TFDS name such as "r1_miniature/countdown".
    split: A TFDS split such as "train" or "test[:50]".
    data_dir: Where prepared data is; None is TFDS's own choice.
    fields: As of `jsonl`.
    verifier: As of `jsonl`.
    json_fields: As of `parquet`; `builders.JSON_FIELDS` of r1_miniature.

  Raises:
    ValueError: For an unknown data set or split, or a row that does not
      fit.
  """
  from r1jax.data import builders

  rows = builders.rows(dataset, split, data_dir)
  questions = []
  for number, row in enumerate(rows, start=1):
    where = f"{dataset} {split}, row {number}"
    row = _decoded(row, json_fields, where)
    questions.append(
      _question(row, where, f"{dataset}:{split}:{number}", fields, verifier)
    )
  return checked(questions, check_gold, f"{dataset} {split}")


def mixture(
  check_gold: CheckGold, *, parts: Sequence[Mapping[str, Any]]
) -> list[Question]:
  """The questions of several data sets, one after the other.

  Args:
    check_gold: As the module says.
    parts: Choices of SOURCES; `repeats` of one takes it so often.

  Raises:
    ValueError: As the parts do, by field.
  """
  questions = []
  for i, part in enumerate(parts):
    part = dict(part)
    repeats = part.pop("repeats", 1)
    source = registry.make(SOURCES, part, f"data.parts[{i}]")
    questions += source(check_gold) * repeats
  return questions


SOURCES = {
  "countdown": countdown,
  "general": general,
  "programs": programs,
  "mixture": mixture,
  "jsonl": jsonl,
  "parquet": parquet,
  "tfds": tfds,
}


def checked(
  questions: list[Question], check_gold: CheckGold, where: str
) -> list[Question]:
  """The questions, if there are any, ids are unique and golds verify.

  Raises:
    ValueError: Otherwise; it names the data set and the questions.
  """
  if not questions:
    raise ValueError(f"{where} holds no question. Give at least one.")
  seen, refused = set(), []
  for question in questions:
    if question.id in seen:
      raise ValueError(
        f"{where}: id {question.id!r} stands twice. Make ids unique."
      )
    seen.add(question.id)
    try:
      check_gold(question)
    except ValueError as error:
      named = repr(question.id) in str(error)
      refused.append(str(error) if named else f"{question.id!r}: {error}")
  if refused:
    raise ValueError(
      f"{where}: {len(refused)} of {len(questions)} questions are refused, "
      "their gold answer does not verify. Correct or remove them: "
      f"{_listed(refused)}"
    )
  return questions


def check_disjoint(train: Sequence[Question], test: Sequence[Question]) -> None:
  """Raises ValueError if a test question's content is in train, by ids."""
  trained = {split_by_content.content(q): q.id for q in train}
  shared = [
    f"{q.id!r} (train {trained[split_by_content.content(q)]!r})"
    for q in test
    if split_by_content.content(q) in trained
  ]
  if shared:
    raise ValueError(
      f"{len(shared)} of {len(test)} test questions are in train: "
      f"{_listed(shared)}. Remove them from one of the two."
    )


def order(source: Sequence[Any], seed: int) -> Sequence[Any]:
  """An endless random-access order of a source, a function of the seed.

  Each pass is a permutation of its own. Only here is Grain imported,
  which brings jax; importing r1jax.data does not.
  """
  from grain import MapDataset

  return MapDataset.source(source).seed(seed).shuffle().repeat()


def batch(dataset: Sequence[Any], round: int, n: int) -> list[Any]:
  """The n items of a round: a function of the order and the round alone."""
  assert round >= 0 and n >= 1, (round, n)
  return [dataset[round * n + i] for i in range(n)]


def _question(
  row: Any,
  where: str,
  default_id: str,
  fields: Mapping[str, str] | None,
  verifier: str | None,
) -> Question:
  if not isinstance(row, dict):
    raise ValueError(f"{where}: is {row!r:.80}, not an object.")
  fields = fields or {}
  for name in fields:
    if name not in Question._fields:
      raise ValueError(
        f"fields.{name} is unknown. Known: {', '.join(Question._fields)}."
      )
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


def _decoded(
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


def existing(path: str) -> pathlib.Path:
  """The path of a file; raises ValueError if there is none."""
  file = pathlib.Path(path)
  if not file.is_file():
    raise ValueError(f"path is {str(path)!r}, which is no file.")
  return file


def _listed(items: Iterable[str]) -> str:
  items = list(items)
  more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
  return ", ".join(items[:_SHOWN]) + more
