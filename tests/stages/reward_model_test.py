import functools
import os
import pathlib
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from r1jax import (
  config_check,
  jobs,
  preference,
  run_card,
  score_losses,
  train,
  training,
)
from r1jax.data import general, miniature, preferences
from r1jax.data import tokenizer as tokenizer_lib
from r1jax.models.attention import packed_mask
from r1jax.stages import reward_model
from tests import runs

V = 8
TABLE_V = np.random.default_rng(0).normal(size=V).astype(np.float32)
PAIRS = [
  (([1, 2, 3, 7], [4, 7]), 2.0),
  (([5, 7], [0, 6, 7]), 1.5),
  (([2, 2, 7], [1, 6, 7]), 1.25),
  (([3, 7], [6, 5, 7]), 2.0),
]
LABELS = [([1, 2, 7], True), ([3, 7], False), ([4, 4, 4, 7], False)]
SNOW = general.all_questions()[0]
READING = preference.Reading(tokenizer_lib.load(), "miniature", "summary")


def scores(params, buffers, tokens_BT, segments_BT, positions_BT):
  """The sum over a response's tokens so far of (place + 1) x table[token]."""
  del buffers
  each_BT = params["table_V"][tokens_BT] * (positions_BT + 1)
  seen_BTS = packed_mask(segments_BT)
  return jnp.sum(jnp.where(seen_BTS, each_BT[:, None], 0.0), axis=-1), None


MODEL = preference.RewardModel(None, scores)


def example(parts, targets, index=0, group=None):
  pair = preferences.Pair(f"p{index}", SNOW, "a", "b", targets[0])
  meta = {} if group is None else {"group": group}
  return reward_model.Example(pair._replace(meta=meta), parts, targets)


def pairs():
  return [example(parts, (m, -m)) for parts, m in PAIRS]


def labels():
  return [example((ids,), (1.0 if good else -1.0,)) for ids, good in LABELS]


def collect(examples, loss, row_tokens, rows):
  stage = reward_model.make(
    MODEL,
    lambda round: examples,
    lambda batch: batch,
    loss=loss,
    row_tokens=row_tokens,
    rows=rows,
    balance_coef=0.0,
  )
  (update,), metrics = stage.collect(None, 0)
  return stage, update, metrics


def total(stage, update):
  """(loss, gradient, summed metrics) over the microbatches."""
  run = jax.jit(jax.value_and_grad(stage.loss_fn, has_aux=True))
  parts = [run({"table_V": TABLE_V}, {}, batch) for batch in update]
  sums = jax.tree.map(lambda *xs: sum(xs), *(a.sums for (_, a), _ in parts))
  loss = sum(float(value) for (value, _), _ in parts)
  return loss, sum(g["table_V"] for _, g in parts), sums


def score(ids):
  """Score and its gradient, in float64."""
  grad_V = np.zeros(V)
  for place, token in enumerate(ids):
    grad_V[token] += place + 1
  return grad_V @ TABLE_V.astype(np.float64), grad_V


def oracle(compared):
  """(loss, gradient): mean of -log sigmoid(margin - m), record by record."""
  loss, grad_V = 0.0, np.zeros(V)
  for good, bad, m in compared:
    margin = score(good)[0] - score(bad)[0] - m
    loss += np.log1p(np.exp(-margin)) / len(compared)
    slope = -1 / (1 + np.exp(margin)) / len(compared)
    grad_V += slope * (score(good)[1] - score(bad)[1])
  return loss, grad_V


SHAPES = [(8, 4), (8, 2), (16, 1)]


class LossTest(parameterized.TestCase):
  @parameterized.product(shape=SHAPES, margin_coef=[0.0, 0.5])
  def test_pairs_against_a_loop_however_they_are_split(
    self, shape, margin_coef
  ):
    loss = functools.partial(score_losses.pairwise, margin_coef=margin_coef)
    got, got_V, _ = total(*collect(pairs(), loss, *shape)[:2])
    want, want_V = oracle([(*parts, margin_coef * m) for parts, m in PAIRS])
    self.assertAlmostEqual(got, want, places=5)
    np.testing.assert_allclose(got_V, want_V, atol=1e-5)

  @parameterized.parameters(*SHAPES)
  def test_labels_against_a_loop_however_they_are_split(self, *shape):
    stage, update, _ = collect(labels(), score_losses.pointwise, *shape)
    got, got_V, _ = total(stage, update)
    compared = [(x, [], 0) if good else ([], x, 0) for x, good in LABELS]
    want, want_V = oracle(compared)
    self.assertAlmostEqual(got, want, places=5)
    np.testing.assert_allclose(got_V, want_V, atol=1e-5)

  @parameterized.parameters(*SHAPES)
  def test_metrics_are_means_over_records(self, *shape):
    stage, update, metrics = collect(pairs(), score_losses.pairwise, *shape)
    _, _, sums = total(stage, update)
    margins = np.array([score(a)[0] - score(b)[0] for (a, b), _ in PAIRS])
    ends = [score(x)[0] for parts, _ in PAIRS for x in parts]
    wanted = {
      "accuracy": np.mean(margins > 0),
      "margin_mean": np.mean(margins),
      "brier": np.mean((1 - 1 / (1 + np.exp(-margins))) ** 2),
      "score_mean": np.mean(ends),
    }
    for name, want in wanted.items():
      got = float(sums[f"reward_model/{name}"])
      self.assertAlmostEqual(got, want, places=4, msg=name)
    self.assertEqual(metrics, {"data/tokens": 22, "data/records": 4})

  @parameterized.parameters(*SHAPES)
  def test_a_pair_stays_in_one_row(self, *shape):
    _, update, _ = collect(pairs(), score_losses.pairwise, *shape)
    found = []
    for batch in update:
      for b, t in zip(*np.nonzero(batch.mask_BT)):
        rival = t + batch.rivals_BT[b, t]
        self.assertNotEqual(rival, t)
        self.assertTrue(batch.mask_BT[b, rival])
        self.assertEqual(batch.rivals_BT[b, rival], -batch.rivals_BT[b, t])
        self.assertEqual(batch.targets_BT[b, rival], -batch.targets_BT[b, t])
        self.assertNotEqual(
          batch.segments_BT[b, rival], batch.segments_BT[b, t]
        )
        found.append(float(batch.targets_BT[b, t]))
    self.assertCountEqual(found, [s * m for _, m in PAIRS for s in (1, -1)])

  def test_only_ends_have_a_target(self):
    _, update, _ = collect(labels(), score_losses.pointwise, 8, 2)
    for batch in update:
      self.assertFalse(batch.targets_BT[~batch.mask_BT].any())
      self.assertFalse(batch.rivals_BT.any())  # A label has no rival.
      np.testing.assert_array_equal(batch.tokens_BT[batch.mask_BT], 7)


class ExampleTest(parameterized.TestCase):
  def record(self, chosen="snow is white.", rejected="i do not know."):
    texts = [miniature.layout("think", each) for each in (chosen, rejected)]
    return preferences.Pair("p", SNOW, *texts, 1.5)

  def test_chosen_comes_first(self):
    made = reward_model.example(READING, self.record(), 64)
    self.assertEqual(made.targets, (1.5, -1.5))
    ends = [READING.tokenizer.decode(part) for part in made.parts]
    self.assertIn("snow is white.", ends[0])
    self.assertIn("i do not know.", ends[1])

  @parameterized.parameters((True, 1.0), (False, -1.0))
  def test_label(self, is_safe, target):
    record = preferences.Labelled("l", SNOW, "snow is white.", is_safe)
    made = reward_model.example(READING, record, 64)
    self.assertLen(made.parts, 1)
    self.assertEqual(made.targets, (target,))

  def test_too_long(self):
    made = reward_model.example(READING, self.record(), 64)
    longest = max(map(len, made.parts))
    self.assertIsNotNone(reward_model.example(READING, self.record(), longest))
    self.assertIsNone(reward_model.example(READING, self.record(), longest - 1))

  def test_nothing_to_read_is_named(self):
    record = self.record()._replace(rejected="<think>cut")
    with self.assertRaisesRegex(ValueError, "^record 'p': .* has no answer"):
      reward_model.example(READING, record, 64)


class MeasureTest(parameterized.TestCase):
  def test_pairs_by_hand(self):
    chosen_rejected = np.array([2.0, 0.0, 1.0, 1.0, -1.0, 0.0])
    examples = [
      example(([1], [2]), (1.0, -1.0), i, group)
      for i, group in enumerate(["a", "b", "b"])
    ]
    got = reward_model.measure(examples, chosen_rejected)
    self.assertNotIn("auc", got)
    # Margins 2, 0 and -1; a tie is half right.
    self.assertAlmostEqual(got["accuracy"], 0.5)
    self.assertAlmostEqual(got["accuracy_a"], 1.0)
    self.assertAlmostEqual(got["accuracy_b"], 0.25)
    self.assertAlmostEqual(got["margin_mean"], 1 / 3)
    wrong = [1 / (1 + np.exp(m)) for m in (2, 0, -1)]
    self.assertAlmostEqual(got["brier"], np.mean(np.square(wrong)))

  def test_labels_by_hand(self):
    examples = [example(([1],), (t,)) for t in (1.0, 1.0, -1.0, -1.0)]
    got = reward_model.measure(examples, np.array([3.0, -1.0, -2.0, 1.0]))
    self.assertAlmostEqual(got["auc"], 0.75)
    self.assertAlmostEqual(got["accuracy"], 0.5)
    self.assertAlmostEqual(got["margin_mean"], (3 - 1 + 2 - 1) / 4)


class Broken(Exception):
  """Ends a run where a kill would."""


class RunTest(parameterized.TestCase):
  """Whole runs."""

  def setUp(self):
    super().setUp()
    self.directory = self.enterContext(tempfile.TemporaryDirectory())

  def run_in(self, name, config="reward_helpful", **changes):
    workdir = os.path.join(self.directory, name)
    small = {"records_per_round": 8, "row_tokens": 128, "epochs": 0.3}
    config = runs.config(config, **(small | {"eval_every_rounds": 2} | changes))
    config_check.check(config)
    jobs.run(config, workdir)
    return workdir

  def outcome(self, workdir):
    return {
      "digests": run_card.read(workdir)["final_digests"],
      "export": pathlib.Path(workdir, training.EXPORT).read_bytes(),
      "metrics": runs.rows(workdir),
      "eval": runs.rows(workdir, "eval.jsonl"),
    }

  @pytest.mark.slow
  def test_resumed_equals_unbroken(self):
    want = self.outcome(self.run_in("unbroken"))
    self.assertGreater(len(want["metrics"]), 3)
    run_update, calls = train.run_update, []

    def fails(*arguments):
      calls.append(None)
      if len(calls) == 3:
        raise Broken
      return run_update(*arguments)

    with mock.patch.object(train, "run_update", fails):
      self.assertRaises(Broken, self.run_in, "broken")
    got = self.outcome(self.run_in("broken"))
    for name in want:
      self.assertEqual(got[name], want[name], name)

  @pytest.mark.slow
  def test_calibration_is_in_the_log(self):
    workdir = self.run_in("labels", "reward_safety", epochs=0.1)
    for row in runs.rows(workdir, "eval.jsonl"):
      self.assertContainsSubset(
        {"auc", "accuracy", "brier", "ece", "suite", "records"}, row
      )
      self.assertBetween(row["ece"], 0.0, 1.0)
    card = run_card.read(workdir)
    self.assertEqual(card["reward_model"]["score_on"], "response")
    self.assertEqual(
      card["reward_model"]["tokenizer_digest"], card["tokenizer_digest"]
    )

  @pytest.mark.slow
  def test_overlong_records_are_refused_or_dropped(self):
    with self.assertRaisesRegex(
      ValueError, r"config.data: \d+ of \d+ records .* config.max_tokens 18"
    ):
      self.run_in("refused", max_tokens=18)
    workdir = self.run_in("dropped", max_tokens=18, overlong="drop")
    self.assertGreater(run_card.read(workdir)["data"]["overlong"], 0)

  def test_a_record_in_train_and_held_out_is_refused(self):
    config = runs.config("reward_helpful")
    held_out = dict(config.data.to_dict(), suite="same")
    with self.assertRaisesRegex(ValueError, "are in train"):
      self.run_in("same", eval_records=[held_out])


if __name__ == "__main__":
  absltest.main()
