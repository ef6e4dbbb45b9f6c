import itertools
import random
import time
from fractions import Fraction

from absl.testing import absltest, parameterized

from r1jax.records import Question
from r1jax.rewards import countdown, extract


def ask(numbers, target) -> Question:
  gold = {"numbers": list(numbers), "target": target}
  return Question("q", "reach it", gold, "countdown")


def brute_force(values: list[Fraction]) -> set[Fraction]:
  """All values of expressions of all numbers, by pairs, signs included."""
  if len(values) == 1:
    return {values[0], -values[0]}
  reached = set()
  for i, j in itertools.permutations(range(len(values)), 2):
    rest = [v for k, v in enumerate(values) if k not in (i, j)]
    a, b = values[i], values[j]
    for value in {a + b, a - b, a * b, *([a / b] if b else [])}:
      reached |= brute_force([*rest, value]) | brute_force([*rest, -value])
  return reached


class VerifyTest(parameterized.TestCase):
  @parameterized.parameters(
    ("3 - 5 + 8", (3, 5, 8), 6),
    ("(8-5)+3", (3, 5, 8), 6),
    ("8-(5-3)", (3, 5, 8), 6),
    ("3 - 5 + 8 = 6", (3, 5, 8), 6),
    ("6 = 3 - 5 + 8", (3, 5, 8), 6),
    ("\n 3-5+8 \t= 06 ", (3, 5, 8), 6),
    ("81*1*1*1", (1, 81, 1, 1), 81),
    ("8/(3-8/3)", (3, 3, 8, 8), 24),
    ("2-3", (2, 3), -1),
    ("2 - 3 = -1", (2, 3), -1),
    ("-(3 - 2)", (2, 3), -1),
    ("3--5", (3, 5), 8),
    ("07 + 1", (7, 1), 8),
    ("6", (6,), 6),
    ("6 = 6", (6,), 6),
    ("0*5", (0, 5), 0),
    ("1/3+2/3", (1, 3, 2, 3), 1),
  )
  def test_right(self, answer, numbers, target):
    reward = countdown.verify(
      ask(numbers, target), extract.Answer(answer, True)
    )
    self.assertEqual(reward.value, 1.0, reward.reason)

  @parameterized.parameters(
    ("3 + 5 + 8", (3, 5, 8), 6, "gives 16"),
    ("7/2", (2, 7), 3, "gives 7/2"),
    ("5 + 1", (3, 5, 8), 6, "3, 8 not used; 1 not given"),
    ("6", (3, 5, 8), 6, "6 not given"),
    ("3 + 3", (3, 5), 6, "3 not given"),
    ("81*1", (1, 81, 1, 1), 81, "1, 1 not used"),
    ("3 - 5 + 8 + 0", (3, 5, 8), 6, "0 not given"),
    ("12", (1, 2), 12, "12 not given"),
    ("1 2", (1, 2), 12, "'2' where an operator"),
    ("(1)(2)", (1, 2), 2, "'(' where an operator"),
    ("3 5 8", (3, 5, 8), 6, "where an operator"),
    ("9**9**9", (9, 9, 9), 27, "'*' where a number"),
    ("9//2", (9, 2), 4, "'/' where a number"),
    ("9%5", (9, 5), 4, "'%' is no number"),
    ("3.0+5", (3, 5), 8, "'.' is no number"),
    ("3e0+5", (3, 5), 8, "'e' is no number"),
    ("3_0+5", (30, 5), 35, "'_' is no number"),
    ("0x3+5", (3, 5), 8, "'x' is no number"),
    ("٣+5", (3, 5), 8, "is no number"),
    ("３+5", (3, 5), 8, "is no number"),
    ("³+5", (3, 5), 8, "is no number"),
    ("3−5", (3, 5), -2, "is no number"),
    ("3\u200b+5", (3, 5), 8, "is no number"),
    ("3/(5-5)", (3, 5, 5), 0, "division by zero"),
    ("3/0", (3, 0), 0, "division by zero"),
    ("(3+5", (3, 5), 8, "not closed"),
    ("3+5)", (3, 5), 8, "')' where an operator"),
    ("3+5+", (3, 5), 8, "ends where a number"),
    ("*3+5", (3, 5), 8, "'*' where a number"),
    ("()3+5", (3, 5), 8, "')' where a number"),
    ("", (3, 5), 8, "no expression"),
    ("= 8", (3, 5), 8, "no expression"),
    ("3+5 = 9", (3, 5), 8, "no side of the ="),
    ("3+5 = 3+5", (3, 5), 8, "no side of the ="),
    ("3+5 == 8", (3, 5), 8, "more than one ="),
    ("3+5 = 8 = 8", (3, 5), 8, "more than one ="),
    ("8 = 8", (3, 5), 8, "3, 5 not used"),
    ("3+5 or 5+3", (3, 5), 8, "'o' is no number"),
    ("<answer>3+5", (3, 5), 8, "'<' is no number"),
    ("__import__('os')", (3, 5), 8, "is no number"),
  )
  def test_wrong(self, answer, numbers, target, reason):
    reward = countdown.verify(
      ask(numbers, target), extract.Answer(answer, True)
    )
    self.assertEqual(reward.value, 0.0)
    self.assertIn(reason, reward.reason)
    self.assertEqual(reward.status, "ok")

  @parameterized.named_parameters(
    ("long", "1+" * 50_000 + "1", "more than 1000"),
    ("digits", "9" * 1000, "not given"),
    ("deep parentheses", "(" * 400 + "1+2" + ")" * 400, "nested deeper"),
    ("deep signs", "-" * 900 + "1+2", "nested deeper"),
    ("deep mixture", "-(" * 300 + "1+2", "nested deeper"),
    ("many divisions", "1/" * 400 + "2", "not given"),
  )
  def test_bounded(self, answer, reason):
    start = time.perf_counter()
    reward = countdown.verify(ask((1, 2), 3), extract.Answer(answer, True))
    self.assertLess(time.perf_counter() - start, 0.1)
    self.assertEqual(reward.value, 0.0)
    self.assertIn(reason, reward.reason)
    self.assertLess(len(reward.reason), 20_000)

  def test_agrees_with_python_on_random_expressions(self):
    rng = random.Random(0)
    right = 0
    for _ in range(500):
      numbers = [rng.randint(1, 9) for _ in range(rng.randint(2, 5))]
      parts = [f"Fraction({n})" for n in numbers]
      while len(parts) > 1:
        i = rng.randrange(len(parts) - 1)
        joined = f"{parts[i]} {rng.choice('+-*/')} {parts[i + 1]}"
        parts[i : i + 2] = [rng.choice([f"({joined})", f"-({joined})"])]
      try:
        value = eval(parts[0], {"Fraction": Fraction})
      except ZeroDivisionError:
        continue
      answer = parts[0]
      for n in set(numbers):
        answer = answer.replace(f"Fraction({n})", str(n))
      target = int(value)
      reward = countdown.verify(
        ask(numbers, target), extract.Answer(answer, True)
      )
      self.assertEqual(reward.value, float(value == target), answer)
      right += value == target
    self.assertGreater(right, 100)

  def test_never_raises_on_noise(self):
    rng = random.Random(1)
    question = ask((3, 5, 8), 6)
    for _ in range(3000):
      answer = "".join(rng.choices("3580+-*/()= \n√٣\ud800e.", k=12))
      self.assertIn(
        countdown.verify(question, extract.Answer(answer, True)).value,
        (0.0, 1.0),
      )


class GoldTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("none", None, "Countdown needs a dict"),
    ("text", "6", "Countdown needs a dict"),
    ("no target", {"numbers": [1]}, "Countdown needs a dict"),
    ("no numbers", {"numbers": [], "target": 1}, "answer.numbers"),
    ("too many", {"numbers": [1] * 7, "target": 7}, "1 to 6"),
    ("text number", {"numbers": ["1"], "target": 1}, "answer.numbers"),
    ("fraction", {"numbers": [1.0], "target": 1}, "answer.numbers"),
    ("truth", {"numbers": [True], "target": 1}, "answer.numbers"),
    ("negative", {"numbers": [-1], "target": 1}, "none negative"),
    ("no list", {"numbers": "12", "target": 3}, "answer.numbers"),
    ("target text", {"numbers": [1], "target": "1"}, "answer.target"),
    ("unreachable", {"numbers": [1, 1], "target": 5}, "cannot be reached"),
    ("parity", {"numbers": [6], "target": 7}, "cannot be reached"),
  )
  def test_bad_gold(self, gold, message):
    question = Question("q", "reach it", gold, "countdown")
    with self.assertRaisesRegex(ValueError, message):
      countdown.check_gold(question)

  def test_good_gold(self):
    countdown.check_gold(ask((3, 5, 8), 6))
    countdown.check_gold(ask((3, 3, 8, 8), 24))  # Only by a fraction.
    countdown.check_gold(ask((2, 3), -5))  # Only by a sign.
    countdown.check_gold(ask((3, 7, 25, 50, 75, 100), 952))

  def test_malformed_gold_is_no_verdict(self):
    with self.assertRaises(ValueError):
      countdown.verify(
        Question("q", "", "6", "countdown"), extract.Answer("6", True)
      )

  def test_reachable_agrees_with_brute_force(self):
    rng = random.Random(0)
    for _ in range(25):
      size = rng.randint(1, 3)
      numbers = tuple(rng.randint(0, 6) for _ in range(size))
      reached = brute_force([Fraction(n) for n in numbers])
      for target in range(-40, 41):
        self.assertEqual(
          countdown.is_reachable(numbers, target),
          Fraction(target) in reached,
          (numbers, target),
        )


if __name__ == "__main__":
  absltest.main()
