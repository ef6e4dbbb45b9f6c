"""The reward model for helpfulness: pairs, on the summary alone.

  python -m r1jax.main --config=configs/reward_helpful.py
  python -m r1jax.main --config=configs/reward_helpful.py:checkpoint=DIR

Hardware: two CPU cores. Time and result: EXPERIMENTS.md, "Reward models".

From DeepSeek-R1 (arXiv:2501.12948), §3.1 and B.2, with what the miniature
does instead:

  pairs             66,000, reasoning left out           about 4,000
  judge             DeepSeek-V3, 4 draws in random       a rule that errs in
                    order, 5 labels                      one draw of five
  kept              mean difference above 1              same
  length            comparable over the whole set        equal in the mean
  model             R1's with a scalar head              the policy's, same
  reads             the summary alone                    same
  responses         not stated                           a right answer spoiled
                                                         in a quarter of pairs
  loss              pairwise, formula not printed        Bradley-Terry
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
  config.name = f"reward-helpful-{models.label(preset)}"
  config.loss = dict(name="pairwise", margin_coef=0.0)
  config.score_on = "summary"
  pairs = dict(
    name="miniature_pairs", seed=0, draws=4, min_difference=1.0, broken=0.25
  )
  config.data = dict(
    pairs, split="train", part="train", candidates=20000, noise=0.2
  )
  config.eval_records = [
    dict(
      pairs,
      suite="new_questions",
      split="test",
      part="all",
      candidates=2000,
      noise=0.0,
    ),
    dict(
      pairs,
      suite="new_pairs",
      split="train",
      part="test",
      candidates=4000,
      noise=0.0,
    ),
  ]
  if smoke:
    common.small_reward_model(config)
  real.real(config, preset, smoke)
  return common.apply(config, overrides)
