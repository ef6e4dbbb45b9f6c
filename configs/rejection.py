"""Rejection sampling for the SFT data, from the first reasoning RL.

  python -m r1jax.main --config=configs/rejection.py:checkpoint=DIR

DeepSeek-R1 (arXiv:2501.12948), §2.3.3: correct responses, without mixed
languages, long paragraphs or code blocks in the thoughts, about 600,000;
where no rule can tell, a judge does. With them go about 200,000 samples of
an older model's SFT data; the miniature's help in 7 of 10 answers and do
harm in 3 of 10 of those that can. Samples a prompt, temperature and cap are
not stated; the miniature's are below.
"""

from ml_collections import ConfigDict

from configs import common, models, real


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; `checkpoint=DIR` and `smoke` are variants."""
  preset, smoke, overrides = common.parse(arg)
  config = common.generation(common.miniature(preset))
  config.name = f"rejection-{models.label(preset)}"
  config.init = dict(name="bundled")
  config.data = common.all_questions()
  config.samples_per_question = 8
  config.filters.short_paragraphs = dict(max_chars=80)
  config.filters.no_code = dict()
  config.filters.no_repeats = dict(max_frac=0.2)
  config.judge = dict(name="oracle")
  config.max_kept_per_question = 4
  config.other_data = dict(name="miniature", helpful=0.7, unsafe=0.3)
  if smoke:
    common.small_generation(config)
  real.real(config, preset, smoke)
  return common.apply(config, overrides)
