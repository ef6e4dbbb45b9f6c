"""Whether two answers are the same, by their shapes (`math_shapes`).

Values are compared exactly where that is possible (`math_exact`), else to
many digits at several points (`math_numeric`).
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

from r1jax.rewards import math_exact, math_intervals, math_numeric, math_shapes
from r1jax.rewards.math_nodes import Node, has, is_number, symbols

_MAX_MEMBERS = 40
_INFINITE = ("const", "inf")


class Different(Exception):
  """Why two answers are not the same; one line for a reader."""


def same(gold: Node, answer: Node) -> str:
  """How two shapes are found to be the same.

  Raises:
    Different: If they are not.
    Undecided: If it cannot be told.
  """
  gold, answer = _single(gold), _single(answer)
  for test, compare in _COMPARISONS:
    if test(gold, answer):
      return compare(gold, answer)
  raise Different(f"a {answer[0]} is no {gold[0]}")


def same_value(gold: Node, answer: Node) -> str:
  """As `same`, for two formulas.

  Units count only where both have one; a degree sign never. A percent sign
  of the gold may be left out, and one of the answer be too many where the
  gold, whole or above 1, can be meant in percent: 0.5% is not 0.5.
  """
  (gold, unit), (answer, other) = _without_unit(gold), _without_unit(answer)
  if unit and other and unit != other:
    raise Different("the units differ")
  pairs = [(gold, answer)]
  if gold[0] == "pct" and answer[0] != "pct":
    pairs.append((gold[1], answer))
  is_large = gold[0] == "num" and (gold[1].denominator == 1 or gold[1] > 1)
  if answer[0] == "pct" and is_large:
    pairs.append((gold, answer[1]))
  for pair in pairs[:-1]:
    with contextlib.suppress(Different):
      return _equal(*pair)
  return _equal(*pairs[-1])


def _without_unit(node: Node) -> tuple[Node, tuple]:
  unit = ()
  while node[0] in ("unit", "deg"):
    if node[0] == "unit":
      unit = node[2]
    node = node[1]
  return node, unit


def _equal(gold: Node, answer: Node) -> str:
  if has(gold, "words") or has(answer, "words"):
    raise Different("a formula is no word")
  infinite = [_infinity(node) for node in (gold, answer)]
  if any(infinite):
    if infinite[0] == infinite[1]:
      return "both infinite"
    raise Different("one of them is infinite")
  try:
    pair = math_exact.value(gold), math_exact.value(answer)
    if math_exact.is_same(*pair):
      return "equal"
    raise Different("not equal")
  except math_exact.Undefined as error:
    raise Different(str(error)) from None
  except math_exact.Inexact:
    pass
  found = math_numeric.compare(gold, answer)
  if found is None and (has(gold, "fn") or has(answer, "fn")):
    found = math_numeric.compare(gold, answer, decimal_log=True)
  if found is None:
    raise Different("not equal")
  return found


def _infinity(node: Node) -> str:
  if node == _INFINITE:
    return "+"
  return "-" if node == ("neg", _INFINITE) else ""


def _single(node: Node) -> Node:
  """The member of a set of one, other than a set."""
  return node[1] if node[0] == "set" and len(node) == 2 else node


def _is_interval(gold: Node, answer: Node) -> bool:
  kinds = {gold[0], answer[0]}
  return bool(kinds & math_intervals.KINDS) and (
    math_intervals.of(gold) is not None
    and math_intervals.of(answer) is not None
  )


def _same_intervals(gold: Node, answer: Node) -> str:
  names = [_named(node) for node in (gold, answer)]
  if all(names) and names[0] != names[1]:
    raise Different("another name")
  a, b = math_intervals.of(gold), math_intervals.of(answer)
  if len(a) != len(b):
    raise Different(f"{len(b)} intervals, not {len(a)}")
  for mine, other in zip(a, b):
    if (mine.has_low, mine.has_high) != (other.has_low, other.has_high):
      raise Different("an end point belongs to one of them only")
    same_value(mine.low, other.low)
    same_value(mine.high, other.high)
  return "the same numbers"


def _named(node: Node) -> frozenset[str]:
  """The names that a set is about."""
  if node[0] == "named":
    return frozenset((node[1],))
  return symbols(node) if node[0] in _ORDERS else frozenset()


def _same_orders(gold: Node, answer: Node) -> str:
  """Inequalities in several names: the same up to positive factors."""
  mine, other = _orders(gold), _orders(answer)
  if gold[0] != answer[0] and len(mine) > 1:
    raise Different("inequalities joined in another way")
  _matched(mine, other, _same_order)
  return "the same inequalities"


def _orders(node: Node) -> list[tuple[str, Node]]:
  """(operator, E) of each inequality E < 0, E <= 0 or E != 0."""
  if node[0] in ("all", "any", "some"):
    return [each for part in node[1:] for each in _orders(part)]
  if node[0] != "order":
    raise Different(f"a {node[0]} is no inequality")
  found = []
  for operator, a, b in zip(node[1], node[2:], node[3:]):
    if operator[0] == ">":
      operator, a, b = "<" + operator[1:], b, a
    found.append((operator, ("add", a, ("neg", b))))
  return found


def _same_order(gold: tuple[str, Node], answer: tuple[str, Node]) -> str:
  if gold[0] != answer[0]:
    raise Different("strict against not strict")
  factor = _factor(gold[1], answer[1])
  if factor is None or (factor < 0 and gold[0] != "!="):
    raise Different("another inequality")
  return "same"


def _factor(gold: Node, answer: Node):
  """The number that gold times it is answer, or None."""
  try:
    a, b = math_exact.value(gold), math_exact.value(answer)
    if a.below == b.below:
      return math_exact.ratio(b.above, a.above)
  except math_exact.Inexact:
    pass
  names = sorted(symbols(gold) | symbols(answer))
  return math_numeric.ratio(gold, answer, names) if names else None


def _same_equations(gold: Node, answer: Node) -> str:
  mine, other = _as_equation(gold), _as_equation(answer)
  if symbols(mine) != symbols(other):
    raise Different("another name")
  if not _factor(mine, other):
    raise Different("another equation")
  return "the same equation up to a factor"


def _as_equation(node: Node) -> Node:
  if node[0] == "equation":
    return ("add", node[1], ("neg", node[2]))
  return ("add", ("sym", node[1]), ("neg", node[2]))


def _is_equation(gold: Node, answer: Node) -> bool:
  kinds = {gold[0], answer[0]}
  if kinds == {"equation"}:
    return True
  if not kinds <= {"equation", "named"}:
    return False
  named = [each for each in (gold, answer) if each[0] == "named"]
  plain = all(
    len(each[1]) == 1 and each[2][0] not in _CONTAINERS for each in named
  )
  if len(named) == 1:
    return plain
  return plain and gold[1] != answer[1] and bool(symbols(gold[2]))


_CONTAINERS = ("set", "tuple", "range", "union", "matrix", "words", "field")


def _same_named(gold: Node, answer: Node) -> str:
  names = [n[1] for n in (gold, answer) if n[0] == "named" and n[1]]
  if len(names) == 2 and names[0] != names[1] and not _are_functions(*names):
    raise Different(f"{names[1]} is not {names[0]}")
  inner = [n[2] if n[0] == "named" else n for n in (gold, answer)]
  return same(*inner)


def _are_functions(a: str, b: str) -> bool:
  """Whether one name is y and the other that of a function."""
  return "y" in (a, b) and ("(" in a or "(" in b)


def _same_system(gold: Node, answer: Node) -> str:
  pair = [node[1:] for node in (gold, answer)]
  if gold[0] == answer[0]:
    mine, other = map(dict, pair)
    if set(mine) != set(other):
      raise Different("other names")
    for name, value in mine.items():
      same(value, other[name])
    return "equal, name by name"
  values = [
    [each[1] for each in sorted(members)] if node[0] == "system" else members
    for node, members in zip((gold, answer), pair)
  ]
  return _same_row(*values)


def _same_tuple(gold: Node, answer: Node) -> str:
  return _same_row(gold[1:], answer[1:])


def _same_row(gold: Sequence[Node], answer: Sequence[Node]) -> str:
  if len(gold) != len(answer):
    raise Different(f"{len(answer)} members, not {len(gold)}")
  for mine, other in zip(gold, answer):
    same(mine, other)
  return "equal, member by member"


def _same_set(gold: Node, answer: Node) -> str:
  mine, other = (
    list(node[1:]) if node[0] == "set" else math_shapes.roots(node)
    for node in (gold, answer)
  )
  mine, other = _shared_unit(mine), _shared_unit(other)
  _matched(mine, other, same)
  return "the same members"


def _shared_unit(members: list[Node]) -> list[Node]:
  """A unit behind the last member is that of all: 3 and 4 cm."""
  if not members or members[-1][0] != "unit":
    return members
  if any(each[0] == "unit" for each in members[:-1]):
    return members
  unit = members[-1][2]
  return [*(("unit", each, unit) for each in members[:-1]), members[-1]]


def _matched(gold: list, answer: list, compare: Callable[..., str]) -> None:
  """Raises Different unless the members pair up."""
  if len(gold) != len(answer):
    raise Different(f"{len(answer)} members, not {len(gold)}")
  pair = _numbers(gold), _numbers(answer)
  if None not in pair:
    if pair[0] != pair[1]:
      raise Different("a member is missing")
    return
  if len(gold) > _MAX_MEMBERS and gold != answer:
    raise Different(f"more than {_MAX_MEMBERS} members")
  left = list(answer)
  for mine in gold:
    for i, other in enumerate(left):
      try:
        compare(mine, other)
      except Different:
        continue
      del left[i]
      break
    else:
      raise Different("a member is missing")


def _numbers(members: list) -> Counter | None:
  """How often each number is a member, if all are plain numbers."""
  if not all(isinstance(m[0], str) and is_number(m) for m in members):
    return None
  try:
    values = [math_exact.as_number(math_exact.value(m)) for m in members]
  except math_exact.Inexact:
    return None
  return None if None in values else Counter(values)


def _same_matrix(gold: Node, answer: Node) -> str:
  gold, answer = math_shapes.matrices(gold, answer)
  if {gold[0], answer[0]} != {"matrix"}:
    raise Different(f"a {answer[0]} is no {gold[0]}")
  if [len(row) for row in gold[1:]] != [len(row) for row in answer[1:]]:
    raise Different("a matrix of another shape")
  for mine, other in zip(gold[1:], answer[1:]):
    _same_row(mine, other)
  return "equal, entry by entry"


def _same_words(gold: Node, answer: Node) -> str:
  if gold[1] != answer[1]:
    raise Different("other words")
  return "same words"


def _same_ratio(gold: Node, answer: Node) -> str:
  mine, other = (
    node[1:] if node[0] == "ratio" else (node, ("num", Fraction(1)))
    for node in (gold, answer)
  )
  if len(mine) != len(other):
    raise Different(f"{len(other)} parts, not {len(mine)}")
  for a, b in zip(mine[1:], other[1:]):
    _equal(("mul", a, other[0]), ("mul", b, mine[0]))
  return "the same ratio"


def _same_congruence(gold: Node, answer: Node) -> str:
  if gold[0] != answer[0]:
    raise Different("one of them has no modulus")
  if ("words", "") not in (gold[1], answer[1]):
    same_value(gold[1], answer[1])
  same_value(gold[3], answer[3])
  numbers = [
    math_exact.as_number(math_exact.value(node))
    for node in (gold[2], answer[2], gold[3])
  ]
  if None in numbers or not numbers[2]:
    raise Different("no number modulo a number")
  if (numbers[0] - numbers[1]) % numbers[2]:
    raise Different("another remainder")
  return "the same remainder"


def _same_tree(gold: Node, answer: Node) -> str:
  if gold == answer:
    return "the same set"
  if gold[0] != answer[0] or gold[0] == "field":
    raise Different("another set")
  pairs = ((gold[1:], answer[1:]), (gold[1:], answer[:0:-1]))
  for mine, other in pairs if gold[0] in ("union", "meet") else pairs[:1]:
    try:
      return _same_row(mine, other)
    except Different:
      continue
  raise Different("another set")


def _either(*kinds: str) -> Callable[[Node, Node], bool]:
  return lambda gold, answer: gold[0] in kinds or answer[0] in kinds


def _both(*kinds: str) -> Callable[[Node, Node], bool]:
  return lambda gold, answer: {gold[0], answer[0]} <= {*kinds}


def _of_value(gold: Node, answer: Node) -> bool:
  return not {gold[0], answer[0]} & _NO_VALUES


_ORDERS = ("order", "all", "any", "some")
_NO_VALUES = frozenset((
  "named", "system", "equation", "congruent", "tuple", "range", "set",
  "union", "meet", "without", "field", "matrix", "words", "ratio", "rel",
  *_ORDERS,
))  # fmt: skip
# The first comparison whose test two shapes pass is theirs.
_COMPARISONS: tuple[tuple[Callable, Callable], ...] = (
  (_is_equation, _same_equations),
  (_is_interval, _same_intervals),
  (_both(*_ORDERS), _same_orders),
  (_either("named"), _same_named),
  (_both("tuple"), _same_tuple),
  (_both("system", "tuple"), _same_system),
  (_either("congruent"), _same_congruence),
  (_either("set"), _same_set),
  (_either("matrix"), _same_matrix),
  (_both("words"), _same_words),
  (_either("ratio"), _same_ratio),
  (_both("union", "meet", "without", "field", "range"), _same_tree),
  (_of_value, same_value),
)
