"""Verifier "reasoning_gym": the scorer that the item's data set brings.

It is right where the scorer gives its full score, 1. The item's metadata
are in `question.meta`, put there by `data.reasoning_gym`.

Some scorers evaluate the answer's text as Python. Theirs is never given
text that could do anything: of four data sets nothing but the texts that
they hold right counts, of the others arithmetic and algebra in an alphabet
without attributes, quotes and names of other functions.
"""

import functools
import json
import re
from typing import Any

from r1jax.data import reasoning_gym as gym_lib
from r1jax.records import Question, Reward
from r1jax.rewards import extract

MAX_CHARS = 20_000
_FUNCTIONS = (
  "sin cos tan sec csc cot asin acos atan sinh cosh tanh exp log ln sqrt pi "
  "Abs abs"
).split()
_ARITHMETIC = re.compile(r"(?:[0-9\s+()-]|\*(?!\*)|/(?!/))*")
_ALGEBRA = re.compile(
  r"(?:[0-9\s+*/^()-]|\.(?=[0-9])|(?<![A-Za-z])(?:[A-Za-z]|"
  + "|".join(_FUNCTIONS)
  + r")(?![A-Za-z]))*"
)
# What its scorer passes to eval, where it is not right as it stands.
EXACT = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
# What its scorer passes to sympy's parser, which evaluates it.
ALPHABETS = {
  "countdown": _ARITHMETIC,
  "puzzle24": _ARITHMETIC,
  "intermediate_integration": _ALGEBRA,
  "polynomial_multiplication": _ALGEBRA,
  "simple_integration": _ALGEBRA,
}
_TUPLES = ("arc_agi", "rearc")  # Which compare their metadata as tuples.
# What scorers raise for an answer that they cannot read.
_UNREADABLE = (
  ArithmeticError,
  AssertionError,
  AttributeError,
  LookupError,
  RecursionError,
  SyntaxError,
  TypeError,
  ValueError,
)


def verify(question: Question, answer: extract.Answer) -> Reward:
  """1 if the data set's own scorer gives its full score, else 0.

  Raises:
    ValueError: If the question is not one of `data.reasoning_gym`.
  """
  dataset = _dataset(question)
  stated = extract.final(answer)
  if stated is None:
    return Reward(0.0, "no final answer is stated")
  if len(stated) > MAX_CHARS:
    return Reward(0.0, f"{len(stated)} characters, more than {MAX_CHARS}")
  if dataset in EXACT:
    right = question.meta["metadata"].get("valid_answers", [])
    if stated in (question.answer, *right):
      return Reward(1.0, "same text")
    return Reward(0.0, f"{stated[:60]!r} is not a text that is held right")
  alphabet = ALPHABETS.get(dataset)
  if alphabet and not alphabet.fullmatch(stated):
    return Reward(0.0, f"{stated[:60]!r} has what is not read as a formula")
  try:
    score = float(_score(question, stated))
  except _UNREADABLE as error:
    name = type(error).__name__
    return Reward(0.0, f"the scorer of {dataset} cannot read it ({name})")
  return Reward(float(score >= 1.0), f"{dataset} scores it {score:.3g}")


def check_gold(question: Question) -> None:
  """Raises ValueError unless the scorer accepts the gold, where there is one.

  Some data sets have none, for many answers are right.
  """
  dataset, gold = _dataset(question), question.answer
  if gold is None:
    return
  if not isinstance(gold, str) or extract.is_blank(gold):
    raise ValueError(f"answer is {gold!r:.200}. {dataset} needs a text.")
  reward = verify(question, extract.Answer(gold.strip(), True))
  if reward.value != 1.0:
    raise ValueError(f"answer is {gold!r:.200}, but {reward.reason}.")


def _dataset(question: Question) -> str:
  meta = question.meta
  if not {"dataset", "arguments", "metadata"} <= set(meta):
    raise ValueError(
      f"meta has {', '.join(meta) or 'nothing'}. The verifier reasoning_gym "
      "needs dataset, arguments and metadata, as the source of that name "
      "gives them."
    )
  return meta["dataset"]


def _score(question: Question, stated: str) -> Any:
  meta = question.meta
  metadata = meta["metadata"]
  if meta["dataset"] in _TUPLES:
    metadata = {k: _tuples(v) for k, v in metadata.items()}
  entry = {
    "question": question.question,
    "answer": question.answer,
    "metadata": metadata,
  }
  arguments = json.dumps(meta["arguments"], sort_keys=True)
  return _made(meta["dataset"], arguments).score_answer(stated, entry)


@functools.lru_cache(maxsize=16)
def _made(dataset: str, arguments: str) -> Any:
  return gym_lib.make(dataset, json.loads(arguments), size=1, seed=0)


def _tuples(value: Any) -> Any:
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
