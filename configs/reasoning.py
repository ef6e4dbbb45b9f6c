"""Reasoning RL: GRPO from the cold start, with the language reward.

  python -m r1jax.main --config=configs/reasoning.py:checkpoint=DIR

DeepSeek-R1 (arXiv:2501.12948), §2.3.2: the rewards of R1-Zero and the
share of the target language's words in the thoughts, added with weight 1;
the rest as configs/zero.py. `language=0` in place of it is the ablation
of the supplement, B.6.
"""

from ml_collections import ConfigDict

from configs import common, models, real, zero


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; variants as those of zero.py, and `language=WEIGHT`."""
  preset, smoke, overrides = common.parse(arg)
  weight = float(overrides.pop("language", 1.0))
  words = [preset] + ["smoke"] * smoke
  config = zero.get_config(",".join(words)).unlock()
  config.name = f"reasoning-{models.label(preset)}"
  if real.machine(preset):
    config.template = "chat-think"
    config.loss.update(clip_low=10.0, clip_high=10.0)
  else:
    config.data = common.reasoning_questions()
    config.data.parts[0]["repeats"] = 2  # Nine of ten are Countdown's.
  config.rewards.language = dict(weight=weight, identifier="script")
  return common.apply(config, overrides)
