"""Rule rewards and their workers; text only, never jax."""
