"""Multi-token prediction through whole jobs."""

import os
import tempfile

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from r1jax import config_check, jobs, training, tree
from r1jax.models import config as config_lib
from r1jax.models import mtp, store
from tests import runs
from tests.models import parity

MODEL = runs.MOE | dict(num_mtp_layers=1)


def run(config, workdir):
  """(params, buffers) that the finished job leaves."""
  config_check.check(config)
  jobs.run(config, workdir)
  shapes = parity.abstract(config_lib.from_dict(MODEL))
  return store.load(os.path.join(workdir, training.EXPORT), *shapes)


def mtps(weights):
  """What of (params, buffers) is multi-token prediction's."""
  return [part[mtp.NAME] for part in weights]


@pytest.mark.slow
class MtpJobsTest(parameterized.TestCase):
  def test_pretraining_trains_it_and_rl_keeps_its_bits(self):
    root = self.enterContext(tempfile.TemporaryDirectory())
    first, second, third = (os.path.join(root, name) for name in "abc")
    config = runs.config(
      "pretrain", MODEL, rounds=30, sequences_per_round=4, mtp_coef=0.3
    )
    trained = run(config, first)
    rows = runs.rows(first)
    losses = [row["train/mtp_loss"] for row in rows]
    self.assertLess(np.mean(losses[-3:]), losses[0] - 0.5)
    # Its router's bias is moved too.
    bias_E = mtps(trained)[1]["block"]["moe"]["router_bias"]
    self.assertGreater(np.abs(bias_E).max(), 0.0)

    def start(**changes):
      path = os.path.join(first, training.EXPORT)
      return dict(model=MODEL, init=dict(name="safetensors", path=path)) | (
        changes
      )

    config = runs.config(**start(rounds=2, router_bias_rate=0.01))
    with config.unlocked():
      config.optimizer.weight_decay = 0.1
      config.optimizer.learning_rate = 0.01
    after = run(config, second)
    self.assertEqual(tree.digest(mtps(after)), tree.digest(mtps(trained)))
    for name in ("embedding", "moe_layers"):
      self.assertNotEqual(
        tree.digest(after[0][name]), tree.digest(trained[0][name]), name
      )
    # The same run, whatever the weights that the sampler must not read.
    broken = os.path.join(root, "nan.safetensors")
    nans = jax.tree.map(lambda leaf: leaf * np.nan, trained[0][mtp.NAME])
    params = trained[0] | {mtp.NAME: nans}
    store.save(broken, config_lib.from_dict(MODEL), params, trained[1], {})
    with config.unlocked():
      config.init.path = broken
    other = run(config, third)
    same = [
      {k: v for k, v in w[0].items() if k != mtp.NAME} for w in (after, other)
    ]
    self.assertEqual(tree.digest(same[0]), tree.digest(same[1]))


if __name__ == "__main__":
  absltest.main()
