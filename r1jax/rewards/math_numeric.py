"""Values of formulas at points, to as many digits as it takes.

Two formulas that are not the same differ at nearly every point, so a few
points tell them apart; the digits are raised until what is added can be told
from what it is added to.
"""

import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from r1jax.rewards import math_exact
from r1jax.rewards.math_nodes import Node, symbols

DIGITS = 100  # Beyond what terms of different size need.
MAX_DIGITS = 2_000
POINTS = 6
MAX_EXPONENT = 10**7  # Of 2, in a value.
_MIN_POINTS = 3
_CANDIDATES = 40


class Undecided(ValueError):
  """Why numbers do not tell whether two formulas are equal."""


def compare(gold: Node, answer: Node, decimal_log: bool = False) -> str | None:
  """How two formulas agree, or None if they differ.

  Symbols take real values where the gold is real and finite; if it is
  nowhere real, where it is finite.

  Raises:
    Undecided: If there are too few such points, or numbers out of range.
  """
  import mpmath

  names = sorted(symbols(gold) | symbols(answer))
  if not names:
    pairs = [_pair(gold, answer, {}, decimal_log)]
    if None in pairs:
      raise Undecided("no value")
  else:
    pairs = _points(gold, answer, names, decimal_log)
  for a, b, digits, hidden in pairs:
    with mpmath.workdps(digits + 10):
      limit = mpmath.mpf(10) ** -(DIGITS // 2 + hidden)
      if b is None or abs(a - b) > limit * (abs(a) + abs(b)):
        return None
  agreed = DIGITS // 2 + max(pair[3] for pair in pairs)
  where = f" at {len(pairs)} points" if names else ""
  return f"same to {agreed} digits{where}"


def ratio(gold: Node, answer: Node, names: list[str]) -> Any:
  """answer / gold if that is one real number wherever it exists, or None."""
  import mpmath

  quotients = []
  for a, b, digits, _ in _points(gold, answer, names, False):
    with mpmath.workdps(digits):
      if b is None or not a or not b:
        return None
      quotients.append(b / a)
  with mpmath.workdps(DIGITS):
    first = quotients[0]
    for each in quotients:
      if abs(each - first) > mpmath.mpf(10) ** -(DIGITS // 2) * abs(first):
        return None
    return None if abs(mpmath.im(first)) > 1e-20 else mpmath.re(first)


def number(node: Node) -> Any:
  """The value of a node without symbols, to DIGITS digits.

  Raises:
    Undecided: If it has none.
  """
  found = _evaluate(node, {}, DIGITS, False)
  if found is None:
    raise Undecided("no value")
  return found[0]


def _points(
  gold: Node, answer: Node, names: list[str], decimal_log: bool
) -> list[tuple[Any, Any, int, int]]:
  """Pairs of values at points, as `_pair` gives them."""
  import mpmath

  real, other = [], []
  for point in _candidates(names):
    pair = _pair(gold, answer, point, decimal_log)
    if pair is None:
      continue
    a = pair[0]
    is_real = abs(mpmath.im(a)) <= mpmath.mpf(10) ** -(DIGITS // 2) * abs(a)
    (real if is_real else other).append(pair)
    if len(real) == POINTS:
      break
  found = real if len(real) >= _MIN_POINTS else real + other[:POINTS]
  if len(found) < _MIN_POINTS:
    raise Undecided("too few points where the gold has a value")
  return found


def _candidates(names: list[str]) -> Iterator[dict[str, Fraction]]:
  """Points, the same for the same number of names."""
  state = 12345

  def draw(low: Fraction, high: Fraction) -> Fraction:
    nonlocal state
    state = (1103515245 * state + 12345) % 2**31
    return low + (high - low) * Fraction(state // 7 % 9973, 9973)

  ranges = [(1, 4), (-3, 3), (0, 1), (-1, 1), (4, 20), (-9, -1)]
  for index in range(_CANDIDATES):
    if index >= 4 and index % 4 == 3:  # Whole numbers, for n! and (-1)^n.
      yield {
        name: Fraction(int(draw(Fraction(1), Fraction(9)))) for name in names
      }
      continue
    low, high = ranges[index % len(ranges)]
    yield {name: draw(Fraction(low), Fraction(high)) for name in names}


def _pair(
  gold: Node, answer: Node, point: dict[str, Fraction], decimal_log: bool
) -> tuple[Any, Any, int, int] | None:
  """Both values, or None where the gold has none.

  Returns:
    Value of the gold, of the answer or None, digits that were kept, and
    digits beyond which the smallest of all parts shows.
  """
  digits = DIGITS
  for _ in range(5):
    a = _evaluate(gold, point, digits, decimal_log)
    if a is None:
      return None
    b = _evaluate(answer, point, digits, decimal_log)
    losses = [each[1] for each in (a, b) if each]
    hidden = max(loss.hidden for loss in losses)
    needed = DIGITS + hidden + max(loss.cancelled for loss in losses)
    if needed <= digits:
      return a[0], b[0] if b else None, digits, hidden
    digits = needed + 10
    if digits > MAX_DIGITS:
      raise Undecided("terms of sizes too different")
  raise Undecided("terms that cancel too far")


@dataclasses.dataclass
class _Loss:
  """Digits that sums hide (large + small) and cancel (large - large)."""

  hidden: int = 0
  cancelled: int = 0


def _evaluate(
  node: Node, point: dict[str, Fraction], digits: int, decimal_log: bool
) -> tuple[Any, _Loss] | None:
  """A node's value and the digits that it loses, or None."""
  import mpmath

  lost = _Loss()
  with mpmath.workdps(digits + 10):
    try:
      found = _number(node, point, lost, decimal_log)
    except Undecided:
      raise
    except (ValueError, TypeError, ArithmeticError):
      return None
    if not mpmath.isfinite(found):
      return None
    return found, lost


def _number(
  node: Node, point: dict[str, Fraction], lost: _Loss, decimal_log: bool
) -> Any:
  import mpmath

  def inner(each: Node) -> Any:
    return _number(each, point, lost, decimal_log)

  match node:
    case ("num", a):
      lost.hidden += max(0, int(_bits(a) * 0.302) - 20)
      return _real(a)
    case ("sym", name):
      return _real(point[name])
    case ("const", "pi"):
      return +mpmath.pi
    case ("const", "e"):
      return +mpmath.e
    case ("const", "i"):
      return mpmath.mpc(0, 1)
    case ("neg", a):
      return -inner(a)
    case ("pct", a):
      return inner(a) / 100
    case ("add", *terms):
      return _sum([inner(each) for each in terms], lost)
    case ("mul", *factors):
      return mpmath.fprod(inner(each) for each in factors)
    case ("div", a, b):
      return inner(a) / inner(b)
    case ("pow", a, b):
      return _power(inner(a), inner(b), lost)
    case ("fn", name, *arguments):
      return _function(name, [inner(a) for a in arguments], lost, decimal_log)
  raise Undecided(f"{node[0]} is no number")


def _bits(a: Fraction) -> int:
  return max(a.numerator.bit_length(), a.denominator.bit_length())


def _smallness(a: Any) -> int:
  """Digits by which a function of a tiny number may stay hidden."""
  return max(0, int(-2 * _log10(a)) - 6) if a else 0


def _real(a: Fraction) -> Any:
  import mpmath

  return mpmath.mpf(a.numerator) / a.denominator


def _sum(terms: list[Any], lost: _Loss) -> Any:
  """The sum; what is left when all digits cancel is taken for 0."""
  import mpmath

  total = mpmath.fsum(terms)
  sizes = [_log10(each) for each in terms if each]
  if len(sizes) < 2:
    return total
  lost.hidden += int(max(sizes) - min(sizes))
  if total:
    gone = max(sizes) - _log10(total)
    if gone > mpmath.mp.dps - lost.cancelled - 15:
      return mpmath.mpf(0)
    lost.cancelled += max(0, int(gone))
  return total


def _log10(a: Any) -> float:
  import mpmath

  return float(mpmath.mag(a)) * 0.30103


def _power(a: Any, b: Any, lost: _Loss) -> Any:
  import mpmath

  if not a:
    if not b or mpmath.re(b) < 0:
      raise ZeroDivisionError
    return mpmath.mpf(0)
  size = abs(b) * abs(mpmath.log(abs(a), 2)) if abs(a) != 1 else abs(b) / 100
  if size > MAX_EXPONENT:
    raise Undecided("a number has too many digits")
  lost.cancelled += int(math.log10(float(size) + 1))
  lost.hidden += _smallness(b)
  if not mpmath.im(a) and not mpmath.im(b):
    b = mpmath.re(b)
    if mpmath.isint(b):
      return mpmath.power(a, int(b))
  return mpmath.power(a, b)


def _function(
  name: str, numbers: list[Any], lost: _Loss, decimal_log: bool
) -> Any:
  import mpmath

  huge = max(abs(each) for each in numbers) > mpmath.mpf(2) ** 2000
  if huge and name not in ("root", "ln", "log", "lg", "logb", "abs"):
    raise Undecided("a function of a huge number")
  lost.hidden += max(_smallness(each) for each in numbers)
  return _call(name, numbers, decimal_log)


def _call(name: str, numbers: list[Any], decimal_log: bool) -> Any:
  import mpmath

  a = numbers[0]
  match name:
    case "root":
      return _root(*numbers)
    case "lg":
      return mpmath.log(a) / mpmath.log(10)
    case "log":
      return mpmath.log(a) / (mpmath.log(10) if decimal_log else 1)
    case "ln":
      return mpmath.log(a)
    case "logb":
      return mpmath.log(numbers[1]) / mpmath.log(a)
    case "factorial":
      if abs(a) > math_exact.MAX_FACTORIAL:
        raise Undecided("a large factorial")
      return mpmath.factorial(a)
    case "binomial":
      if max(map(abs, numbers)) > math_exact.MAX_FACTORIAL:
        raise Undecided("a large binomial")
      return mpmath.binomial(*numbers)
    case "abs" | "norm":
      return abs(a)
    case "max" | "min":
      if any(mpmath.im(each) for each in numbers):
        raise ValueError(name)
      return (max if name == "max" else min)(numbers)
    case "floor" | "ceil":
      return getattr(mpmath, name)(a)
    case "gcd" | "lcm":
      if not all(mpmath.isint(each) for each in numbers):
        raise ValueError(name)
      return mpmath.mpf(getattr(math, name)(*map(int, numbers)))
  return getattr(mpmath, name)(a)


def _root(degree: Any, a: Any) -> Any:
  """The root; real for an odd degree of a negative number."""
  import mpmath

  if not mpmath.im(a) and mpmath.isint(degree):
    a, count = mpmath.re(a), int(mpmath.re(degree))
    if not 1 < abs(count) < 1000:
      raise Undecided("a root of such a degree")
    if a < 0 and count % 2:
      return -mpmath.root(-a, count)
    return mpmath.root(a, count)
  return _power(a, 1 / degree, _Loss())
