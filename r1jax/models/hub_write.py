"""Weights written as a Hugging Face folder."""

import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy

from r1jax import distributed, tree
from r1jax.models import families, hub_read, hub_source
from r1jax.models import fp8 as fp8_lib
from r1jax.models.config import ModelConfig
from r1jax.models.hub_rules import Rule
from r1jax.types import Params

TOKENIZER_FILES = (
  "tokenizer.json",
  "tokenizer.model",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
  "chat_template.json",
)
MAX_SHARD_BYTES = 4 << 30
MAX_POSITIONS = 32768  # Of a model that nothing says it of; R1's longest.
# Of the base's config.json; what is written says them in its own way.
_REPLACED = (
  "rope_parameters",
  "rope_scaling",
  "torch_dtype",
  "quantization_config",
  "transformers_version",
  "_name_or_path",
)


class _Tensor(NamedTuple):
  """A tensor to be written: its name, and where it comes from."""

  name: str
  rule: Rule
  index: tuple[int, ...]
  size: int


def export(
  path: str | os.PathLike,
  config: ModelConfig,
  params: Params,
  buffers: Params,
  *,
  fp8: bool = False,
  max_shard_bytes: int = MAX_SHARD_BYTES,
  base: str | os.PathLike | None = None,
  tokenizer: str | os.PathLike | None = None,
  token_ids: Mapping[str, int] | None = None,
) -> None:
  """Writes a folder that transformers, vLLM and `hub.load` read.

  Every leaf keeps its dtype, so that importing gives the same bits. The
  host holds one file's tensors at a time. config.json is written last.

  Args:
    path: Of the folder, which must be new or empty.
    config, params, buffers: The model; leaves may be sharded.
    fp8: Whether projections are written as DeepSeek's 128 x 128 blocks
      of float8, with a scale a block.
    max_shard_bytes: Of one file; a larger tensor has a file for itself.
    base: What the model came from, for what config.json says beyond our
      dimensions, and for generation_config.json.
    tokenizer: Folder whose tokenizer files are copied; None takes `base`.
    token_ids: bos_token_id, eos_token_id and the like for config.json and
      generation_config.json, over those of the base.

  Raises:
    ValueError: If the folder has files already, or no family can express
      the model.
  """
  path = pathlib.Path(path)
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise ValueError(f"{path} is there already. Name a new folder.")
  said = _base_config(base)
  family = _family(config, said)
  weights = {"params": params, "buffers": buffers}
  leaves = dict(zip(tree.names(weights), jax.tree.leaves(weights)))
  rules = family.rules(config)
  hub_read.check_leaves(rules, leaves, path)
  writes = distributed.is_first()
  if writes:
    path.mkdir(parents=True, exist_ok=True)
  _write_shards(path, _tensors(rules, leaves), leaves, max_shard_bytes, fp8)
  if writes:
    _copy_files(path, base, tokenizer)
    _write_configs(path, config, family, said, fp8, dict(token_ids or {}))


def _base_config(base):
  return {} if base is None else hub_source.read_json_config(base)


def _family(config, said):
  """The base's family if it can express the model, else the first to."""
  name = (said.get("architectures") or [None])[0]
  if name in families.FAMILIES and families.FAMILIES[name].holds(config):
    return families.FAMILIES[name]
  return families.of_model(config)[1]


def _tensors(rules: Sequence[Rule], leaves: Mapping[str, Any]) -> list[_Tensor]:
  """All tensors, layer by layer, as checkpoints have them."""
  found = []
  for rule in rules:
    if rule.exported:
      itemsize = leaves[rule.ours].dtype.itemsize
      size = int(np.prod(rule.shape)) * itemsize
      found += [_Tensor(n, rule, index, size) for n, index in rule.places()]

  def order(tensor):
    layers = tensor.rule.layers
    return layers[tensor.index[0]] if layers is not None else -1

  return sorted(found, key=order)


def _shards(
  tensors: Sequence[_Tensor], max_bytes: int
) -> Iterator[list[_Tensor]]:
  shard: list[_Tensor] = []
  for tensor in tensors:
    if shard and sum(t.size for t in shard) + tensor.size > max_bytes:
      yield shard
      shard = []
    shard.append(tensor)
  yield shard


def _write_shards(path, tensors, leaves, max_bytes, is_fp8):
  shards = list(_shards(tensors, max_bytes))
  where, total = {}, 0
  for number, shard in enumerate(shards, 1):
    file = f"model-{number:05}-of-{len(shards):05}.safetensors"
    if len(shards) == 1:
      file = hub_source.SINGLE
    arrays: dict[str, np.ndarray] = {}
    for tensor in shard:
      value = distributed.fetch(leaves[tensor.rule.ours], tensor.index)
      value = np.ascontiguousarray(tensor.rule.to_hub(value))
      if is_fp8 and fp8_lib.is_quantized(tensor.name):
        value, arrays[tensor.name + fp8_lib.SCALE] = fp8_lib.quantize(value)
      arrays[tensor.name] = value
    where |= dict.fromkeys(arrays, file)
    total += sum(value.nbytes for value in arrays.values())
    if distributed.is_first():
      safetensors.numpy.save_file(arrays, path / file, {"format": "pt"})
  if len(shards) > 1 and distributed.is_first():
    index = {"metadata": {"total_size": total}, "weight_map": where}
    _write_json(path / hub_source.INDEX, index)


def _copy_files(path, base, tokenizer):
  folders = {base: ("generation_config.json",)}
  folders[tokenizer or base] = (
    *folders.get(tokenizer or base, ()),
    *TOKENIZER_FILES,
  )
  for folder, names in folders.items():
    for name in names:
      if folder is not None and (pathlib.Path(folder) / name).is_file():
        shutil.copyfile(pathlib.Path(folder) / name, path / name)


def _write_configs(path, config, family, said, is_fp8, token_ids):
  """generation_config.json and config.json."""
  ids = {k: said[k] for k in _TOKEN_IDS if said.get(k) is not None}
  ids |= token_ids
  generation = path / "generation_config.json"
  settings = hub_source.read_json(generation) if generation.exists() else ids
  _write_json(generation, settings | token_ids)
  longest = MAX_POSITIONS
  if scaling := config.rope_scaling:
    longest = round(scaling.factor * scaling.original_max_positions)
  kept = {k: v for k, v in said.items() if k not in _REPLACED}
  fields = {"max_position_embeddings": longest} | kept | family.to_hf(config)
  # transformers 5 reads `dtype`; before, and in servers, it is torch_dtype.
  fields |= dict.fromkeys(("dtype", "torch_dtype"), config.param_dtype) | ids
  if is_fp8:
    fields["quantization_config"] = fp8_lib.QUANTIZATION
  _write_json(path / "config.json", fields)


_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def _write_json(path: pathlib.Path, value: Any) -> None:
  text = json.dumps(value, indent=2, sort_keys=True) + "\n"
  path.write_text(text, encoding="utf-8")
