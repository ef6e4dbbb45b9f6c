"""The two jobs that learn from a teacher's probabilities, whole."""

import json
import os
import pathlib
import tempfile

import pytest
from absl.testing import absltest, parameterized

from r1jax import (
  config_check,
  experiment,
  jobs,
  policy,
  run_card,
  sharding,
  train,
  tree,
)
from r1jax.data import miniature
from r1jax.models import config as model_config
from r1jax.models import store
from tests import configs_test, resume_test, runs

WORK = tempfile.TemporaryDirectory(prefix="r1jax-distill-")
TEACHER = runs.DENSE | dict(d_model=24, d_ff=32)
SEQUENCES = 4
JOBS = ("distill_logits", "distill_on_policy")


def teacher_weights():
  dims = model_config.from_dict(TEACHER)
  mesh = sharding.make_mesh(dict(data=1, fsdp=1, expert=1, tensor=1))
  model = policy.make(dims, temperature=1.0)
  return dims, experiment.weights(runs.config(seed=7), model, mesh)


def files():
  """(teacher's weights, data) in WORK."""
  weights = pathlib.Path(WORK.name, "teacher.safetensors")
  data = pathlib.Path(WORK.name, "data.jsonl")
  if not data.exists():
    dims, found = teacher_weights()
    store.save(weights, dims, *found)
    documents = [miniature.document(i) for i in range(3 * SEQUENCES)]
    lines = [
      json.dumps(
        dict(id=str(i), question=d.question._asdict(), response=d.response)
      )
      for i, d in enumerate(documents)
      if len(d.response) < 100
    ]
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
  return str(weights), str(data)


def config(name, **changes):
  weights, data = files()
  teacher = dict(
    name="safetensors", path=weights, model=TEACHER, tokenizer="bundled"
  )
  if name == "distill_logits":
    fields = dict(
      data=dict(name="responses", path=data),
      sequences_per_round=SEQUENCES,
      epochs=0.0,
    )
  else:
    fields = dict(
      questions_per_round=2,
      samples_per_question=2,
      row_tokens=32,
      rows_per_microbatch=4,
      rewards=runs.REWARDS,
    )
  changes = {"optimizer.learning_rate": 0.01, "rounds": 3} | changes
  made = runs.config(name, teacher=teacher, **fields, **changes)
  config_check.check(made)
  return made


class JobsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = self.enterContext(tempfile.TemporaryDirectory())

  @parameterized.parameters(*JOBS)
  @pytest.mark.slow
  def test_a_broken_run_ends_as_the_unbroken_one(self, name):
    made = config(name)
    whole, broken = (os.path.join(self.workdir, x) for x in "wb")
    jobs.run(made, whole)
    with (
      self.assertRaises(resume_test.Broken),
      resume_test.failing(train, "run_update", 2),
    ):
      jobs.run(made, broken)
    jobs.run(made, broken)
    cards = [run_card.read(workdir) for workdir in (whole, broken)]
    self.assertEqual(cards[0]["final_digests"], cards[1]["final_digests"])
    self.assertEqual(runs.rows(whole), runs.rows(broken))
    self.assertEqual(
      cards[0]["teacher_digest"], tree.digest(teacher_weights()[1][0])
    )
    losses = [row["train/divergence"] for row in runs.rows(whole)]
    self.assertLen(losses, 3)
    self.assertLess(losses[-1], losses[0])

  @parameterized.parameters(*JOBS)
  @pytest.mark.slow
  def test_every_field_is_read(self, name):
    made = config(name, rounds=2, eval_every_rounds=1)
    job = made.job
    self.assertEqual(
      configs_test.unread(made, [*config_check.paths(job), "extra"]),
      ["extra"],
    )

  @pytest.mark.slow
  def test_the_sampled_divergence(self):
    name = "sampled_reverse_kl"
    made = config(
      "distill_on_policy", divergence=dict(name=name, temperature=1.0)
    )
    jobs.run(made, os.path.join(self.workdir, "run"))
    rows = runs.rows(os.path.join(self.workdir, "run"))
    self.assertLen(rows, 3)

  def test_sampled_at_another_temperature_is_refused(self):
    with self.assertRaisesRegex(
      ValueError, "config.divergence.temperature is 2.0, but sampled_reverse_kl"
    ):
      config(
        "distill_on_policy",
        divergence=dict(name="sampled_reverse_kl", temperature=2.0),
      )

  def test_sampled_needs_the_students_samples(self):
    with self.assertRaisesRegex(
      ValueError, "config.divergence.name is 'sampled_reverse_kl'"
    ):
      config(
        "distill_logits",
        divergence=dict(name="sampled_reverse_kl", temperature=1.0),
      )


if __name__ == "__main__":
  absltest.main()
