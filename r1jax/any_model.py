"""The model that a path names, whatever wrote it."""

import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
import safetensors

from r1jax import checkpoint, experiment, policy, run_card, sharding
from r1jax.data import tokenizer as tokenizer_lib
from r1jax.models import config as config_lib
from r1jax.models import hub, hub_source, store
from r1jax.types import Params

EXPORT = "params.safetensors"
_NARROW = (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn)


class Opened(NamedTuple):
  """A model with its weights on the devices.

  Attributes:
    config, params, buffers: The model.
    tokenizer: For `tokenizer.load`; None if nothing says which.
    template: What it was trained with, a name of `templates`; None if
      nothing says so.
    base: The Hugging Face folder or GGUF file that it is or comes from.
  """

  config: config_lib.ModelConfig
  params: Params
  buffers: Params
  tokenizer: str | None
  template: str | None
  base: str | None


def load(
  path: str | os.PathLike, *, dtype: str | None = None, tokenizer: str = ""
) -> Opened:
  """The model of a path.

  Args:
    path: A workdir, its checkpoints, a params.safetensors, a Hugging Face
      folder or a GGUF file.
    dtype: Of the parameters; None keeps what the file has.
    tokenizer: Goes before the one that the path knows of.

  Raises:
    ValueError: If it is none of these, or cannot be read.
  """
  path = pathlib.Path(path)
  workdir = path.parent if path.name == "checkpoints" else path
  if (workdir / run_card.CARD).is_file():
    opened = _of_workdir(workdir, dtype)
  elif path.suffix == ".gguf" or (path / "config.json").is_file():
    opened = _of_hub(path, dtype)
  elif path.suffix == ".safetensors" and path.is_file():
    opened = _of_store(path, dtype)
  else:
    raise ValueError(
      f"{path} holds no model. Name a workdir with run.json, a "
      f"{EXPORT}, a folder with config.json, or a GGUF file."
    )
  if tokenizer:
    opened = opened._replace(tokenizer=tokenizer)
  return opened


def read_tokenizer(opened: Opened) -> tokenizer_lib.Tokenizer:
  """The model's tokenizer.

  Raises:
    ValueError: If none is known or it has more ids than the embedding.
  """
  if opened.tokenizer is None:
    raise ValueError(
      "nothing says which tokenizer the weights go with. Add --tokenizer with "
      "'bundled', a sentencepiece model or a folder."
    )
  tokenizer = tokenizer_lib.load(opened.tokenizer)
  if tokenizer.vocab_size > opened.config.vocab_size:
    raise ValueError(
      f"the tokenizer {opened.tokenizer} has {tokenizer.vocab_size} ids, but "
      f"the model's vocab_size is {opened.config.vocab_size}. Choose the "
      "tokenizer of the model, with --tokenizer."
    )
  return tokenizer


def _of_workdir(workdir, dtype) -> Opened:
  """The newest checkpoint of a run, or what it exported."""
  made = run_card.read(str(workdir)).get("config", {})
  if "model" not in made or made.get("job") == "reward_model":
    raise ValueError(
      f"{workdir} is of job {made.get('job')!r}, which makes no language "
      "model. Name the workdir of a stage that trains one."
    )
  fields = dict(made["model"], **({"param_dtype": dtype} if dtype else {}))
  config = config_lib.from_dict(fields)
  if (workdir / "checkpoints").is_dir() or not (workdir / EXPORT).is_file():
    stored = config_lib.from_dict(made["model"])
    weights = checkpoint.restore_weights(workdir, *_abstract(stored))
    weights = _cast(weights, config)
  else:
    weights = _read_store(workdir / EXPORT, config)
  template, init = made["template"], made.get("init", {})
  return Opened(
    config,
    *weights,
    made["tokenizer"],
    template if isinstance(template, str) else template.get("reasoning"),
    init["path"] if init.get("name") == "hub" else None,
  )


def _of_hub(path, dtype) -> Opened:
  dtype = dtype or _stored_dtype(hub_source.open_source(path))
  config = config_lib.from_dict(
    hub.read_config(path) | dict(param_dtype=dtype, compute_dtype=dtype)
  )
  weights = hub.load(path, *_abstract(config))
  return Opened(config, *weights, _tokenizer_in(path), None, str(path))


def _of_store(path, dtype) -> Opened:
  notes = _notes(path)
  if "model" not in notes:
    raise ValueError(
      f"{path} says of no model that it belongs to. Name the folder with its "
      "config.json."
    )
  if (path.parent / run_card.CARD).is_file():
    made = run_card.read(str(path.parent)).get("config", {})
    notes = {k: made[k] for k in ("tokenizer", "template") if k in made} | notes
  fields = dict(notes["model"], **({"param_dtype": dtype} if dtype else {}))
  config = config_lib.from_dict(fields)
  weights = _read_store(path, config)
  template = notes.get("template")
  return Opened(
    config,
    *weights,
    notes.get("tokenizer") or _tokenizer_in(path.parent),
    template if isinstance(template, str) else None,
    base if (base := notes.get("base")) and os.path.exists(base) else None,
  )


def _read_store(path, config):
  stored = config_lib.from_dict(_notes(path)["model"])
  return _cast(store.load(path, *_abstract(stored)), config)


def _notes(path) -> dict[str, Any]:
  """What a file of `store` says beside its weights."""
  if path.resolve() != experiment.BUNDLED.resolve():
    return store.notes(path)
  with safetensors.safe_open(path, "numpy") as file:
    # Of the bundled file, whose only note this is.
    return {"model": json.loads(file.metadata()["model"])}


def _cast(weights, config):
  """The weights in the dtypes and on the devices of a model."""

  def place(leaf, like):
    return jax.device_put(leaf.astype(like.dtype), like.sharding)

  return jax.tree.map(place, weights, _abstract(config))


def _abstract(config):
  """Shapes, dtypes and shardings over all devices."""
  mesh = sharding.make_mesh(
    dict(data=1, fsdp=jax.device_count(), expert=1, tensor=1)
  )
  model = policy.make(config, temperature=1.0)
  return experiment.abstract_weights(model, mesh)


def _stored_dtype(source: Any) -> str:
  """bfloat16 if most numbers are stored in it or in less, else float32."""
  counts = {True: 0, False: 0}
  for name in source.names():
    narrow = source.dtype(name) in map(np.dtype, _NARROW)
    counts[narrow] += int(np.prod(source.shape(name)))
  return "bfloat16" if counts[True] > counts[False] else "float32"


def _tokenizer_in(path: pathlib.Path) -> str | None:
  """The tokenizer in a folder or GGUF file, or None."""
  if path.suffix == ".gguf":
    return str(path)
  file = tokenizer_lib.path_of(path)
  return str(path) if file.is_file() else None
