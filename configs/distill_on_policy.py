"""On-policy distillation: the teacher corrects what the student writes.

  python -m r1jax.main --config=configs/distill_on_policy.py:teacher.path=DIR

where DIR is the workdir of the teacher's run. The student is that of
configs/distill.py.

Hardware: two CPU cores. Time and result: EXPERIMENTS.md, "Distillation".

Not of DeepSeek-R1 (arXiv:2501.12948). Each round the student answers, and
the loss is KL of the student from the teacher at each of its tokens, over
the whole vocabulary (GKD, arXiv:2306.13649, algorithm 1, lambda 1; MiniLLM,
arXiv:2306.08543, for reverse KL). divergence.name=sampled_reverse_kl reads
the sampled tokens' probabilities alone.
"""

from ml_collections import ConfigDict

from configs import common, models


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; `safetensors=FILE` and `smoke` are variants."""
  preset, smoke, overrides = common.parse(arg, "tiny-dense")
  config = common.training(common.miniature(preset))
  config.name = f"distill-on-policy-{models.label(preset)}"
  config.job = "on_policy_distill"
  config.init = common.student()
  config.teacher = common.teacher()
  config.data = dict(name="countdown", split="train", test_frac=0.2)
  config.rounds = 40
  config.questions_per_round = 32
  config.samples_per_question = 8
  config.sampling.update(temperature=1.0, top_p=1.0, top_k=0)
  config.divergence = dict(name="reverse_kl", temperature=1.0)
  config.weighting = dict(name="token_mean")
  config.optimizer = common.adamw(
    1e-3,
    weight_decay=0.0,
    schedule="cosine",
    warmup_updates=5,
    final_fraction=0.1,
  )
  config.eval_every_rounds = 20
  if smoke:
    config.rounds = 3
    config.questions_per_round = 4
    config.samples_per_question = 4
    config.sampling.slots = 16
    config.eval_every_rounds = 0
    config.optimizer.schedule.warmup_updates = 1
  return common.apply(config, overrides)
