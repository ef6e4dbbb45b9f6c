import json
import tempfile
from unittest import mock

import pytest
from absl.testing import absltest, parameterized

from r1jax import jobs
from r1jax.data import reasoning_gym, sources
from r1jax.records import Question, Response
from r1jax.rewards import verifiers
from r1jax.rewards.accuracy import accuracy
from tests import runs

pytest.importorskip("reasoning_gym")

SUMS = dict(min_terms=2, max_terms=2, min_digits=1, max_digits=1)


def sums(**changes):
  choice = dict(
    name="reasoning_gym",
    dataset="chain_sum",
    split="train",
    size=40,
    arguments=SUMS,
  )
  return sources.read(choice | changes, "config.data", verifiers.check)


class QuestionsTest(parameterized.TestCase):
  def test_items(self):
    first, *_ = questions = sums(answer_format="last_number")
    self.assertLen({q.question for q in questions}, 40)
    text = "State the final answer to the following arithmetic problem: "
    expression = first.meta["metadata"]["expression"]
    self.assertEqual(first.question, f"{text}{expression} =")
    self.assertEqual(first.id, "chain_sum:train:0")
    self.assertEqual(first.meta["arguments"], SUMS)

  def test_graded_by_its_scorer_after_json(self):
    question = Question(*json.loads(json.dumps(sums()[0])))
    for text, value in ((question.answer, 1.0), (f"{question.answer}1", 0.0)):
      response = Response(f"<answer>{text}</answer>", 5, "eos")
      self.assertEqual(accuracy(question, response).value, value)

  def test_splits_are_disjoint_whatever_the_seed(self):
    train = sums(size=100)
    for seed in (0, 7, 2**29):
      test = sums(size=20, split="test", seed=seed)
      sources.check_disjoint(train, test)
    self.assertEqual(sums(size=20, split="test"), sums(size=20, split="test"))
    self.assertNotEqual(test, sums(size=20, split="test"))

  def test_a_scorer_that_takes_wrong_answers_is_replaced(self):
    (question,) = sums(dataset="coin_flip", size=1, arguments={})
    self.assertEqual(question.verifier, "math")
    response = Response("<answer>0</answer>", 5, "eos")
    self.assertEqual(accuracy(question, response).value, 0.0)

  @parameterized.parameters(
    (dict(dataset="chainsum"), "dataset is 'chainsum'. Known: .*chain_sum"),
    (dict(dataset="composite"), "Mix data sets with dict.name='mixture'"),
    (
      dict(arguments=dict(term=3)),
      r"arguments {'term': 3} do not suit reasoning_gym chain_sum: .*'term'",
    ),
    (dict(arguments=dict(min_terms=9)), "max_terms must be >= min_terms"),
    (dict(size=500), "size is 500, .* has 157 distinct train questions"),
    (dict(size=0), "size is 0. It must be"),
    (dict(seed=-1), "seed is -1, outside 0 to 536870912"),
    (dict(split="dev"), "split is 'dev'. Known: train, test"),
  )
  def test_bad_choices(self, change, message):
    self.enterContext(mock.patch.object(reasoning_gym, "_DRAWS", 4))
    with self.assertRaisesRegex(ValueError, message):
      sums(**change)

  def test_missing_package(self):
    self.enterContext(mock.patch.dict("sys.modules", {"reasoning_gym": None}))
    with self.assertRaisesRegex(ValueError, r"pip install 'r1jax.reasoning.'"):
      sums()


@pytest.mark.slow
class RunTest(absltest.TestCase):
  def test_a_run_grades_its_questions_in_other_processes(self):
    config = runs.config(
      "smollm2", rounds=2, row_tokens=176, eval_every_rounds=1
    )
    workdir = self.enterContext(tempfile.TemporaryDirectory())
    jobs.run(config, workdir)
    rows = runs.rows(workdir, "rollouts.jsonl")
    self.assertLen(rows, 16)
    questions = {
      q.id: q
      for q in sources.read(config.data.to_dict(), "data", verifiers.check)
    }
    for row in rows:
      response = Response(row["response"], row["tokens"], row["finish_reason"])
      verdict = accuracy(questions[row["question"]], response)
      self.assertEqual(row["rewards"]["accuracy"], verdict._asdict())
    evaluated = runs.rows(workdir, "eval.jsonl")
    self.assertEqual({row["suite"] for row in evaluated}, {"sums"})


if __name__ == "__main__":
  absltest.main()
