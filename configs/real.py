"""Published models: the paper's settings, and the hardware each is meant for.

`configs/zero.py:qwen2.5-1.5b` and the like take the miniature's config and
pass it through `real`. Weights and tokenizer are then those of the Hugging
Face folder `models/PRESET`, or of the variant `hub=DIR` (also a GGUF file),
which decides the dimensions too where no preset is named (its mesh is then one
device); the questions are files below `data/`, which are yours to put there:

  data/gsm8k/train.jsonl, test.jsonl     question, answer with #### NUMBER
  data/math/train.jsonl, test.jsonl      problem, solution with \\boxed{}
  data/dapo-math-17k.parquet             as published
  data/general.jsonl                     id, question, meta.prompt_set
                                         helpful or safety
  data/pairs/train.jsonl, test.jsonl     question, chosen, rejected
  data/labels/train.jsonl, test.jsonl    question, response, is_safe

Other places: `data.parts.0.path=FILE`, `eval_data.0.path=FILE`. Another mesh:
`mesh.fsdp=4,rows_per_microbatch=4`. What was measured with any of these
stands in EXPERIMENTS.md; of what does not stand there nothing was run.

Weights that are trained are kept in float32: at a learning rate of 3e-6 most
updates of bfloat16 weights would round to nothing. They, their gradient, two
moments and the reference take 20 bytes a parameter, sharded over the mesh.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from configs import models
from r1jax.models import hub_source

LAPTOP = "two CPU cores"
GPU, NODE = "one 80 GB GPU", "eight 80 GB GPUs"


class Machine(NamedTuple):
  """What a preset is meant for.

  Attributes:
    hardware: In words.
    mesh: Sizes of its axes.
    positions: The longest sequence the model was made for.
    student_lr: Of its distillation: the paper's (supplement, Table 6) for
      its six students, and for others that of the nearest in size.
  """

  hardware: str
  mesh: dict[str, int]
  positions: int
  student_lr: float


def _mesh(fsdp: int, expert: int = 1) -> dict[str, int]:
  return dict(data=1, fsdp=fsdp, expert=expert, tensor=1)


MACHINES = {
  "smollm2-135m": Machine(LAPTOP, _mesh(1), 8192, 1e-4),
  "smollm2-360m": Machine(GPU, _mesh(1), 8192, 1e-4),
  "smollm2-1.7b": Machine(NODE, _mesh(8), 8192, 1e-4),
  "qwen2.5-0.5b": Machine(GPU, _mesh(1), 32768, 1e-4),
  "qwen2.5-1.5b": Machine(NODE, _mesh(8), 32768, 1e-4),
  "qwen2.5-math-1.5b": Machine(NODE, _mesh(8), 4096, 1e-4),
  "qwen2.5-7b": Machine(NODE, _mesh(8), 32768, 8e-5),
  "qwen2.5-math-7b": Machine(NODE, _mesh(8), 4096, 8e-5),
  "qwen2.5-14b": Machine("16 such", _mesh(16), 32768, 7e-5),
  "qwen2.5-32b": Machine("32 such", _mesh(32), 32768, 6e-5),
  "qwen3-0.6b": Machine(GPU, _mesh(1), 32768, 1e-4),
  "qwen3-1.7b": Machine(NODE, _mesh(8), 32768, 1e-4),
  "qwen3-4b": Machine(NODE, _mesh(8), 32768, 8e-5),
  "qwen3-8b": Machine(NODE, _mesh(8), 32768, 8e-5),
  "qwen3-14b": Machine("16 such", _mesh(16), 32768, 7e-5),
  "qwen3-32b": Machine("32 such", _mesh(32), 32768, 6e-5),
  "llama-3.1-8b": Machine(NODE, _mesh(8), 131072, 5e-5),
  "llama-3.3-70b": Machine("64 such", _mesh(64), 131072, 2e-5),
  "mistral-7b": Machine(NODE, _mesh(8), 32768, 8e-5),
  "qwen3-30b-a3b": Machine("32 such", _mesh(4, 8), 32768, 6e-5),
  "deepseek-v2-lite": Machine("16 such", _mesh(2, 8), 163840, 7e-5),
  "moonlight-16b": Machine("16 such", _mesh(2, 8), 8192, 7e-5),
  "deepseek-v2": Machine("128 such", _mesh(16, 8), 163840, 2e-5),
  "deepseek-v3": Machine("512 such", _mesh(16, 32), 163840, 2e-5),
}


def machine(preset: str) -> Machine | None:
  """Of MACHINES; one device for a folder's or file's; None of a miniature."""
  if models.is_path(preset):
    hf = hub_source.read_json_config(preset)
    return Machine(GPU, _mesh(1), hf["max_position_embeddings"], 1e-4)
  return MACHINES.get(preset)


# The paper's lengths (DeepSeek-R1's supplement, B.4), where the model has
# the positions for them.
MAX_PROMPT_TOKENS, MAX_RESPONSE_TOKENS = 1024, 32768
SFT_TOKENS = 32768


def questions() -> dict:
  """Mathematics to train on."""
  return dict(
    name="mixture",
    parts=[
      dict(name="jsonl", path="data/gsm8k/train.jsonl", format="gsm8k"),
      dict(name="jsonl", path="data/math/train.jsonl", format="math"),
      dict(
        name="parquet",
        path="data/dapo-math-17k.parquet",
        format="dapo",
        distinct=True,
      ),
    ],
  )


def all_questions() -> dict:
  """Those, and general prompts."""
  data = questions()
  data["parts"].append(
    dict(name="jsonl", path="data/general.jsonl", verifier="none")
  )
  return data


def suites() -> list[dict]:
  """The same, held out."""
  return [
    dict(
      name="jsonl",
      path=f"data/{name}/test.jsonl",
      format=name,
      suite=name,
    )
    for name in ("gsm8k", "math")
  ]


def real(
  config: ConfigDict, preset: str, smoke: bool, *, template: str = "chat-think"
) -> None:
  """Makes a config of the miniature one of a published model.

  Of the miniature's own presets it leaves everything as it is.

  Args:
    config: Whole, but for the overrides of the command line.
    preset: Of `models.PRESETS`.
    smoke: Whether it shall end soon, on the same hardware.
    template: "r1-zero" where the model has seen no other.
  """
  found = machine(preset)
  if not found:
    return
  _weights(config, preset, found)
  del config.template
  config.template = template
  if config.job != "reward_model":
    _prompts(config, preset, found, smoke)
  _JOBS[config.job](config, preset, smoke)


def _prompts(
  config: ConfigDict, preset: str, meant_for: Machine, smoke: bool
) -> None:
  """Fields of what samples: lengths, slots, graders, suites."""
  prompt = min(MAX_PROMPT_TOKENS, meant_for.positions // 4)
  room = meant_for.positions - prompt
  config.max_prompt_tokens = prompt
  config.max_response_tokens = min(MAX_RESPONSE_TOKENS, room)
  if preset == "smollm2-135m":
    config.max_prompt_tokens, config.max_response_tokens = 256, 256
  config.overlong = "drop"
  config.sampling.update(slots=128, chunk_tokens=64, prefill_rows=16)
  config.grader.update(workers=16, timeout_secs=30.0, budget_secs=600.0)
  config.eval_data = suites()
  if smoke:
    config.max_response_tokens = min(256, room)
    config.sampling.slots = 16


def _weights(config: ConfigDict, preset: str, meant_for: Machine) -> None:
  folder = preset if models.is_path(preset) else f"models/{preset}"
  config.init = dict(name="hub", path=folder)
  config.tokenizer = folder
  config.mesh.update(meant_for.mesh)
  if "optimizer" in config:
    config.model.param_dtype = "float32"


def _updates(config: ConfigDict, row_tokens: int) -> None:
  """Fields of what trains on packed rows."""
  config.row_tokens = row_tokens
  mesh = config.mesh
  config.rows_per_microbatch = mesh.data * mesh.fsdp * mesh.expert
  # Only DeepSeek-V3's router has a bias to move.
  if not config.model.get("router_bias", bool(config.model.get("num_experts"))):
    config.router_bias_rate = 0.0
    config.balance_coef = 0.0


def _grpo(config: ConfigDict, preset: str, smoke: bool) -> None:
  """RL as in the paper: 512 questions a rollout, 16 updates of 32 of them.

  DeepSeek-R1 (arXiv:2501.12948), supplement, B.4.1; 10,400 updates.
  """
  rows = config.max_prompt_tokens + config.max_response_tokens
  _updates(config, rows)
  config.optimizer.learning_rate = 3e-6
  config.rounds = 650
  config.questions_per_round = 512
  config.samples_per_question = 16
  config.updates_per_round = 16
  config.reference_refresh_rounds = 25
  config.checkpoint_every_rounds = 5
  config.eval_every_rounds = 25
  config.eval_sampling.update(
    temperature=0.6, top_p=0.95, samples_per_question=4, questions=200
  )
  config.routing_replay = bool(config.model.get("num_experts"))
  if preset == "smollm2-135m":
    config.rounds = 200
    config.questions_per_round = 8
    config.samples_per_question = 8
    config.updates_per_round = 1
    config.sampling.slots = 64
    config.eval_sampling.questions = 40
  if smoke:
    config.rounds = 3
    config.questions_per_round = 4
    config.samples_per_question = 4
    config.updates_per_round = 1
    config.eval_every_rounds = 0
    config.optimizer.schedule.warmup_updates = 1


def _lm(config: ConfigDict, preset: str, smoke: bool) -> None:
  """SFT as in the paper: batches of 128, cosine from 5e-5 to 5e-6.

  DeepSeek-R1 (arXiv:2501.12948), supplement, B.4.2; context 32,768.
  """
  _updates(config, min(SFT_TOKENS, machine(preset).positions))
  config.sequences_per_round = 128
  config.epochs = 2.0
  config.optimizer.learning_rate = 5e-5
  path = config.data.path.replace("tiny", models.label(preset))
  config.data = dict(name="responses", path=path)
  config.eval_every_rounds = 0
  if preset == "smollm2-135m":
    config.row_tokens = 1024
  if smoke:
    config.epochs = 0.1


def _reward_model(config: ConfigDict, preset: str, smoke: bool) -> None:
  """As in the paper, §3.1: 8,192 tokens, batches of 256, one epoch at 6e-6."""
  is_pairs = config.loss.name == "pairwise"
  config.max_tokens = min(8192, machine(preset).positions)
  config.overlong = "drop"
  _updates(config, config.max_tokens * (2 if is_pairs else 1))
  config.records_per_round = 256
  config.optimizer.learning_rate = 6e-6
  kind = "pairs" if is_pairs else "labels"
  config.data = dict(name=f"{kind}_jsonl", path=f"data/{kind}/train.jsonl")
  config.eval_records = [
    dict(name=f"{kind}_jsonl", path=f"data/{kind}/test.jsonl", suite="held_out")
  ]
  if smoke:
    config.epochs = 0.01


def _generate(config: ConfigDict, preset: str, smoke: bool) -> None:
  """Sampling of the questions of RL; no rule knows other good answers."""
  del preset
  config.data = questions()
  config.refine = dict(name="as_it_is")
  config.judge = dict(name="none")
  config.other_data = dict(name="none")
  if "searches" in config.filters:
    del config.filters.searches
  if "short_paragraphs" in config.filters:
    config.filters.short_paragraphs = dict(max_chars=2000)
  if smoke:
    config.data.parts = config.data.parts[:1]
    config.data.parts[0]["limit"] = 32


def _evaluate(config: ConfigDict, preset: str, smoke: bool) -> None:
  """As in the paper, §3: temperature 0.6, top-p 0.95, several samples."""
  del preset
  if "few_shot" in config.eval_modes:  # Whose examples need thoughts.
    del config.eval_modes.few_shot
  sampled = config.eval_modes.sampled
  sampled.update(samples_per_question=16, questions=1_000_000)
  if "greedy" in config.eval_modes:
    config.eval_modes.greedy.questions = 1_000_000
  del config.rewards.harmless
  config.readable.short_paragraphs.max_chars = 2000
  if smoke:
    sampled.update(samples_per_question=4, questions=2)


_JOBS = {
  "grpo": _grpo,
  "lm": _lm,
  "reward_model": _reward_model,
  "generate": _generate,
  "evaluate": _evaluate,
}
