"""Distillation: SFT of a small dense base on the samples of R1.

  python -m r1jax.main --config=configs/distill.py:data.path=FILE
  python -m r1jax.main --config=configs/distill.py:qwen2.5-32b,data.path=FILE

where FILE is data.jsonl of a run of configs/distill_data.py from R1. The
student is that of configs/student_base.py in runs/student-base-tiny-dense,
or of the variant safetensors=FILE; of the second command a published base,
at the paper's rate for it (configs/real.py).

Hardware: two CPU cores. Time and result: EXPERIMENTS.md, "Distillation".

DeepSeek-R1 (arXiv:2501.12948), §2.4, and its supplement, B.4.3, Table 6;
no RL follows and no logits of the teacher are used:

  students        six dense bases, 1.5B to 70B    one of 353,000 parameters
  data            804,745 samples                 about 12,000
  epochs          2 to 3                          3
  learning rate   1e-4 for 1.5B to 2e-5 for 70B,  8e-3 to 8e-4
                  cosine to one tenth
  batch           64                              16
"""

from ml_collections import ConfigDict

from configs import common, models, real


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; `safetensors=FILE` and `smoke` are variants."""
  preset, smoke, overrides = common.parse(arg, "tiny-dense")
  config = common.sft(common.training(common.miniature(preset)))
  config.name = f"distill-{models.label(preset)}"
  config.init = common.student()
  config.data = dict(name="responses", path="runs/distill-data-tiny/data.jsonl")
  config.epochs = 3.0
  config.sequences_per_round = 16
  config.optimizer.learning_rate = 8e-3
  config.optimizer.schedule.warmup_updates = 30
  config.checkpoint_every_rounds = 100
  config.eval_every_rounds = 400
  common.without_experts(config)
  if smoke:
    common.small_sft(config)
    config.eval_every_rounds = 0
  real.real(config, preset, smoke)
  if real.machine(preset):
    config.optimizer.learning_rate = real.machine(preset).student_lr
    config.sequences_per_round = 64
    config.data.path = "runs/distill-data-deepseek-v3/data.jsonl"
  return common.apply(config, overrides)
