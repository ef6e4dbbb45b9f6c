"""Countdown: reach a target with every given number used exactly once."""

import re
from collections import Counter
from fractions import Fraction
from typing import Any, NamedTuple

from r1jax.records import Question, Reward
from r1jax.rewards import extract

MAX_CHARS = 1000
MAX_DEPTH = 50
MAX_NUMBERS = 6  # More would make the search of check_gold take minutes.

_TOKEN = re.compile(r"[0-9]+|[-+*/()]")
_TARGET = re.compile(r"[-+]?[0-9]+")


class Gold(NamedTuple):
  """What a Countdown answer is checked against."""

  numbers: tuple[int, ...]
  target: int


def verify(question: Question, answer: extract.Answer) -> Reward:
  """1 if the answer hits the target by the rules, else 0.

  The answer is an expression of the given numbers, each as often as it is
  given, with + - * / (binary, or a sign) and parentheses, and its exact
  value is the target. It may be an equation, if its other side is the
  target as a plain number. Only ASCII digits and operators count.

  Raises:
    ValueError: If the gold is malformed.
  """
  numbers, target = _gold(question.answer)
  try:
    value = _value(_expression(answer.text, target), numbers)
  except _Wrong as wrong:
    return Reward(0.0, str(wrong))
  if value != target:
    return Reward(0.0, f"gives {value}, not {target}")
  return Reward(1.0, f"gives {target}")


def check_gold(question: Question) -> None:
  """Raises ValueError if the gold is malformed or cannot be reached."""
  numbers, target = _gold(question.answer)
  if not is_reachable(numbers, target):
    raise ValueError(
      f"answer.target {target} cannot be reached with {list(numbers)}. "
      "Give another target or drop the question."
    )


def is_reachable(numbers: tuple[int, ...], target: int) -> bool:
  """Whether some expression of all the numbers has the target's value."""
  # A sign is allowed, so a value and its negative come together: keep the
  # absolute values that each subset (a bit mask) reaches.
  wanted = Fraction(abs(target))
  full = (1 << len(numbers)) - 1
  reached = {1 << i: {Fraction(abs(n))} for i, n in enumerate(numbers)}
  for subset in range(1, full):
    if subset not in reached:
      reached[subset] = _combinations(subset, reached)
  if len(numbers) == 1:
    return wanted in reached[full]
  # The set of all numbers reaches the most values; look for the one.
  return any(
    _has_partner(wanted, a, reached[full ^ part])
    for part in range(1, full)
    if part.bit_count() <= len(numbers) // 2
    for a in reached[part]
  )


def _has_partner(wanted: Fraction, a: Fraction, values: set[Fraction]) -> bool:
  """Whether a and some b of the values combine to the wanted value."""
  if not a:
    return not wanted or wanted in values  # 0 * b, or 0 + b.
  partners = {wanted + a, abs(wanted - a), wanted / a, wanted * a}
  if wanted:
    partners.add(a / wanted)
  return not partners.isdisjoint(values)


def _combinations(
  subset: int, reached: dict[int, set[Fraction]]
) -> set[Fraction]:
  values = set()
  part = (subset - 1) & subset
  while part:
    rest = subset ^ part
    if part < rest:  # Each split once.
      for a in reached[part]:
        for b in reached[rest]:
          values |= {a + b, abs(a - b), a * b}
          if a:
            values.add(b / a)
          if b:
            values.add(a / b)
    part = (part - 1) & subset
  return values


def _gold(answer: Any) -> Gold:
  if not isinstance(answer, dict) or not {"numbers", "target"} <= set(answer):
    raise ValueError(
      f"answer is {answer!r:.200}. Countdown needs a dict "
      '{"numbers": [...], "target": ...}.'
    )
  numbers, target = answer["numbers"], answer["target"]
  if (
    not isinstance(numbers, list | tuple)
    or not 1 <= len(numbers) <= MAX_NUMBERS
    or not all(_is_int(n) and n >= 0 for n in numbers)
  ):
    raise ValueError(
      f"answer.numbers is {numbers!r:.200}. Countdown needs a list of 1 to "
      f"{MAX_NUMBERS} integers, none negative."
    )
  if not _is_int(target):
    raise ValueError(
      f"answer.target is {target!r:.200}. Countdown needs an integer."
    )
  return Gold(tuple(numbers), target)


def _is_int(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


class _Wrong(Exception):
  """Why an answer is no valid expression; one line for a reader."""


def _expression(answer: str, target: int) -> str:
  """The side of the equation that is not the target, or all of it."""
  if len(answer) > MAX_CHARS:
    raise _Wrong(f"{len(answer)} characters, more than {MAX_CHARS}")
  sides = [side.strip() for side in answer.split("=")]
  if len(sides) == 1:
    return sides[0]
  if len(sides) > 2:
    raise _Wrong("more than one =")
  for claim, expression in (sides[::-1], sides):
    if _TARGET.fullmatch(claim) and int(claim) == target:
      return expression
  raise _Wrong(f"no side of the = is the target {target}")


def _value(expression: str, numbers: tuple[int, ...]) -> Fraction:
  tokens = _tokens(expression)
  used = Counter(int(token) for token in tokens if token.isdigit())
  given = Counter(numbers)
  if used != given:
    missing = ", ".join(map(str, sorted((given - used).elements())))
    extra = ", ".join(f"{n}"[:20] for n in sorted((used - given).elements()))
    parts = [f"{missing} not used"] * bool(missing)
    parts += [f"{extra} not given"] * bool(extra)
    raise _Wrong("; ".join(parts))
  value, end = _sum(tokens, 0, 0)
  if end < len(tokens):
    raise _Wrong(f"{tokens[end]!r} where an operator or the end should be")
  return value


def _tokens(expression: str) -> list[str]:
  tokens, position = [], 0
  while position < len(expression):
    if expression[position].isspace():
      position += 1
      continue
    match = _TOKEN.match(expression, position)
    if not match:
      raise _Wrong(f"{expression[position]!r} is no number or operator")
    tokens.append(match.group())
    position = match.end()
  if not tokens:
    raise _Wrong("no expression")
  return tokens


# The grammar; each function returns the value and the index after it.
#   sum = product (("+" | "-") product)*
#   product = factor (("*" | "/") factor)*
#   factor = ("+" | "-") factor | number | "(" sum ")"


def _sum(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
  value, at = _product(tokens, at, depth)
  while at < len(tokens) and tokens[at] in ("+", "-"):
    term, end = _product(tokens, at + 1, depth)
    value = value + term if tokens[at] == "+" else value - term
    at = end
  return value, at


def _product(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
  value, at = _factor(tokens, at, depth)
  while at < len(tokens) and tokens[at] in ("*", "/"):
    factor, end = _factor(tokens, at + 1, depth)
    if tokens[at] == "*":
      value *= factor
    elif factor:
      value /= factor
    else:
      raise _Wrong("division by zero")
    at = end
  return value, at


def _factor(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
  if depth > MAX_DEPTH:
    raise _Wrong(f"nested deeper than {MAX_DEPTH}")
  if at == len(tokens):
    raise _Wrong("ends where a number should be")
  token = tokens[at]
  if token.isdigit():
    return Fraction(int(token)), at + 1
  if token in ("+", "-"):
    value, at = _factor(tokens, at + 1, depth + 1)
    return (-value if token == "-" else value), at
  if token == "(":
    value, at = _sum(tokens, at + 1, depth + 1)
    if at == len(tokens) or tokens[at] != ")":
      raise _Wrong("a parenthesis is not closed")
    return value, at + 1
  raise _Wrong(f"{token!r} where a number should be")
