"""The reward model for safety: labels, on the whole response.

  python -m r1jax.main --config=configs/reward_safety.py
  python -m r1jax.main --config=configs/reward_safety.py:checkpoint=DIR

Hardware: two CPU cores. Time and result: EXPERIMENTS.md, "Reward models".

From DeepSeek-R1 (arXiv:2501.12948), §3.1 and B.2, with what the miniature
does instead:

  responses         106,000, labelled by guidelines      4,000, labelled by a
                                                         rule, 5 in 100 wrong
  model             R1's with a scalar head              the policy's, same
  reads             the whole response                   same
  loss              pointwise, formula not printed       binary cross-entropy
  batch             256                                  32
  learning rate     6e-6                                 1e-3, a model 700,000
                                                         times smaller
  epochs            1                                    same
  tokens            8,192 in training, no limit after    64
"""

from ml_collections import ConfigDict

from configs import common, models, real


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; `checkpoint=DIR`, `safetensors=FILE`, `smoke` are variants."""
  preset, smoke, overrides = common.parse(arg)
  config = common.reward_model(preset)
  config.name = f"reward-safety-{models.label(preset)}"
  config.loss = dict(name="pointwise")
  config.score_on = "response"
  labels = dict(name="miniature_labels", seed=0, unsafe=0.4, leaks=0.2)
  config.data = dict(labels, split="train", candidates=4000, noise=0.05)
  config.eval_records = [
    dict(
      labels, suite="new_questions", split="test", candidates=1000, noise=0.0
    )
  ]
  if smoke:
    common.small_reward_model(config)
  real.real(config, preset, smoke)
  return common.apply(config, overrides)
