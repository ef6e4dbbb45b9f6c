from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from r1jax import rollout
from r1jax.data import templates
from r1jax.data import tokenizer as tokenizer_lib
from r1jax.records import Question, Response, Reward
from r1jax.sampling import engine

TOKENIZER = tokenizer_lib.load("bundled")
QUESTIONS = [
  Question(f"q{i}", f"{i} 2 3 = 6", 0, "none", language="en") for i in range(3)
]
ONE = Reward(1.0, "always")
TEXTS = {0: "<think>1 + 2</think>", 1: "我 yes", 2: ""}


def general(question, prompt_set="helpful"):
  return question._replace(meta={"prompt_set": prompt_set})


def decode(ids):
  return TOKENIZER.decode(ids)


class FakeGrader:
  """Grades by length; notes what it was given and when."""

  def __init__(self):
    self.submitted = []

  def submit(self, key, question, response):
    self.submitted.append((key, question, response))

  def collect(self):
    return {
      key: {
        "accuracy": Reward(float(len(response.text)), "its length"),
        "format": Reward(1.0, "always"),
      }
      for key, _, response in self.submitted
    }


def fake_sample(calls):
  """Stands in for engine.sample; answers every question with its text."""

  def sample(programs, params, buffers, key, prompts, requests, *, on_finish):
    calls.append((params, buffers, key, prompts, requests))
    samples = []
    for request in requests:
      finish = ("eos", "length", "repetition")[request.sample % 3]
      ids = TOKENIZER.encode(TEXTS[request.question % 3])
      ids = [*ids, TOKENIZER.eos_id] if finish == "eos" else [*ids, 9]
      samples.append(engine.Sample(*request, np.array(ids), None, None, finish))
    for each in reversed(samples):  # They end in any order.
      on_finish(each)
    return samples, engine.Stats(10, 0.75)

  return sample


class RollTest(parameterized.TestCase):
  def roll(
    self,
    template="miniature",
    first=0,
    samples=3,
    group_rewards=None,
    sends_ids=False,
  ):
    calls, grader = [], FakeGrader()
    weights = {"accuracy": 2.0, "format": 0.5, "group": 3.0}
    rewards = rollout.Rewards(
      grader, weights, group_rewards or {}, sends_ids=sends_ids
    )
    run = rollout.make("programs", TOKENIZER, template, rewards)
    with mock.patch.object(engine, "sample", fake_sample(calls)):
      out = run("params", "buffers", "key", QUESTIONS, samples, first)
    (call,) = calls
    return out, call, grader

  @parameterized.parameters(0, 6)
  def test_rows_are_question_by_question(self, first):
    out, (params, buffers, key, prompts, requests), _ = self.roll(first=first)
    self.assertEqual((params, buffers, key), ("params", "buffers", "key"))
    self.assertEqual(out.slot_utilization, 0.75)
    # The place in the round, which makes the key, is offset.
    self.assertEqual(
      requests,
      [engine.Request(first + q, g) for q in range(3) for g in range(3)],
    )
    for i, row in enumerate(out.rows):
      q, g = divmod(i, 3)
      self.assertEqual(row.question, QUESTIONS[q])
      self.assertEqual((row.sample.question, row.sample.sample), (first + q, g))
      want = templates.prompt_ids("miniature", QUESTIONS[q], TOKENIZER)
      self.assertEqual(row.prompt, want)
      self.assertEqual(prompts[first + q], want)

  def test_text_is_decoded_without_the_eos_that_is_counted(self):
    out, _, _ = self.roll()
    for row in out.rows:
      text = TEXTS[row.sample.question % 3]
      self.assertEqual(row.response.tokens, len(row.sample.tokens_T))
      self.assertEqual(row.response.finish_reason, row.sample.finish_reason)
      if row.sample.finish_reason == "eos":
        self.assertEqual(row.response.text, text)
      else:  # Its last token belongs to the text.
        ids = row.sample.tokens_T.tolist()
        self.assertEqual(row.response.text, TOKENIZER.decode(ids))

  def test_every_response_is_graded_by_its_own_question(self):
    out, _, grader = self.roll()
    self.assertLen(grader.submitted, 9)
    for (q, _), question, _ in grader.submitted:
      self.assertEqual(question, QUESTIONS[q])
    for row in out.rows:
      self.assertEqual(row.rewards["accuracy"].value, len(row.response.text))
      self.assertEqual(row.reward, 2.0 * len(row.response.text) + 0.5)

  @parameterized.parameters(0, 6)
  def test_group_rewards(self, first):
    def by_rank(responses, graded):
      self.assertLen(responses, 3)
      self.assertEqual(
        [rewards["accuracy"].value for rewards in graded],
        [len(response.text) for response in responses],
      )
      return [Reward(float(i), responses[0].text) for i in range(3)]

    out, _, _ = self.roll(first=first, group_rewards={"group": by_rank})
    for i, row in enumerate(out.rows):
      self.assertEqual(list(row.rewards), ["accuracy", "format", "group"])
      first_of_group = out.rows[i - i % 3].response.text
      self.assertEqual(
        row.rewards["group"], Reward(float(i % 3), first_of_group)
      )
      want = 2.0 * len(row.response.text) + 0.5 + 3.0 * (i % 3)
      self.assertEqual(row.reward, want)
      record = rollout.record(0, row, 0.0, "")
      self.assertEqual(record["rewards"]["group"]["value"], i % 3)
    self.assertEqual(rollout.metrics(out.rows)["rollout/group_mean"], 1.0)

  def test_a_group_reward_that_raises_has_failed(self):
    def bad(responses, graded):
      raise ZeroDivisionError("no group")

    out, _, _ = self.roll(group_rewards={"group": bad})
    for row in out.rows:
      self.assertEqual(
        row.rewards["group"],
        Reward(0.0, "ZeroDivisionError: no group", "failed"),
      )
    self.assertEqual(rollout.metrics(out.rows)["grade/failed_count"], 9)

  def test_ids_are_sent_only_when_asked_for(self):
    out, _, grader = self.roll(sends_ids=True)
    samples = [row.sample for row in out.rows]
    ids = {(each.question, each.sample): each.tokens_T for each in samples}
    for place, _, response in grader.submitted:
      self.assertEqual(response.ids, ids[place].tolist())
      self.assertIsInstance(response.ids, list)  # JSON holds it.
    for row in out.rows:  # They are in the sample already.
      self.assertEqual(row.response.ids, [])
    _, _, grader = self.roll()
    self.assertTrue(all(not r.ids for _, _, r in grader.submitted))

  def test_a_kind_takes_its_own_rewards(self):
    """Question 1 is a general prompt; a model scores it, and it alone."""
    kinds = [QUESTIONS[0], general(QUESTIONS[1]), QUESTIONS[2]]
    asked = []

    def model(questions, responses, ids):
      asked.append((questions, responses, ids))
      return [Reward(0.25, r.text, "unscored") for r in responses]

    by_rank = mock.Mock(side_effect=lambda group, graded: [ONE] * len(group))
    rewards = rollout.Rewards(
      FakeGrader(),
      {"accuracy": 2.0, "format": 0.5, "helpful": 8.0, "group": 4.0},
      group={"group": by_rank},
      model={"helpful": model},
      by_kind={
        "reasoning": ["accuracy", "format", "group"],
        "helpful": ["helpful", "format"],
      },
    )
    names = {"reasoning": "miniature", "helpful": "miniature-think"}
    run = rollout.make("programs", TOKENIZER, names, rewards)
    calls = []
    with mock.patch.object(engine, "sample", fake_sample(calls)):
      out = run("params", "buffers", "key", kinds, 3, 6)
    ((questions, responses, ids),) = asked
    self.assertEqual(questions, [kinds[1]] * 3)
    self.assertEqual(by_rank.call_count, 2)
    for row in out.rows:
      if row.question == kinds[1]:
        self.assertEqual(row.rewards["helpful"].reason, row.response.text)
        self.assertCountEqual(row.rewards, ["helpful", "format"])
        self.assertEqual(row.reward, 8.0 * 0.25 + 0.5)
        self.assertTrue(row.response.think_prefilled)
      else:
        self.assertCountEqual(row.rewards, ["accuracy", "format", "group"])
        text = len(row.response.text)
        self.assertEqual(row.reward, 2.0 * text + 0.5 + 4.0)
        self.assertFalse(row.response.think_prefilled)
    # The model reads the ids that were sampled, without the EOS.
    self.assertEqual([r.text for r in responses], list(map(decode, ids)))
    self.assertNotIn(TOKENIZER.eos_id, ids[0])
    want = templates.prompt_ids("miniature-think", kinds[1], TOKENIZER)
    self.assertEqual(out.rows[3].prompt, want)
    self.assertIsNotNone(out.score_secs)

  def test_without_a_table_no_model_is_asked(self):
    self.assertTrue(rollout.Rewards(None, {}).apply("format", QUESTIONS[0]))
    rewards = rollout.Rewards(None, {}, model={"helpful": None})
    self.assertFalse(rewards.apply("helpful", general(QUESTIONS[0])))

  @parameterized.parameters(("miniature", False), ("miniature-think", True))
  def test_a_template_that_opens_the_thoughts(self, template, prefilled):
    out, _, _ = self.roll(template)
    for row in out.rows:
      self.assertEqual(row.response.think_prefilled, prefilled)


def row(reward, text="yes", tokens=4, finish_reason="eos", status="ok"):
  return rollout.Row(
    QUESTIONS[1],
    [1, 2],
    engine.Sample(5, 2, np.arange(tokens), None, None, finish_reason),
    Response(text, tokens, finish_reason),
    {
      "accuracy": Reward(reward, "by hand", status),
      "format": Reward(1.0, "by hand"),
    },
    reward + 0.5,
  )


class MetricsTest(parameterized.TestCase):
  def test_worked_example(self):
    rows = [
      row(1.0, "yes 我", tokens=2),
      row(0.0, "no", tokens=4, finish_reason="length"),
      row(0.0, "no", tokens=6, finish_reason="repetition", status="failed"),
      row(1.0, "yes", tokens=8, status="timeout"),
    ]
    self.assertEqual(
      rollout.metrics(rows),
      {
        "rollout/reward_mean": 1.0,
        "rollout/response_tokens_mean": 5.0,
        "rollout/truncated_frac": 0.5,
        "rollout/mixed_language_frac": 0.25,
        "rollout/accuracy_mean": 0.5,
        "rollout/format_mean": 1.0,
        "grade/failed_count": 1.0,
        "grade/timeout_count": 1.0,
      },
    )

  def test_kinds_are_apart(self):
    """A reward's mean is over the rows that have it."""
    rows = [
      row(1.0, tokens=2),
      row(0.0, tokens=4),
      row(0.0, tokens=9)._replace(
        question=general(QUESTIONS[0], "safety"),
        rewards={
          "safety": Reward(0.75, "score 1", "unscored"),
          "format": Reward(0.0, "by hand"),
        },
      ),
    ]
    got = rollout.metrics(rows)
    want = {
      "rollout/accuracy_mean": 0.5,
      "rollout/safety_mean": 0.75,
      "rollout/format_mean": 2 / 3,
      "rollout/response_tokens_mean": 5.0,
      "rollout/reasoning/accuracy_mean": 0.5,
      "rollout/reasoning/format_mean": 1.0,
      "rollout/reasoning/response_tokens_mean": 3.0,
      "rollout/safety/safety_mean": 0.75,
      "rollout/safety/format_mean": 0.0,
      "rollout/safety/response_tokens_mean": 9.0,
      "grade/unscored_count": 1.0,
    }
    for name, value in want.items():
      self.assertAlmostEqual(got[name], value, msg=name)
    absent = ["reasoning/safety_mean", "safety/accuracy_mean", "helpful_mean"]
    for name in absent:
      self.assertNotIn(f"rollout/{name}", got)

  def test_record(self):
    got = rollout.record(3, row(1.0), -0.25, "abc")
    self.assertEqual(
      got,
      {
        "round": 3,
        "question": "q1",
        "kind": "reasoning",
        "sample": 2,
        "prompt": "1 2 3 = 6",
        "response": "yes",
        "tokens": 4,
        "finish_reason": "eos",
        "reward": 1.5,
        "rewards": {
          "accuracy": {"value": 1.0, "reason": "by hand", "status": "ok"},
          "format": {"value": 1.0, "reason": "by hand", "status": "ok"},
        },
        "advantage": -0.25,
        "weights": "abc",
      },
    )


if __name__ == "__main__":
  absltest.main()
