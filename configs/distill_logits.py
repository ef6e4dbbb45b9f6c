"""Distillation by the teacher's probabilities, on the teacher's samples.

  python -m r1jax.main --config=configs/distill_logits.py:data.path=FILE

The data and the student are those of configs/distill.py; the teacher is
that of config.teacher, where teacher.path=DIR names the run that
FILE was sampled from.

Hardware: two CPU cores. Time and result: EXPERIMENTS.md, "Distillation".

DeepSeek-R1 (arXiv:2501.12948) distils by text alone. The loss is KL of the
teacher from the student at each token of a response (Hinton et al.,
arXiv:1503.02531; GKD, arXiv:2306.13649, §2), which asks for one tokenizer.
"""

from ml_collections import ConfigDict

from configs import common, distill, models


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; variants as those of distill.py."""
  preset, smoke, overrides = common.parse(arg, "tiny-dense")
  words = [preset] + ["smoke"] * smoke
  config = distill.get_config(",".join(words)).unlock()
  config.name = f"distill-logits-{models.label(preset)}"
  config.job = "distill"
  del config.loss_on
  del config.mtp_coef
  config.teacher = common.teacher()
  config.divergence = dict(name="forward_kl", temperature=1.0)
  return common.apply(config, overrides)
