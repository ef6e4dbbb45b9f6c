"""Documents to train on: questions with their responses.

A source is a function `(index, *, ...) -> Document` of every index from 0,
named in a config as `dict(name=..., **arguments)`.
"""

import functools
import json
from collections.abc import Sequence

from r1jax.data import miniature, sources
from r1jax.data import rows as row_lib
from r1jax.records import Question


def responses(
  index: int,
  *,
  path: str,
  more_path: str | None = None,
  more_repeats: int = 1,
  seed: int = 0,
) -> miniature.Document:
  """The document at an index of the endless shuffled passes over a file.

  Args:
    index: From 0.
    path: What `generate` wrote: lines with a question and a response.
    more_path: Another such file, taken together with the first.
    more_repeats: How often a pass takes it.
    seed: Of the shuffling, anew for each pass.

  Raises:
    ValueError: If there is no such file, or for a line that does not fit.
  """
  return _shuffled(path, more_path, more_repeats, seed)[index]


def count_responses(
  *,
  path: str,
  more_path: str | None = None,
  more_repeats: int = 1,
  seed: int = 0,
) -> int:
  """How many documents one pass has; arguments and errors of `responses`."""
  del seed
  return len(_both(path, more_path, more_repeats))


# Endless documents for training: `(index, *, ...) -> Document`.
DOCUMENTS = {"miniature": miniature.document, "responses": responses}


@functools.lru_cache(maxsize=8)
def _shuffled(
  path: str, more_path: str | None, more_repeats: int, seed: int
) -> Sequence[miniature.Document]:
  return sources.order(_both(path, more_path, more_repeats), seed)


def _both(
  path: str, more_path: str | None, more_repeats: int
) -> list[miniature.Document]:
  more = _read_responses(more_path) if more_path else []
  return _read_responses(path) + more * more_repeats


@functools.lru_cache(maxsize=8)
def _read_responses(path: str) -> list[miniature.Document]:
  documents = []
  with row_lib.existing(path).open(encoding="utf-8") as lines:
    for number, line in enumerate(lines, start=1):
      try:
        row = json.loads(line)
        question = Question(**row["question"])
        documents.append(
          miniature.Document(
            question, row["response"], question.verifier, {"id": row["id"]}
          )
        )
      except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
          f"{path}, line {number}: {error!r:.200}. It must be an object with "
          "id, question and response."
        ) from error
  if not documents:
    raise ValueError(f"{path} holds no response. Give at least one.")
  return documents
