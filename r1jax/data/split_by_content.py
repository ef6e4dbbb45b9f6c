"""Train and test apart by content: what a question asks, not its id."""

import hashlib
import json

from r1jax.records import Question

SPLITS = ("train", "test")


def content(question: Question) -> str:
  """What a question asks, in one canonical line.

  Countdown questions are equal if their numbers are, in any order, and
  their target is; other questions if their text is, but for case and
  blanks.
  """
  if question.verifier == "countdown":
    numbers = sorted(question.answer["numbers"])
    return json.dumps(["countdown", numbers, question.answer["target"]])
  return json.dumps(
    ["text", " ".join(question.question.casefold().split())],
    ensure_ascii=False,
  )


def split_of(question: Question, *, test_frac: float = 0.2) -> str:
  """ "train" or "test", by a hash of the content that never changes."""
  digest = hashlib.sha256(content(question).encode()).digest()
  uniform = int.from_bytes(digest[:8], "big") / 2**64
  return "test" if uniform < test_frac else "train"


def select(
  questions: list[Question], split: str, *, test_frac: float = 0.2
) -> list[Question]:
  """The questions of one split, order kept.

  Raises:
    ValueError: If there is no such split.
  """
  if split not in SPLITS:
    raise ValueError(f"split is {split!r}. Known: {', '.join(SPLITS)}.")
  return [q for q in questions if split_of(q, test_frac=test_frac) == split]
