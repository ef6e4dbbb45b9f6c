import inspect

from absl.testing import absltest, parameterized

from r1jax.records import Question, Response, Reward
from r1jax.rewards.table import REWARDS

ARGUMENTS = {
  "overlong": {"max_tokens": 20, "cache_tokens": 5},
  "repetition": {"ngram_words": 2},
}


class TableTest(parameterized.TestCase):
  @parameterized.parameters(*REWARDS)
  def test_signature(self, name):
    first, second, *rest = inspect.signature(REWARDS[name]).parameters.values()
    self.assertEqual((first.name, second.name), ("question", "response"))
    self.assertTrue(all(p.kind is p.KEYWORD_ONLY for p in rest))

  @parameterized.product(
    name=tuple(REWARDS),
    finish_reason=("eos", "length", "repetition"),
    text=("", "<think>a</think><answer>b</answer>", "<think>" * 10_000),
  )
  def test_every_response_gets_a_verdict(self, name, finish_reason, text):
    question = Question("q", "?", "b", "exact")
    response = Response(text, 9, finish_reason)
    arguments = ARGUMENTS.get(name, {})
    reward = REWARDS[name](question, response, **arguments)
    self.assertIsInstance(reward, Reward)
    self.assertBetween(reward.value, -1.0, 1.0)
    self.assertNotEmpty(reward.reason)
    self.assertEqual(reward.status, "ok")
    self.assertEqual(REWARDS[name](question, response, **arguments), reward)


if __name__ == "__main__":
  absltest.main()
