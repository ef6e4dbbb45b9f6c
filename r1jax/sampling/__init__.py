"""The sampler: prefill, decode, slots."""
