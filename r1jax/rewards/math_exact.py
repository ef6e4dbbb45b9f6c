"""Exact values: quotients of polynomials in names, pi, e, i and radicals.

A polynomial is a dict of monomial to Fraction; a monomial is a sorted tuple
of (name, exponent), where a name is a symbol's, "=pi", "=e", "=i" (only to
the power 1, since i^2 = -1) or the radical of a prime as "=2" (only to the
power 1). Radicals of different primes are independent over the rationals, so
two polynomials are equal if and only if their dicts are, pi and e taken as
independent too. Two quotients are equal if and only if their products
crosswise are.
"""

import math
from fractions import Fraction
from typing import NamedTuple

from r1jax.rewards.math_nodes import Node

Monomial = tuple[tuple[str, int], ...]
Polynomial = dict[Monomial, Fraction]

MAX_TERMS = 400
MAX_POWER = 200  # Of a polynomial with more than one term.
MAX_BITS = 200_000  # Of one number; also of what powers add up to.
MAX_FACTORIAL = 10_000
_MAX_TRIAL = 2_000  # Divisors tried to take a root.


class Inexact(ValueError):
  """A node has no such value, or it is not worked out: why."""


class TooLarge(Inexact):
  """A number would have too many digits."""


class Undefined(Inexact):
  """A division by zero and the like: no value at all."""


class Value(NamedTuple):
  """A quotient of two polynomials; below is not zero."""

  above: Polynomial
  below: Polynomial


_ONE: Polynomial = {(): Fraction(1)}


def rational(number: Fraction | int) -> Value:
  """A number as a value."""
  return Value({(): Fraction(number)} if number else {}, _ONE)


def value(node: Node) -> Value:
  """The exact value of a node.

  Raises:
    Inexact: If it has none of this form.
  """
  return _value(node, [2 * MAX_BITS])


def as_number(exact: Value) -> Fraction | None:
  """The value as a rational number, or None if it is not one."""
  if not exact.above:
    return Fraction(0)
  if set(exact.above) == set(exact.below) == {()}:
    return exact.above[()] / exact.below[()]
  quotient = ratio(exact.above, exact.below)
  return quotient


def is_same(a: Value, b: Value) -> bool:
  """Whether two values are equal."""
  if a.below == b.below:
    return a.above == b.above
  return _times(a.above, b.below) == _times(b.above, a.below)


def ratio(a: Polynomial, b: Polynomial) -> Fraction | None:
  """The number that b has to be multiplied by to give a, if there is one."""
  if set(a) != set(b) or not a:
    return None
  quotients = {a[monomial] / b[monomial] for monomial in a}
  return quotients.pop() if len(quotients) == 1 else None


def _value(node: Node, bits: list[int]) -> Value:
  match node:
    case ("num", number):
      return rational(number)
    case ("sym", name):
      return Value({((name, 1),): Fraction(1)}, _ONE)
    case ("const", "inf"):
      raise Inexact("infinity")
    case ("const", name):
      return Value({((f"={name}", 1),): Fraction(1)}, _ONE)
    case ("neg", a):
      return _negative(_value(a, bits))
    case ("deg", a):
      return _value(a, bits)
    case ("pct", a):
      return _product(_value(a, bits), rational(Fraction(1, 100)))
    case ("add", first, *rest):
      total = _value(first, bits)
      for each in rest:
        total = _sum(total, _value(each, bits))
      return total
    case ("mul", first, *rest):
      total = _value(first, bits)
      for each in rest:
        total = _product(total, _value(each, bits))
      return total
    case ("div", a, b):
      return _product(_value(a, bits), _inverse(_value(b, bits)))
    case ("pow", a, b):
      return _power(_value(a, bits), _value(b, bits), bits)
    case ("fn", name, *arguments):
      return _function(name, [_value(each, bits) for each in arguments], bits)
  raise Inexact(f"{node[0]} is no number")


def _negative(a: Value) -> Value:
  return Value({m: -c for m, c in a.above.items()}, a.below)


def _sum(a: Value, b: Value) -> Value:
  if a.below == b.below:
    return Value(_plus(a.above, b.above), a.below)
  above = _plus(_times(a.above, b.below), _times(b.above, a.below))
  return Value(above, _times(a.below, b.below))


def _product(a: Value, b: Value) -> Value:
  return Value(_times(a.above, b.above), _times(a.below, b.below))


def _inverse(a: Value) -> Value:
  if not a.above:
    raise Undefined("division by zero")
  if len(a.above) == 1:  # Divide once and for all.
    return Value(_times(a.below, _one_over(a.above)), _ONE)
  return Value(a.below, a.above)


def _one_over(term: Polynomial) -> Polynomial:
  """1 over a polynomial of one term."""
  ((monomial, factor),) = term.items()
  powers, factor = {}, 1 / factor
  for name, exponent in monomial:
    if name == "=i":
      powers[name], factor = 1, -factor
    elif _is_radical(name):
      powers[name], factor = 1, factor / int(name[1:])
    else:
      powers[name] = -exponent
  return {tuple(sorted(powers.items())): factor}


def _is_radical(name: str) -> bool:
  return name[0] == "=" and name[1:].isdigit()


def _plus(a: Polynomial, b: Polynomial) -> Polynomial:
  total = dict(a)
  for monomial, factor in b.items():
    new = total.get(monomial, 0) + factor
    if new:
      total[monomial] = new
    else:
      del total[monomial]
  if len(total) > MAX_TERMS:
    raise Inexact(f"more than {MAX_TERMS} terms")
  return total


def _times(a: Polynomial, b: Polynomial) -> Polynomial:
  if b == _ONE:
    return a
  if a == _ONE:
    return b
  if len(a) * len(b) > 4 * MAX_TERMS:
    raise Inexact(f"more than {MAX_TERMS} terms")
  total: Polynomial = {}
  for left, c in a.items():
    for right, d in b.items():
      monomial, sign = _joined(left, right)
      new = total.get(monomial, 0) + c * d * sign
      if _bits(new) > MAX_BITS:
        raise TooLarge("a number has too many digits")
      total[monomial] = new
  return {monomial: c for monomial, c in total.items() if c}


def _joined(a: Monomial, b: Monomial) -> tuple[Monomial, int]:
  """The product of two monomials, and the number in front of it."""
  if not a or not b:
    return a or b, 1
  powers, factor = dict(a), 1
  for name, exponent in b:
    powers[name] = new = powers.get(name, 0) + exponent
    if name == "=i" and new == 2:
      del powers[name]
      factor = -factor
    elif new == 2 and _is_radical(name):
      del powers[name]
      factor *= int(name[1:])
    elif not new:
      del powers[name]
  return tuple(sorted(powers.items())), factor


def _bits(number: Fraction | int) -> int:
  return number.numerator.bit_length() + number.denominator.bit_length()


def _power(base: Value, exponent: Value, bits: list[int]) -> Value:
  number = as_number(exponent)
  if number is None:
    raise Inexact("an exponent that is no rational number")
  plain = as_number(base)
  if number.denominator == 2 and plain is not None:
    return _power(_root(plain, 2), rational(number * 2), bits)
  if number.denominator != 1:
    if plain is None or number.denominator > 100 or plain < 0:
      raise Inexact("a root of more than a number")
    base = _root(plain, number.denominator)
    return _power(base, rational(number.numerator), bits)
  count = int(number)
  if count < 0:
    return _power(_inverse(base), rational(-count), bits)
  if not count:
    if not base.above:
      raise Undefined("0^0")
    return rational(1)
  if plain is not None:
    _spend(bits, _bits(plain) * count if plain not in (0, 1, -1) else 1)
    if plain in (0, 1, -1):
      return rational(plain if count % 2 else plain * plain)
    return rational(plain**count)
  size = max(len(base.above), len(base.below))
  if count > (10**6 if size == 1 else MAX_POWER):
    raise TooLarge(f"a power of {len(base.above)} terms")
  _spend(bits, count * max(map(_bits, base.above.values())))
  total = rational(1)
  while count:
    if count & 1:
      total = _product(total, base)
    count >>= 1
    if count:
      base = _product(base, base)
  return total


def _spend(bits: list[int], amount: int) -> None:
  """Takes from the bits that powers of one node may have together."""
  bits[0] -= amount
  if amount > MAX_BITS or bits[0] < 0:
    raise TooLarge("a number has too many digits")


def _root(number: Fraction, degree: int) -> Value:
  """The root of a number: rational, or radicals of primes for degree 2."""
  if number < 0:
    if degree % 2:
      return _negative(_root(-number, degree))
    if degree > 2:
      raise Inexact("an even root of a negative number")
    imaginary = Value({(("=i", 1),): Fraction(1)}, _ONE)
    return _product(imaginary, _root(-number, 2))
  exact = [_whole_root(part, degree) for part in number.as_integer_ratio()]
  if None not in exact:
    return rational(Fraction(*exact))
  if degree != 2:
    raise Inexact("a root that is no rational number")
  above, below = number.as_integer_ratio()
  outside, primes = _square_free(above * below)
  monomial = tuple(sorted((f"={prime}", 1) for prime in primes))
  return Value({monomial: Fraction(outside, below)}, _ONE)


def _whole_root(number: int, degree: int) -> int | None:
  """The root of a whole number if it is whole."""
  if number.bit_length() > 4000:
    raise Inexact("a root of a large number")
  if degree == 2:
    root = math.isqrt(number)
  else:
    low, high = 0, 1 << (number.bit_length() // degree + 1)
    while low < high:
      middle = (low + high + 1) // 2
      low, high = (
        (middle, high) if middle**degree <= number else (low, middle - 1)
      )
    root = low
  return root if root**degree == number else None


def _square_free(number: int) -> tuple[int, list[int]]:
  """(s, primes) with number = s^2 times the product of the primes."""
  outside, primes = 1, []
  for divisor in range(2, _MAX_TRIAL):
    if divisor * divisor > number:
      break
    count = 0
    while number % divisor == 0:
      number //= divisor
      count += 1
    outside *= divisor ** (count // 2)
    if count % 2:
      primes.append(divisor)
  if number > 1:
    root = math.isqrt(number)
    if root * root == number:
      outside *= root
    elif number < _MAX_TRIAL**2:
      primes.append(number)
    else:
      raise Inexact("a root of a large number")
  return outside, primes


def _function(name: str, arguments: list[Value], bits: list[int]) -> Value:
  numbers = [as_number(each) for each in arguments]
  if name == "root":
    degree, inner = numbers
    if degree is None or degree.denominator != 1 or not 1 < degree < 100:
      raise Inexact("a root of such a degree")
    if inner is None:
      raise Inexact("a root of more than a number")
    return _root(inner, int(degree))
  if any(number is None for number in numbers):
    raise Inexact(f"{name} of more than a number")
  match name, numbers:
    case ("abs" | "norm", [a]):
      return rational(abs(a))
    case ("floor", [a]):
      return rational(math.floor(a))
    case ("ceil", [a]):
      return rational(math.ceil(a))
    case ("max", [_, *_]):
      return rational(max(numbers))
    case ("min", [_, *_]):
      return rational(min(numbers))
    case ("ln" | "log" | "lg", [a]) if a == 1:
      return rational(0)
  whole = [int(a) for a in numbers if a.denominator == 1]
  if len(whole) < len(numbers):
    raise Inexact(f"{name} of a fraction")
  match name, whole:
    case ("factorial", [n]) if n >= 0:
      if n > MAX_FACTORIAL:
        raise TooLarge("a large factorial")
      _spend(bits, n * n.bit_length())
      return rational(math.factorial(n))
    case ("binomial", [n, k]) if n >= 0 and k >= 0:
      if n > MAX_FACTORIAL:
        raise TooLarge("a large binomial")
      _spend(bits, n)
      return rational(math.comb(n, k))
    case ("gcd", [_, *_]):
      return rational(math.gcd(*whole))
    case ("lcm", [_, *_]):
      return rational(math.lcm(*whole))
  raise Inexact(f"{name} of such numbers")
