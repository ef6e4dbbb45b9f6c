"""Weights from and to Hugging Face: what the rest of r1jax calls."""

import dataclasses
import math
import os
from typing import Any

from r1jax.models import config as config_lib
from r1jax.models.hub_read import load
from r1jax.models.hub_source import read_config
from r1jax.models.hub_write import export

__all__ = ["check", "export", "load", "read_config"]

# Fields of a model that no checkpoint decides.
_OWN_CHOICE = (
  *("init_std", "param_dtype", "compute_dtype", "remat", "scan_unroll"),
  *("moe_impl", "num_mtp_layers"),
)


def check(
  path: str | os.PathLike, model: config_lib.ModelConfig, field: str
) -> None:
  """Checks a model against what a folder or GGUF file holds.

  Shapes show some of what differs; a rotary base or an epsilon has none.

  Args:
    path: Of `load`.
    model: The dimensions it is to be loaded as.
    field: The model's in the config, for the message.

  Raises:
    ValueError: For the first dimension that differs, by field.
  """
  published = config_lib.from_dict(read_config(path))
  for name in (f.name for f in dataclasses.fields(model)):
    ours, theirs = getattr(model, name), getattr(published, name)
    if name not in _OWN_CHOICE and not _same(ours, theirs):
      raise ValueError(
        f"{field}.{name} is {ours!r}, but {path} holds a model with "
        f"{theirs!r}. Set it to that, or choose the preset of the model."
      )


def _same(ours: Any, theirs: Any) -> bool:
  """Whether two values are equal; a GGUF file holds numbers as float32."""
  if isinstance(ours, float) and isinstance(theirs, float):
    return math.isclose(ours, theirs, rel_tol=1e-6)
  return ours == theirs
