"""SFT of the base again, on the data of rejection sampling.

  python -m r1jax.main --config=configs/sft.py:data.path=FILE

where FILE is data.jsonl of a run of configs/rejection.py.

DeepSeek-R1 (arXiv:2501.12948), §2.3.3, and its supplement, B.4.2:

  data            804,745 samples                 about 4,000
  epochs          2                               2
  learning rate   cosine, 5e-5 to 5e-6            cosine, 1e-3 to 1e-4
  batch           128                             64
"""

from ml_collections import ConfigDict

from configs import common, models, real


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; `smoke` is a variant."""
  preset, smoke, overrides = common.parse(arg)
  config = common.sft(common.training(common.miniature(preset)))
  config.name = f"sft-{models.label(preset)}"
  config.data = dict(name="responses", path="runs/rejection-tiny/data.jsonl")
  if smoke:
    common.small_sft(config)
  real.real(config, preset, smoke)
  return common.apply(config, overrides)
