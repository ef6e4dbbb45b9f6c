"""Tokenizer, templates, sources; text only, never jax."""
