"""Nodes of formulas and what every part of the grammar needs.

A node is a tuple of an operator and its arguments:

  ("num", Fraction)  ("sym", name)  ("const", "pi" | "e" | "i" | "inf")
  ("add", *nodes)  ("mul", *nodes)  ("div", a, b)  ("pow", a, b)  ("neg", a)
  ("pm", sign, a)  +-a, or -+a where sign is -1
  ("fn", name, *nodes)  root has the arguments n, x; logb has b, x
  ("pct", a)  ("deg", a)  ("ratio", *nodes)
  ("unit", a, unit)  unit is a tuple of (name, power)
  ("tuple", *nodes)  ("range", opening, closing, a, b)  [a, b), (a, b], [a, b]
  ("set", *nodes)  ("list", connective, *nodes)
  ("union" | "meet" | "without", a, b)  ("field", letter)
  ("matrix", *rows)  a row is a tuple of nodes
  ("rel", operators, *nodes)  a chain: one operator fewer than nodes
  ("mod", a, m)  a (mod m)
  ("words", text)
"""

from collections import deque
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from r1jax.rewards import math_text
from r1jax.rewards.math_text import NotParsed, Token

Node = tuple[Any, ...]
Tokens = deque[Token]

MAX_DEPTH = 60
EMPTY = ("set",)
_END = Token("end", "the end")


def peek(left: Tokens) -> Token:
  """The next token."""
  return left[0] if left else _END


def accept(left: Tokens, *texts: str) -> Token | None:
  """The next token, consumed, if it is one of these."""
  if left and left[0].text in texts and left[0].kind in ("op", "cmd", "word"):
    return left.popleft()
  return None


def expect(left: Tokens, *texts: str) -> Token:
  """The next token, consumed, which must be one of these."""
  token = accept(left, *texts)
  if token is None:
    raise NotParsed(f"{peek(left).text[:20]!r} where {texts[0]!r} should be")
  return token


def negated(node: Node) -> Node:
  """Minus a node; of a quantity, minus its number."""
  if node[0] in ("unit", "pct", "deg"):
    return (node[0], negated(node[1]), *node[2:])
  if node[0] == "num":
    return ("num", -node[1])
  return ("neg", node)


def number(text: str) -> Node:
  """The exact value of digits, point and exponent."""
  digits, _, exponent = text.lower().partition("e")
  if len(digits) > math_text.MAX_DIGITS or len(exponent) > 4:
    raise NotParsed(f"a number of {len(text)} characters")
  if exponent and abs(int(exponent)) > math_text.MAX_DIGITS:
    raise NotParsed(f"a number with the exponent {exponent}")
  whole, _, part = digits.partition(".")
  value = Fraction(int((whole + part) or "0"), 10 ** len(part))
  return ("num", value * Fraction(10) ** int(exponent or 0))


def repeating(text: str) -> Node:
  """The value of digits|block, the block without end."""
  digits, _, block = text.partition("|")
  start = number(digits)[1]
  places = len(digits.partition(".")[2])
  nines = 10 ** len(block) - 1
  return ("num", start + Fraction(int(block), nines * 10**places))


def in_base(text: str) -> Node:
  """The value of digits_base."""
  digits, _, base = text.partition("_")
  base = int(base.strip("{ }"))
  if not 2 <= base <= 36 or len(digits) > 100:
    raise NotParsed(f"a number in base {base}")
  values = [int(digit, 36) for digit in digits]
  if max(values) >= base:
    raise NotParsed(f"a digit too large for base {base}")
  value = 0
  for each in values:
    value = value * base + each
  return ("num", Fraction(value))


def is_number(node: Node) -> bool:
  """Whether a node is made of numbers alone."""
  if node[0] == "num":
    return True
  return node[0] in ("neg", "div", "add", "mul", "pow") and all(
    is_number(each) for each in node[1:]
  )


def children(node: Node) -> list[Node]:
  """The nodes that a node is made of."""
  if node[0] == "matrix":
    return [cell for row in node[1:] for cell in row]
  if node[0] == "unit":
    return [node[1]]
  first = 2 if node[0] == "rel" else 1
  return [each for each in node[first:] if isinstance(each, tuple) and each]


def replaced(node: Node, change: Callable[[Node], Node]) -> Node:
  """The node with each of the nodes that it is made of changed."""
  if node[0] == "matrix":
    return ("matrix", *(tuple(map(change, row)) for row in node[1:]))
  inner = {id(each): change(each) for each in children(node)}
  return tuple(inner.get(id(each), each) for each in node)


def symbols(node: Node) -> frozenset[str]:
  """The names of the symbols in a node."""
  if node[0] == "sym":
    return frozenset((node[1],))
  return frozenset().union(*map(symbols, children(node)))


def has(node: Node, kind: str) -> bool:
  """Whether a node of a kind stands in a node, or is it."""
  return node[0] == kind or any(has(each, kind) for each in children(node))


def substituted(node: Node, name: str, new: Node) -> Node:
  """The node with another in place of a symbol."""
  if node == ("sym", name):
    return new
  return replaced(node, lambda each: substituted(each, name, new))
