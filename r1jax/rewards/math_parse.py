"""Formulas: tokens to a tree (`math_nodes`), by recursive descent.

The upper half of the grammar: lists, relations, sets, sums. Products and
below are `math_atoms`. All functions take the tokens that are left, consume
theirs, and raise NotParsed. Depth is bounded, so that no text can exhaust
the stack, and no token is looked at more than a few times.
"""

import re
from collections import deque
from fractions import Fraction

from r1jax.rewards import math_atoms, math_text, math_units
from r1jax.rewards import math_tables as tables
from r1jax.rewards.math_nodes import (
  EMPTY,
  MAX_DEPTH,
  Node,
  Tokens,
  accept,
  expect,
  negated,
  peek,
)
from r1jax.rewards.math_text import NotParsed, Token

MAX_MEMBERS = 300
RELATIONS = ("=", "<", ">", "<=", ">=", "!=", r"\approx", r"\in", r"\equiv")
_SIGNS = {"+": 1, "-": -1, r"\pm": 1, r"\mp": -1}
_NO_WORDS = ("and", "or", "equals", "gbp", "euro", "yen", "rupee")
_REALS = ("all real numbers", "all reals", "real numbers", "reals")
_NOTHING = ("no solution", "no solutions", "no real solution",
            "no real solutions", "empty set", "the empty set")  # fmt: skip
_DATE = re.compile(
  r"[0-9]{4}([-/.])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\2[0-9]{4}"
)
_TIME = re.compile(r"([0-9]{1,2}(?::[0-9]{2}){0,2})\s*([ap])\.?\s*m\.?")
_GROUPS = re.compile(r"[-+]?[1-9][0-9]{0,2}(?: [0-9]{3})+(?:\.[0-9]+)?")


def parse(text: str) -> Node:
  """The tree of a cleaned text.

  Raises:
    NotParsed: If it is no formula, or too long, deep or large.
  """
  whole = _whole(math_text.unstyled(text).strip(" .!").casefold())
  if whole is not None:
    return whole
  if _GROUPS.fullmatch(text):
    text = text.replace(" ", "")
  left = deque(math_text.tokens(text))
  if not left:
    raise NotParsed("nothing there")
  node = members(left, 0)
  if left:
    raise NotParsed(f"{left[0].text[:20]!r} where the end should be")
  return node


def _whole(text: str) -> Node | None:
  """What a whole text says that no formula would: a date, a word."""
  if len(text) > 60:
    return None
  if _DATE.fullmatch(text):
    return ("words", text)
  if time := _TIME.fullmatch(text):
    return ("words", f"{time[1].lstrip('0')} {time[2]}m")
  if text in _REALS:
    return ("field", "R")
  if text in _NOTHING:
    return EMPTY
  number = math_units.number_of_words(text)
  return None if number is None else ("num", Fraction(number))


def members(left: Tokens, depth: int) -> Node:
  """One relation, or the list of those between commas and words."""
  found, connective = [relation(left, depth)], ""
  while True:
    comma = accept(left, ",", ";")
    word = accept(left, "and", "or")
    if not comma and not word:
      break
    if word:
      connective = word.text
    found.append(relation(left, depth))
    if len(found) > MAX_MEMBERS:
      raise NotParsed(f"more than {MAX_MEMBERS} members")
  return found[0] if len(found) == 1 else ("list", connective or ",", *found)


def relation(left: Tokens, depth: int) -> Node:
  """A chain of relations, or what would stand alone in one."""
  if depth > MAX_DEPTH:
    raise NotParsed(f"nested deeper than {MAX_DEPTH}")
  nodes, operators = [side(left, depth)], []
  while token := accept(left, *RELATIONS, "equals"):
    operators.append("=" if token.text == "equals" else token.text)
    nodes.append(side(left, depth))
  node = ("rel", tuple(operators), *nodes) if operators else nodes[0]
  modulus = _modulus(left, depth)
  return ("mod", node, modulus) if modulus else node


def _modulus(left: Tokens, depth: int) -> Node | None:
  if accept(left, r"\pmod"):
    return math_atoms.argument(left, depth + 1)
  if len(left) > 2 and left[0].text == "(" and "mod" in left[1].text:
    left.popleft()
    left.popleft()
    node = total(left, depth + 1)
    expect(left, ")")
    return node
  return None


def side(left: Tokens, depth: int) -> Node:
  """One side of a relation: words, or sets of which some are joined."""
  first = peek(left)
  if first.kind == "word" and first.text not in _NO_WORDS:
    return _words(left)
  node = total(left, depth)
  while token := accept(left, r"\cup", r"\cap", r"\setminus"):
    name = {r"\cup": "union", r"\cap": "meet"}.get(token.text, "without")
    node = (name, node, total(left, depth))
  if peek(left).text == ":":
    parts = [node]
    while accept(left, ":"):
      parts.append(total(left, depth))
    node = ("ratio", *parts)
  return node


def _words(left: Tokens) -> Node:
  """Words up to the end of the member."""
  words = []
  while left and (
    left[0].kind in ("word", "num", "sym", "fn")
    or left[0].text in ("-", "'", ".", "(", ")", "/", "!", "&")
  ):
    if left[0].text in ("and", "or", "equals"):
      break
    token: Token = left.popleft()
    words.append((" " if token.blank and words else "") + token.text)
  text = "".join(words).strip(" .!").casefold()
  if text in tables.NUMBER_WORDS:
    return ("num", Fraction(tables.NUMBER_WORDS[text]))
  if text in _REALS:
    return ("field", "R")
  if text in _NOTHING:
    return EMPTY
  return ("words", text)


def total(left: Tokens, depth: int) -> Node:
  """A sum."""
  if depth > MAX_DEPTH:
    raise NotParsed(f"nested deeper than {MAX_DEPTH}")
  terms = []
  while not terms or peek(left).text in _SIGNS:
    token = accept(left, *_SIGNS)
    sign = token.text if token else "+"
    term = math_atoms.product(left, depth)
    if sign in (r"\pm", r"\mp"):
      term = ("pm", _SIGNS[sign], term)
    elif sign == "-":
      term = negated(term)
    terms.append(term)
  return terms[0] if len(terms) == 1 else ("add", *terms)
