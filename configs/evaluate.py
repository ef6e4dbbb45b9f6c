"""pass@1, pass@k and cons@k of any weights on the held-out questions.

  python -m r1jax.main --config=configs/evaluate.py
  python -m r1jax.main --config=configs/evaluate.py:checkpoint=runs/zero-tiny

Temperature and top-p as the paper evaluates (arXiv:2501.12948, §3); the
first command measures the bundled base.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; `checkpoint=DIR` and `smoke` are variants."""
  preset, smoke, overrides = common.parse(arg)
  config = common.miniature(preset)
  config.name = f"evaluate-{preset}"
  config.job = "evaluate"
  config.init = dict(name="bundled")
  config.eval_sampling = dict(
    temperature=0.6,
    top_p=0.95,
    top_k=0,
    samples_per_question=16,
    questions=197,
  )
  if smoke:
    config.eval_sampling.update(samples_per_question=4, questions=8)
    config.sampling.slots = 32
  return common.apply(config, overrides)
