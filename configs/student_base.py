"""The student of the distillation before it: a small dense base.

  python -m r1jax.main --config=configs/student_base.py

Hardware: two CPU cores. Time and result: EXPERIMENTS.md, "Distillation".

DeepSeek-R1 (arXiv:2501.12948), §2.4, takes bases that others pretrained
(Qwen2.5, Llama 3); the miniature makes its own, from the corpus of its
bigger base and two fifths of its rounds. After 600 rounds it could not tell
a right sum from a wrong one, and learned neither by RL nor from samples.
"""

from ml_collections import ConfigDict

from configs import common, models, pretrain


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; `smoke` is a variant."""
  preset, smoke, overrides = common.parse(arg, "tiny-dense")
  words = [preset] + ["smoke"] * smoke
  config = pretrain.get_config(",".join(words)).unlock()
  config.name = f"student-base-{models.label(preset)}"
  config.optimizer.learning_rate = 8e-3
  common.without_experts(config)
  if not smoke:
    config.rounds = 2000
    config.checkpoint_every_rounds = 500
    config.eval_every_rounds = 2000
  return common.apply(config, overrides)
