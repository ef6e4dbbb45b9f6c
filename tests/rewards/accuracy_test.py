import json
import pathlib
import unittest

from absl.testing import absltest, parameterized

from r1jax.records import Question, Response
from r1jax.rewards.accuracy import accuracy

CASES = pathlib.Path(__file__).parents[3] / "shared/cases/rewards-public.jsonl"
GOLD = {"numbers": [3, 5, 8], "target": 6}
QUESTION = Question("q", "reach it", GOLD, "countdown")


class AccuracyTest(parameterized.TestCase):
  @parameterized.parameters(
    ("<think>a</think><answer>3-5+8</answer>", 1.0, "gives 6"),
    ("<think>a</think><answer>3+5+8</answer>", 0.0, "gives 16"),
    ("<answer>3-5+8</answer><answer>6</answer>", 0.0, "not used"),
    ("<answer>6</answer><answer>3-5+8</answer>", 1.0, "gives 6"),
    ("<think><answer>3-5+8</answer></think>", 0.0, "no answer"),
    ("<think>3-5+8", 0.0, "no answer"),
    ("<think>a</think><answer> </answer>", 0.0, "no answer"),
    ("<answer>6 <answer>3-5+8</answer></answer>", 1.0, "gives 6"),
    ("<answer>3-5+8, I guess</answer>", 0.0, "is no number"),
  )
  def test_verdicts(self, text, value, reason):
    reward = accuracy(QUESTION, Response(text, 9, "eos"))
    self.assertEqual(reward.value, value)
    self.assertIn(reason, reward.reason)

  @parameterized.parameters("length", "repetition")
  def test_cut_off_is_no_answer(self, finish_reason):
    text = "<think>a</think><answer>3-5+8</answer>"
    reward = accuracy(QUESTION, Response(text, 9, finish_reason))
    self.assertEqual(reward.value, 0.0)
    self.assertIn("after 9 tokens", reward.reason)

  def test_unknown_finish_reason_raises(self):
    with self.assertRaisesRegex(ValueError, "finish_reason is 'stop'"):
      accuracy(QUESTION, Response("6", 9, "stop"))

  def test_unfinished_prefilled_thoughts_hold_no_answer(self):
    response = Response("so <answer>3-5+8</answer>", 9, "eos", True)
    self.assertEqual(accuracy(QUESTION, response).value, 0.0)

  def test_malformed_gold_raises(self):
    with self.assertRaises(ValueError):
      accuracy(QUESTION._replace(answer="6"), Response("6", 9, "eos"))
    with self.assertRaisesRegex(ValueError, "verifier is 'maths'"):
      accuracy(QUESTION._replace(verifier="maths"), Response("6", 9, "eos"))

  @unittest.skipUnless(CASES.exists(), "no shared cases beside this checkout")
  def test_public_countdown_cases(self):
    cases = [json.loads(line) for line in CASES.read_text().splitlines()]
    cases = [case for case in cases if case["cls"] == "countdown"]
    self.assertNotEmpty(cases)
    for case in cases:
      question = Question(case["id"], "", case["gold"], "countdown")
      reward = accuracy(question, Response(case["input"], 9, "eos"))
      self.assertEqual(bool(reward.value), case["expect"], case["id"])


if __name__ == "__main__":
  absltest.main()
