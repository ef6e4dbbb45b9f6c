"""The whole chain of DeepSeek-R1, from the base to R1, in one command.

  python -m r1jax.main --config=configs/r1.py

The same command again goes on where it was stopped, and skips what is done.
A stage is one entry below: its name, its config, the stage whose weights it
starts from (None: those that its config names), and what else it takes from
the stages before it. `stages=zero+traces` runs these and what they need;
`seed=3` is every stage's seed; `zero.rounds=80` sets a field of one stage.

  python -m r1jax.main --config=configs/r1.py:qwen2.5-7b,student=qwen2.5-1.5b

is the chain of a published model and its student (configs/real.py): without
the stages that only the miniature has.

DeepSeek-R1 (arXiv:2501.12948), figure 2 and §2: each stage's own file says
what of it is the paper's. Hardware: two CPU cores, 32 minutes of their time,
54 minutes beside other runs. Result: EXPERIMENTS.md, "The whole chain, three
seeds" and "The whole chain again, one command, seed 0".
"""

import importlib
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import common, models, real

STAGES = (
  ("zero", "zero", None, {}),
  ("traces", "traces", "zero", {}),
  ("traces_base", "traces:from=base", None, {}),
  (
    "cold_start",
    "cold_start",
    None,
    {
      "data.path": "traces/data.jsonl",
      "data.more_path": "traces_base/data.jsonl",
    },
  ),
  ("reasoning", "reasoning", "cold_start", {}),
  ("reasoning_no_language", "reasoning:language=0", "cold_start", {}),
  ("rejection", "rejection", "reasoning", {}),
  ("sft", "sft", None, {"data.path": "rejection/data.jsonl"}),
  ("reward_helpful", "reward_helpful", "sft", {}),
  ("reward_safety", "reward_safety", "sft", {}),
  (
    "alignment",
    "alignment",
    "sft",
    {
      "reward_models.helpful.path": "reward_helpful",
      "reward_models.safety.path": "reward_safety",
    },
  ),
  ("distill_data", "distill_data", "alignment", {}),
  ("student_base", "student_base:tiny-dense", None, {}),
  (
    "distill",
    "distill:tiny-dense",
    "student_base",
    {"data.path": "distill_data/data.jsonl"},
  ),
  ("student_rl", "student_rl:tiny-dense", "student_base", {}),
  ("eval_base", "evaluate", None, {}),
  ("eval_zero", "evaluate", "zero", {}),
  ("eval_cold_start", "evaluate", "cold_start", {}),
  ("eval_reasoning", "evaluate", "reasoning", {}),
  ("eval_no_language", "evaluate", "reasoning_no_language", {}),
  ("eval_sft", "evaluate", "sft", {}),
  ("eval_alignment", "evaluate", "alignment", {}),
  ("eval_student_base", "evaluate:tiny-dense", "student_base", {}),
  ("eval_distill", "evaluate:tiny-dense", "distill", {}),
  ("eval_student_rl", "evaluate:tiny-dense", "student_rl", {}),
)


# What only the miniature has: ablations, and a student made from nothing.
MINIATURE = (
  *("traces_base", "reasoning_no_language", "student_base", "student_rl"),
  *("eval_no_language", "eval_student_base", "eval_student_rl"),
)


def stages(preset: str, student: str) -> list[tuple]:
  """The entries of STAGES for a preset, and of a real one for its student."""
  if not real.machine(preset):
    return list(STAGES)
  return [
    (
      name,
      file.replace("tiny-dense", student),
      None if init in MINIATURE else init,
      {k: v for k, v in inputs.items() if v.split("/")[0] not in MINIATURE},
    )
    for name, file, init, inputs in STAGES
    if name not in MINIATURE
  ]


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; `smoke` and those above are variants."""
  preset, smoke, overrides = common.parse(arg)
  student = overrides.pop("student", "qwen2.5-math-1.5b")
  table = stages(preset, student)
  names = [name for name, *_ in table]
  chosen = overrides.pop("stages", None)
  words = ["smoke"] if smoke else []
  config = ConfigDict()
  config.name = f"r1-{'-'.join([preset, *words])}"
  config.job = "pipeline"
  config.seed = int(overrides.pop("seed", 0))
  own: dict[str, list[str]] = {name: [] for name in names}
  for key, value in overrides.items():
    name, _, field = key.partition(".")
    if name not in own or not field:
      raise ValueError(f"config.{key} is unknown.")
    own[name].append(f"{field}={value}")
  wanted = set(names if chosen is None else _needed(chosen.split("+"), table))
  config.stages = [
    dict(
      stage=name,
      config=_config(file, preset, [*words, f"seed={config.seed}", *own[name]]),
      init=init,
      inputs=inputs,
    )
    for name, file, init, inputs in table
    if name in wanted
  ]
  return config.lock()


def _config(file: str, preset: str, words: list[str]) -> ConfigDict:
  """A config with its own words; its own preset where it names one."""
  name, _, arg = file.partition(":")
  own = arg.split(",") if arg else []
  if not any(word in models.PRESETS for word in own):
    own.append(preset)
  module = importlib.import_module(f"configs.{name}")
  return module.get_config(",".join([*own, *words]))


def _needed(names: list[str], rows: list[tuple]) -> Iterator[str]:
  """These stages and all that they take something from."""
  table: dict[str, Any] = {name: rest for name, *rest in rows}
  while names:
    name = names.pop()
    if name not in table:
      known = ", ".join(table)
      raise ValueError(f"config.stages has {name!r}. Known: {known}.")
    yield name
    _, init, inputs = table[name]
    sources = [*inputs.values(), *filter(None, [init])]
    names.extend(source.split("/")[0] for source in sources)
