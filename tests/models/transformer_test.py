import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from r1jax.models import transformer
from tests import small

ROWS = small.rows([small.tokens(n, seed=n) for n in (5, 4, 8)], (2, 1), 10)


@functools.lru_cache
def gradient(remat):
  """Of a scalar of the hidden states, and the program's text."""
  config = small.gqa(remat=remat, tie_embeddings=True)
  params, buffers = small.weights(config)
  run = small.forward(config)

  def total(params):
    return jnp.sum(jnp.sin(run(params, buffers, *ROWS).hidden_BTD))

  traced = jax.jit(jax.grad(total)).trace(params)
  return traced.lower().compile()(params), str(traced.jaxpr)


class TransformerTest(parameterized.TestCase):
  @parameterized.parameters("gqa", "mla")
  def test_scanned_equals_unrolled(self, kind):
    config = small.CONFIGS[kind]()
    params, buffers = small.weights(config)
    want = small.forward(config)(params, buffers, *ROWS)
    got = small.forward(config, unrolled=True)(
      transformer.unstack(params), transformer.unstack(buffers), *ROWS
    )
    np.testing.assert_allclose(got.hidden_BTD, want.hidden_BTD, atol=2e-5)
    if kind == "mla":
      np.testing.assert_array_equal(
        got.report.experts_BTP, want.report.experts_BTP
      )
      self.assertEqual(got.report.load_E.shape, (2, 8))

  def test_unstacked_layers_are_slices(self):
    config = small.mla()
    params, _ = small.weights(config)
    unstacked = transformer.unstack(params)
    self.assertSameElements(
      unstacked,
      [
        "embedding",
        "final_norm",
        "dense_layers_0",
        "moe_layers_0",
        "moe_layers_1",
      ],
    )
    jax.tree.map(
      lambda whole, part: np.testing.assert_array_equal(whole[1], part),
      params["moe_layers"],
      unstacked["moe_layers_1"],
    )

  @parameterized.parameters("dots", "full")
  def test_remat_changes_no_gradient(self, remat):
    got, program = gradient(remat)
    want, plain_program = gradient("none")
    self.assertIn("remat", program)
    self.assertNotIn("remat", plain_program)
    for got_leaf, want_leaf in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
      scale = float(np.abs(want_leaf).max())
      self.assertGreater(scale, 1e-3)
      np.testing.assert_allclose(got_leaf, want_leaf, atol=1e-5 * scale)

  @parameterized.parameters("gqa", "mla")
  def test_hidden_states_are_causal(self, kind):
    config = small.CONFIGS[kind]()
    run = small.forward(config)
    tokens_BT, segments_BT, positions_BT = ROWS
    variables = small.weights(config)
    before = np.asarray(run(*variables, *ROWS).hidden_BTD)
    changed_BT = tokens_BT.copy()
    changed_BT[1, 4] = (changed_BT[1, 4] + 1) % small.VOCAB
    after = run(*variables, changed_BT, segments_BT, positions_BT).hidden_BTD
    moved_BT = np.abs(before - np.asarray(after)).max(axis=-1)
    self.assertTrue(np.all(moved_BT[1, 4:8] > 1e-3))
    np.testing.assert_allclose(moved_BT[0], 0, atol=1e-5)
    np.testing.assert_allclose(moved_BT[1, :4], 0, atol=1e-5)

  def test_replay_reaches_its_own_layer_and_token(self):
    config = small.mla()
    run = small.forward(config)
    variables = small.weights(config)
    replay_BTLP = np.full((2, 10, 2, 2), -1, np.int32)
    replay_BTLP[1, 3, 0] = (7, 0)
    replay_BTLP[0, 2, 1] = (1, 6)
    live = run(*variables, *ROWS).report.experts_BTP
    got = run(*variables, *ROWS, replay_BTLP)
    want = np.array(live)
    want[0, 1, 3] = (7, 0)
    got_LBTP = np.asarray(got.report.experts_BTP)
    np.testing.assert_array_equal(got_LBTP[0], want[0])
    np.testing.assert_array_equal(got_LBTP[1, 0, 2], (1, 6))

  def test_caches_come_only_when_asked_for(self):
    config = small.gqa()
    run = small.forward(config)
    out = jax.eval_shape(run, *small.weights(config), *ROWS)
    self.assertIsNone(out.caches)
    self.assertIsNone(out.report)

  def test_tied_head_is_the_embedding(self):
    config = small.mla()
    params, buffers = small.weights(config)
    self.assertNotIn("head", params)
    hidden_D = np.linspace(-1, 1, 16, dtype=np.float32)
    logits_V = transformer.Transformer(config).apply(
      {"params": params, "buffers": buffers}, hidden_D, method="logits"
    )
    np.testing.assert_allclose(
      logits_V, np.asarray(params["embedding"]) @ hidden_D, atol=1e-5
    )

  def test_logits_of_bfloat16_are_float32(self):
    config = small.gqa(compute_dtype="bfloat16")
    params, _ = small.weights(config)
    logits = jax.eval_shape(
      lambda h: transformer.Transformer(config).apply(
        {"params": params}, h, method="logits"
      ),
      jnp.zeros((3, 16), jnp.bfloat16),
    )
    self.assertEqual((logits.shape, logits.dtype), ((3, 32), jnp.float32))


if __name__ == "__main__":
  absltest.main()
