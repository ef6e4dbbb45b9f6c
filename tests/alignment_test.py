import collections
import os
import shutil
import tempfile

import flax.linen as nn
import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from r1jax import (
  alignment,
  config_check,
  experiment,
  jobs,
  preference,
  records,
  run_card,
)
from r1jax.data import tokenizer as tokenizer_lib
from r1jax.models import config as model_config
from r1jax.models import store
from r1jax.records import Question
from tests import runs

TOKENIZER = tokenizer_lib.load("bundled")
DIMS = model_config.from_dict(runs.DENSE)
SETS = ("helpful", "safety")
# Every kind of question, and what a model that knows nothing differs in.
SMALL = {
  "rewards": runs.REWARDS
  | {name: dict(weight=1.0, floor=0.0, clip=9.0) for name in SETS},
  "rewards_by_kind": dict(
    reasoning=["accuracy", "format", "language", "repetition"],
    helpful=["helpful", "format", "repetition"],
    safety=["safety", "format", "repetition"],
  ),
  "template": dict(
    reasoning="miniature", helpful="miniature-think", safety="miniature"
  ),
  "questions_per_round": 4,
  "samples_per_question": 2,
  "max_response_tokens": 12,
}


def question(name, prompt_set=None):
  meta = {} if prompt_set is None else {"prompt_set": prompt_set}
  return Question(name, "?", None, "none", meta=meta)


DATA = [
  *(question(f"r{i}") for i in range(7)),
  *(question(f"h{i}", "helpful") for i in range(3)),
  *(question(f"s{i}", "safety") for i in range(2)),
]


def save_reward_model(path, score_on, dims=DIMS, digest=None, seed=0):
  """Writes a reward model of random weights."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(preference.make(dims).init, jax.random.key(0))
  params, buffers = jax.tree.map(
    lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32),
    nn.unbox(shapes),
  )
  reading = preference.Reading(TOKENIZER, "miniature", score_on)
  if digest is None:
    file = tokenizer_lib.path_of("bundled")
    digest = experiment.file_digest(file)
  note = preference.describe(dims, digest, reading)
  store.save(path, dims, params, buffers, {preference.NOTE: note})


class ScheduleTest(parameterized.TestCase):
  def take(self, **changes):
    small = dict(general_from_round=2, general_frac=0.25) | changes
    config = runs.config("alignment", **small)
    return alignment.scheduled_questions(config, DATA)

  def kinds(self, questions):
    return [records.kind(q) for q in questions]

  def test_general_prompts_come_in_the_last_part(self):
    take = self.take()
    for round in range(6):
      got = [kind != "reasoning" for kind in self.kinds(take(round * 8, 8))]
      self.assertEqual(sum(got), 0 if round < 2 else 2, round)

  def test_no_question_is_left_out_or_comes_before_its_turn(self):
    take = self.take()
    asked = [q for round in range(20) for q in take(round * 8, 8)]
    for general in (False, True):
      ids = [q.id for q in asked if (records.kind(q) != "reasoning") == general]
      size = 5 if general else 7
      self.assertLen({*ids}, size)
      for start in range(0, len(ids) - size + 1, size):  # Whole passes.
        self.assertLen({*ids[start : start + size]}, size)

  def test_a_round_is_a_function_of_seed_and_round(self):
    take, again, other = self.take(), self.take(), self.take(seed=1)
    backwards = [again(8 * round, 8) for round in reversed(range(6))][::-1]
    forwards = [take(8 * round, 8) for round in range(6)]
    self.assertEqual(forwards, backwards)
    self.assertNotEqual(forwards, [other(8 * round, 8) for round in range(6)])

  def test_waves_of_a_round_are_alike(self):
    take = self.take(dynamic_sampling=True, dynamic_sampling_max_waves=3)
    for round in range(4):
      for wave in range(3):
        got = self.kinds(take((3 * round + wave) * 8, 8))
        general = len(got) - got.count("reasoning")
        self.assertEqual(general, 0 if round < 2 else 2, (round, wave))

  def test_without_general_prompts_it_is_the_plain_order(self):
    config = runs.config(seed=3)
    take = alignment.scheduled_questions(config, DATA[:7])
    plain = experiment.question_order(DATA[:7], 3)
    self.assertEqual(take(5, 9), plain(5, 9))


class KindsTest(parameterized.TestCase):
  @parameterized.parameters(
    ("zero", DATA, "questions of kind 'helpful', but config.reward_models"),
    ("alignment", DATA[:7], "no question of kind 'helpful'"),
    ("alignment", DATA[:10], "no question of kind 'safety'"),
    ("alignment", DATA[7:], "no question of kind 'reasoning'"),
    ("alignment", [*DATA, question("x", "other")], "kind 'other', but config"),
  )
  def test_refused(self, name, data, message):
    with self.assertRaisesRegex(ValueError, f"^config.data has.* {message}"):
      alignment.check_kinds(runs.config(name), data, "config.data")

  def test_allowed(self):
    alignment.check_kinds(runs.config("zero"), DATA[:7], "config.data")
    alignment.check_kinds(runs.config("alignment"), DATA, "config.data")


class RunTest(parameterized.TestCase):
  """Whole runs with reward models of random weights."""

  def setUp(self):
    super().setUp()
    self.directory = self.enterContext(tempfile.TemporaryDirectory())
    self.workdir = os.path.join(self.directory, "run")
    for i, name in enumerate(SETS):
      score_on = "summary" if name == "helpful" else "response"
      save_reward_model(self.path(name), score_on, seed=i)

  def path(self, name):
    return os.path.join(self.directory, f"{name}.safetensors")

  def config(self, **changes):
    models = {name: dict(path=self.path(name)) for name in SETS}
    config = runs.config(
      "alignment", **(SMALL | {"reward_models": models} | changes)
    )
    config_check.check(config)
    return config

  @pytest.mark.slow
  def test_each_kind_takes_its_own_rewards(self):
    jobs.run(self.config(rounds=2), self.workdir)
    rows = runs.rows(self.workdir, "rollouts.jsonl")
    self.assertLen(rows, 16)
    kinds = collections.defaultdict(set)
    for row in rows:
      kinds[row["round"]].add(row["kind"])
      self.assertCountEqual(
        row["rewards"], SMALL["rewards_by_kind"][row["kind"]]
      )
      total = sum(reward["value"] for reward in row["rewards"].values())
      self.assertAlmostEqual(row["reward"], total)
      # A random model writes no summary; the safety model reads the whole.
      if row["kind"] == "helpful":
        self.assertEqual(row["rewards"]["helpful"]["status"], "unscored")
    self.assertEqual(kinds[0], {"reasoning"})
    self.assertLen(kinds[1] - {"reasoning"}, len(kinds[1]) - 1)
    first, second = runs.rows(self.workdir)
    self.assertNotIn("rollout/helpful_mean", first)
    self.assertNotIn("rollout/reasoning/reward_mean", first)
    for kind in kinds[1]:
      self.assertIn(f"rollout/{kind}/format_mean", second)
      self.assertEqual(
        kind == "reasoning", f"rollout/{kind}/accuracy_mean" in second
      )
    self.assertIn("grade/unscored_count", second)
    digests = run_card.read(self.workdir)["reward_models"]
    self.assertCountEqual(digests, SETS)
    self.assertNotEqual(digests["helpful"], digests["safety"])

  @pytest.mark.slow
  def test_resumed_equals_unbroken(self):
    config = self.config(rounds=4, general_from_round=2)
    jobs.run(config, self.workdir)
    other = os.path.join(self.directory, "other")
    jobs.run(config, other)
    logs = ("metrics.jsonl", "rollouts.jsonl")
    digests = run_card.read(self.workdir)["final_digests"]
    self.assertEqual(run_card.read(other)["final_digests"], digests)
    # Back to the checkpoint after round 2, in the middle of the last part.
    shutil.rmtree(os.path.join(other, "checkpoints", "3"))
    card = run_card.read(other)
    os.remove(os.path.join(other, run_card.CARD))
    del card["final_digests"]
    run_card.write(other, card)
    jobs.run(config, other)
    self.assertEqual(run_card.read(other)["final_digests"], digests)
    for name in logs:
      self.assertEqual(runs.rows(other, name), runs.rows(self.workdir, name))

  @parameterized.parameters(
    ("missing", "does not exist. Give the workdir of a run of"),
    ("policy", "holds no reward model"),
    ("tokenizer", "reads tokens of tokenizer abc, config.tokenizer is"),
    ("model", "is a reward model whose d_ff is 24, config.model has 16"),
  )
  def test_a_foreign_reward_model_is_refused(self, what, message):
    path = self.path("safety")
    if what == "missing":
      os.remove(path)
    elif what == "policy":
      store.save(path, DIMS, {"a": np.zeros(2, np.float32)}, {})
    elif what == "tokenizer":
      save_reward_model(path, "response", digest="abc")
    else:
      other = model_config.from_dict(runs.DENSE | {"d_ff": 24})
      save_reward_model(path, "response", other)
    with self.assertRaisesRegex(
      ValueError, f"^config.reward_models.safety.path: {path} .*{message}"
    ):
      jobs.run(self.config(), self.workdir)

  def test_a_kind_without_a_template_is_named(self):
    template = dict(SMALL["template"])
    del template["safety"]
    with self.assertRaisesRegex(
      ValueError, "kind of question is 'safety'. Known: helpful, reasoning"
    ):
      jobs.run(self.config(template=template), self.workdir)
    template["safety"] = "miniatur"
    with self.assertRaisesRegex(
      ValueError, "config.template.safety is 'miniatur'"
    ):
      shutil.rmtree(self.workdir)
      jobs.run(self.config(template=template), self.workdir)


if __name__ == "__main__":
  absltest.main()
