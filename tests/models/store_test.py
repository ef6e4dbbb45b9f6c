import os
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl.testing import absltest, parameterized

from r1jax.models import store
from tests import small


class StoreTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.path = os.path.join(folder, "w.safetensors")
    self.config = small.mla()
    self.weights = small.weights(self.config)
    store.save(self.path, self.config, *self.weights)

  def test_loads_bit_for_bit(self):
    abstract = jax.eval_shape(lambda: self.weights)
    loaded = store.load(self.path, *abstract)
    self.assertEqual(
      jax.tree.structure(loaded), jax.tree.structure(self.weights)
    )
    for got, want in zip(
      jax.tree.leaves(loaded), jax.tree.leaves(self.weights)
    ):
      self.assertEqual(got.dtype, want.dtype)
      self.assertEqual(got.tobytes(), np.asarray(want).tobytes())

  def test_keeps_bfloat16_and_odd_numbers(self):
    params = {"a": jnp.array([1.5, -0.0, jnp.inf, jnp.nan], jnp.bfloat16)}
    store.save(self.path, self.config, params, {})
    loaded, buffers = store.load(self.path, params, {})
    self.assertEqual(loaded["a"].dtype, jnp.bfloat16)
    self.assertEqual(loaded["a"].tobytes(), np.asarray(params["a"]).tobytes())
    self.assertEqual(buffers, {})

  def test_notes_are_kept_beside_the_model(self):
    self.assertEqual(list(store.notes(self.path)), ["model"])
    kept = {"a": "中", "b": {"c": [1]}}
    store.save(self.path, self.config, *self.weights, kept)
    notes = store.notes(self.path)
    self.assertEqual(notes, kept | {"model": notes["model"]})
    self.assertEqual(small.mla(**notes["model"]), self.config)
    with self.assertRaisesRegex(ValueError, "^/nowhere/x cannot be read"):
      store.notes("/nowhere/x")

  @parameterized.parameters(
    (dict(d_ff=20), "params.dense_layers.mlp.down.kernel, .*20"),
    (dict(q_lora_rank=0), "params.dense_layers.attention.query.kernel"),
    (dict(router_bias=False), "buffers.moe_layers.moe.router_bias, .*none"),
    (dict(tie_embeddings=False), "has no params.head, config.model has float"),
    (dict(vocab_size=33), "params.embedding, .*33"),
  )
  def test_other_model_is_named_by_its_array(self, changes, message):
    other = small.weights(small.mla(**changes))
    with self.assertRaisesRegex(ValueError, message) as raised:
      store.load(self.path, *other)
    self.assertIn(self.path, str(raised.exception))
    self.assertIn("Choose the model of the weights", str(raised.exception))

  @parameterized.parameters("missing", "cut", "garbage")
  def test_unreadable_file_is_named(self, damage):
    if damage == "missing":
      os.remove(self.path)
    elif damage == "cut":
      os.truncate(self.path, os.path.getsize(self.path) // 2)
    else:
      with open(self.path, "wb") as file:
        file.write(b"x" * 100)
    with self.assertRaisesRegex(ValueError, "w.safetensors cannot be read"):
      store.load(self.path, *self.weights)

  def test_the_same_is_the_same_file(self):
    notes = {name: name for name in "abcdef"}
    found = set()
    for _ in range(8):  # One would be of another order than the first.
      store.save(self.path, self.config, *self.weights, notes)
      with open(self.path, "rb") as file:
        found.add(file.read())
    self.assertLen(found, 1)

  def test_a_file_of_others_has_no_notes(self):
    safetensors.numpy.save_file({"a": np.zeros(1)}, self.path)
    self.assertEqual(store.notes(self.path), {})
    safetensors.numpy.save_file({"a": np.zeros(1)}, self.path, {"model": "{}"})
    self.assertEqual(store.notes(self.path), {})


if __name__ == "__main__":
  absltest.main()
