"""Sets of real numbers as intervals: from brackets and from inequalities."""

import itertools
from fractions import Fraction
from typing import Any, NamedTuple

from r1jax.rewards import math_exact, math_numeric
from r1jax.rewards.math_nodes import Node, has, substituted, symbols

_INF = ("const", "inf")
_MINUS_INF = ("neg", _INF)
_MAX_PARTS = 20
# What makes two answers worth comparing as intervals.
KINDS = frozenset(("range", "union", "order", "all", "any", "some", "field"))


class Interval(NamedTuple):
  """The numbers between two; the ends belong to it or not."""

  low: Node
  high: Node
  has_low: bool
  has_high: bool


def of(node: Node) -> list[Interval] | None:
  """The intervals of a set of reals, sorted and joined; None of others.

  A pair in parentheses is an open interval here.
  """
  try:
    parts = _parts(node)
    if parts is None or len(parts) > _MAX_PARTS:
      return None
    return _joined(parts)
  except (math_numeric.Undecided, math_exact.Inexact):
    return None


def _parts(node: Node) -> list[Interval] | None:
  match node:
    case ("range", opening, closing, low, high):
      return [Interval(low, high, opening == "[", closing == "]")]
    case ("tuple", low, high):
      return [Interval(low, high, False, False)]
    case ("field", "R"):
      return [Interval(_MINUS_INF, _INF, False, False)]
    case ("named", _, inner):
      return _parts(inner)
    case ("set", *members) if not any(has(each, "tuple") for each in members):
      return [Interval(each, each, True, True) for each in members]
    case ("union", a, b):
      parts = _parts(a), _parts(b)
      return None if None in parts else [*parts[0], *parts[1]]
    case ("without", a, ("set", *members)):
      return _without(_parts(a), members)
    case ("order", operators, *nodes):
      return _of_chain(operators, nodes)
    case ("any" | "some", *orders):
      found = []
      for each in orders:
        parts = _parts(each)
        if parts is None:
          return None
        found += parts
      if node[0] == "some" and len(orders) == 2:
        both = _meet(_parts(orders[0]), _parts(orders[1]))
        return both or found  # "x > 1, x < 3" says both.
      return found
    case ("all", first, *rest):
      found = _parts(first)
      for each in rest:
        found = _meet(found, _parts(each))
      return found
  return None


def _of_chain(operators: tuple[str, ...], nodes: list[Node]):
  """The numbers for which all relations of a chain hold."""
  names = set().union(*map(symbols, nodes))
  if len(names) != 1:
    return None
  (name,) = names
  found = [Interval(_MINUS_INF, _INF, False, False)]
  for operator, a, b in zip(operators, nodes, nodes[1:]):
    found = _meet(found, _of_order(operator, a, b, name))
    if found is None:
      return None
  return found


def _of_order(operator: str, a: Node, b: Node, name: str):
  if operator[0] == ">":
    operator, a, b = "<" + operator[1:], b, a
  if _infinite(a) or _infinite(b):  # -inf < x.
    return [Interval(_MINUS_INF, _INF, False, False)]
  linear = _linear(("add", a, ("neg", b)), name)
  if linear is None:
    return None
  slope, root = linear
  closed = operator == "<="
  if operator == "!=":
    return [
      Interval(_MINUS_INF, root, False, False),
      Interval(root, _INF, False, False),
    ]
  if slope > 0:
    return [Interval(_MINUS_INF, root, False, closed)]
  return [Interval(root, _INF, closed, False)]


def _infinite(node: Node) -> bool:
  return node in (_INF, _MINUS_INF)


def _linear(node: Node, name: str) -> tuple[Any, Node] | None:
  """Slope as a number and the root, if a node is linear in a name."""
  at = [substituted(node, name, ("num", Fraction(point))) for point in range(4)]
  steps = [("add", b, ("neg", a)) for a, b in itertools.pairwise(at)]
  if not all(_is_zero(("add", step, ("neg", steps[0]))) for step in steps[1:]):
    return None
  slope = math_numeric.number(steps[0])
  if _is_zero(steps[0]):
    return None
  return slope, ("neg", ("div", at[0], steps[0]))


def _is_zero(node: Node) -> bool:
  try:
    return not math_exact.value(node).above
  except math_exact.Inexact:
    return abs(math_numeric.number(node)) < 1e-30


def _place(node: Node) -> Any:
  """The number of an end point, for sorting."""
  if _infinite(node):
    return float("inf") if node == _INF else float("-inf")
  if symbols(node):
    raise math_numeric.Undecided("an end point with a name")
  try:
    number = math_exact.as_number(math_exact.value(node))
    if number is not None:
      return number
  except math_exact.Inexact:
    pass
  value = math_numeric.number(node)
  if getattr(value, "imag", 0):
    raise math_numeric.Undecided("an end point that is not real")
  return getattr(value, "real", value)


def _less(a: Node, b: Node) -> bool:
  return _key(a) < _key(b)


def _key(node: Node) -> Any:
  value = _place(node)
  if isinstance(value, Fraction):
    import mpmath

    return mpmath.mpf(value.numerator) / value.denominator
  return value


def _meet(a, b):
  """The numbers in both."""
  if a is None or b is None:
    return None
  found = []
  for mine in a:
    for other in b:
      low, has_low = _end(
        (mine.low, mine.has_low), (other.low, other.has_low), True
      )
      high, has_high = _end(
        (mine.high, mine.has_high), (other.high, other.has_high), False
      )
      if _less(low, high) or (not _less(high, low) and has_low and has_high):
        found.append(Interval(low, high, has_low, has_high))
  return found


def _end(mine, other, is_low):
  """The end that cuts off more."""
  if _less(mine[0], other[0]):
    return other if is_low else mine
  if _less(other[0], mine[0]):
    return mine if is_low else other
  return mine[0], mine[1] and other[1]


def _without(parts, points):
  for point in points:
    hole = [
      Interval(_MINUS_INF, point, False, False),
      Interval(point, _INF, False, False),
    ]
    parts = _meet(parts, hole)
  return parts


def _joined(parts: list[Interval]) -> list[Interval]:
  """Sorted by the lower end; those that touch or overlap made one."""
  found: list[Interval] = []
  for each in sorted(parts, key=lambda p: (_key(p.low), not p.has_low)):
    if found:
      last = found[-1]
      touches = not _less(each.low, last.high) and not _less(
        last.high, each.low
      )
      if _less(each.low, last.high) or (
        touches and (last.has_high or each.has_low)
      ):
        high, has_high = last.high, last.has_high
        if _less(high, each.high):
          high, has_high = each.high, each.has_high
        elif not _less(each.high, high):
          has_high = has_high or each.has_high
        found[-1] = Interval(last.low, high, last.has_low, has_high)
        continue
    found.append(each)
  return found
