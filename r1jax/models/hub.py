"""Weights from and to Hugging Face: what the rest of r1jax calls."""

from r1jax.models.hub_read import load, read_config
from r1jax.models.hub_write import export

__all__ = ["export", "load", "read_config"]
