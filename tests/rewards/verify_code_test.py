import resource
import shutil
from unittest import mock

import pytest
from absl.testing import absltest, parameterized

from r1jax.data import programs
from r1jax.records import Question, Reward
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

  @parameterized.parameters("10**6000", "[10**6000]", "{10**6000: 1}")
  def test_a_number_too_long_to_write(self, expression):
    program = f"def f():\n  return {expression}"
    reward = verdict(
      program, type="call", fn="f", tests=[{"args": [], "out": 3}]
    )
    self.assertEqual((reward.value, reward.status), (0.0, "ok"))
    self.assertIn("more digits", reward.reason)

  def test_an_answer_is_no_larger_than_what_is_expected(self):
    program = "def f():\n  return [[]] * 3_000_000"
    tests = [{"args": [], "out": 3}]
    reward = verdict(program, type="call", fn="f", tests=tests)
    self.assertIn("too much at once", reward.reason)
    tests = [{"args": [], "out": ["a" * 1000] * 2000}]
    program = "def f():\n  return ['a' * 1000] * 2000"
    reward = verdict(program, type="call", fn="f", tests=tests)
    self.assertEqual(reward.value, 1.0)

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
    # A function of the library that the program names is not the tests' own.
    ("enc = lambda s: \"type('E', (str,), {'__eq__': lambda s, o: True})()\"\n"
     "dec = eval", "assert dec(enc('hello')) == 'hello'"),
    ("class math:\n  isclose = lambda *a: True\ndef sq(x):\n  return 0",
     "assert math.isclose(sq(3), 9)"),
    ("def pow(x, y):\n  return 0\ndef abs(x):\n  return 0",
     "assert abs(pow(3, 2) - 8) < 1"),
    ("class C:\n  __enter__ = lambda s: 0\n  __exit__ = lambda s, *a: True\n"
     "def opened():\n  return C()", "with opened() as x:\n  assert x == 9"),
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

  @parameterized.parameters(
    ("import contextlib\n@contextlib.contextmanager\ndef c():\n  yield 5",
     "with c() as v:\n  assert v == 5"),
    ("class P:\n  def __init__(self):\n    self._name = self._number = 'x'",
     "assert P()._name == 'x' == P()._number"),
    ("class E(Exception):\n  pass\ndef f(g):\n  try:\n    g()\n"
     "  except (E, KeyError) as e:\n    return type(e).__name__",
     "def g():\n  raise E('no')\ndef h():\n  raise KeyError('no')\n"
     "assert f(g) == 'E' and f(h) == 'KeyError' and str(E('a')) == 'a'"),
    ("class V:\n  def __init__(self, x):\n    self.x = x\n"
     "  def __round__(self, n=0):\n    return V(round(self.x, n))\n"
     "  def __iadd__(self, y):\n    self.x += y\n    return self",
     "v = V(1.25)\nv += 2\nassert v.x == 3.25 and round(v, 1).x == 3.2"),
    ("async def f(x):\n  return x * 2",
     "import asyncio\nassert asyncio.run(f(2)) == 4"),
    ("def f():\n  print('hello')", "import contextlib, io\n"
     "with contextlib.redirect_stdout(io.StringIO()) as out:\n  f()\n"
     "assert out.getvalue() == 'hello\\n'"),
    ("def sum(a, b):\n  return a + b", "assert sum(1, 2) == 3"),
    ("from collections import Counter\nimport operator, math\n"
     "add, order = operator.add, sorted\ndef f(s):\n  return Counter(s)",
     "assert f('aab') == Counter('aab') and add(1, 2) == 3\n"
     "assert order([2, 1]) == [1, 2] and math.pi > 3"),
  )  # fmt: skip
  def test_what_tests_do(self, program, test):
    reward = verdict(program, type="assert", tests=[test])
    self.assertEqual(reward, (1.0, "passes 1 tests", "ok"))

  @pytest.mark.slow
  @parameterized.parameters((1000,), (15 << 20,))
  def test_a_program_that_speaks_unasked_fills_no_memory(self, size):
    program = (
      f"import os\ntext = b'r' + ({size}).to_bytes(4, 'big') + b' ' * {size}\n"
      "while True:\n  for fd in range(3, 12):\n    try:\n"
      "      os.write(fd, text)\n    except OSError:\n      pass\n"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reward = verdict(program, type="assert", tests=["assert 1"])
    self.assertIn("without being asked", reward.reason)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    self.assertLess(grown, 100 << 10)


class StdinTest(parameterized.TestCase):
  @parameterized.parameters(
    ("print(open('/dev/stdin').read())", 1.0),
    ("open('/dev/stdout', 'w').write('4')", 1.0),
    # The names of what starts the program are not the program's.
    ("print(len(sys.argv) + 3)", 0.0),
    ("print(4 if importlib and builtins and start else 0)", 0.0),
    ("print('\uff14.0')", 0.0),
    ("print(4.0000001)", 1.0),
  )
  def test_run_as_main(self, program, value):
    reward = verdict(
      program, type="stdin", tests=[{"in": "4", "out": "4"}], float_tol=1e-3
    )
    self.assertEqual(reward.value, value)


# Replies that a program might send in place of plain data.
FORGED = (
  '{"lib": "builtins", "name": "eval"}',
  '{"lib": "builtins", "name": ""}',
  '{"lib": "os", "name": "system"}',
  '{"lib": "typing", "name": "ForwardRef"}',
  '{"make": "builtins.eval", "args": ["9"]}',
  '{"tuple": "T", "fields": ["x=print(1)"], "items": [9]}',
  '{"handle": 0, "kind": "error", "mro": [[-1, "eval"]]}',
  '{"callback": 99, "name": ""}',
)
FORGER = """
import gc, sys, threading
inside = "r1jax.rewards.inside."
values, plain = sys.modules[inside + "values"], sys.modules[inside + "plain"]
"""


class PassedTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.enterContext(mock.patch.dict(verify_code._passed, clear=True))
    self.judge = self.enterContext(
      mock.patch.object(
        verify_code, "_judge", side_effect=lambda gold, program: self.given
      )
    )

  def test_what_passed_is_not_run_again_for_the_same_tests(self):
    self.given = Reward(1.0, "passes")
    two, three = ([{"in": "", "out": out}] for out in ("2", "3"))
    for tests in (two, two, three, two):
      self.assertEqual(verdict("print(2)", type="stdin", tests=tests)[0], 1.0)
    verdict("print( 2)", type="stdin", tests=two)
    self.assertEqual(self.judge.call_count, 3)

  def test_what_failed_is_run_again(self):
    self.given = Reward(0.0, "time")
    for _ in range(2):
      verdict("print(2)", type="stdin", tests=[{"in": "", "out": "2"}])
    self.assertEqual(self.judge.call_count, 2)

  def test_no_more_are_kept_than_the_limit(self):
    self.given = Reward(1.0, "passes")
    tests = [{"in": "", "out": "2"}]
    with mock.patch.object(verify_code, "_MAX_PASSED", 2):
      for program in "1232":
        verdict(program, type="stdin", tests=tests)
      self.assertEqual(self.judge.call_count, 3)
      verdict("1", type="stdin", tests=tests)
    self.assertEqual(self.judge.call_count, 4)
    self.assertLen(verify_code._passed, 2)


class ForgedTest(parameterized.TestCase):
  """A program that rewrites the code that serves it."""

  @parameterized.parameters(*FORGED)
  def test_no_form_runs_text_in_the_tests(self, form):
    program = (
      f"{FORGER}class Dec: pass\ndec, form = Dec(), values.form\n"
      f"values.form = lambda value, *args, **named: {form} "
      "if value is dec else form(value, *args, **named)\n"
      "def enc(s):\n  return '9'\n"
    )
    reward = verdict(program, type="assert", tests=["assert dec(enc(3)) == 9"])
    self.assertEqual(reward.value, 0.0)

  def test_eval_by_another_name_runs_in_the_program(self):
    # Where it can reach nothing: the tester's modules are not there.
    probe = "__import__('sys').modules['r1jax.rewards.inside.tester'] and 'x'"
    program = f"def enc(s):\n  return {probe!r}\ndec = eval"
    test = "assert dec(enc('x')) == 'x'"
    reward = verdict(program, type="assert", tests=[test])
    self.assertEqual(reward.value, 0.0)
    self.assertIn("KeyError", reward.reason)

  def test_frames_that_nobody_asked_for_are_not_kept(self):
    program = FORGER + (
      "def flood():\n"
      "  kind = sys.modules[inside + 'serve'].Server\n"
      "  found = [x for x in gc.get_objects() if isinstance(x, kind)]\n"
      '  frame = plain.frame(b\'r\', b\'{"value": 1, "out": ""}\')\n'
      "  while True:\n"
      "    found[0]._replies.write(frame * 1000)\n"
      "def sq(x):\n"
      "  threading.Thread(target=flood, daemon=True).start()\n"
      "  threading.Event().wait(1)\n"
      "  return 9\n"
    )
    reward = verdict(
      program, type="assert", tests=["assert sq(3) == 8"], timeout_s=4
    )
    self.assertEqual(reward.value, 0.0)
    self.assertIn("it speaks without being asked", reward.reason)

  @parameterized.parameters("10**200_000", "{10**5000: 1}", "-(10**5000)")
  def test_numbers_that_cannot_be_written(self, value):
    program = f"def f():\n  return {value}"
    self.assertEqual(call(program, [], {"a": 1}), 0.0)
    self.assertEqual(call(program, [], 1, float_tol=1e-6), 0.0)


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
    ({"type": "assert", "tests": ["1", "f(:"]}, r"answer.tests\[1\] .*no Py"),
    ({"type": "assert", "tests": ["from numpy.linalg import det"]},
     r"answer.tests\[0\] imports numpy, which"),
    ({"type": "unittest", "tests": ["import a, bank"], "module": "bank"},
     r"answer.tests\[0\] imports a, which"),
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
