"""Units, currencies and words behind a number."""

import re
from fractions import Fraction

from r1jax.rewards import math_tables as tables
from r1jax.rewards.math_nodes import Node, Tokens, accept, is_number, peek
from r1jax.rewards.math_text import NotParsed

MAX_UNIT_TOKENS = 12
_SCRIPT = re.compile(r"\^\{?-?[1-4]\}?|\*\*[1-4]")

Unit = tuple[tuple[str, int], ...]


def quantity(node: Node, unit: Unit) -> Node:
  """A node with a unit; as it is where there is none."""
  return ("unit", node, unit) if unit else node


def with_unit(node: Node, left: Tokens) -> Node:
  """The node with the unit that follows it, if one does.

  A scale word multiplies ("2 million"), "percent" is the sign, and a word
  that is no unit in the table is one all the same ("5 apples"), unless it
  says something about the number.

  Raises:
    NotParsed: If words follow that are no unit.
  """
  while peek(left).kind == "word":
    word = left[0].text.casefold()
    if word in tables.SCALES and is_number(node):
      left.popleft()
      node = ("mul", node, ("num", Fraction(tables.SCALES[word])))
    elif word in ("percent", "percents", "percentage", "pct"):
      left.popleft()
      node = ("pct", node)
    elif word == "degrees" or word == "degree" or word == "deg":
      left.popleft()
      node = ("deg", node)
    elif word in ("st", "nd", "rd", "th") and not left[0].blank:
      left.popleft()
    else:
      break
  unit = _unit(left)
  if unit is None:
    return node
  if node[0] == "deg":  # Degrees Celsius and the like.
    return ("unit", node[1], (("deg", 1), *unit))
  return quantity(node, unit)


def _unit(left: Tokens) -> Unit | None:
  """The unit that comes next, or None."""
  powers: dict[str, int] = {}
  sign, square, found = 1, 1, False
  for _ in range(MAX_UNIT_TOKENS):
    token = peek(left)
    word = token.text
    if word == "per" or (word == "/" and found):
      left.popleft()
      sign = -1
      continue
    if accept(left, "*", "-", ".") if found else False:
      continue
    is_letter = found and token.kind == "sym" and word in tables.LETTER_UNITS
    if not is_letter and token.kind != "word":
      break
    if word in ("and", "or", "equals"):
      break
    left.popleft()
    found = True
    low = word.casefold()
    if low in ("square", "sq"):
      square = 2
      continue
    if low in ("cubic", "cu"):
      square = 3
      continue
    if low in tables.NO_UNIT_WORDS:
      raise NotParsed(f"{word[:20]!r} behind a number")
    name = tables.UNITS.get(word) or tables.UNITS.get(low) or _singular(low)
    power = square * _exponent(left)
    square = 1
    if low not in tables.NO_UNITS and low != "of":
      for part, times in tables.COMPOUND_UNITS.get(name, ((name, 1),)):
        powers[part] = powers.get(part, 0) + sign * power * times
  if not found:
    return None
  return tuple(sorted(powers.items()))


def number_of_words(text: str) -> int | None:
  """The number that words say ("twenty-one", "two hundred and five")."""
  words = text.replace("-", " ").split()
  if len(words) < 2 or len(words) > 12:
    return None
  total = part = 0
  before = ""
  for word in words:
    value = tables.NUMBER_WORDS.get(word, tables.TENS.get(word))
    if word == "and":
      if before not in ("hundred", "thousand", "million"):
        return None
    elif value is not None:
      if before in tables.TENS:
        if not 0 < value < 10:
          return None
      elif before in tables.NUMBER_WORDS:
        return None
      part += value
    elif word == "hundred" and 0 < part < 100:
      part *= 100
    elif word in ("thousand", "million") and part:
      total += part * tables.SCALES[word]
      part = 0
    else:
      return None
    before = word
  return None if before == "and" else total + part


def _singular(word: str) -> str:
  if word.endswith("ies") and len(word) > 4:
    return word[:-3] + "y"
  if word.endswith("s") and not word.endswith("ss") and len(word) > 3:
    return word[:-1]
  return word


def _exponent(left: Tokens) -> int:
  """The exponent of a unit that comes next, or 1."""
  if not accept(left, "^", "**"):
    return 1
  is_braced = accept(left, "{")
  sign = -1 if accept(left, "-") else 1
  token = peek(left)
  if token.kind != "num" or token.text not in ("1", "2", "3", "4"):
    raise NotParsed("a unit's exponent is no digit")
  left.popleft()
  if is_braced and not accept(left, "}"):
    raise NotParsed("a unit's exponent is not closed")
  return sign * int(token.text)


def is_letter_unit(node: Node, left: Tokens) -> bool:
  """Whether a number is followed, after a blank, by a unit's letter alone."""
  token = peek(left)
  if (
    token.kind != "sym"
    or not token.blank
    or token.text not in tables.LETTER_UNITS
    or not is_number(node)
  ):
    return False
  rest = "".join(each.text for each in list(left)[1:7])
  return bool(re.fullmatch(r"(\^\{?-?[1-4]\}?|/[smh](\^\{?2\}?)?)?", rest))


def letter_unit(left: Tokens) -> Unit:
  """The unit that `is_letter_unit` saw, consumed."""
  powers = {left.popleft().text: _exponent(left)}
  if accept(left, "/"):
    name = left.popleft().text
    powers[name] = powers.get(name, 0) - _exponent(left)
  return tuple(sorted(powers.items()))
