"""Verifier "math": is an answer the gold one, exactly?

The policy, after `extract.final` has found what is graded:

* Exact values, no tolerance. In `a = b = c` the last member counts, in
  a \\approx b the exact left one.
* A gold with % is met with % and without, and as a fraction of one. A % of
  the answer alone is ignored where the gold is whole or above 1, else it
  counts. With no % anywhere there is no factor 100.
* Units, currency and degree signs are ignored, unless both sides name a
  unit and the units differ.
* Lists (commas, semicolons, "and", "or") and sets: any order, all members,
  no others. Tuples are ordered, intervals know their ends, brackets of
  matrices do not matter.
* `x = 5` is `5` and `f(x) = E` is E; two equations are the same up to a
  factor, two inequalities up to a positive one or as intervals.
* Symbols are real and their names matter; formulas are compared where the
  gold is real: exactly where they are quotients of polynomials in names,
  radicals, pi and e, else to 50 digits and more at several points.
* Words: styling and case ignored. A gold of one letter A to H is a choice
  (`verify_words.same_choice`).
* What neither our parser nor Math-Verify's LaTeX parser understands is
  right only as the same text, and never blank.

Nothing of an answer is ever evaluated as a program; numbers, depth and
length are bounded, and what is beyond is wrong with a reason.
"""

import re
from typing import Any

from r1jax.records import Question, Reward
from r1jax.rewards import (
  extract,
  math_compare,
  math_exact,
  math_numeric,
  math_parse,
  math_shapes,
  math_text,
  verify_words,
)
from r1jax.rewards.math_nodes import Node
from r1jax.rewards.math_text import NotParsed

_SHOWN = 60


def verify(question: Question, answer: extract.Answer) -> Reward:
  """1 if the answer is the gold one by the policy above, else 0.

  Raises:
    ValueError: If the gold is malformed.
  """
  gold = _gold_text(question)
  stated = extract.final(answer)
  if stated is None:
    return Reward(0.0, "no final answer is stated")
  letter = verify_words.choice_letter(gold)
  if letter:
    return verify_words.same_choice(letter, stated)
  return compare(gold, stated)


def check_gold(question: Question) -> None:
  """Raises ValueError unless the gold is a number or a visible text."""
  _gold_text(question)


def compare(gold: str, stated: str) -> Reward:
  """1 if two statements say the same, else 0, and why."""
  if len(stated) > math_text.MAX_CHARS:
    limit = math_text.MAX_CHARS
    return Reward(0.0, f"{len(stated)} characters, more than {limit}")
  pair = math_text.cleaned(gold), math_text.cleaned(stated)
  if pair[0] == pair[1] and pair[0]:
    return Reward(1.0, "same text")
  shapes = [_shape(text) for text in pair]
  errors = [each for each in shapes if isinstance(each, NotParsed)]
  if errors:
    return _compare_texts(pair, errors, len(errors) == 2)
  shown = f"{_short(stated)} against {_short(gold)}"
  try:
    return Reward(1.0, f"{math_compare.same(*shapes)}: {shown}")
  except math_compare.Different as error:
    reason = str(error)
  except math_exact.TooLarge as error:
    reason = str(error)
  except math_numeric.Undecided as error:
    reason = f"not told apart by numbers ({error})"
  is_word = "words" in (shapes[0][0], shapes[1][0])
  if _same_words(*pair) or (is_word and _unstyled(*pair)):
    return Reward(1.0, "same words")
  return Reward(0.0, f"{reason}: {shown}")


def _shape(text: str) -> Node | NotParsed:
  try:
    return math_shapes.shape(math_parse.parse(text))
  except NotParsed as error:
    return error


def _same_words(gold: str, stated: str) -> bool:
  """Whether two texts are the same words; braces of formulas would not be."""
  words = [math_text.plain(text) for text in (gold, stated)]
  return words[0] == words[1] and bool(_WORDS.fullmatch(words[0]))


def _unstyled(gold: str, stated: str) -> bool:
  """Whether two texts are the same but for styling."""
  return math_text.unstyled(gold) == math_text.unstyled(stated)


# With a word of three letters at least, so that "n!" and "n" are none.
_WORDS = re.compile(r"(?=.*[^\W\d_]{3})[^\\^_]+", re.DOTALL)


def _compare_texts(
  pair: tuple[str, str], errors: list[NotParsed], are_both: bool
) -> Reward:
  """What is no formula for us: same text, or the same for Math-Verify."""
  if _same_words(*pair) or pair[0].split() == pair[1].split() != []:
    return Reward(1.0, "same text")
  if are_both and _same_by_math_verify(*pair):
    return Reward(1.0, "the same to Math-Verify")
  return Reward(0.0, f"not understood ({errors[-1]}), and another text")


_MAX_MATH_VERIFY_CHARS = 300


def _same_by_math_verify(gold: str, stated: str) -> bool:
  if max(len(gold), len(stated)) > _MAX_MATH_VERIFY_CHARS:
    return False
  parsed = [_math_verify_parsed(text) for text in (gold, stated)]
  if None in parsed:
    return False
  import math_verify

  return bool(math_verify.verify(*parsed, timeout_seconds=None, strict=True))


def _math_verify_parsed(text: str) -> list[Any] | None:
  """Math-Verify's value of a whole text as LaTeX, with no time limit.

  Its parser of plain expressions evaluates text, so it is left out; the
  deadline of the worker is the limit.
  """
  import math_verify

  found = math_verify.parse(
    f"${text}$",
    extraction_config=[math_verify.LatexExtractionConfig()],
    fallback_mode="no_fallback",
    parsing_timeout=None,
    raise_on_error=False,
  )
  values = [each for each in found if not isinstance(each, str)]
  return values or None


def _gold_text(question: Question) -> str:
  gold = question.answer
  if isinstance(gold, int | float) and not isinstance(gold, bool):
    return str(gold)
  if not isinstance(gold, str) or extract.is_blank(gold):
    raise ValueError(
      f"answer is {gold!r:.200}. "
      "The verifier math needs a number or a text that is not blank."
    )
  inner = extract.boxed(gold)
  return gold if inner is None else inner


def _short(text: str) -> str:
  text = " ".join(text.split())
  return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
