"""Experiments: one config a file."""
