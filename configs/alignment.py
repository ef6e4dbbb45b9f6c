"""Alignment RL: the second stage of RL, on prompts of all kinds.

  python -m r1jax.main --config=configs/alignment.py:checkpoint=DIR

where DIR is the workdir of a run of configs/sft.py, and those of
configs/reward_helpful.py and configs/reward_safety.py are given by
`reward_models.helpful.path=DIR` and `reward_models.safety.path=DIR`.

Hardware: two CPU cores. Time and result: EXPERIMENTS.md, "Alignment".

From DeepSeek-R1 (arXiv:2501.12948), §3.2.2 and B.5, and its supplement,
eqs. 8 to 10, with what the miniature does instead:

  reasoning         accuracy + format + language         same
  general prompts   the set's reward model + format      same
                    + language
  reward model      scale not stated                     sigmoid of the score,
                                                         clipped at 2
  temperature       0.7                                  same
  steps             1,700, general prompts in the        40, in the last 20
                    last 400
  learning rate     as the first stage                   falls linearly to 0
  rest              as the first stage                   as configs/zero.py

`general_from_round=0` is the run in which the preference rewards are given
from the first step on, which the paper found to be hacked.
"""

from ml_collections import ConfigDict

from configs import common, models, real, zero

KINDS = ("reasoning", "helpful", "safety")


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; variants as those of zero.py."""
  preset, smoke, overrides = common.parse(arg)
  words = [preset] + ["smoke"] * smoke
  config = zero.get_config(",".join(words)).unlock()
  config.name = f"alignment-{models.label(preset)}"
  del config.template
  config.template = dict.fromkeys(KINDS, "miniature")
  config.data = common.all_questions()
  config.rewards.language = dict(weight=1.0, identifier="script")
  config.rewards.helpful = dict(weight=1.0, floor=0.0, clip=2.0)
  config.rewards.safety = dict(weight=1.0, floor=0.0, clip=2.0)
  config.rewards_by_kind = dict(
    reasoning=["accuracy", "format", "language"],
    helpful=["helpful", "format", "language"],
    safety=["safety", "format", "language"],
  )
  config.reward_models = dict(
    helpful=dict(path=f"runs/reward-helpful-{models.label(preset)}"),
    safety=dict(path=f"runs/reward-safety-{models.label(preset)}"),
  )
  config.general_from_round = 20
  config.general_frac = 0.5
  config.sampling.temperature = 0.7
  config.optimizer.schedule.name = "linear"
  config.eval_data = common.suites()
  if real.machine(preset):
    # 1,700 updates, general prompts in the last 400; 16 a round.
    config.template = dict.fromkeys(KINDS, "chat-think")
    config.data = real.all_questions()
    config.eval_data = real.suites()
    config.loss.update(clip_low=10.0, clip_high=10.0)
    config.optimizer.schedule.name = "constant"
    if not smoke:
      config.rounds, config.general_from_round = 106, 81
  if smoke:
    config.general_from_round = 1
  return common.apply(config, overrides)
