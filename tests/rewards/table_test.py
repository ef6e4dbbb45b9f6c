import inspect

from absl.testing import absltest, parameterized

from r1jax.records import FINISH_REASONS, Question, Response, Reward
from r1jax.rewards.table import GROUP_REWARDS, NEED_IDS, REWARDS

ARGUMENTS = {
  "language": {"identifier": "script"},
  "overlong": {"max_tokens": 20, "cache_tokens": 5},
  "repetition": {"ngram_tokens": 2},
}
QUESTION = Question("q", "?", "b", "exact")
GOOD = "<think>a thought</think><answer>b</answer>"


def grade(name, text, finish_reason, ids=(1, 2, 3)):
  response = Response(text, len(ids), finish_reason, ids=list(ids))
  return REWARDS[name](QUESTION, response, **ARGUMENTS.get(name, {}))


class TableTest(parameterized.TestCase):
  @parameterized.parameters(*REWARDS)
  def test_signature(self, name):
    first, second, *rest = inspect.signature(REWARDS[name]).parameters.values()
    self.assertEqual((first.name, second.name), ("question", "response"))
    self.assertTrue(all(p.kind is p.KEYWORD_ONLY for p in rest))

  @parameterized.product(
    name=tuple(REWARDS),
    finish_reason=FINISH_REASONS,
    text=("", GOOD, "<think>" * 10_000),
  )
  def test_every_response_gets_a_verdict(self, name, finish_reason, text):
    reward = grade(name, text, finish_reason)
    self.assertIsInstance(reward, Reward)
    self.assertBetween(reward.value, -1.0, 1.0)
    self.assertNotEmpty(reward.reason)
    self.assertEqual(reward.status, "ok")
    self.assertEqual(grade(name, text, finish_reason), reward)

  @parameterized.product(name=tuple(REWARDS), finish_reason=FINISH_REASONS)
  def test_being_cut_off_never_pays(self, name, finish_reason):
    reward = grade(name, GOOD, finish_reason)
    self.assertLessEqual(reward.value, grade(name, GOOD, "eos").value)
    if finish_reason != "eos":
      self.assertRegex(reward.reason, "(cut off|repetition) after 3 tokens")

  @parameterized.product(name=tuple(REWARDS), finish_reason=("stop", "", None))
  def test_an_unknown_finish_reason_raises(self, name, finish_reason):
    with self.assertRaisesRegex(ValueError, "finish_reason is .* Known: eos, "):
      grade(name, GOOD, finish_reason)

  @parameterized.parameters(*REWARDS)
  def test_which_rewards_need_the_ids(self, name):
    response = Response(GOOD, 3, "eos")
    if name in NEED_IDS:
      with self.assertRaisesRegex(ValueError, "Fill Response.ids"):
        REWARDS[name](QUESTION, response, **ARGUMENTS[name])
    else:
      with_ids = grade(name, GOOD, "eos")
      arguments = ARGUMENTS.get(name, {})
      self.assertEqual(REWARDS[name](QUESTION, response, **arguments), with_ids)


class GroupTableTest(parameterized.TestCase):
  def test_no_name_twice(self):
    self.assertEmpty(REWARDS.keys() & GROUP_REWARDS.keys())

  @parameterized.product(
    name=tuple(GROUP_REWARDS), finish_reason=(*FINISH_REASONS, "stop")
  )
  def test_every_response_gets_a_verdict(self, name, finish_reason):
    responses = [Response("a", 2, "eos"), Response("b", 4, finish_reason)]
    graded = [{"accuracy": Reward(x, "by hand")} for x in (1.0, 0.0)]
    if finish_reason == "stop":
      with self.assertRaisesRegex(ValueError, "finish_reason is 'stop'"):
        GROUP_REWARDS[name](responses, graded)
    else:
      first, second = GROUP_REWARDS[name](responses, graded)
      self.assertGreater(first.value, second.value)
      self.assertEqual(graded[0], {"accuracy": Reward(1.0, "by hand")})


if __name__ == "__main__":
  absltest.main()
