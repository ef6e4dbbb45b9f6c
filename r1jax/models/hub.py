"""Weights from and to Hugging Face: what the rest of r1jax calls."""

from r1jax.models.hub_read import load, read_config

__all__ = ["load", "read_config"]
