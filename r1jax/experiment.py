"""What the jobs of a config share: tokenizer, model, weights, data."""

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import ml_collections
from absl import logging

from r1jax import (
  checkpoint,
  distributed,
  grading,
  policy,
  preference,
  registry,
  rollout,
  run_card,
  sharding,
)
from r1jax.data import documents as document_lib
from r1jax.data import sources, templates
from r1jax.data import tokenizer as tokenizer_lib
from r1jax.models import config as model_config
from r1jax.models import heads, hub, store
from r1jax.records import Question
from r1jax.rewards import table, verifiers
from r1jax.types import Params

ASSETS = pathlib.Path(__file__).parent / "assets"
BUNDLED = ASSETS / "params.safetensors"


def dimensions(
  config: ml_collections.ConfigDict, tokenizer: tokenizer_lib.Tokenizer
) -> model_config.ModelConfig:
  """The model's dimensions, which must have room for the tokenizer.

  Raises:
    ValueError: For fields that do not fit each other, or the tokenizer.
  """
  model = model_config.from_dict(config.model.to_dict())
  if model.vocab_size < tokenizer.vocab_size:
    raise ValueError(
      f"config.model.vocab_size is {model.vocab_size}, but the tokenizer "
      f"{config.tokenizer!r} has {tokenizer.vocab_size} pieces. Set it to "
      "that or more, or choose the tokenizer of the model."
    )
  if config.init.name == "hub":
    hub.check(config.init.path, model, "config.model")
  return model


def questions(data: Mapping[str, Any], field: str) -> list[Question]:
  """A data set's questions, their gold answers checked.

  Raises:
    ValueError: For an unknown data set or one with bad rows.
  """
  return sources.read(data, field, verifiers.check)


def template(config: ml_collections.ConfigDict) -> templates.Names:
  """config.template: a name, or one for each kind of question.

  Raises:
    ValueError: For a template that there is not.
  """
  names, field = config.template, "config.template"
  if isinstance(names, str):
    registry.lookup(templates.TEMPLATES, names, field)
    return names
  names = names.to_dict()
  for kind, name in names.items():
    registry.lookup(templates.TEMPLATES, name, f"{field}.{kind}")
  return names


def within_budget(
  config: ml_collections.ConfigDict,
  tokenizer: tokenizer_lib.Tokenizer,
  data: Sequence[Question],
  field: str,
) -> list[Question]:
  """The questions whose prompt has at most config.max_prompt_tokens.

  Raises:
    ValueError: For one that has more, if config.overlong is "refuse"; if
      it is "drop", only where none is left.
  """
  names, refuses, kept = template(config), config.overlong == "refuse", []
  for question in data:
    tokens = len(templates.prompt_ids(names, question, tokenizer))
    if tokens <= config.max_prompt_tokens:
      kept.append(question)
    elif refuses:
      raise ValueError(
        f"{field}: the prompt of question {question.id!r} has {tokens} tokens, "
        f"but config.max_prompt_tokens is {config.max_prompt_tokens}. Raise "
        "it, remove the question, or set config.overlong to 'drop'."
      )
  if not kept:
    raise ValueError(
      f"{field}: all {len(data)} prompts are longer than "
      f"config.max_prompt_tokens {config.max_prompt_tokens}. Raise it."
    )
  if len(kept) < len(data):
    dropped = len(data) - len(kept)
    logging.warning("%s: %d prompts are too long.", field, dropped)
  return kept


def abstract_weights(
  model: policy.Policy | preference.RewardModel, mesh: jax.sharding.Mesh
) -> tuple[Params, Params]:
  """Shapes, types and shardings of parameters and buffers.

  Raises:
    ValueError: If the mesh does not fit the model.
  """
  boxed = jax.eval_shape(model.init, jax.random.key(0))
  shardings = sharding.param_shardings(mesh, boxed)
  return jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=place
    ),
    nn.unbox(boxed),
    shardings,
  )


def weights(
  config: ml_collections.ConfigDict,
  model: policy.Policy,
  mesh: jax.sharding.Mesh,
) -> tuple[Params, Params]:
  """Parameters and buffers as config.init says, on the mesh.

  Raises:
    ValueError: If there is nothing to load, or it is another model's.
  """
  if config.init.name != "random":
    return stored_weights(config.init, "config.init", model, mesh)
  abstract = abstract_weights(model, mesh)
  init = jax.jit(
    lambda key: nn.unbox(model.init(key)),
    out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract),
  )
  return init(jax.random.fold_in(jax.random.key(config.seed), 1 << 30))


def stored_weights(
  choice: ml_collections.ConfigDict,
  field: str,
  model: policy.Policy,
  mesh: jax.sharding.Mesh,
) -> tuple[Params, Params]:
  """The parameters and buffers that a field names, on the mesh.

  Raises:
    ValueError: As `weights`.
  """
  abstract = abstract_weights(model, mesh)
  if choice.name == "checkpoint":
    return checkpoint.restore_weights(choice.path, *abstract)
  if choice.name == "hub":
    return hub.load(choice.path, *abstract)
  path = BUNDLED if choice.name == "bundled" else choice.path
  if choice.name == "bundled" and not BUNDLED.exists():
    raise ValueError(
      f"{field}.name is 'bundled', but there is no {BUNDLED}. Install "
      "the package whole, or make weights with configs/pretrain.py and set "
      f"{field} to dict(name='safetensors', path=...)."
    )
  shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
  return distributed.place(store.load(path, *abstract), shardings)


def teacher(
  config: ml_collections.ConfigDict,
  dims: model_config.ModelConfig,
  mesh: jax.sharding.Mesh,
) -> tuple[model_config.ModelConfig, tuple[Params, Params]]:
  """(dimensions, (parameters, buffers)) of config.teacher, on the mesh.

  Args:
    config: Of a job that distils.
    dims: The student's.
    mesh: Where the teacher goes.

  Raises:
    ValueError: As `weights`, or if its tokens are not the student's.
  """
  choice = config.teacher
  theirs = model_config.from_dict(choice.model.to_dict())
  if choice.name == "hub":
    hub.check(choice.path, theirs, "config.teacher.model")
  digest = file_digest(tokenizer_lib.path_of(config.tokenizer))
  if theirs.vocab_size != dims.vocab_size:
    raise ValueError(
      f"config.teacher.model.vocab_size is {theirs.vocab_size}, "
      f"config.model.vocab_size is {dims.vocab_size}. Choose a student of the "
      "teacher's vocabulary, or distil by text, with configs/distill.py."
    )
  path = choice.path if choice.name != "bundled" else str(BUNDLED)
  found = {
    "config.teacher.tokenizer": file_digest(
      tokenizer_lib.path_of(choice.tokenizer)
    ),
    f"the run of config.teacher.path {path!r}": _tokenizer_of(path),
  }
  for name, other in found.items():
    if other not in (None, digest):
      raise ValueError(
        f"{name} has tokenizer {other}, config.tokenizer is {digest}. "
        "Choose a student of the teacher's tokenizer, or distil by text, "
        "with configs/distill.py."
      )
  model = policy.make(theirs, temperature=1.0)
  return theirs, stored_weights(choice, "config.teacher", model, mesh)


def _tokenizer_of(path: str) -> str | None:
  """Digest of the tokenizer that weights were trained with, if known."""
  found = pathlib.Path(path)
  # A workdir, its checkpoints, or its params.safetensors.
  for directory in (found, found.parent):
    if directory.is_dir():
      card = run_card.read(str(directory))
      if "tokenizer_digest" in card:
        return card["tokenizer_digest"]
  return None


def reward_weights(
  config: ml_collections.ConfigDict,
  model: preference.RewardModel,
  mesh: jax.sharding.Mesh,
) -> tuple[Params, Params]:
  """A reward model's, from the policy of config.init and a fresh head.

  Raises:
    ValueError: As `weights`.
  """
  dims = model_config.from_dict(config.model.to_dict())
  start = weights(config, policy.make(dims, temperature=1.0), mesh)
  places, _ = abstract_weights(model, mesh)
  init = jax.jit(
    lambda key: nn.unbox(model.init(key))[0][heads.HEAD],
    out_shardings=places[heads.HEAD].sharding,
  )
  key = jax.random.fold_in(jax.random.key(config.seed), (1 << 30) + 1)
  return heads.from_policy(*start, init(key))


def programs(
  config: ml_collections.ConfigDict,
  model: policy.Policy,
  tokenizer: tokenizer_lib.Tokenizer,
  sampling: Mapping[str, Any],
) -> Any:
  """The sampler's programs at a sampling setting."""
  return model.programs(
    eos_id=tokenizer.eos_id,
    stop_ids=tokenizer.stop_ids,
    chunk_tokens=config.sampling.chunk_tokens,
    top_k=sampling["top_k"],
    top_p=sampling["top_p"],
    repetition_tokens=config.sampling.repetition_tokens,
    slots=config.sampling.slots,
    prefill_rows=config.sampling.prefill_rows,
    weights=config.sampling.weights,
    max_prompt_tokens=config.max_prompt_tokens,
    max_response_tokens=config.max_response_tokens,
  )


def grader(config: ml_collections.ConfigDict) -> grading.Grader:
  """The grading processes of config.rewards."""
  return grading.Grader(
    {
      name: arguments
      for name, arguments in _reward_arguments(config).items()
      if name not in (*table.GROUP_REWARDS, *table.MODEL_REWARDS)
    },
    workers=config.grader.workers,
    timeout_secs=config.grader.timeout_secs,
    budget_secs=config.grader.budget_secs,
    worker_mem_mb=config.grader.worker_mem_mb,
  )


def _reward_arguments(
  config: ml_collections.ConfigDict,
) -> dict[str, dict[str, Any]]:
  return {
    name: {k: v for k, v in fields.items() if k != "weight"}
    for name, fields in config.rewards.to_dict().items()
  }


def roll(
  config: ml_collections.ConfigDict,
  tokenizer: tokenizer_lib.Tokenizer,
  sampler: Any,
  graders: grading.Grader,
  by_kind: Mapping[str, Sequence[str]],
  models: Mapping[str, rollout.ModelReward],
) -> rollout.Roll:
  """The rollout function of a config.

  Args:
    config, tokenizer: The run's.
    sampler: Of `programs`.
    graders: Of `grader`.
    by_kind: Names of the rewards that questions of a kind take.
    models: Of `model_rewards`.
  """
  rewards = rollout.Rewards(
    graders,
    {name: fields["weight"] for name, fields in config.rewards.items()},
    {
      name: functools.partial(table.GROUP_REWARDS[name], **arguments)
      for name, arguments in _reward_arguments(config).items()
      if name in table.GROUP_REWARDS
    },
    models,
    by_kind,
    sends_ids=any(name in config.rewards for name in table.NEED_IDS),
  )
  return rollout.make(sampler, tokenizer, template(config), rewards)


def question_order(
  data: Sequence[Question], seed: int
) -> Callable[[int, int], list[Question]]:
  """(index, n) -> n questions of the endless shuffled order."""
  dataset = sources.order(data, seed)
  return lambda index, n: [dataset[index + i] for i in range(n)]


def documents(
  config: ml_collections.ConfigDict, tokenizer: tokenizer_lib.Tokenizer
) -> Callable[[int], list[tuple[list[int], list[int]]]]:
  """A round's documents as prompt ids and response ids."""
  make = registry.make(document_lib.DOCUMENTS, config.data, "config.data")
  encode = functools.partial(_encode, template(config), tokenizer)
  n = config.sequences_per_round
  return lambda round: [encode(make(round * n + i)) for i in range(n)]


def rounds(config: ml_collections.ConfigDict) -> int:
  """Rounds of a config of job "lm", or of its passes over the responses."""
  if not config.epochs:
    return config.rounds
  count = document_lib.count_responses(**_arguments(config.data))
  passes = config.epochs * count / config.sequences_per_round
  return max(1, round(passes))


def _arguments(choice):
  return {k: v for k, v in choice.to_dict().items() if k != "name"}


def _encode(template, tokenizer, document):
  return templates.document_ids(
    template, document.question, document.response, tokenizer
  )


def file_digest(path: str | os.PathLike) -> str:
  """First 16 hex digits of a file's SHA-256."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def digest_of(values: Any) -> str:
  """First 16 hex digits of the SHA-256 of values as JSON."""
  text = json.dumps(values, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]
