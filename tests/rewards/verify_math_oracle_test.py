"""Math verdicts against sympy and Math-Verify, which decide in other ways."""

import random

import math_verify
import pytest
import sympy
from absl.testing import absltest, parameterized

from r1jax.records import Question
from r1jax.rewards import extract, verify_math

X, Y = sympy.symbols("x y", real=True)
POINTS = tuple(
  {X: sympy.Rational(x), Y: sympy.Rational(y)}
  for x, y in (
    ("7/5", "11/9"),
    ("-7/4", "5/3"),
    ("3/7", "-8/5"),
    ("-2/9", "-7/3"),
  )
)
NUMBERS = tuple(
  map(sympy.Rational, ("1", "2", "3", "5", "-1", "-2", "1/2", "2/3", "-3/4"))
)
FUNCTIONS = (sympy.sin, sympy.cos, sympy.exp, sympy.log, sympy.sqrt)
REWRITES = (
  sympy.expand,
  sympy.factor,
  sympy.together,
  sympy.cancel,
  sympy.radsimp,
  sympy.expand_trig,
  sympy.powdenest,
)

# Plain golds and answers; both graders read them as LaTeX.
PLAIN = (
  ("1/2", "0.5"), ("1/2", "2/4"), ("1/3", "0.33"), ("-5", "5"),
  (r"\frac{3}{4}", r"\frac{6}{8}"), (r"\frac{3}{4}", r"\frac{4}{3}"),
  (r"2\sqrt{3}", r"\sqrt{12}"), (r"2\sqrt{3}", r"3\sqrt{2}"),
  (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"), (r"\pi", "3.14159"),
  ("x^2-1", "(x-1)(x+1)"), ("x^2-1", "(x-1)^2"), ("x+y", "y+x"),
  ("x+1", "y+1"), (r"\{1,2,3\}", r"\{3,2,1\}"), (r"\{1,2\}", r"\{1,2,3\}"),
  ("(1,2)", "(1,2)"), ("(1,2)", "(2,1)"), ("[0,1)", "[0,1)"),
  ("[0,1)", "[0,1]"), (r"(-\infty,1)", r"(-\infty,1]"), ("3+4i", "4i+3"),
  ("3+4i", "3-4i"), (r"\binom{5}{2}", "10"), ("5!", "120"), ("2^{10}", "1024"),
  (r"\sin^2(x)+\cos^2(x)", "1"), (r"e^{2}", "7.389"), (r"\log_{2}(8)", "3"),
  (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
   r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"),
  (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
   r"\begin{bmatrix}1&2\\4&3\end{bmatrix}"),
  ("x<1", "x<2"), (r"x\leq 1", r"1\geq x"), ("2x+3y=6", "4x+6y=12"),
  (r"\frac{1}{2006!}", r"\frac{1}{2004!}"), ("50\\%", "0.5"), ("50\\%", "50"),
  (r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}"), ("1.0", "1"), ("007", "7"),
)  # fmt: skip
# Where Math-Verify takes two numbers below its tolerance for equal.
OVERRULED = {
  (r"\frac{1}{2006!}", r"\frac{1}{2004!}"): False,
  (r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}"): False,
}


def verdict(gold: str, text: str) -> bool:
  reward = verify_math.verify(
    Question("q", "", gold, "math"), extract.Answer(rf"\boxed{{{text}}}", False)
  )
  return reward.value == 1.0


def expression(rng: random.Random, depth: int) -> sympy.Expr:
  """A random formula in x and y."""
  if not depth or rng.random() < 0.15:
    return rng.choice((X, Y, X, *NUMBERS))
  a, b = expression(rng, depth - 1), expression(rng, depth - 1)
  match rng.randrange(6):
    case 0 | 1:
      return a + b
    case 2:
      return a * b
    case 3:
      return a / b if b else a
    case 4:
      return a ** rng.choice((2, 3, -1)) if a else a
  return rng.choice(FUNCTIONS)(a)


def mutated(rng: random.Random, old: sympy.Expr) -> sympy.Expr:
  """The formula with one of its leaves changed."""
  leaves = [each for each in sympy.preorder_traversal(old) if each.is_Atom]
  leaf = rng.choice(leaves)
  return old.xreplace({leaf: leaf + rng.choice(NUMBERS)})


def is_usable(value: sympy.Expr) -> bool:
  """Whether a formula is finite, real somewhere, and of a sensible size."""
  if value.has(sympy.zoo, sympy.nan, sympy.oo, sympy.I):
    return False
  return value.count_ops() < 60 and len(sympy.latex(value)) < 400


def are_equal(gold: sympy.Expr, other: sympy.Expr) -> bool | None:
  """Whether two formulas agree where the gold is real; None if nowhere."""
  gaps = []
  for point in POINTS:
    value = gold.subs(point).evalf(40)
    if value.is_real and abs(value) < 10**12:
      gap = abs(value - other.subs(point).evalf(40))
      gaps.append(bool(gap < sympy.Float("1e-20") * (1 + abs(value))))
  return all(gaps) if gaps else None


class SympyTest(parameterized.TestCase):
  def check(self, count: int) -> None:
    rng = random.Random(5)
    seen = {True: 0, False: 0}
    while min(seen.values()) < count:
      gold = expression(rng, 3)
      if not is_usable(gold) or not gold.free_symbols:
        continue
      change = rng.choice((*REWRITES, mutated, mutated))
      other = change(rng, gold) if change is mutated else change(gold)
      expected = are_equal(gold, other) if is_usable(other) else None
      if expected is None:
        continue
      seen[expected] += 1
      pair = sympy.latex(gold), sympy.latex(other)
      self.assertEqual(verdict(*pair), expected, pair)

  def test_rewritten_and_mutated(self):
    self.check(15)

  @pytest.mark.slow
  def test_many_rewritten_and_mutated(self):
    self.check(600)


class MathVerifyTest(parameterized.TestCase):
  @parameterized.parameters(*PLAIN)
  def test_same_verdict(self, gold, text):
    config = [math_verify.LatexExtractionConfig()]
    parsed = [
      math_verify.parse(
        f"${each}$", extraction_config=config, parsing_timeout=None
      )
      for each in (gold, text)
    ]
    theirs = math_verify.verify(*parsed, timeout_seconds=None)
    if (gold, text) in OVERRULED:
      self.assertNotEqual(theirs, OVERRULED[gold, text], "no longer overruled")
      theirs = OVERRULED[gold, text]
    self.assertEqual(verdict(gold, text), theirs)


if __name__ == "__main__":
  absltest.main()
