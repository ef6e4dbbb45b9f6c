"""Cold-start traces: correct responses in readable form.

  python -m r1jax.main --config=configs/traces.py:checkpoint=runs/zero-tiny
  python -m r1jax.main --config=configs/traces.py:from=base

DeepSeek-R1 (arXiv:2501.12948), §2.3.1: several trajectories a prompt of
R1-Zero at temperature 1, kept when the answer is right and the text is
readable (no repetition, one language), and long chains of thought that
the base writes when it is asked for them. The paper has a model and people
rewrite them; the miniature has a rule that translates verdicts and drops
repetitions.

Of R1-Zero only short searches are kept: it has learnt never to give up,
and what is trained on its long ones runs into the limit of tokens. Of the
base it is searches that gave up and guessed right, and right programs.
"""

from ml_collections import ConfigDict

from configs import common, models, real


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; `checkpoint=DIR`, `from=base` and `smoke` are variants."""
  preset, smoke, overrides = common.parse(arg)
  source = overrides.pop("from", "zero")
  if source not in ("zero", "base"):
    raise ValueError(f"from is {source!r}. Known: zero, base.")
  config = common.generation(common.miniature(preset))
  config.name = f"traces-{source}-{models.label(preset)}"
  config.init = dict(name="bundled")
  config.data = dict(name="countdown", split="train", test_frac=0.2)
  config.samples_per_question = 4
  config.filters.no_repeats = dict(max_frac=0.2)
  config.filters.searches = dict(least=1, most=4)
  config.refine = dict(name="miniature")
  config.max_kept_per_question = 1
  if source == "base":
    config.data = common.reasoning_questions()
    config.samples_per_question = 6
    config.filters.searches = dict(least=2, most=16, gave_up=True)
    config.max_kept_per_question = 3
  if smoke:
    common.small_generation(config)
  real.real(config, preset, smoke, template="r1-zero")
  return common.apply(config, overrides)
