import json
import os
import signal
import tempfile

import jax.numpy as jnp
import ml_collections
import numpy as np
from absl.testing import absltest, parameterized

from r1jax import generate, metrics, rollout, verdicts
from r1jax.data import general
from r1jax.records import Question, Response, Reward
from r1jax.rewards import extract
from r1jax.sampling import engine

ASKED = [Question(f"q{i}", f"what {i}", i, "exact") for i in range(3)]
OPEN = general.questions(split="train")[0]
RIGHT, WRONG = Reward(1.0, "right"), Reward(0.0, "wrong")


def layout(thoughts, answer):
  return f"<think>{thoughts}</think><answer>{answer}</answer>"


def row(question, sample, response, accuracy=RIGHT, finish="eos"):
  tokens_T = np.arange(len(response))
  return rollout.Row(
    question,
    [1],
    engine.Sample(0, sample, tokens_T, None, None, finish),
    Response(response, len(response), finish),
    {"accuracy": accuracy, "format": RIGHT},
    2.0,
  )


def settings(**changes):
  fields = dict(
    seed=0,
    samples=2,
    filters={},
    judge=verdicts.oracle,
    refine=lambda question, text: text,
    max_kept=9,
    max_other_frac=0.25,
    other_data=generate.no_other_data,
  )
  return generate.Settings(**fields | changes)


def collect(rows, round=0, **changes):
  calls = []

  def roll(params, buffers, key, questions, samples):
    calls.append((key, questions, samples))
    return rollout.Rollout(rows, 1.0)

  records, found = generate.collect(
    roll, {"w": jnp.ones(2)}, {}, ASKED, round, settings(**changes)
  )
  return records, found, calls


class CollectTest(parameterized.TestCase):
  def test_right_ones_are_kept_with_where_they_come_from(self):
    rows = [row(ASKED[0], 1, layout("a", "0")), row(ASKED[1], 0, "x", WRONG)]
    (record,), found, _ = collect(rows, round=3)
    self.assertEqual(record["question"], ASKED[0]._asdict())
    self.assertEqual(record["response"], layout("a", "0"))
    self.assertIsNone(record["original"])
    self.assertEqual((record["id"], record["round"]), ("q0/1", 3))
    self.assertEqual(record["tokens"], len(record["response"]))
    self.assertLen(record["weights"], 16)
    self.assertEqual(found["drop/wrong"], 0.5)
    self.assertEqual((found["data/kept"], found["data/sampled"]), (1, 2))

  def test_the_key_is_of_seed_and_round(self):
    keys = {
      (seed, round): collect([row(ASKED[0], 0, "x")], round, seed=seed)[2][0][0]
      for seed in (0, 1)
      for round in (0, 1)
    }
    self.assertLen({str(key) for key in keys.values()}, 4)

  @parameterized.parameters(
    (Reward(0.5, "half"), "wrong"),
    (Reward(1.0, "late", "timeout"), "grading_timeout"),
    (Reward(0.0, "broke", "failed"), "grading_failed"),
  )
  def test_what_is_not_right_is_dropped(self, accuracy, reason):
    records, found, _ = collect([row(ASKED[0], 0, "x", accuracy)])
    self.assertEqual(records, [])
    self.assertEqual(found[f"drop/{reason}"], 1.0)

  def test_the_first_filter_that_drops_gives_the_reason(self):
    filters = {
      name: lambda question, response, rewards, name=name: (
        name if name in response.text else None
      )
      for name in ("one", "two")
    }
    rows = [row(q, 0, t) for q, t in zip(ASKED, ("two one", "two", "clean"))]
    records, found, _ = collect(rows, filters=filters)
    self.assertEqual([r["response"] for r in records], ["clean"])
    self.assertAlmostEqual(found["drop/one"], 1 / 3)
    self.assertAlmostEqual(found["drop/two"], 1 / 3)

  def test_duplicates_of_a_question_and_what_is_over_its_cap(self):
    texts = ("a b", "a  b", "c", "d")
    rows = [row(ASKED[0], i, text) for i, text in enumerate(texts)]
    rows.append(row(ASKED[1], 0, "a b"))
    records, found, _ = collect(rows, max_kept=2)
    kept = [(r["id"], r["response"]) for r in records]
    self.assertEqual(kept, [("q0/0", "a b"), ("q0/2", "c"), ("q1/0", "a b")])
    self.assertEqual(found["drop/duplicate"], 0.2)
    self.assertEqual(found["drop/enough_of_its_question"], 0.2)

  def test_right_ones_are_refined_before_they_are_filtered(self):
    def refine(question, text):
      return text.replace("不", "no")

    def english(question, response, rewards):
      return "chinese" if "不" in response.text else None

    rows = [row(ASKED[0], 0, "1 不"), row(ASKED[1], 0, "2 不", WRONG)]
    (record,), found, _ = collect(
      rows, refine=refine, filters={"english": english}
    )
    self.assertEqual(record["response"], "1 no")
    self.assertEqual(record["original"], "1 不")
    self.assertEqual(found["drop/wrong"], 0.5)

  def test_the_judge_decides_what_no_rule_can(self):
    good, bad = OPEN.answer["accept"], OPEN.answer["wrong"][0]
    answers = [layout("x", good), layout("x", bad), layout("x", " ")]
    rows = [row(OPEN, i, text, WRONG) for i, text in enumerate(answers)]
    (record,), found, _ = collect(rows)
    self.assertEqual(record["response"], answers[0])
    self.assertAlmostEqual(found["drop/judged_unhelpful"], 1 / 3)
    self.assertAlmostEqual(found["drop/judged_without_answer"], 1 / 3)
    records, found, _ = collect(rows, judge=verdicts.nothing)
    self.assertEqual(records, [])
    self.assertEqual(found["drop/nothing_to_verify"], 1.0)

  def test_the_judge_sees_what_no_filter_dropped(self):
    seen = []

    def judge(rows):
      seen.extend(rows)
      return ["judged"] * len(rows)

    rows = [row(OPEN, 0, "in"), row(OPEN, 1, "out"), row(ASKED[0], 0, "in")]
    filters = {"f": lambda q, r, _: "f" if r.text == "out" else None}
    records, _, _ = collect(rows, judge=judge, filters=filters)
    self.assertEqual([r.response.text for r in seen], ["in"])
    self.assertEqual([r["question"]["id"] for r in records], ["q0"])


class SettingsTest(parameterized.TestCase):
  def test_an_endpoint_is_checked_with_the_config(self):
    choice = dict(name="http", url="ftp://x", model="m", key_env="")
    choice |= dict(temperature=0.0, max_reply_tokens=9)
    for more, message in (
      ({}, "ftp"),
      ({"urls": "x"}, "config.judge.urls is unknown"),
    ):
      config = ml_collections.ConfigDict(
        dict(seed=0, samples_per_question=2, filters={}, judge=choice | more)
      )
      with self.assertRaisesRegex(ValueError, message):
        generate.settings_of(config)


class MixedTest(parameterized.TestCase):
  @parameterized.parameters(
    (30, 30, 0.25, 10), (30, 5, 0.25, 5), (3, 9, 0.0, 0), (3, 9, 1.0, 9)
  )
  def test_others_are_no_more_than_their_share(self, rules, others, frac, kept):
    records = [
      {"id": i, "question": {"verifier": "none" if i < others else "math"}}
      for i in range(rules + others)
    ]
    chosen = generate.mixed(records, settings(max_other_frac=frac))
    self.assertEqual(chosen, [r for r in records if r in chosen])  # In order.
    by = [r["question"]["verifier"] for r in chosen]
    self.assertEqual((by.count("math"), by.count("none")), (rules, kept))
    again = generate.mixed(records, settings(max_other_frac=frac))
    self.assertEqual(chosen, again)


class OtherDataTest(parameterized.TestCase):
  def test_miniature_answers_are_a_function_of_seed_and_index(self):
    def make(n, seed=0):
      return generate.miniature_other_data(n, seed, helpful=0.7, unsafe=0.3)

    records = make(400)
    self.assertEqual(records[:50], make(50))
    self.assertNotEqual(records[:50], make(50, seed=1))
    labels = []
    for record in records:
      question = Question(**record["question"])
      self.assertEqual(question.verifier, "none")
      answer = extract.answer(record["response"])
      labels.append(general.label(question, answer.text))
    self.assertBetween(labels.count("helpful") / 400, 0.55, 0.75)
    self.assertGreater(labels.count("unsafe"), 10)

  def test_a_file_gives_some_of_its_lines(self):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    path = os.path.join(folder, "f")
    records = generate.miniature_other_data(9, 0, helpful=1.0, unsafe=0.0)
    generate.write_data(path, records)
    some = generate.other_data_file(4, 0, path=path)
    self.assertLen({record["id"] for record in some}, 4)
    self.assertCountEqual(generate.other_data_file(99, 0, path=path), records)


class RunTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = self.enterContext(tempfile.TemporaryDirectory())

  def run_rounds(
    self,
    rounds,
    first_round=0,
    broken_at=None,
    broken_by=KeyboardInterrupt,
    signal_at=None,
    **changes,
  ):
    def collect_round(round):
      if round == broken_at:
        raise broken_by
      if round == signal_at:
        signal.raise_signal(signal.SIGTERM)
      kept = [{"round": round, "id": round, "question": {"verifier": "math"}}]
      kept = kept if round % 2 else []
      n = len(kept)
      return kept, {
        "data/kept": n,
        "data/sampled": 4,
        "drop/wrong": (4 - n) / 4,
      }

    writer = metrics.MetricWriter(self.workdir, first_round)
    try:
      return generate.run(
        self.workdir,
        collect_round,
        rounds,
        settings(**changes),
        writer.write,
        first_round,
      )
    finally:
      writer.close()

  def data(self):
    path = os.path.join(self.workdir, generate.DATA)
    with open(path, encoding="utf-8") as file:
      return [json.loads(line) for line in file]

  def test_counts_and_data(self):
    result = self.run_rounds(4)
    self.assertEqual([row["round"] for row in self.data()], [1, 3])
    self.assertEqual((result["records"], result["sampled"]), (2, 16))
    dropped = {"wrong": 14, "over_max_other_frac": 0}
    self.assertEqual(result["dropped"], dropped)

  def test_a_broken_run_resumed_is_the_unbroken_one(self):
    whole = self.run_rounds(4)
    whole_data = self.data()
    self.workdir = self.enterContext(tempfile.TemporaryDirectory())
    with self.assertRaises(KeyboardInterrupt):
      self.run_rounds(4, broken_at=2)
    self.assertNotIn(generate.DATA, os.listdir(self.workdir))
    first = metrics.next_round(self.workdir)
    self.assertEqual(first, 2)
    self.assertEqual(self.run_rounds(4, first_round=first), whole)
    self.assertEqual(self.data(), whole_data)

  @parameterized.parameters((1, None, 2), (3, "whole", 4))
  def test_a_signal_ends_it_after_its_round(self, round, result, next_round):
    whole = self.run_rounds(4)
    whole_data = self.data()
    self.workdir = self.enterContext(tempfile.TemporaryDirectory())
    stopped = self.run_rounds(4, signal_at=round)
    # In the last round there is nothing left to stop.
    self.assertEqual(stopped, whole if result else None)
    first = metrics.next_round(self.workdir)
    self.assertEqual(first, next_round)
    self.assertEqual(self.run_rounds(4, first_round=first), whole)
    self.assertEqual(self.data(), whole_data)

  def test_other_data_fills_its_share(self):
    asked = []

    def other_data(n, seed):
      asked.append((n, seed))
      return [{"id": "other"}] * n

    result = self.run_rounds(
      12, other_data=other_data, max_other_frac=0.5, seed=4
    )
    self.assertEqual(asked, [(6, 4)])
    self.assertEqual((result["records"], result["other_data"]), (12, 6))
    self.assertEqual(self.data()[6:], [{"id": "other"}] * 6)

  def test_a_judge_that_comes_back_loses_no_round(self):
    whole = self.run_rounds(4)
    self.workdir = self.enterContext(tempfile.TemporaryDirectory())
    with self.assertRaisesRegex(OSError, "is down"):
      self.run_rounds(4, broken_at=2, broken_by=OSError("the judge is down"))
    first = metrics.next_round(self.workdir)
    self.assertEqual(first, 2)
    self.assertEqual(self.run_rounds(4, first_round=first), whole)

  def test_nothing_kept_is_an_error_that_lists_the_reasons(self):
    with self.assertRaisesRegex(
      ValueError, r"none of 4 responses was kept \(wrong: 4\). Loosen config"
    ):
      self.run_rounds(1)


if __name__ == "__main__":
  absltest.main()
