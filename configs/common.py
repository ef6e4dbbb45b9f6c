"""What the configs share: the miniature world and how variants are read."""

from ml_collections import ConfigDict

from configs import models


def parse(arg: str | None) -> tuple[str, bool, dict[str, str]]:
  """(preset, smoke, overrides) of `preset,smoke,key=value`.

  Raises:
    ValueError: For two presets, or a word that is none.
  """
  preset, smoke, overrides = None, False, {}
  for word in (arg or "").split(","):
    if not word:
      continue
    if "=" in word:
      key, value = word.split("=", 1)
      overrides[key] = value
    elif word == "smoke":
      smoke = True
    elif word in models.PRESETS and preset is None:
      preset = word
    else:
      known = ", ".join(["smoke", *sorted(models.PRESETS)])
      raise ValueError(f"Config variant {word!r} is unknown. Known: {known}.")
  return preset or "tiny", smoke, overrides


def apply(config: ConfigDict, overrides: dict[str, str]) -> ConfigDict:
  """The config, its fields overridden by `a.b=value`, locked.

  `checkpoint=DIR` and `safetensors=FILE` start from those weights.

  Raises:
    ValueError: For a field that the config does not have.
  """
  for key, value in overrides.items():
    if key in ("checkpoint", "safetensors"):
      config.init = dict(name=key, path=value)
      continue
    *path, last = key.split(".")
    owner = config
    for name in path:
      owner = owner[name]
    if last not in owner:
      raise ValueError(f"config.{key} is unknown.")
    kind = type(owner[last])
    owner[last] = value == "True" if kind is bool else kind(value)
  return config.lock()


def miniature(preset: str) -> ConfigDict:
  """Fields of every job on the miniature world."""
  config = ConfigDict()
  config.seed = 0
  config.model = models.get_config(preset)
  config.tokenizer = "bundled"
  config.template = "miniature"
  config.mesh = dict(data=1, fsdp=1, expert=1, tensor=1)
  config.max_prompt_tokens = 16
  config.max_response_tokens = 176
  config.sampling = dict(
    slots=128, chunk_tokens=16, prefill_rows=64, repetition_tokens=0
  )
  config.rewards = dict(
    accuracy=dict(weight=1.0),
    format=dict(weight=1.0),
  )
  config.grader = dict(
    workers=1, timeout_secs=10.0, budget_secs=120.0, worker_mem_mb=2048
  )
  config.eval_data = [
    dict(name="countdown", split="test", test_frac=0.2, suite="countdown")
  ]
  config.eval_sampling = dict(
    temperature=1.0,
    top_p=1.0,
    top_k=0,
    samples_per_question=8,
    questions=64,
  )
  return config


def training(config: ConfigDict) -> ConfigDict:
  """The config with the fields of every training job."""
  config.router_bias_rate = 0.0
  config.balance_coef = 0.0
  config.row_tokens = 192
  config.rows_per_microbatch = 12
  config.checkpoint_every_rounds = 10
  config.keep_checkpoints = 3
  config.eval_every_rounds = 0
  return config
