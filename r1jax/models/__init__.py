"""The decoder, its parts, and its configs."""
