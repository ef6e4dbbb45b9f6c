import ast
import json
import pathlib
import tempfile

import pytest
from absl.testing import absltest, parameterized

from r1jax.data import sources
from r1jax.records import Question
from r1jax.rewards import extract, verifiers, verify_gym

reasoning_gym = pytest.importorskip("reasoning_gym")
from reasoning_gym import factory  # noqa: E402

# The scorer of each evaluates what an answer says, unless it is guarded.
EVALUATING = {"eval", "exec", "parse_expr", "sympify", "lambdify", "compile"}
ROOT = pathlib.Path(reasoning_gym.__file__).parent
# Slow to make, or asked for elsewhere; `composite` is refused.
LEFT_OUT = ("composite", "knight_swap")
NAMES = sorted(set(factory.DATASETS) - set(LEFT_OUT))
JUNK = ("x", "0", "-1", "NaN", "inf", "True", "[]", "None", "the", "1e9")


def items(dataset, n=2, split="train"):
  choice = dict(name="reasoning_gym", dataset=dataset, split=split, size=n)
  return sources.read(choice, "config.data", verifiers.check)


def verdict(question, text):
  return verify_gym.verify(question, extract.Answer(text, True))


def evaluators():
  """Data sets whose scorer, or what it calls of its class, evaluates."""
  found = set()
  for name, (made, _) in factory.DATASETS.items():
    path = ROOT.parent / (made.__module__.replace(".", "/") + ".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    methods = {
      node.name: node
      for top in tree.body
      if isinstance(top, ast.ClassDef) and top.name == made.__name__
      for node in top.body
      if isinstance(node, ast.FunctionDef)
    }
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    if not EVALUATING & names and not any(
      isinstance(n, ast.Attribute) and n.attr in EVALUATING
      for n in ast.walk(tree)
    ):
      continue
    open_, seen = ["score_answer"], set()
    while open_:
      method = open_.pop()
      if method in seen or method not in methods:
        continue
      seen.add(method)
      for node in ast.walk(methods[method]):
        if isinstance(node, ast.Call):
          f = node.func
          called = f.id if isinstance(f, ast.Name) else getattr(f, "attr", "")
          if called in EVALUATING:
            found.add(name)
          open_.append(called)
  return found


class GuardTest(parameterized.TestCase):
  def test_scorers_that_evaluate_are_known(self):
    guarded = {*verify_gym.EXACT, *verify_gym.ALPHABETS}
    # Its parser is its own, and its scorer's gold is no answer's text.
    harmless = {"propositional_logic", "number_sorting"}
    self.assertEqual(evaluators() - harmless, guarded)

  @parameterized.parameters(*verify_gym.EXACT, *verify_gym.ALPHABETS)
  def test_nothing_of_an_answer_runs(self, dataset):
    (question,) = items(dataset, 1)
    folder = self.enterContext(tempfile.TemporaryDirectory())
    marker = pathlib.Path(folder) / "ran"
    for text in (
      f"__import__('pathlib').Path('{marker}').touch()",
      f"[open('{marker}', 'w')]",
      f"open({str(marker)!r}, 'w')",
      "(lambda: 1/0)()",
      "exit()",
      "x.__class__",
    ):
      self.assertEqual(verdict(question, text).value, 0.0)
    self.assertFalse(marker.exists())

  def test_rules_of_the_game(self):
    meta = {
      "dataset": "countdown",
      "arguments": {},
      "metadata": {"numbers": [2, 3, 4], "target": 24},
    }
    question = Question("q", "", "2*3*4", "reasoning_gym", "en", meta)
    for text, value in (
      ("4 * (3 * 2)", 1.0),
      ("2**3 + 4", 0.0),
      ("2.3 + 4", 0.0),
      ("234", 0.0),
    ):
      self.assertEqual(verdict(question, text).value, value, text)


class VerifyTest(parameterized.TestCase):
  def test_what_no_scorer_reads_is_wrong(self):
    (question,) = items("prime_factorization", 1)
    reward = verdict(question, "two")
    self.assertEqual(reward.value, 0.0)
    self.assertIn("cannot read it (ValueError)", reward.reason)
    self.assertEqual(verdict(question, "2" * 20_001).value, 0.0)

  def test_many_answers_may_be_right(self):
    (question,) = items("rush_hour", 1)
    self.assertIsNone(question.answer)
    self.assertEqual(verdict(question, "no move").value, 0.0)

  def test_partial_credit_is_none(self):
    (question,) = items("letter_counting", 1)
    question = question._replace(answer="12")
    self.assertEqual(verdict(question, "12 letters").value, 0.0)

  @parameterized.parameters(
    (dict(meta={}), "meta has nothing. The verifier reasoning_gym needs"),
    (dict(answer=" "), "answer is ' '. chain_sum needs a text"),
  )
  def test_malformed_golds(self, change, message):
    question = items("chain_sum", 1)[0]._replace(**change)
    with self.assertRaisesRegex(ValueError, message):
      verifiers.check(question)


@pytest.mark.slow
class EveryDataSetTest(parameterized.TestCase):
  @parameterized.parameters(*NAMES)
  def test_golds_are_right_after_json_and_junk_is_wrong(self, dataset):
    for question in items(dataset):
      question = Question(*json.loads(json.dumps(question)))
      verifiers.check(question)
      verify = verifiers.VERIFIERS[question.verifier].verify
      for text in JUNK:
        if text != question.answer:
          reward = verify(question, extract.Answer(text, True))
          self.assertEqual(reward.value, 0.0, f"{text} {question} {reward}")


if __name__ == "__main__":
  absltest.main()
