"""Weights in one safetensors file, with the model they belong to."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from r1jax import tree
from r1jax.models import config as config_lib
from r1jax.types import Params

_NOTES = "r1jax"


def save(
  path: str | os.PathLike,
  config: config_lib.ModelConfig,
  params: Params,
  buffers: Params,
  notes: Mapping[str, Any] | None = None,
) -> None:
  """Writes parameters and buffers, and the model's dimensions beside.

  Args:
    path: Of the file.
    config: The model's.
    params, buffers: What is written.
    notes: More to keep, for `notes`; JSON must hold it.
  """
  weights = {"params": params, "buffers": buffers}
  kept = {"model": dataclasses.asdict(config), **(notes or {})}
  arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(weights)]
  safetensors.numpy.save_file(
    dict(zip(tree.names(weights), arrays)),
    path,
    # In one text: of several, the file's order would be another each time.
    metadata={_NOTES: json.dumps(kept)},
  )


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
