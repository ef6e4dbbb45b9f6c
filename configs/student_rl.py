"""RL on the student itself, to compare with its distillation.

  python -m r1jax.main --config=configs/student_rl.py

The student is that of configs/student_base.py in runs/student-base-tiny-dense,
or of the variant safetensors=FILE.

Hardware: two CPU cores. Time and result: EXPERIMENTS.md, "Distillation".

DeepSeek-R1 (arXiv:2501.12948), §4.1, trains Qwen2.5-32B-Base by RL for
over 10,000 steps and finds it far behind the same base distilled from R1.
All but the model is that of configs/zero.py, with as many rounds as it
takes to train on no fewer tokens than the distillation does
(`data/loss_tokens`, the tokens of responses, summed over the rounds).
"""

from ml_collections import ConfigDict

from configs import common, models, real, zero


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; `safetensors=FILE` and `smoke` are variants."""
  preset, smoke, overrides = common.parse(arg, "tiny-dense")
  words = [preset] + ["smoke"] * smoke
  config = zero.get_config(",".join(words)).unlock()
  config.name = f"student-rl-{models.label(preset)}"
  if real.machine(preset):
    config.optimizer.learning_rate = 2e-6
    return common.apply(config, overrides)
  config.init = common.student()
  config.routing_replay = False
  common.without_experts(config)
  if not smoke:
    config.rounds = 170
    config.eval_every_rounds = 10
  return common.apply(config, overrides)
