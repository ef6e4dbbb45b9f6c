from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from r1jax import judging, rollout, verdicts
from r1jax.data import general
from r1jax.records import Response
from r1jax.rewards import judge
from r1jax.sampling import engine

OPEN = general.questions(split="train")[0]


def layout(thoughts, answer):
  return f"<think>{thoughts}</think><answer>{answer}</answer>"


def row(question, sample, response):
  return rollout.Row(
    question,
    [1],
    engine.Sample(0, sample, np.arange(3), None, None, "eos"),
    Response(response, 3, "eos"),
    {},
    0.0,
  )


class ByModelTest(parameterized.TestCase):
  def judged(self, replies, rows):
    """Reasons, and what was asked, of a judge with these replies."""
    asked = []

    def ask(prompts):
      asked.extend(prompts)
      return [judge.Reply(*reply) for reply in replies[: len(prompts)]]

    with mock.patch.object(judging, "http", lambda model, **_: ask):
      return verdicts.by_model(rows, url="http://x/v1"), asked

  def test_reasons(self):
    rows = [row(OPEN, i, layout("x", f"a{i}")) for i in range(4)]
    rows.insert(1, row(OPEN, 9, "<think>"))
    verdict = '{"analysis": "so", "correctness": "%s"}'
    replies = [
      (verdict % "correct",),
      (verdict % "incorrect",),
      ("well",),
      (None, 4, "503"),
    ]
    reasons, asked = self.judged(replies, rows)
    self.assertEqual(
      reasons,
      [
        None,
        "without_answer",
        "judged_incorrect",
        "judged_unparseable",
        "judged_failed",
      ],
    )
    self.assertLen(asked, 4)
    self.assertIn(OPEN.answer["accept"], asked[0].text)

  def test_a_judge_that_is_down_stops_the_round(self):
    rows = [row(OPEN, i, layout("x", f"a{i}")) for i in range(2)]
    with self.assertRaisesRegex(
      OSError, "is down: none of 2 requests had a reply .refused.. Start it"
    ):
      self.judged([(None, 1, "refused")] * 2, rows)

  def test_nothing_to_judge_asks_nobody(self):
    self.assertEqual(self.judged([], []), ([], []))


class OracleTest(parameterized.TestCase):
  def test_reasons(self):
    good, bad = OPEN.answer["accept"], OPEN.answer["wrong"][0]
    texts = layout("x", good), layout("x", bad), "<think>cut off"
    rows = [row(OPEN, i, text) for i, text in enumerate(texts)]
    reasons = [None, "judged_unhelpful", "judged_without_answer"]
    self.assertEqual(verdicts.oracle(rows), reasons)
    self.assertEqual(verdicts.nothing(rows), ["nothing_to_verify"] * 3)


if __name__ == "__main__":
  absltest.main()
