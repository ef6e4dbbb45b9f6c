"""Cold start: SFT of the base on readable chains of thought.

  python -m r1jax.main --config=configs/cold_start.py:ARGUMENTS

where ARGUMENTS are data.path=FILE,data.more_path=FILE and the files are
data.jsonl of runs of configs/traces.py.

DeepSeek-R1 (arXiv:2501.12948), §2.3.1, and its supplement, B.4.2:

  data            thousands of traces             about 1,300
  epochs          2 to 3                          3
  learning rate   cosine, 5e-5 to 5e-6            cosine, 1e-3 to 1e-4
  batch           128                             64
  loss            not stated                      on responses
"""

from ml_collections import ConfigDict

from configs import common, models, real


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; `smoke` is a variant."""
  preset, smoke, overrides = common.parse(arg)
  config = common.sft(common.training(common.miniature(preset)))
  config.name = f"cold-start-{models.label(preset)}"
  config.data = dict(
    name="responses",
    path="runs/traces-zero-tiny/data.jsonl",
    more_path="runs/traces-base-tiny/data.jsonl",
    more_repeats=2,
  )
  config.epochs = 3.0
  if smoke:
    common.small_sft(config)
  real.real(config, preset, smoke)
  return common.apply(config, overrides)
