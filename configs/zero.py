"""R1-Zero: pure RL from the base, on accuracy and format alone.

  python -m r1jax.main --config=configs/zero.py
  python -m r1jax.main --config=configs/zero.py:qwen2.5-1.5b

The second is a published model's, in the paper's numbers: configs/real.py.

Hardware: two CPU cores. Time and result: EXPERIMENTS.md, "R1-Zero in
miniature, five seeds".

From DeepSeek-R1 (arXiv:2501.12948) and its supplement, with what the
miniature does instead:

  rewards               accuracy + format, weight 1 each       same
  KL                    k3 in the loss, coefficient 0.001      same
  temperature           1                                      same
  advantage             (r - mean) / std of the group          same
  weighting             mean over tokens, then over responses  same
  questions x samples   32 x 16 a step                         32 x 8
  steps a rollout       16, so 15 are off-policy               1
  clip                  not stated (R1: 10)                    0.2, idle at 1
  reference refresh     every 400 steps                        25 rounds
  learning rate         3e-6                                   5e-4
  response tokens       32,768, then 65,536                    176
  routing               not stated                             replayed
"""

from ml_collections import ConfigDict

from configs import common, models, real


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; presets, `hub=DIR` and `smoke` are variants."""
  preset, smoke, overrides = common.parse(arg)
  config = common.training(common.miniature(preset))
  config.name = f"zero-{models.label(preset)}"
  config.job = "grpo"
  config.init = dict(name="bundled")
  config.data = dict(name="countdown", split="train", test_frac=0.2)
  config.rounds = 40
  config.questions_per_round = 32
  config.samples_per_question = 8
  config.updates_per_round = 1
  config.sampling.update(temperature=1.0, top_p=1.0, top_k=0)
  config.loss = dict(
    name="clipped_surrogate", clip_low=0.2, clip_high=0.2, dual_clip=None
  )
  config.advantage = dict(name="group_normalized", eps=1e-6, ddof=0)
  config.weighting = dict(name="sequence_mean")
  config.kl = dict(
    name="k3", coef=0.001, where="loss", importance_weighted=False
  )
  config.rewards_by_kind = {}
  config.reward_models = {}
  config.general_from_round = 0
  config.general_frac = 0.0
  config.reference_refresh_rounds = 25
  config.dynamic_sampling = False
  config.dynamic_sampling_max_waves = 1
  config.filter_truncated = False
  config.importance = dict(name="none")
  config.routing_replay = True
  config.optimizer = dict(
    name="adamw",
    learning_rate=5e-4,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.0,
    clip_norm=1.0,
    schedule=dict(name="constant", warmup_updates=5),
  )
  config.eval_every_rounds = 20
  if smoke:
    config.rounds = 3
    config.questions_per_round = 4
    config.samples_per_question = 4
    config.sampling.slots = 16
    config.eval_every_rounds = 0
    config.optimizer.schedule.warmup_updates = 1
  real.real(config, preset, smoke, template="r1-zero")
  if real.machine(preset):
    config.data = real.questions()
  return common.apply(config, overrides)
