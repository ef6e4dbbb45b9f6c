import itertools
import types

import jax
import numpy as np
from absl.testing import absltest, parameterized

from configs import evaluate as evaluate_config
from r1jax import evaluate, rollout
from r1jax.data import general, readable, tokenizer
from r1jax.records import Question, Response, Reward
from r1jax.sampling import engine


def row(text, correct, finish_reason="eos", question=0, sample=0):
  return rollout.Row(
    Question(f"q{question}", "?", 0, "none"),
    [1],
    engine.Sample(
      question, sample, np.arange(len(text)), None, None, finish_reason
    ),
    Response(text, len(text), finish_reason),
    {"accuracy": Reward(float(correct), ""), "format": Reward(0.5, "")},
    float(correct),
  )


def answer(text):
  return f"<think>x</think><answer>{text}</answer>"


class PassAtKTest(parameterized.TestCase):
  @parameterized.product(samples=[1, 2, 5, 6], k=[1, 2, 4, 5, 6])
  def test_agrees_with_enumeration(self, samples, k):
    if k > samples:
      with self.assertRaisesRegex(ValueError, f"k is {k}, outside 1 to"):
        evaluate.pass_at_k(samples, 0, k)
      return
    for correct in range(samples + 1):
      right = [True] * correct + [False] * (samples - correct)
      draws = list(itertools.combinations(right, k))
      want = sum(map(any, draws)) / len(draws)
      got = evaluate.pass_at_k(samples, correct, k)
      self.assertAlmostEqual(got, want, places=12)

  def test_zero_is_refused(self):
    with self.assertRaisesRegex(ValueError, "k is 0"):
      evaluate.pass_at_k(4, 1, 0)

  def test_is_exact_where_factorials_overflow_a_float(self):
    self.assertAlmostEqual(evaluate.pass_at_k(2000, 1, 1000), 0.5)
    self.assertEqual(evaluate.pass_at_k(2000, 1001, 1000), 1.0)


class ConsensusTest(parameterized.TestCase):
  @parameterized.parameters(
    (["7", "7", "8"], [1, 1, 0], 1.0),
    (["7", "7", "8"], [0, 0, 1], 0.0),
    (["7", "8"], [1, 0], 0.5),  # A tie shares.
    (["7", "8", "9"], [1, 0, 0], 1 / 3),
    (["7", "7", "8", "8"], [1, 1, 1, 1], 1.0),
    # Blanks are folded, and what is no answer has no vote.
    (["1 + 2", "1  + 2", None, None, None, "3"], [1, 1, 0, 0, 0, 0], 1.0),
    ([None, None], [0, 0], 0.0),
    ([], [], 0.0),
    (["7"], [1], 1.0),
  )
  def test_worked_example(self, answers, correct, want):
    self.assertAlmostEqual(
      evaluate.consensus(answers, [bool(c) for c in correct]), want
    )

  def test_order_does_not_matter(self):
    votes = [
      ("7", True),
      ("8", False),
      ("7", True),
      ("8", False),
      (None, False),
    ]
    for order in itertools.permutations(votes):
      self.assertEqual(evaluate.consensus(*zip(*order)), 0.5)


class ScoreTest(parameterized.TestCase):
  def test_worked_example(self):
    rows = [
      row(answer("7"), True),
      row(answer("7"), True),
      row(answer("8"), False),
      row("unparseable", False),
      row(answer("1"), False),
      row("<think>", False, "length"),
      row("", False, "length"),
      row(answer("1"), False),
    ]
    got = evaluate.score(rows, 4)
    self.assertAlmostEqual(got["pass@1"], 2 / 8)
    # Of two draws from 2 right and 2 wrong, all but one in six has a right.
    self.assertAlmostEqual(got["pass@2"], (5 / 6 + 0) / 2)
    self.assertAlmostEqual(got["pass@4"], 1 / 2)
    self.assertAlmostEqual(got["cons@4"], 1 / 2)
    self.assertAlmostEqual(got["truncated_frac"], 2 / 8)
    self.assertAlmostEqual(got["format_mean"], 0.5)
    self.assertNotIn("pass@8", got)

  def test_one_sample_has_no_consensus(self):
    got = evaluate.score([row(answer("7"), True), row("", False)], 1)
    self.assertEqual(got["pass@1"], 0.5)
    self.assertFalse([k for k in got if k.startswith(("cons", "pass@2"))])

  def test_text_without_an_answer_has_no_vote(self):
    wrong = [row("no idea", False, sample=i) for i in range(3)]
    got = evaluate.score([*wrong, row(answer("7"), True)], 4)
    self.assertEqual(got["cons@4"], 0.0)  # Untagged text is an answer.
    cut = [row("<think>no", False, sample=i) for i in range(3)]
    got = evaluate.score([*cut, row(answer("7"), True)], 4)
    self.assertEqual(got["cons@4"], 1.0)


class ReadableTest(parameterized.TestCase):
  def test_share_that_no_filter_drops(self):
    config = evaluate_config.get_config().readable.to_dict()
    filters = readable.filters(config, "config.readable")
    good = row("<think>fine words</think><answer>7</answer>", True)
    good.rewards["format"] = Reward(1.0, "")
    rows = [
      good,
      good._replace(rewards={**good.rewards, "format": Reward(0.0, "")}),
      good._replace(
        response=good.response._replace(
          text="<think>对对对</think><answer>7</answer>"
        )
      ),
      good._replace(
        response=good.response._replace(
          text=f"<think>{'no ' * 30}</think><answer>7</answer>"
        )
      ),
      good._replace(
        response=good.response._replace(
          text="<think>no\nno\nno</think><answer>7</answer>"
        )
      ),
      good._replace(response=good.response._replace(finish_reason="length")),
    ]
    for i, each in enumerate(rows):
      got = evaluate.score([each], 1, filters)
      self.assertEqual(got["readable_frac"], float(i == 0), i)
    self.assertAlmostEqual(
      evaluate.score(rows, 1, filters)["readable_frac"], 1 / 6
    )
    self.assertNotIn("readable_frac", evaluate.score(rows, 1))


class MakeTest(parameterized.TestCase):
  def test_every_call_has_the_same_key_and_names_its_suite(self):
    keys, written = [], []

    def roll(params, buffers, key, questions, samples):
      keys.append(jax.random.key_data(key).tolist())
      self.assertEqual((params, buffers), ("params", "buffers"))
      rows = [row(answer("7"), True) for _ in questions for _ in range(samples)]
      return rollout.Rollout(rows, 1.0)

    questions = [Question(f"q{i}", "?", 0, "none") for i in range(3)]
    run = evaluate.make(
      roll,
      {"a": questions, "b": questions[:1]},
      seed=3,
      samples=2,
      write_row=written.append,
    )
    state = types.SimpleNamespace(params="params", buffers="buffers")
    got = run(state, 5)
    run(state, 6)
    self.assertEqual(got["eval/a/pass@1"], 1.0)
    self.assertIn("eval/b/cons@2", got)
    self.assertLen({str(key) for key in keys}, 1)
    self.assertEqual([w["round"] for w in written], [5, 5, 6, 6])
    self.assertEqual(written[0]["suite"], "a")
    self.assertEqual((written[0]["questions"], written[0]["samples"]), (3, 2))

  def test_key_is_apart_from_every_rounds(self):
    base = jax.random.key(0)
    keys = {
      str(jax.random.key_data(jax.random.fold_in(base, i)))
      for i in [*range(1000), evaluate.KEY]
    }
    self.assertLen(keys, 1001)

  def test_notes_are_written(self):
    written = []

    def roll(*args):
      return rollout.Rollout([row(answer("7"), True)], 1.0)

    run = evaluate.make(
      roll,
      {"a": [Question("q", "?", 0, "none")]},
      seed=0,
      samples=1,
      write_row=written.append,
      filters={"none": lambda *args: "dropped"},
      notes={"mode": "greedy"},
    )
    run(types.SimpleNamespace(params=None, buffers=None), -1)
    self.assertEqual(written[0]["mode"], "greedy")
    self.assertEqual(written[0]["readable_frac"], 0.0)

  def test_table(self):
    rows = [
      {"suite": "a", "mode": "m", "questions": 3, "samples": 2}
      | {"pass@1": 0.5, "cons@2": 1.0, "response_tokens_mean": 12.0}
    ]
    headings, lines = evaluate.table(rows)
    cells = dict(zip(headings, lines[0], strict=True))
    self.assertEqual(
      {k: v for k, v in cells.items() if v},
      {
        "suite": "a",
        "mode": "m",
        "n": "3",
        "k": "2",
        "pass@1": "0.500",
        "cons@k": "1.000",
        "tokens": "12.000",
      },
    )


class SuitesTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.tokenizer = tokenizer.load()

  def suites(self, mode, **changes):
    config = evaluate_config.get_config().copy_and_resolve_references()
    with config.unlocked():
      config.update(changes)
    return evaluate.suites(config, self.tokenizer, mode)

  def test_those_of_the_miniature(self):
    suites = self.suites("sampled")
    self.assertEqual(
      {name: len(s.questions) for name, s in suites.items()},
      dict(
        countdown=64,
        programs=33,
        how_to=7,
        facts=30,
        safety=10,
        general_train=64,
      ),
    )
    held_out = {q.id for q in general.questions("test")}
    for name in ("how_to", "safety"):
      self.assertContainsSubset(
        {q.id for q in suites[name].questions}, held_out
      )
    for name in ("facts", "general_train"):
      self.assertNoCommonElements(
        {q.id for q in suites[name].questions}, held_out
      )

  def test_shots_stand_before_the_same_questions(self):
    plain, shown = self.suites("sampled"), self.suites("few_shot")
    for name, suite in shown.items():
      for q, other in zip(suite.questions, plain[name].questions):
        self.assertEqual(q.id, other.id)
        self.assertEndsWith(q.question, f"</answer>\n{other.question}")
        self.assertEqual(q.question.count("<answer>"), 2)

  def test_too_long_a_prompt_is_refused_or_counted(self):
    with self.assertRaisesRegex(
      ValueError, r"eval_modes.few_shot, config.eval_data\[\d\]: the prompt of"
    ):
      self.suites("few_shot", max_prompt_tokens=70)
    suites = self.suites("few_shot", max_prompt_tokens=70, overlong="drop")
    self.assertGreater(sum(s.overlong for s in suites.values()), 0)
    for name, suite in self.suites("few_shot").items():
      kept = len(suites[name].questions)
      self.assertEqual(kept + suites[name].overlong, len(suite.questions))
    with self.assertRaisesRegex(
      ValueError, "eval_modes.few_shot.*all 32 prompts"
    ):
      self.suites("few_shot", max_prompt_tokens=5, overlong="drop")

  def test_a_suite_twice(self):
    data = evaluate_config.suites()
    with self.assertRaisesRegex(ValueError, "suite is 'countdown', as is an"):
      self.suites("sampled", eval_data=[data[0], data[0]])


if __name__ == "__main__":
  absltest.main()
