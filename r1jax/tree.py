"""Size and fingerprint of trees of arrays."""

import hashlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
_SEEDS = (0x9E3779B9, 0x85EBCA6B)  # Any two constants that differ.


def count(tree: Any) -> int:
  """Number of elements of all leaves; abstract shapes will do."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def bytes(tree: Any) -> int:
  """Bytes of all leaves; abstract shapes will do."""
  return sum(
    math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize
    for leaf in jax.tree.leaves(tree)
  )


def names(tree: Any) -> list[str]:
  """Path of each leaf, as `opt_state.0.mu.kernel`, in leaf order."""
  return [
    jax.tree_util.keystr(path, simple=True, separator=".")
    for path, _ in jax.tree_util.tree_leaves_with_path(tree)
  ]


def layout(tree: Any) -> dict[str, str]:
  """Path of each leaf to its dtype and shape, as `float32[3,4]`."""
  return {
    name: f"{jnp.dtype(leaf.dtype).name}{list(leaf.shape)}".replace(" ", "")
    for name, leaf in zip(names(tree), jax.tree.leaves(tree))
  }


def digest(tree: Any) -> str:
  """Fingerprint of a tree's paths, shapes, dtypes and bits: 16 hex digits.

  Args:
    tree: Leaves are arrays of jax or NumPy; None holds no bits.
  """
  lines = [f"{name} {line}" for name, line in fingerprints(tree).items()]
  return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def fingerprints(tree: Any) -> dict[str, str]:
  """Path of each leaf to its layout and two sums of its bits in hex.

    sum over elements of mix(word XOR hash(position))  mod 2^32, twice

  Each leaf is summed where it lies. Integer addition has no order, so the
  sums depend neither on sharding nor on the number of devices. The mix is a
  bijection of the word: one changed bit always changes the sum, and several,
  or two swapped elements, do but for one in 2^64.
  """
  # One at a time: virtual CPU devices deadlock on overlapping collectives.
  sums = [jax.device_get(_leaf_sums(leaf)) for leaf in jax.tree.leaves(tree)]
  return {
    name: f"{kind} {pair[0]:08x} {pair[1]:08x}"
    for (name, kind), pair in zip(layout(tree).items(), sums, strict=True)
  }


def _leaf_sums(leaf: Any) -> jax.Array:
  if jnp.dtype(leaf.dtype).itemsize == 8:  # jax would round it to 32 bits.
    leaf = np.asarray(leaf)[..., None].view(np.uint32)
  if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
    whole = leaf.sharding.update(spec=jax.sharding.PartitionSpec())
    return jax.jit(_sums_of_words, out_shardings=whole)(leaf)
  return _word_sums(leaf)


def _sums_of_words(leaf: jax.Array) -> jax.Array:
  """The two sums of a leaf, uint32; the axes are hashed one by one, so a
  leaf of more than 2^32 elements needs no 64-bit index."""
  if leaf.dtype == jnp.bool_:
    leaf = leaf.astype(jnp.uint8)
  words = jax.lax.bitcast_convert_type(leaf, _WORDS[leaf.dtype.itemsize])
  words = words.astype(jnp.uint32)
  sums = []
  for seed in _SEEDS:
    position = jnp.full(words.shape, seed, jnp.uint32)
    for axis in range(words.ndim):
      index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
      position = _mix(position + index)
    sums.append(jnp.sum(_mix(words ^ position), dtype=jnp.uint32))
  return jnp.stack(sums)


_word_sums = jax.jit(_sums_of_words)


def _mix(words: jax.Array) -> jax.Array:
  """A bijection of 32-bit words: MurmurHash3's 32-bit finalizer."""
  words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
  words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
  return words ^ (words >> 16)
