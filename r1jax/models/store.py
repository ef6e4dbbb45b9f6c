"""Weights in one safetensors file, with the model they belong to."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import safetensors
import safetensors.numpy

from r1jax import distributed, tree
from r1jax.models import config as config_lib
from r1jax.models import hub_source
from r1jax.types import Params

_NOTES = "r1jax"
_BLOCK_BYTES = 1 << 30  # Of an array on the host at a time.
_DTYPES = {
  **{jnp.dtype(dtype): name for name, dtype in hub_source.DTYPES.items()},
  **{jnp.dtype("uint32"): "U32", jnp.dtype("bool"): "BOOL"},
}


def save(
  path: str | os.PathLike,
  config: config_lib.ModelConfig,
  params: Params,
  buffers: Params,
  notes: Mapping[str, Any] | None = None,
) -> None:
  """Writes parameters and buffers, and the model's dimensions beside.

  Part by part, so that no host holds the model; the file is whole or absent.
  Of several processes the first writes, and all take part.

  Args:
    path: Of the file.
    config: The model's.
    params, buffers: What is written.
    notes: More to keep, for `notes`; JSON must hold it.
  """
  weights = {"params": params, "buffers": buffers}
  kept = {"model": dataclasses.asdict(config), **(notes or {})}
  leaves = dict(zip(tree.names(weights), jax.tree.leaves(weights)))
  # Wide types first, which keeps all aligned; then as `save_file` has them.
  order = sorted(leaves, key=lambda n: (-leaves[n].dtype.itemsize, n))
  new = os.devnull
  if distributed.is_first():
    new = f"{os.fspath(path)}.new"
  with open(new, "wb") as file:
    # In one text: of several, the file's order would be another each time.
    metadata = {_NOTES: json.dumps(kept)}
    _write_header(file, {name: leaves[name] for name in order}, metadata)
    for name in order:
      for block in distributed.blocks(leaves[name], _BLOCK_BYTES):
        file.write(block.tobytes())
  if distributed.is_first():
    os.replace(new, path)


def _write_header(
  file: BinaryIO, leaves: Mapping[str, Any], metadata: Mapping[str, str]
) -> None:
  """Length and table of a safetensors file, padded to eight bytes.

  https://github.com/huggingface/safetensors, "Format".
  """
  table: dict[str, Any] = {"__metadata__": metadata}
  offset = 0
  for name, leaf in leaves.items():
    end = offset + math.prod(leaf.shape) * leaf.dtype.itemsize
    table[name] = {
      "dtype": _DTYPES[jnp.dtype(leaf.dtype)],
      "shape": list(leaf.shape),
      "data_offsets": [offset, end],
    }
    offset = end
  text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  file.write(len(text).to_bytes(8, "little") + text)


def notes(path: str | os.PathLike) -> dict[str, Any]:
  """What was kept beside the weights, `model` among it.

  Raises:
    ValueError: If the file cannot be read.
  """
  try:
    with safetensors.safe_open(path, "numpy") as file:
      return json.loads((file.metadata() or {}).get(_NOTES, "{}"))
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(f"{path} cannot be read: {error}.") from error


def load(
  path: str | os.PathLike, params: Params, buffers: Params
) -> tuple[Params, Params]:
  """Parameters and buffers of a file, as NumPy arrays.

  Args:
    path: Of `save`.
    params, buffers: Trees of that shape; abstract arrays will do.

  Raises:
    ValueError: If the file cannot be read or holds other arrays; it names
      the file and the first that differs.
  """
  try:
    arrays = safetensors.numpy.load_file(path)
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(f"{path} cannot be read: {error}.") from error
  wanted = {"params": params, "buffers": buffers}
  layout, found = tree.layout(wanted), tree.layout(arrays)
  found = {name.strip("'[]"): kind for name, kind in found.items()}
  for name in sorted({*layout, *found}):
    if layout.get(name) != found.get(name):
      raise ValueError(
        f"{path} has {found.get(name, 'no')} {name}, config.model has "
        f"{layout.get(name, 'none')}. Choose the model of the weights."
      )
  leaves = [arrays[name] for name in layout]
  weights: dict[str, Any] = jax.tree.unflatten(
    jax.tree.structure(wanted), leaves
  )
  return weights["params"], weights["buffers"]
