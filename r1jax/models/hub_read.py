"""Tensors of Hugging Face folders, read into sharded device arrays."""

import functools
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors

from r1jax import tree
from r1jax.models import config as config_lib
from r1jax.models import families, fp8
from r1jax.models.hub_rules import Rule
from r1jax.types import Params

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

DTYPES = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  "F8_E4M3": ml_dtypes.float8_e4m3fn,
  "I64": np.int64,
  "I32": np.int32,
}


class Source(Protocol):
  """Where tensors come from; names are in the order to read them in."""

  def names(self) -> list[str]:
    """Names of all tensors."""

  def shape(self, name: str) -> tuple[int, ...]:
    """Shape of one."""

  def dtype(self, name: str) -> np.dtype:
    """Dtype of what `read` gives."""

  def read(self, name: str) -> np.ndarray:
    """The tensor."""


class _Place(NamedTuple):
  file: pathlib.Path
  offset: int
  dtype: np.dtype
  shape: tuple[int, ...]


class Safetensors:
  """The tensors of safetensors files, each read from where it lies.

  The library checks the files' headers. Bytes are read and not mapped, so
  that the files' pages do not count as the process's memory.
  """

  def __init__(self, files: Sequence[pathlib.Path]):
    """Reads the headers.

    Raises:
      ValueError: For a file that is missing, damaged or of another kind.
    """
    self._places: dict[str, _Place] = {}
    for file in files:
      self._places |= _places(file)

  def names(self) -> list[str]:
    """Names, in the order of files and of bytes."""
    return list(self._places)

  def file(self, name: str) -> pathlib.Path:
    """The file that holds a tensor."""
    return self._places[name].file

  def shape(self, name: str) -> tuple[int, ...]:
    """Shape of a tensor."""
    return self._places[name].shape

  def dtype(self, name: str) -> np.dtype:
    """Dtype of a tensor."""
    return self._places[name].dtype

  def read(self, name: str) -> np.ndarray:
    """The tensor."""
    place = self._places[name]
    count = int(np.prod(place.shape)) * place.dtype.itemsize
    data = np.fromfile(place.file, np.uint8, count, offset=place.offset)
    if data.size != count:
      raise ValueError(
        f"{place.file} ends inside of {name}. Fetch the file again."
      )
    return data.view(place.dtype).reshape(place.shape)


def _places(file: pathlib.Path) -> dict[str, _Place]:
  found = {}
  try:
    with safetensors.safe_open(file, "numpy") as header:
      for name in header.offset_keys():
        part = header.get_slice(name)
        kind, shape = part.get_dtype(), tuple(part.get_shape())
        if kind not in DTYPES:
          raise ValueError(
            f"{file}: {name} is of type {kind}. Known: {', '.join(DTYPES)}. "
            "Convert it."
          )
        found[name] = _Place(file, 0, np.dtype(DTYPES[kind]), shape)
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(
      f"{file} cannot be read: {error}. Fetch the file again."
    ) from error
  # The format leaves no gaps: the last tensor ends where the file does.
  offset = file.stat().st_size
  for name in reversed(found):
    place = found[name]
    offset -= int(np.prod(place.shape)) * place.dtype.itemsize
    found[name] = place._replace(offset=offset)
  return found


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The object in a JSON file.

  Raises:
    ValueError: If there is none.
  """
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise ValueError(
      f"{path} cannot be read: {error.strerror}. Name a folder that has it."
    ) from error
  except ValueError as error:
    raise ValueError(f"{path} is not JSON: {error}.") from error
  if not isinstance(found, dict):
    raise ValueError(f"{path} is {type(found).__name__}, not an object.")
  return found


def _folder(path: pathlib.Path) -> Safetensors:
  if not (path / INDEX).exists():
    if (path / SINGLE).exists():
      return Safetensors([path / SINGLE])
    raise ValueError(
      f"{path} has neither {SINGLE} nor {INDEX}. Fetch the weights as "
      "safetensors."
    )
  where = read_json(path / INDEX).get("weight_map")
  if not isinstance(where, dict):
    raise ValueError(f"{path / INDEX} has no weight_map.")
  files = [path / file for file in dict.fromkeys(where.values())]
  for file in files:
    if not file.exists():
      name = next(k for k, v in where.items() if v == file.name)
      raise ValueError(
        f"{file} is missing; {INDEX} says it holds {name}. Fetch it."
      )
  source = Safetensors(files)
  for name, file in where.items():
    if name not in source.names() or source.file(name).name != file:
      raise ValueError(
        f"{path / file} has no {name}, which {INDEX} says it holds. Fetch "
        "both again."
      )
  return source


def read_json_config(path: str | os.PathLike) -> dict[str, Any]:
  """The config.json of a folder, or what a GGUF file says in its words."""
  path = pathlib.Path(path)
  if path.suffix == ".gguf":
    from r1jax.models import gguf_file  # Its package is an extra.

    return gguf_file.read_config(path)
  return read_json(path / "config.json")


def open_source(path: str | os.PathLike) -> Source:
  """The tensors of a folder or a GGUF file, by Hugging Face's names."""
  path = pathlib.Path(path)
  if path.suffix == ".gguf":
    from r1jax.models import gguf_file

    return gguf_file.Source(path)
  source = _folder(path)
  if read_json_config(path).get("quantization_config"):
    return fp8.Dequantized(source)
  return source


def read_config(path: str | os.PathLike) -> dict[str, Any]:
  """Fields of ModelConfig of a folder or GGUF file.

  Dtypes, `remat` and what else is not the model's stay at their defaults.

  Raises:
    ValueError: If there is no readable config, or it is of a model that is
      not built; it names the field.
  """
  found = read_json_config(path)
  try:
    fields = families.of_json(found)[1].from_hf(found)
    config_lib.from_dict(fields)
  except ValueError as error:
    raise ValueError(f"{path}: config.json: {error}") from error
  return fields


def load(
  path: str | os.PathLike, params: Params, buffers: Params
) -> tuple[Params, Params]:
  """(parameters, buffers) of a folder or GGUF file, as jax arrays.

  One tensor at a time is read, cast to its leaf's dtype and written into
  its slice of the leaf, which lies on its devices from the start. The host
  holds two tensors at most.

  Args:
    path: Of the folder or file.
    params, buffers: The model's, abstract: shapes, dtypes and shardings;
      a leaf without sharding goes to the default device.

  Raises:
    ValueError: If something is missing, left over or of another shape; it
      names the file and the tensor.
  """
  model = config_lib.from_dict(read_config(path))
  family = families.of_json(read_json_config(path))[1]
  source = open_source(path)
  weights = {"params": params, "buffers": buffers}
  leaves = dict(zip(tree.names(weights), jax.tree.leaves(weights)))
  rules = family.rules(model)
  check_leaves(rules, leaves, path)
  plan = _plan(source, rules, family.ignored, path)
  filled = _fill(source, plan, leaves, path)
  structure = jax.tree.structure(weights)
  weights = jax.tree.unflatten(structure, [filled[name] for name in leaves])
  return weights["params"], weights["buffers"]


def check_leaves(rules, leaves, path):
  """Every leaf is filled whole, by rules of its shape."""
  shapes = {}
  for rule in rules:
    inner = rule.to_ours(np.broadcast_to(np.int8(0), rule.shape)).shape
    layers = () if rule.layers is None else (len(rule.layers),)
    experts = (rule.experts,) if rule.experts else ()
    shapes[rule.ours] = (*layers, *experts, *inner)
  for name in sorted({*shapes, *leaves}):
    there = shapes.get(name)
    here = tuple(leaves[name].shape) if name in leaves else None
    if there != here:
      raise ValueError(
        f"{path} has {_shown(there)} for {name}, config.model has "
        f"{_shown(here)}. Choose the model of the weights."
      )


def _shown(shape):
  return "nothing" if shape is None else str(list(shape))


def _plan(
  source: Source, rules: Sequence[Rule], ignored: Sequence[str], path: Any
) -> dict[str, tuple[Rule, tuple[int, ...]]]:
  """Tensor to its rule and index, in reading order.

  Raises:
    ValueError: If a tensor is missing, left over or of another shape.
  """
  wanted = {
    name: (rule, index) for rule in rules for name, index in rule.places()
  }
  names = source.names()
  found = set(names)
  for name, (rule, _) in wanted.items():
    if name not in found:
      if rule.repeats:
        continue
      raise ValueError(
        f"{path} has no tensor {name}, which its config.json asks for."
      )
    if tuple(source.shape(name)) != rule.shape:
      raise ValueError(
        f"{_file(source, name, path)}: {name} is of shape "
        f"{list(source.shape(name))}, its config.json asks for "
        f"{list(rule.shape)}."
      )
  for name in names:
    if name not in wanted and not any(re.fullmatch(p, name) for p in ignored):
      raise ValueError(
        f"{_file(source, name, path)}: {name} is left over; no part of the "
        "model that its config.json describes is called so."
      )
  return {name: wanted[name] for name in names if name in wanted}


def _file(source, name, path):
  return source.file(name) if hasattr(source, "file") else path


def _fill(source, plan, leaves, path) -> dict[str, jax.Array]:
  """The leaves, from the tensors of the plan."""
  first = {
    (rule.ours, index): name
    for name, (rule, index) in plan.items()
    if not rule.repeats
  }
  filled: dict[str, jax.Array] = {}
  for name, (rule, index) in plan.items():
    value = source.read(name)
    if rule.repeats:
      other = first[rule.ours, index]
      if not np.array_equal(value, source.read(other)):
        raise ValueError(
          f"{_file(source, name, path)}: {name} differs from {other}, which "
          "the model shares. Set tie_word_embeddings to false in config.json."
        )
      continue
    leaf = leaves[rule.ours]
    value = rule.to_ours(value.astype(leaf.dtype, copy=False))
    if rule.ours not in filled and index:
      filled[rule.ours] = _empty(leaf)
    put = _put(value, _inner_sharding(leaf, len(index)))
    if index:
      at = np.asarray(index, np.int32)
      put = _write(_sharding(leaf))(filled[rule.ours], put, at)
    # One at a time: what is under way holds its tensor in memory.
    filled[rule.ours] = put.block_until_ready()
  return filled


def _sharding(leaf):
  device = jax.devices()[0]
  found = getattr(leaf, "sharding", None)
  return found or jax.sharding.SingleDeviceSharding(device)


def _inner_sharding(leaf, stacked):
  """The leaf's sharding without its first axes, which must be whole."""
  sharding = _sharding(leaf)
  if not isinstance(sharding, jax.sharding.NamedSharding):
    return sharding
  spec = (*sharding.spec, *[None] * (len(leaf.shape) - len(sharding.spec)))
  inner = jax.sharding.PartitionSpec(*spec[stacked:])
  return jax.sharding.NamedSharding(sharding.mesh, inner)


def _empty(leaf):
  make = functools.partial(jnp.zeros, leaf.shape, leaf.dtype)
  return jax.jit(make, out_shardings=_sharding(leaf))()


def _put(value, sharding):
  """The tensor on its devices, each given its part alone."""
  return jax.make_array_from_callback(
    value.shape, sharding, lambda index: value[index]
  )


@functools.lru_cache
def _write(sharding):
  """Jitted (leaf, value, index) -> the leaf with a slice replaced."""

  def write(leaf, value, index):
    stacked = leaf.ndim - value.ndim
    start = [index[i] for i in range(stacked)] + [0] * value.ndim
    value = value.reshape((1,) * stacked + value.shape)
    return jax.lax.dynamic_update_slice(leaf, value, start)

  return jax.jit(write, donate_argnums=0, out_shardings=sharding)
