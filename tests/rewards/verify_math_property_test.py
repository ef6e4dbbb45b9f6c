"""Properties of math verdicts that hold for texts that nobody chose."""

import json
import pathlib
import random

import hypothesis
import pytest
from absl.testing import absltest, parameterized
from hypothesis import strategies as st

from r1jax.records import Question, Reward
from r1jax.rewards import extract, verify_math

SETTINGS = hypothesis.settings(
  max_examples=150,
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=list(hypothesis.HealthCheck),
)
# Gold, and an answer that is right, and one that is wrong.
SEEDS = (
  (r"\frac{3}{4}", r"0.75", r"\frac{4}{3}"),
  (r"\{1, 2, 3\}", r"3, 1, 2", r"1, 2, 4"),
  (r"2\sqrt{3}", r"\sqrt{12}", r"\sqrt{13}"),
  (r"(1, 2)", r"( \frac{2}{2} , 2 )", r"(2, 1)"),
  (r"x^2 - 1", r"(x - 1)(x + 1)", r"x^2 + 1"),
  (r"[0, \frac{1}{2})", r"0 \le x < \frac12", r"[0, \frac{1}{2}]"),
  (r"\frac{\pi}{2}", r"\frac{1}{2} \pi", r"\frac{\pi}{3}"),
  (r"5", r"x = 5", r"x = 6"),
)
BLANKS = st.sampled_from(("", " ", "  ", "\n", r"\,", r"\;", r"\ ", r"\quad "))
PIECES = (
  *("1", "2", "12", "0.5", "x", "y", "e", "i", "+", "-", "*", "/", "^", "^{"),
  *("_", "{", "}", "(", ")", "[", "]", ",", ";", "=", "<", "!", "%", "|", "~"),
  *(r"\frac", r"\frac{", r"\sqrt", r"\sqrt[", r"\boxed{", r"\pm", r"\infty"),
  *(r"\cup", r"\in", r"\text{", r"\begin{pmatrix}", r"\end{pmatrix}", r"\\"),
  *("&", r"\log", r"\sin", r"\int", r"\binom", "9^9^9", r"\left(", r"\right)"),
  *("{,}", "mod", "and", "or", r"\pmod", "$", "√", "½", "²", "\u0305", "۳"),
  *(r"\overline{", r"\operatorname", "\x00", "\ud7ff", "'", '"', "``", "**"),
)
_CASES = pathlib.Path(__file__).parent / "cases-own.jsonl"


def verdict(gold: str, text: str) -> Reward:
  question = Question("q", "", gold, "math")
  return verify_math.verify(question, extract.Answer(text, True))


def restyled(draw: st.DrawFn, text: str) -> str:
  """The text with blanks and styles that change nothing."""
  blanked = [draw(BLANKS) + part for part in text.split(" ")]
  text = " ".join(blanked)
  if draw(st.booleans()):
    text = text.replace("(", r"\left( ").replace(")", r"\right) ")
  if draw(st.booleans()):
    text = text.replace(r"\frac", draw(st.sampled_from((r"\dfrac", r"\tfrac"))))
  if draw(st.booleans()):
    text = r"\displaystyle " + text
  wrap = draw(
    st.sampled_from(
      ("{}", "${}$", "$${}$$", r"\({}\)", r"\[{}\]", r"\boxed{{{}}}",
       r"$\mathbf{{{}}}$", r"\boldsymbol{{{}}}", "**{}**",
       "{}.", r"\boxed{{\,{}}}")
    )
  )  # fmt: skip
  return wrap.format(text)


class InvarianceTest(parameterized.TestCase):
  @parameterized.parameters(*SEEDS)
  def test_blanks_and_styles(self, gold, right, wrong):
    @SETTINGS.__class__(SETTINGS, max_examples=40)
    @hypothesis.given(st.data())
    def check(data):
      for text, value in ((right, 1.0), (wrong, 0.0)):
        text = restyled(data.draw, text)
        self.assertEqual(verdict(gold, text).value, value, text)

    check()

  def test_order_in_sets(self):
    members = st.lists(
      st.fractions(-50, 50, max_denominator=20), min_size=1, max_size=8,
      unique=True,
    )  # fmt: skip

    @SETTINGS
    @hypothesis.given(members, st.randoms(use_true_random=False))
    def check(values, rng):
      gold = ", ".join(map(str, values))
      other = rng.sample(values, len(values))
      text = ", ".join(
        rf"\frac{{{x.numerator}}}{{{x.denominator}}}" for x in other
      )
      for shown in (text, rf"\{{{text}\}}", rf"\left\{{ {text} \right\}}"):
        self.assertEqual(verdict(gold, shown).value, 1.0, shown)
      self.assertEqual(verdict(gold, f"{text}, 51").value, 0.0)
      if len(values) > 1:
        self.assertEqual(verdict(gold, text.rpartition(", ")[0]).value, 0.0)

    check()

  def test_numbers_are_right_for_themselves_alone(self):
    @SETTINGS
    @hypothesis.given(
      st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6)
    )
    def check(a, b):
      self.assertEqual(verdict(str(a), str(a)).value, 1.0)
      shown = rf"\frac{{{b.numerator}}}{{{b.denominator}}}"
      self.assertEqual(verdict(str(a), shown).value, float(a == b))

    check()


class RobustnessTest(parameterized.TestCase):
  def check_text(self, gold, text):
    reward = verdict(gold, text)
    self.assertEqual(verdict(gold, text), reward)
    self.assertIn(reward.value, (0.0, 1.0))
    self.assertNotIn("\n", reward.reason)
    self.assertLess(len(reward.reason), 300)

  def test_random_texts_never_raise(self):
    text = st.one_of(
      st.text(max_size=80),
      st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
    )
    golds = st.sampled_from([gold for gold, _, _ in SEEDS])

    @SETTINGS.__class__(SETTINGS, max_examples=500)
    @hypothesis.given(golds, text, st.booleans())
    def check(gold, text, is_boxed):
      self.check_text(gold, rf"\boxed{{{text}}}" if is_boxed else text)

    check()

  @parameterized.parameters(
    *PIECES[:20], r"\boxed{", r"\frac{1}{", "answer: 1 "
  )
  def test_100_kb_of_one_piece(self, piece):
    self.check_text("5", piece * (100_000 // len(piece)))

  @pytest.mark.slow
  def test_20_000_mutated_texts_never_raise(self):
    rng = random.Random(7)
    for index in range(20_000):
      gold, text = _mutated(rng)
      if index % 1_000 == 0:
        text *= 100_000 // (len(text) or 1) + 1
      self.check_text(gold, text)


def _cases() -> list[tuple[str, str]]:
  """(gold, response) of the kept math cases that are text."""
  found = []
  for line in _CASES.read_text().splitlines():
    case = json.loads(line)
    is_text = isinstance(case["gold"], str) and isinstance(case["input"], str)
    if case["kind"] == "math" and is_text:
      found.append((case["gold"], case["input"]))
  return found


def _mutated(rng: random.Random, cases=_cases()) -> tuple[str, str]:  # noqa: B008
  """A gold and an answer to it with pieces put in, cut out or doubled."""
  gold, text = rng.choice(cases)
  if rng.random() < 0.3:
    pieces = [rng.choice(PIECES) for _ in range(rng.randint(1, 25))]
    return gold, rf"\boxed{{{''.join(pieces)}}}"
  for _ in range(rng.randint(1, 6)):
    start = rng.randrange(len(text) + 1)
    end = start + rng.randint(0, 4)
    new = rng.choice(("", rng.choice(PIECES), text[start:end] * 2))
    text = text[:start] + new + text[end:]
  return gold, text


if __name__ == "__main__":
  absltest.main()
