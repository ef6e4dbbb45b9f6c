import contextlib
import io
import json
import os
import pathlib
import tempfile
from unittest import mock

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from r1jax import (
  checkpoint,
  config_check,
  experiment,
  jobs,
  report,
  run_card,
  train,
  training,
  tree,
)
from r1jax.models import store
from tests import runs

COMPILED = "/jax/core/compile/backend_compile_duration"


def run(config, workdir):
  config_check.check(config)
  jobs.run(config, workdir)


class CardTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = self.enterContext(tempfile.TemporaryDirectory())

  def test_another_config_is_refused(self):
    run_card.claim(runs.config(), self.workdir)
    run_card.claim(runs.config(), self.workdir)
    before = run_card.read(self.workdir)
    other = runs.config(seed=7, **{"sampling.slots": 3})
    with self.assertRaisesRegex(
      ValueError,
      f"^{self.workdir} was made by another config: config.sampling.slots is "
      "3, was 8; config.seed is 7, was 0. Choose another --workdir",
    ):
      run(other, self.workdir)
    self.assertEqual(run_card.read(self.workdir), before)
    self.assertEqual(os.listdir(self.workdir), [run_card.CARD])

  def test_a_field_more_or_less_is_another_config(self):
    run_card.claim(runs.config(), self.workdir)
    card = run_card.read(self.workdir)
    del card["config"]["seed"]
    card["config"]["old"] = 1
    run_card.write(self.workdir, card)
    with self.assertRaisesRegex(
      ValueError, "config.old is None, was 1; config.seed is 0, was None"
    ):
      run_card.claim(runs.config(), self.workdir)

  def test_a_torn_card_is_named(self):
    path = pathlib.Path(self.workdir, run_card.CARD)
    path.write_text("{")
    with self.assertRaisesRegex(ValueError, f"^{path} is not JSON"):
      run(runs.config(), self.workdir)

  def test_a_card_keeps_its_other_fields_and_is_never_half_written(self):
    run_card.write(self.workdir, {"a": 1, "b": "中"})
    with (
      mock.patch.object(json, "dump", side_effect=OSError("full")),
      self.assertRaises(OSError),
    ):
      run_card.write(self.workdir, {"a": 2})
    run_card.write(self.workdir, {"c": 3})
    self.assertEqual(run_card.read(self.workdir), {"a": 1, "b": "中", "c": 3})

  def test_learning_rates_of_the_card(self):
    config = runs.config("pretrain", rounds=3, sequences_per_round=2)
    run(config, self.workdir)
    card = run_card.read(self.workdir)
    first, last = card["learning_rate"]
    peak = config.optimizer.learning_rate
    self.assertAlmostEqual(first, peak)
    self.assertAlmostEqual(
      last, peak * config.optimizer.schedule.final_fraction
    )
    logged = [row["train/lr"] for row in runs.rows(self.workdir)]
    np.testing.assert_allclose([logged[0], logged[-1]], [first, last])
    params, _ = jax.tree.map(
      np.asarray,
      store.load(os.path.join(self.workdir, training.EXPORT), *shapes()),
    )
    self.assertEqual(tree.digest(params), card["final_digests"]["params"])
    self.assertNotEqual(card["initial_digest"], card["final_digests"]["params"])
    self.assertEqual(card["parameters"], tree.count(params))
    for name in ("tokenizer_digest", "data_digest"):
      self.assertLen(card[name], 16)
    for name in ("r1jax", "python", "jax", "device", "device_count"):
      self.assertTrue(card["machine"][name], name)


def shapes(model=runs.DENSE):
  """Abstract (params, buffers) of a model."""
  from r1jax import policy, sharding
  from r1jax.models import config as model_config

  mesh = sharding.make_mesh(dict(data=1, fsdp=1, expert=1, tensor=1))
  made = policy.make(model_config.from_dict(model), temperature=1.0)
  return experiment.abstract_weights(made, mesh)


class BadInputTest(parameterized.TestCase):
  """What cannot be run is refused in one line before anything is lost."""

  def setUp(self):
    super().setUp()
    self.workdir = self.enterContext(tempfile.TemporaryDirectory())

  def assert_refused(self, config, message, error=ValueError):
    with self.assertRaisesRegex(error, message) as raised:
      run(config, self.workdir)
    self.assertNotIn("\n", str(raised.exception))
    left = {*os.listdir(self.workdir)} - {"checkpoints"}
    self.assertContainsSubset(left, {run_card.CARD, "questions.jsonl"})

  def questions(self, *lines):
    path = pathlib.Path(self.workdir, "questions.jsonl")
    path.write_text("".join(line + "\n" for line in lines))
    return path, runs.config(data=dict(name="jsonl", path=str(path)))

  def test_malformed_json_line(self):
    good = json.dumps(
      dict(
        id="a",
        question="1 2 3 = 6",
        answer=dict(numbers=[1, 2, 3], target=6),
        verifier="countdown",
      )
    )
    path, config = self.questions(good, '{"id": ')
    self.assert_refused(config, f"{path}, line 2: no JSON")

  def test_empty_data_set(self):
    path, config = self.questions()
    self.assert_refused(config, f"{path} holds no question")

  def test_a_gold_answer_that_does_not_verify(self):
    row = dict(id="q7", question="?", answer=3, verifier="countdown")
    path, config = self.questions(json.dumps(row))
    self.assert_refused(config, f"{path}: 1 of 1 questions are refused.*'q7'")

  @parameterized.parameters(
    ({"loss": dict(name="gspo", clip_low=0.1)}, "config.loss.clip_high is mis"),
    ({"weighting": dict(name="fixed_length")}, "config.weighting.max_tokens"),
    ({"advantage": dict(name="leave_one_out", eps=1)}, "advantage.eps is unkn"),
    (
      {"rewards": dict(accuracy=dict(weight=1.0), repetition=dict(weight=1.0))},
      "config.rewards.repetition.ngram_tokens is missing",
    ),
    (
      {"importance": dict(name="token_mask", low=1.0)},
      "importance.high is mis",
    ),
    ({"data": dict(name="countdown")}, "config.data.split is missing"),
    (
      {"eval_data": [dict(name="countdown", suite="x", splt="test")]},
      r"config.eval_data\[0\].splt is unknown",
    ),
    ({"optimizer.schedule.warmup_updates": 3}, "warmup_updates is 3"),
    ({"optimizer.b3": 0.1}, "config.optimizer.b3 is unknown"),
    ({"model": runs.DENSE | {"heads": 3}}, "config.model.heads"),
    (
      {"model": runs.DENSE | {"vocab_size": 99}},
      "config.model.vocab_size is 9",
    ),
    ({"mesh.data": 2}, "config.mesh .* has 2 devices, but there are"),
    ({"template": "r1"}, "config.template is 'r1'. Known"),
    (
      {"init": dict(name="safetensors", path="/nowhere/x")},
      "^/nowhere/x cannot be read",
    ),
    (
      {"init": dict(name="checkpoint", path="/nowhere")},
      "^No checkpoint in /nowhere",
    ),
    ({"init": dict(name="bundled")}, "Choose the model of the weights"),
    ({"max_prompt_tokens": 3}, "config.max_prompt_tokens is 3. Raise it"),
  )
  def test_refused(self, changes, message):
    self.assert_refused(runs.config(**changes), message)

  def test_missing_bundled_weights(self):
    missing = pathlib.Path(self.workdir, "params.safetensors")
    with mock.patch.object(experiment, "BUNDLED", missing):
      self.assert_refused(
        runs.config(init=dict(name="bundled")),
        f"config.init.name is 'bundled', but there is no {missing}. Install",
      )

  def test_train_questions_in_the_evaluation(self):
    data = dict(name="countdown", split="train", test_frac=0.2)
    config = runs.config(eval_data=[data | dict(suite="x")])
    self.assert_refused(config, "test questions are in train")

  def test_full_disk_while_saving(self):
    error = OSError(28, "No space left on device")
    saves = []

    def save(self, round, *args, **kwargs):
      saves.append(round)
      if round == 1:
        raise error
      return whole(self, round, *args, **kwargs)

    whole = checkpoint.ocp.CheckpointManager.save
    config = runs.config()
    with (
      mock.patch.object(checkpoint.ocp.CheckpointManager, "save", save),
      self.assertRaisesRegex(
        ValueError, "^Cannot write a checkpoint.*No space"
      ),
    ):
      run(config, self.workdir)
    self.assertEqual(saves, [0, 1])
    # With room again, the same command goes on from what was saved.
    with self.assertLogs() as logs:
      run(config, self.workdir)
    self.assertIn("Resuming", "".join(logs.output))
    self.assertEqual([r["round"] for r in runs.rows(self.workdir)], [0, 1, 2])


class WholeRunTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = self.enterContext(tempfile.TemporaryDirectory())

  def test_the_sampler_is_the_trainer_and_nothing_compiles_twice(self):
    compiled = []
    by_round = []
    collected = train._round

    def count(name, secs, **_):
      del secs
      if name == COMPILED:
        compiled.append(name)

    def counted(*args):
      by_round.append(len(compiled))
      return collected(*args)

    jax.monitoring.register_event_duration_secs_listener(count)
    self.addCleanup(jax.monitoring.unregister_event_duration_listener, count)
    config = runs.config(
      model=runs.MOE,
      rounds=3,
      routing_replay=True,
      router_bias_rate=0.01,
      balance_coef=0.01,
      **{"optimizer.learning_rate": 0.01},
    )
    with mock.patch.object(train, "_round", counted):
      run(config, self.workdir)
    # From the first round's checkpoint on.
    self.assertGreater(by_round[1], by_round[0])
    self.assertEqual(by_round[1:], by_round[1:2] * 2)
    self.assert_no_gap(runs.rows(self.workdir))
    rows = runs.rows(self.workdir)
    self.assertGreater(max(row["train/kl"] for row in rows), 1e-7)
    self.assertGreater(rows[1]["train/grad_norm"], 1e-4)
    for row in rows:
      self.assertEqual(row["train/ratio_max"], 1.0)
    # The router's bias is part of what was trained and saved.
    path = os.path.join(self.workdir, training.EXPORT)
    _, buffers = store.load(path, *shapes(runs.MOE))
    (bias_LE,) = jax.tree.leaves(buffers)
    # Three steps of 0.01 up or down.
    np.testing.assert_allclose(np.abs(bias_LE) * 100 % 2, 1.0, atol=1e-4)

  def assert_no_gap(self, rows):
    for row in rows:
      self.assertLessEqual(row["train/logprob_gap_mean"], 1e-6)
      self.assertLessEqual(row["train/logprob_gap_max"], 1e-4)
      self.assertEqual(row["moe/replay_differs_frac"], 0.0)

  @pytest.mark.slow
  def test_without_learning_the_gap_does_not_grow(self):
    config = runs.config(
      model=runs.MOE,
      rounds=50,
      routing_replay=True,
      updates_per_round=2,
      checkpoint_every_rounds=50,
      **{"optimizer.learning_rate": 0.0},
    )
    run(config, self.workdir)
    rows = runs.rows(self.workdir)
    self.assertLen(rows, 50)
    self.assert_no_gap(rows)
    gaps = [row["train/logprob_gap_mean"] for row in rows]
    # Rounding alone: each round's mean is over some 250 tokens.
    self.assertLess(np.mean(gaps[25:]), 1.5 * np.mean(gaps[:25]))
    for row in rows:
      self.assertAlmostEqual(row["train/ratio_max"], 1.0, delta=1e-6)
    card = run_card.read(self.workdir)
    self.assertEqual(card["initial_digest"], card["final_digests"]["params"])

  def test_not_finite_names_the_round_and_the_checkpoint(self):
    config = runs.config(**{"optimizer.learning_rate": 1e38})
    with self.assertRaisesRegex(
      train.NotFinite, r"^Not finite in round \d, .*checkpoint \d is saved"
    ) as raised:
      run(config, self.workdir)
    self.assertNotIn("\n", str(raised.exception))

  def test_evaluation_of_a_run_and_its_export(self):
    """Both give what the run itself measured at its end."""
    trained = os.path.join(self.workdir, "trained")
    config = runs.config(eval_every_rounds=3)
    run(config, trained)
    last = runs.rows(trained, "eval.jsonl")[-1]
    for init in (
      dict(name="checkpoint", path=trained),
      dict(name="safetensors", path=os.path.join(trained, training.EXPORT)),
    ):
      workdir = os.path.join(self.workdir, init["name"])
      again = runs.config("evaluate", init=init)
      with again.unlocked():
        sampling = config.eval_sampling.to_dict()
        again.eval_modes = dict(sampled=dict(sampling, shots=0))
        again.eval_data = config.eval_data
        again.max_prompt_tokens = config.max_prompt_tokens
        again.rewards = config.rewards
      with contextlib.redirect_stdout(io.StringIO()) as out:
        run(again, workdir)
        run(again, workdir)  # Is finished, and does not measure twice.
      (row,) = runs.rows(workdir, "eval.jsonl")
      self.assertEqual(row.pop("mode"), "sampled")
      row.pop("readable_frac")
      self.assertEqual(row | {"round": 2}, last)
      self.assertIn("pass@1", out.getvalue())
      self.assertEqual(
        run_card.read(workdir)["final_digests"]["params"],
        run_card.read(trained)["final_digests"]["params"],
      )

  def test_a_report_is_written_whose_failure_ends_nothing(self):
    config = runs.config("pretrain", rounds=2, sequences_per_round=2)
    page = os.path.join(self.workdir, "whole", "report.html")
    run(config, os.path.dirname(page))
    self.assertTrue(os.path.exists(page))
    with (
      mock.patch.object(report, "write", side_effect=KeyError("x")),
      self.assertLogs(level="WARNING") as logs,
    ):
      run(config, os.path.join(self.workdir, "without"))
    self.assertIn("no report (KeyError('x'))", logs.output[-1])
    card = run_card.read(os.path.join(self.workdir, "without"))
    self.assertIn("final_digests", card)

  def test_rollouts_are_whole(self):
    run(runs.config(), self.workdir)
    rows = runs.rows(self.workdir, "rollouts.jsonl")
    self.assertLen(rows, 3 * 2 * 4)
    for row in rows:
      self.assertEqual(set(row["rewards"]), set(runs.REWARDS))
      for reward in row["rewards"].values():
        self.assertEqual(reward["status"], "ok")
        self.assertTrue(reward["reason"])
      total = sum(
        reward["value"] * runs.REWARDS[name]["weight"]
        for name, reward in row["rewards"].items()
      )
      self.assertAlmostEqual(row["reward"], total)
      self.assertBetween(row["tokens"], 1, 16)
    digests = list(dict.fromkeys(row["weights"] for row in rows))
    self.assertLen(digests, 3)
    self.assertEqual(digests[0], run_card.read(self.workdir)["initial_digest"])
    self.assertTrue(any(row["advantage"] for row in rows))


if __name__ == "__main__":
  absltest.main()
