import os
import subprocess
import sys
import textwrap
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from r1jax import tree


class Pair(NamedTuple):
  a: object
  b: object


def mix(word: int) -> int:
  word = ((word ^ (word >> 16)) * 0x85EBCA6B) % 2**32
  word = ((word ^ (word >> 13)) * 0xC2B2AE35) % 2**32
  return word ^ (word >> 16)


class TreeTest(parameterized.TestCase):
  def test_counts_arrays_and_abstract_shapes(self):
    state = Pair({"x": jnp.zeros((2, 3))}, [jnp.zeros(5, jnp.bfloat16), None])
    abstract = jax.eval_shape(lambda: state)
    for one in (state, abstract):
      self.assertEqual(tree.count(one), 11)
      self.assertEqual(tree.bytes(one), 34)

  def test_names_and_layout(self):
    state = Pair({"x": jnp.zeros((2, 3))}, [jnp.zeros((), jnp.int32), None])
    self.assertEqual(tree.names(state), ["a.x", "b.0"])
    self.assertEqual(
      tree.layout(state), {"a.x": "float32[2,3]", "b.0": "int32[]"}
    )

  def test_fingerprints_are_those_of_the_parts(self):
    a, b = jnp.arange(3), jnp.ones((2, 2))
    whole = tree.fingerprints({"p": {"a": a}, "q": b})
    self.assertEqual(whole["p.a"], tree.fingerprints({"x": a})["x"])
    self.assertStartsWith(whole["q"], "float32[2,2] ")

  def test_sums_against_a_loop(self):
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    want = []
    for seed in tree._SEEDS:
      total = 0
      for i in range(3):
        for j in range(4):
          position = mix((mix((seed + i) % 2**32) + j) % 2**32)
          total += mix(int(x.view(np.uint32)[i, j]) ^ position)
      want.append(total % 2**32)
    np.testing.assert_array_equal(tree._word_sums(x), want)

  @parameterized.parameters(
    "float32", "bfloat16", "float16", "int32", "uint8", "bool"
  )
  def test_one_element_changes_it(self, dtype):
    x = jnp.zeros((5, 7), dtype)
    seen = {tree.digest(x)}
    for i in range(5):
      for j in range(7):
        seen.add(tree.digest(x.at[i, j].set(jnp.ones((), dtype))))
    self.assertLen(seen, 36)

  def test_every_bit_counts(self):
    x = np.arange(6, dtype=np.float32)
    seen = {tree.digest(x)}
    for bit in range(32):
      y = x.copy()
      y.view(np.uint32)[3] ^= np.uint32(1 << bit)
      seen.add(tree.digest(y))
    self.assertLen(seen, 33)

  def test_swaps_and_pairs_of_signs_are_seen(self):
    # Words that differ in the high bits alone, where a product of word and
    # position modulo 2^32 would cancel.
    x = np.zeros(64, np.float32)
    seen = {tree.digest(x)}
    for i in range(1, 64):
      y = x.copy()
      y[[0, i]] = -0.0
      seen.add(tree.digest(y))
      z = x.copy()
      z[i] = 1.0
      seen.add(tree.digest(z))
    self.assertLen(seen, 127)

  def test_zero_is_not_minus_zero_and_nan_equals_itself(self):
    self.assertNotEqual(
      tree.digest(jnp.array([0.0])), tree.digest(jnp.array([-0.0]))
    )
    nan = jnp.array([jnp.nan])
    self.assertEqual(tree.digest(nan), tree.digest(nan + 0))

  def test_shape_dtype_and_path_count(self):
    x = jnp.arange(6, dtype=jnp.float32)
    others = [
      x,
      x.reshape(2, 3),
      x.reshape(3, 2),
      jax.lax.bitcast_convert_type(x, jnp.int32),
      {"a": x},
      {"b": x},
      {"a": x, "b": None},
      {"a": x, "b": x},
    ]
    self.assertLen({tree.digest(one) for one in others}, len(others) - 1)

  def test_numpy_and_jax_agree_and_64_bits_are_kept(self):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    self.assertEqual(tree.digest(x), tree.digest(jnp.asarray(x)))
    wide = np.array([2**40, 1], np.int64)
    other = np.array([2**41, 1], np.int64)
    self.assertNotEqual(tree.digest(wide), tree.digest(other))
    self.assertEqual(tree.digest(np.int64(3)), tree.digest(np.array(3)))

  def test_is_pinned(self):
    x = {"w": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3)}
    self.assertEqual(
      tree.digest(x),
      PINNED,
      "Digests of saved checkpoints changed. To regenerate: python -c "
      "'import jax.numpy as jnp; from r1jax import tree; print(tree.digest("
      '{"w": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3)}))\'',
    )

  def test_independent_of_sharding_and_device_count(self):
    code = textwrap.dedent("""
      import jax, jax.numpy as jnp, numpy as np
      from jax.sharding import NamedSharding, PartitionSpec as P
      from r1jax import tree
      x = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
      mesh = jax.make_mesh((4, 2), ("a", "b"))
      for spec in (P(), P("a"), P("b", "a"), P(None, ("a", "b"))):
        sharded = jax.device_put(x, NamedSharding(mesh, spec))
        assert len(sharded.sharding.device_set) == 8
        print(tree.digest({"x": sharded}))
    """)
    out = subprocess.run(
      [sys.executable, "-c", code],
      env={
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
      },
      capture_output=True,
      text=True,
      timeout=120,
      check=False,
    )
    x = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
    self.assertEqual(
      out.stdout.split(), [tree.digest({"x": x})] * 4, out.stderr
    )


PINNED = "0c9e08abadc5df3b"

if __name__ == "__main__":
  absltest.main()
