"""What the configs share: the miniature world and how variants are read."""

from typing import Any

from ml_collections import ConfigDict

from configs import models

_MINIATURE = ("tiny", "tiny-dense")


def parse(
  arg: str | None, default: str = "tiny"
) -> tuple[str, bool, dict[str, str]]:
  """(preset, smoke, overrides) of `preset,smoke,key=value`.

  `hub=DIR` without a preset is the model that stands there: the preset is
  then DIR, which `models.get_config` reads.

  Raises:
    ValueError: For two presets, a word that is none, or a folder that is not
      there.
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
    elif preset is None and (word in models.PRESETS or models.is_path(word)):
      preset = word
    else:
      known = ", ".join(["smoke", *sorted(models.PRESETS)])
      raise ValueError(f"Config variant {word!r} is unknown. Known: {known}.")
  if preset is None and default in _MINIATURE and "hub" in overrides:
    preset = overrides["hub"]
    if not models.is_path(preset):
      raise ValueError(
        f"Config variant hub={preset}: there is no such folder or file. Name "
        "one, or a preset beside it."
      )
  return preset or default, smoke, overrides


def apply(config: ConfigDict, overrides: dict[str, str]) -> ConfigDict:
  """The config, its fields overridden by `a.b=value`, locked.

  `checkpoint=DIR`, `safetensors=FILE` and `hub=DIR` start from those weights,
  the last with the tokenizer that stands there. A name in a list is its
  place, as in `data.parts.0.path=FILE`.

  Raises:
    ValueError: For a field that the config does not have.
  """
  for key, value in overrides.items():
    if key in ("checkpoint", "safetensors"):
      config.init = dict(name=key, path=value)
      continue
    if key == "hub":
      config.init = dict(name=key, path=value)
      if "tokenizer" not in overrides:
        config.tokenizer = value
      continue
    *path, last = key.split(".")
    owner = config
    for name in path:
      owner = _member(owner, name, key)
    if not isinstance(owner, (dict, ConfigDict)) or last not in owner:
      raise ValueError(f"config.{key} is unknown.")
    kind = type(owner[last])
    owner[last] = value == "True" if kind is bool else kind(value)
  return config.lock()


def _member(owner: Any, name: str, key: str) -> Any:
  if isinstance(owner, (list, tuple)) and name.isdecimal():
    if int(name) < len(owner):
      return owner[int(name)]
  elif isinstance(owner, (dict, ConfigDict)) and name in owner:
    return owner[name]
  raise ValueError(f"config.{key} is unknown.")


def base(preset: str) -> ConfigDict:
  """Fields of every job."""
  config = ConfigDict()
  config.seed = 0
  config.model = models.get_config(preset)
  config.tokenizer = "bundled"
  config.template = "miniature"
  config.mesh = dict(data=1, fsdp=1, expert=1, tensor=1)
  config.kernels = dict(attention="auto", experts="auto")
  return config


def miniature(preset: str) -> ConfigDict:
  """Fields of every job that samples in the miniature world."""
  config = base(preset)
  config.max_prompt_tokens = 16
  config.max_response_tokens = 176
  config.overlong = "refuse"
  config.sampling = dict(
    slots=128,
    chunk_tokens=16,
    prefill_rows=64,
    repetition_tokens=0,
    weights="as_trained",
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


def student() -> dict:
  """The student's first weights, where configs/student_base.py has them."""
  path = "runs/student-base-tiny-dense/params.safetensors"
  return dict(name="safetensors", path=path)


def teacher() -> dict:
  """R1 of the miniature, where configs/alignment.py leaves it."""
  return dict(
    name="checkpoint",
    path="runs/alignment-tiny",
    model=models.get_config("tiny"),
    tokenizer="bundled",
  )


def without_experts(config: ConfigDict) -> None:
  """Leaves out what trains the router of a model with experts."""
  config.router_bias_rate = 0.0
  config.balance_coef = 0.0


def reasoning_questions() -> dict:
  """Countdown and program questions to train on."""
  return dict(
    name="mixture",
    parts=[
      dict(name="countdown", split="train", test_frac=0.2),
      dict(name="programs", split="train", test_frac=0.2),
    ],
  )


def all_questions() -> dict:
  """Those, and the general prompts to train on."""
  data = reasoning_questions()
  data["parts"].append(dict(name="general", split="train", test_frac=0.2))
  return data


def suites() -> list[dict]:
  """The held-out questions of each kind."""
  return [
    dict(name="countdown", split="test", test_frac=0.2, suite="countdown"),
    dict(name="programs", split="test", test_frac=0.2, suite="programs"),
  ]


def generation(config: ConfigDict) -> ConfigDict:
  """The config with the fields of every job that samples data."""
  config.job = "generate"
  config.questions_per_round = 64
  config.sampling.update(temperature=1.0, top_p=1.0, top_k=0)
  config.filters = dict(
    finished=dict(),
    rewarded=dict(reward="format", least=1.0),
    one_language=dict(),
  )
  config.judge = dict(name="none")
  config.refine = dict(name="as_it_is")
  config.max_other_frac = 0.25
  config.other_data = dict(name="none")
  return config


def small_generation(config: ConfigDict) -> None:
  """Makes it end within seconds."""
  config.samples_per_question = 1
  config.questions_per_round = 500
  config.sampling.slots = 64


def adamw(
  learning_rate: float, *, weight_decay: float, schedule: str, **arguments
) -> dict:
  """AdamW with the base's betas; `arguments` are the schedule's."""
  return dict(
    name="adamw",
    learning_rate=learning_rate,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=weight_decay,
    clip_norm=1.0,
    schedule=dict(name=schedule, **arguments),
  )


def sft(config: ConfigDict) -> ConfigDict:
  """The config with the fields of SFT."""
  config.job = "lm"
  config.init = dict(name="bundled")
  config.loss_on = "response"
  config.weighting = dict(name="token_mean")
  config.mtp_coef = 0.0
  config.rounds = 0
  config.epochs = 2.0
  config.sequences_per_round = 64
  config.optimizer = adamw(
    1e-3,
    weight_decay=0.1,
    schedule="cosine",
    warmup_updates=5,
    final_fraction=0.1,
  )
  config.router_bias_rate = 0.001
  config.balance_coef = 1e-4
  config.checkpoint_every_rounds = 50
  return config


def small_sft(config: ConfigDict) -> None:
  """Makes it end within seconds."""
  config.epochs = 0.1
  config.optimizer.schedule.warmup_updates = 0


def reward_model(preset: str) -> ConfigDict:
  """The fields of a reward model but for its data and its loss."""
  config = training(base(preset))
  config.job = "reward_model"
  config.init = dict(name="bundled")
  config.epochs = 1.0
  config.records_per_round = 32
  config.max_tokens = 64
  config.overlong = "refuse"
  config.row_tokens = 128
  config.rows_per_microbatch = 16
  config.optimizer = adamw(
    1e-3,
    weight_decay=0.1,
    schedule="linear",
    warmup_updates=10,
    final_fraction=0.1,
  )
  config.router_bias_rate = 0.001
  config.balance_coef = 1e-4
  config.checkpoint_every_rounds = 50
  config.eval_every_rounds = 50
  return config


def small_reward_model(config: ConfigDict) -> None:
  """Makes it end within seconds."""
  config.data.candidates = 400
  config.epochs = 0.25
  config.optimizer.schedule.warmup_updates = 0
