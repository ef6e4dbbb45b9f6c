"""Next-token training of the miniature's base.

python -m r1jax.main --config=configs/pretrain.py
"""

from ml_collections import ConfigDict

from configs import common, models


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; `tiny-dense` and `smoke` are variants."""
  preset, smoke, overrides = common.parse(arg)
  config = common.training(common.miniature(preset))
  config.name = f"pretrain-{models.label(preset)}"
  config.job = "lm"
  config.init = dict(name="random")
  config.data = dict(name="miniature", seed=0)
  config.loss_on = "all"
  config.weighting = dict(name="token_mean")
  config.mtp_coef = 0.0
  config.rounds = 5000
  config.epochs = 0.0
  config.sequences_per_round = 64
  config.optimizer = common.adamw(
    4e-3,
    weight_decay=0.1,
    schedule="cosine",
    warmup_updates=100,
    final_fraction=0.05,
  )
  config.router_bias_rate = 0.001
  config.balance_coef = 1e-4
  config.checkpoint_every_rounds = 500
  config.eval_every_rounds = 1000
  if smoke:
    config.rounds = 4
    config.sequences_per_round = 8
    config.optimizer.schedule.warmup_updates = 1
    config.eval_every_rounds = 0
  return common.apply(config, overrides)
