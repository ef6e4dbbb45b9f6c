"""Samples of R1 for its students: rejection sampling with more kept.

  python -m r1jax.main --config=configs/distill_data.py:checkpoint=DIR

DeepSeek-R1 (arXiv:2501.12948), §2.4, distils the same 800,000 samples that
its own SFT has; the miniature takes new ones, as R1 has come after its SFT.
"""

from ml_collections import ConfigDict

from configs import common, models, rejection


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; variants as those of rejection.py."""
  preset, smoke, overrides = common.parse(arg)
  words = [preset] + ["smoke"] * smoke
  config = rejection.get_config(",".join(words)).unlock()
  config.name = f"distill-data-{models.label(preset)}"
  config.max_kept_per_question = 12
  if not smoke:
    config.samples_per_question = 24
  return common.apply(config, overrides)
