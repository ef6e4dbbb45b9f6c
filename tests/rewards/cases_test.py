"""Every verdict of the public cases and of this project's own."""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import pytest
from absl.testing import absltest, parameterized

from r1jax import grading
from r1jax.records import Reward
from tests.rewards import cases

FILES = [path for path in (cases.PUBLIC, cases.OWN) if path.exists()]
ALL = [case for path in FILES for case in cases.load(path)]
# A program or two each, of the classes that the sandbox must get right.
QUICK_CODE = 24


def of(kind: str, apart: bool = False) -> list[cases.Case]:
  return [c for c in ALL if c.kind == kind and cases.needs_process(c) == apart]


def one_of_each_class(wanted: list[cases.Case]) -> list[cases.Case]:
  """The first right and the first wrong one of every class."""
  return list({(c.cls, bool(c.expect)): c for c in wanted[::-1]}.values())[::-1]


class CasesTest(parameterized.TestCase):
  @parameterized.parameters("math", "format", "language")
  def test_verdicts(self, kind):
    self.assertEqual(list(cases.problems(of(kind))), [])

  def test_some_programs(self):
    chosen = one_of_each_class(of("code"))[:QUICK_CODE]
    self.assertEqual(list(cases.problems(chosen)), [])

  @pytest.mark.slow
  def test_all_programs(self):
    self.assertEqual(list(cases.problems(of("code"))), [])

  @pytest.mark.slow
  def test_cases_apart(self):
    self.assertEqual(list(cases.problems(of("code", apart=True))), [])

  def test_there_are_enough(self):
    self.assertGreaterEqual(len(cases.load(cases.OWN)), 250)
    for kind in ("math", "code", "format"):
      verdicts = {
        bool(c.expect) for c in cases.load(cases.OWN) if c.kind == kind
      }
      self.assertEqual(verdicts, {True, False}, kind)


@pytest.mark.slow
class PoolTest(parameterized.TestCase):
  @parameterized.parameters(*((path.name,) for path in FILES))
  def test_verdicts_of_two_workers(self, name):
    chosen = [
      c for path in FILES if path.name == name for c in cases.load(path)
    ]
    rewards = {"accuracy": {}, "format": {}, "language": {}}
    found = []
    with tempfile.TemporaryDirectory() as folder:
      canary = pathlib.Path(folder) / "canary.txt"
      canary.write_text("as it was")
      with grading.Grader(rewards, workers=2, timeout_secs=60) as grader:
        for case in chosen:
          _, question, response = cases.job_of(case)
          text = cases.filled(response.text, canary, port=9)
          grader.submit(case.id, question, response._replace(text=text))
        graded = grader.collect()
      found = [
        cases.problem(case, graded[case.id][cases.job_of(case)[0]])
        for case in chosen
      ]
      self.assertEqual(canary.read_text(), "as it was")
    self.assertEqual([problem for problem in found if problem], [])


def trusting(question, response):
  """What no grader should do: run the program as it is, in-process too."""
  code = response.text.removeprefix("```python\n").removesuffix("\n```")
  if code.startswith("# here\n"):
    exec(code, {})
  done = subprocess.run(
    [sys.executable, "-c", code],
    input=b"7\n",
    capture_output=True,
    timeout=60,
    check=False,
  )
  out = question.answer["tests"][0]["out"].encode()
  return Reward(float(done.stdout == out), "trusted")


TABLE = {"accuracy": trusting}


class HarnessTest(parameterized.TestCase):
  """The conditions of a case see what they are for."""

  @parameterized.named_parameters(
    ("nothing", "print(7)", "", None),
    ("verdict", "print(8)", "", "expects True, got 0"),
    ("within", "import time; time.sleep(1.1); print(7)", "within:1", "took"),
    ("canary", "open('@CANARY@', 'w'); print(7)", "canary", "canary changed"),
    (
      "folder",
      "open('@CANARY@' + '2', 'w'); print(7)",
      "canary",
      "folder changed",
    ),
    (
      "network",
      "import socket\n"
      "socket.create_connection(('127.0.0.1', @PORT@)); print(7)",
      "no_connection",
      "reached the harness's port",
    ),
    (
      "orphans",
      "import subprocess, sys\n"
      "subprocess.Popen(['sleep', '33'], stdin=-3, stdout=-3, stderr=-3,\n"
      "                 start_new_session=True); print(7)",
      "no_orphans",
      "live on: ['sleep 33",
    ),
    ("memory", "# here\nx = 'x' * 10**8\nprint(7)", "grader_rss_mb:50", "grew"),
    ("death", "# here\nimport os; os._exit(0)", "grader_survives", "died"),
    ("environment", "import os; print(os.environ['Z'])", "env:Z=7", None),
  )
  def test_conditions(self, code, condition, problem):
    gold = {"type": "stdin", "tests": [{"in": "7\n", "out": "7\n"}]}
    case = cases.Case("x", "code", "x", code, gold, True, "", "own")
    case = case._replace(also=tuple(filter(None, [condition])))
    found = cases.problems_apart(case, "tests.rewards.cases_test:TABLE")
    if problem is None:
      self.assertEqual(found, [])
    else:
      self.assertIn(problem, " ".join(found))

  @parameterized.parameters(
    (True, Reward(1.0, ""), True),
    (True, Reward(0.5, ""), False),
    (True, Reward(1.0, "", "failed"), False),
    (False, Reward(0.0, ""), True),
    (False, Reward(0.0, "", "failed"), False),
    (False, Reward(0.0, "", "timeout"), False),
    (0.5, Reward(0.5 + 1e-9, ""), True),
    (0.5, Reward(1.0, ""), False),
    (1 / 3, Reward(0.33, ""), False),
    ([0.3, 0.6], Reward(0.3, ""), True),
    ([0.3, 0.6], Reward(0.61, ""), False),
  )
  def test_what_is_expected(self, expect, reward, is_right):
    case = cases.Case("x", "math", "x", "", "1", expect, "", "own")
    self.assertEqual(cases.problem(case, reward) is None, is_right)

  def test_limit(self):
    case = cases.Case("x", "math", "x", "", "1", False, "", "own", 2.0)
    late = Reward(0.0, "", "timeout")
    self.assertIsNone(cases.problem(case, late, 1.9))
    self.assertIn("took 2.1 s", cases.problem(case, late, 2.1))

  @parameterized.parameters(
    ({"kind": "maths"}, "kind is 'maths'"), ({"also": ["safe"]}, "has 'safe'")
  )
  def test_unknown_is_refused(self, change, error):
    fields = dict(id="x", kind="math", cls="", input="", gold="", expect=True)
    fields |= dict(why="", source="")
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / "cases.jsonl"
      path.write_text(json.dumps(fields | change))
      with self.assertRaisesRegex(ValueError, error):
        cases.load(path)
      path.write_text(json.dumps(fields) + "\n" + json.dumps(fields))
      with self.assertRaisesRegex(ValueError, "twice"):
        cases.load(path)

  def test_hang_is_reported(self):
    case = cases.Case("x", "math", "x", "", "1", False, "", "own", 0.2)
    with self.assertRaises(TimeoutError), cases.deadline(case.limit_s):
      time.sleep(60)


if __name__ == "__main__":
  absltest.main()
