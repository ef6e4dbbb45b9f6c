import shutil

import pytest
from absl.testing import absltest, parameterized

from r1jax.data import programs
from r1jax.records import Question
from r1jax.rewards import extract, runners, verifiers, verify_code

SQUARE = "def sq(x):\n  return x * x\n"
FIXED = """
import unittest
from bank import Account, Overdrawn

class AccountTest(unittest.TestCase):
  def setUp(self):
    self.account = Account(10)

  def test_take(self):
    self.assertEqual(self.account.take(4), 6)
    self.assertEqual(self.account.balance, 6)

  def test_too_much(self):
    with self.assertRaises(Overdrawn):
      self.account.take(11)

def test_two():
  assert len({Account(1).take(1), Account(2).take(2)}) == 1
"""
BANK = """
class Overdrawn(ValueError):
  pass

class Account:
  def __init__(self, balance):
    self.balance = balance

  def take(self, amount):
    if amount > self.balance:
      raise Overdrawn(amount)
    self.balance -= amount
    return self.balance
"""


def verdict(program, **gold):
  question = Question("q", "", gold, "code")
  answer = extract.Answer(f"```python\n{program}\n```", False)
  return verify_code.verify(question, answer)


def call(program, args, out, **gold):
  tests = [{"args": args, "out": out}]
  return verdict(program, type="call", fn="f", tests=tests, **gold).value


class CallTest(parameterized.TestCase):
  @parameterized.parameters(
    ("1", 1, 1.0),
    ("1.0", 1, 1.0),
    ("True", 1, 0.0),
    ("1", True, 0.0),
    ("float('nan')", 0, 0.0),
    ("None", None, 1.0),
    ("(1, [2])", [1, [2]], 1.0),
    ("{1: 'a'}", {"1": "a"}, 1.0),
    ("{1: 'a', '1': 'b'}", {"1": "a"}, 0.0),
    ("'1'", 1, 0.0),
    ("10**30", 10**30, 1.0),
    ("10**30 + 1", 10**30, 0.0),
    ("{1, 2}", [1, 2], 0.0),
    ("type('S', (str,), {'__eq__': lambda s, o: True})('b')", "a", 0.0),
    ("type('I', (int,), {'__eq__': lambda s, o: True})(2)", 1, 0.0),
    ("print('1')", 1, 0.0),
  )
  def test_values(self, expression, out, value):
    self.assertEqual(call(f"def f():\n  return {expression}", [], out), value)

  def test_tolerance_is_for_numbers_that_are_not_both_integers(self):
    for found, value in (("0.3333", 1.0), ("0.4", 0.0)):
      program = f"def f():\n  return {found}"
      self.assertEqual(call(program, [], 1 / 3, float_tol=1e-3), value)
    self.assertEqual(
      call("def f():\n  return 1001", [], 1000, float_tol=0.1), 0.0
    )

  def test_a_share_goes_on_behind_a_dead_process(self):
    program = "import os\ndef f(x):\n  if x == 2: os._exit(0)\n  return x"
    tests = [{"args": [x], "out": x} for x in (1, 2, 3)]
    reward = verdict(
      program, type="call", fn="f", tests=tests, score="fraction"
    )
    self.assertAlmostEqual(reward.value, 2 / 3)
    self.assertIn("passes 2 of 3 tests; test 2 of 3", reward.reason)


class TestsTest(parameterized.TestCase):
  def unit(self, program, tests=FIXED):
    return verdict(program, type="unittest", module="bank", tests=[tests])

  def test_bug_fix(self):
    self.assertEqual(self.unit(BANK).value, 1.0)

  @parameterized.parameters(
    (BANK.replace("raise Overdrawn(amount)", "raise KeyError(amount)"),),
    (BANK.replace("-= amount", "-= amount + 1"),),
    (BANK.replace("class Overdrawn", "class Other"),),
    (BANK + "\nimport sys; sys.exit(0)",),
    (
      BANK + "\nimport unittest; unittest.TestCase.run = lambda *a: None\n"
      "Account.take = lambda *a: None",
    ),
  )
  def test_one_bug_left(self, program):
    self.assertEqual(self.unit(program).value, 0.0)

  def test_a_test_file_without_tests_passes_nothing(self):
    self.assertEqual(self.unit(BANK, "import bank\n").value, 0.0)

  @parameterized.parameters(
    ("assert sq(3) == 9",),
    ("x = [2]\nassert [sq(i) for i in x] == [4]",),
    ("try:\n  sq('a')\nexcept TypeError:\n  pass\nelse:\n  assert False",),
    ("import math\nassert math.isclose(sq(0.5), 0.25)",),
    ("assert list(map(sq, range(3))) == [0, 1, 4]",),
  )
  def test_asserts(self, test):
    self.assertEqual(verdict(SQUARE, type="assert", tests=[test]).value, 1.0)

  @parameterized.parameters(
    # The tests' own names and values are out of the program's reach.
    ("import builtins\nbuiltins.abs = lambda x: 0\ndef sq(x):\n  return 0",
     "assert abs(sq(3) - 9) < 1"),
    ("def sq(x):\n  import sys\n  f = sys._getframe()\n"
     "  while f: f.f_globals['x'] = 9; f = f.f_back\n  return 0",
     "x = 9\nassert sq(3) == x"),
    ("import os\ndef sq(x):\n  os._exit(0)",
     "try:\n  sq(3)\nexcept Exception:\n  pass"),
    ("def sq(x):\n  raise AssertionError", "assert sq(3) == 9"),
  )  # fmt: skip
  def test_cheats(self, program, test):
    self.assertEqual(verdict(program, type="assert", tests=[test]).value, 0.0)

  def test_arguments_are_changed_in_place(self):
    program = "def add(xs):\n  xs.append(1)\ndef twice(f, x):\n  return f(f(x))"
    for test in (
      "xs = []\nadd(xs)\nassert xs == [1]",
      "assert twice(lambda x: x + 1, 3) == 5",
    ):
      self.assertEqual(verdict(program, type="assert", tests=[test]).value, 1.0)


class OtherLanguageTest(parameterized.TestCase):
  @pytest.mark.slow
  def test_cpp(self):
    if not shutil.which("g++"):
      self.skipTest("there is no g++ here")
    program = (
      "#include <iostream>\nint main() { long a, b; std::cin >> a >> b; "
      "std::cout << a + b << std::endl; }"
    )
    tests = [{"in": "1 2\n", "out": "3\n"}, {"in": "-5 2", "out": "-3"}]
    question = Question(
      "q", "", {"type": "stdin", "language": "cpp", "tests": tests}, "code"
    )
    for source, value in (
      (program, 1.0),
      (program.replace("a + b", "a - b"), 0.0),
      (program.replace("main", "other"), 0.0),
    ):
      answer = extract.Answer(f"```cpp\n{source}\n```", False)
      self.assertEqual(verify_code.verify(question, answer).value, value)

  def test_a_missing_compiler_is_a_failed_grader(self):
    name = "no-such-compiler"
    runner = runners.RUNNERS["cpp"]
    runners.RUNNERS["cpp"] = runner._replace(build=(name, *runner.build[1:]))
    try:
      with self.assertRaisesRegex(RuntimeError, f"needs {name}, and there is"):
        verdict(
          "x", type="stdin", language="cpp", tests=[{"in": "", "out": ""}]
        )
    finally:
      runners.RUNNERS["cpp"] = runner


class GoldTest(parameterized.TestCase):
  def check(self, gold):
    verify_code.check_gold(Question("q", "", gold, "code"))

  @parameterized.parameters(
    ("x", "answer is 'x'"),
    ({"type": "shell", "tests": []}, "answer.type is 'shell'. Known: "),
    ({"type": "stdin", "tests": []}, r"answer.tests is \[\]. Give a list"),
    ({"type": "stdin"}, "answer.tests is None"),
    ({"type": "stdin", "tests": [{"in": ""}]}, r"answer.tests\[0\] is"),
    ({"type": "call", "fn": "f", "tests": [{"args": 1, "out": 1}]},
     r"answer.tests\[0\]"),
    ({"type": "call", "tests": [{"args": [], "out": 1}]}, "answer.fn is None"),
    ({"type": "assert", "tests": [" "]}, "no source text"),
    ({"type": "assert", "tests": ["x"], "timeout_s": 0}, "answer.timeout_s"),
    ({"type": "assert", "tests": ["x"], "mem": 0}, "answer.mem is unknown"),
    ({"type": "assert", "tests": ["x"], "score": "most"}, "answer.score"),
    ({"type": "assert", "tests": ["x"], "language": "cpp"}, "Only stdin"),
    ({"type": "unittest", "tests": ["x"], "module": "serve"},
     "answer.module is 'serve'"),
  )  # fmt: skip
  def test_refused(self, gold, message):
    with self.assertRaisesRegex(ValueError, message):
      self.check(gold)

  def test_the_miniature_programs_solve_their_tests(self):
    question = programs.all_questions()[0]
    verifiers.check(question)
    verify = verifiers.VERIFIERS[question.verifier].verify
    for program, value in (
      (question.answer["program"], 1.0),
      ("print(int(input()))", 0.0),
    ):
      self.assertEqual(
        verify(question, extract.Answer(program, True)).value, value
      )


if __name__ == "__main__":
  absltest.main()
