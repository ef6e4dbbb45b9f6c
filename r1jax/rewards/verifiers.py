"""Verifiers: is an answer the gold one, and can that be told at all?

A verifier is two functions and one line in VERIFIERS:

  verify(question, answer) -> Reward: 1 or 0, or between where a
    verifier says so, with a reason; raises ValueError for a malformed gold
    only.
  check_gold(question) -> None: raises ValueError, naming field and value,
    unless some answer could earn 1.
"""

from collections.abc import Callable
from typing import NamedTuple

from r1jax import registry
from r1jax.records import Question, Reward
from r1jax.rewards import (
  countdown,
  extract,
  verify_code,
  verify_general,
  verify_gym,
  verify_math,
  verify_words,
)


class Verifier(NamedTuple):
  """The two functions that this module's docstring describes."""

  verify: Callable[[Question, extract.Answer], Reward]
  check_gold: Callable[[Question], None]


def check(question: Question) -> None:
  """Raises ValueError if no answer to the question could be verified."""
  verifier = registry.lookup(
    VERIFIERS, question.verifier, f"question {question.id!r}: verifier"
  )
  try:
    verifier.check_gold(question)
  except ValueError as error:
    raise ValueError(f"question {question.id!r}: {error}") from None


def verify_exact(question: Question, answer: extract.Answer) -> Reward:
  """1 if the texts are equal, runs of white space taken as one blank."""
  gold = _gold_text(question)
  text = _folded(answer.text)
  if text == gold:
    return Reward(1.0, "same text")
  return Reward(0.0, f"{text[:80]!r} is not {gold[:80]!r}")


def check_exact(question: Question) -> None:
  """Raises ValueError unless the gold is an integer or a visible text."""
  _gold_text(question)


def verify_none(question: Question, answer: extract.Answer) -> Reward:
  """0: no rule can tell whether the answer is right."""
  del question, answer
  return Reward(0.0, "nothing to verify")


def check_none(question: Question) -> None:
  """Accepts every gold, none included."""
  del question


def _gold_text(question: Question) -> str:
  gold = question.answer
  if isinstance(gold, int) and not isinstance(gold, bool):
    return str(gold)
  if not isinstance(gold, str) or extract.is_blank(gold):
    raise ValueError(
      f"answer is {gold!r:.200}. "
      "The verifier exact needs an integer or a text that is not blank."
    )
  return _folded(gold)


def _folded(text: str) -> str:
  return " ".join(text.split())


VERIFIERS = {
  "choice": Verifier(verify_words.verify_choice, verify_words.check_choice),
  "code": Verifier(verify_code.verify, verify_code.check_gold),
  "countdown": Verifier(countdown.verify, countdown.check_gold),
  "exact": Verifier(verify_exact, check_exact),
  "helpful": Verifier(
    verify_general.verify_helpful, verify_general.check_helpful
  ),
  "logic": Verifier(verify_words.verify_logic, verify_words.check_logic),
  "math": Verifier(verify_math.verify, verify_math.check_gold),
  "none": Verifier(verify_none, check_none),
  "reasoning_gym": Verifier(verify_gym.verify, verify_gym.check_gold),
}
