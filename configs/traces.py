"""Cold-start traces: R1-Zero's correct responses in readable form.

  python -m r1jax.main --config=configs/traces.py:checkpoint=runs/zero-tiny

DeepSeek-R1 (arXiv:2501.12948), §2.3.1: several trajectories a prompt at
temperature 1, kept when the answer is right and the text is readable (no
repetition, one language). The paper has a model and people rewrite them;
the miniature has a rule that translates verdicts and drops repetitions.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; `checkpoint=DIR` and `smoke` are variants."""
  preset, smoke, overrides = common.parse(arg)
  config = common.generation(common.miniature(preset))
  config.name = f"traces-{preset}"
  config.init = dict(name="bundled")
  config.data = dict(name="countdown", split="train", test_frac=0.2)
  config.samples_per_question = 4
  config.filters.no_repeats = dict(max_frac=0.2)
  config.refine = dict(name="miniature")
  config.max_kept_per_question = 2
  if smoke:
    common.small_generation(config)
  return common.apply(config, overrides)
