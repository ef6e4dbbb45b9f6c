import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from r1jax.models import attention, flash, layout
from tests import small

# Query heads, key heads, width of queries and keys, width of values.
GQA, MLA = (4, 2, 8, 8), (2, 2, 12, 8)
SEGMENTS = (
  [1] * 9 + [2] * 17 + [3] + [0] * 10,
  [0] * 3 + [1] * 34,
)
FORMS = {
  "chunked": functools.partial(flash.chunked, block=8),
  "splash": functools.partial(flash.splash, interpret=True),
  "triton": functools.partial(flash.triton, interpret=True),
}


def inputs(shape, segments=SEGMENTS, seed=0):
  """(q, k, v), their segments, and weights of the outputs, 0 on padding."""
  N, K, H, W = shape
  segments_BT = np.array(segments, np.int32)
  B, T = segments_BT.shape
  rng = np.random.default_rng(seed)

  def draw(*sizes):
    return rng.normal(size=sizes).astype(np.float32)

  arrays = draw(B, T, N, H), draw(B, K, T, H), draw(B, K, T, W)
  real = (segments_BT != 0)[:, :, None, None]
  return arrays, segments_BT, draw(B, T, N, W) * real


def results(product, arrays, weights):
  """(values where they count, gradients) of a product of q, k and v."""

  def total(*arrays):
    out_BTNH = product(*arrays)
    return jnp.sum(out_BTNH * weights), out_BTNH * (weights != 0)

  run = jax.value_and_grad(total, (0, 1, 2), has_aux=True)
  (_, values), grads = jax.jit(run)(*arrays)
  return values, *grads


def compare_with_mask(form, shape):
  """Values and gradients of a form are those of the mask."""
  arrays, segments_BT, weights = inputs(shape)
  mask_BTS = attention.packed_mask(jnp.asarray(segments_BT))
  got, want = (
    results(product, arrays, weights)
    for product in (
      lambda q, k, v: FORMS[form](q, k, v, segments_BT, scale=0.3),
      lambda q, k, v: attention.attend(q, k, v, mask_BTS, 0.3),
    )
  )
  for one, other in zip(got, want, strict=True):
    # A float32 sum of up to 37 terms, in another order.
    np.testing.assert_allclose(one, other, atol=5e-6)


class ChunkedTest(parameterized.TestCase):
  @parameterized.parameters(GQA, MLA)
  def test_values_and_gradients_are_the_masks(self, *shape):
    compare_with_mask("chunked", shape)

  def test_about_32_blocks_a_row(self):
    got = [flash._block_of(T) for T in (100, 4096, 4097, 8193, 32768)]
    self.assertEqual(got, [128, 128, 256, 512, 512])


@pytest.mark.slow
class FormsTest(parameterized.TestCase):
  @parameterized.product(form=("splash", "triton"), shape=(GQA, MLA))
  def test_values_and_gradients_are_the_masks(self, form, shape):
    compare_with_mask(form, shape)

  @parameterized.parameters(*FORMS)
  def test_other_sequences_and_padding_have_no_gradient(self, form):
    arrays, segments_BT, weights = inputs(GQA)
    weights *= (segments_BT == 2)[:, :, None, None]
    _, *grads = results(
      lambda q, k, v: FORMS[form](q, k, v, segments_BT, scale=0.3),
      arrays,
      weights,
    )
    inside_BT = np.array(segments_BT == 2)
    dq_BTNH, dk_BKTH, dv_BKTH = map(np.asarray, grads)
    for grad in (dq_BTNH, dk_BKTH.swapaxes(1, 2), dv_BKTH.swapaxes(1, 2)):
      self.assertTrue(np.all(grad[~inside_BT] == 0))
      self.assertGreater(np.abs(grad[inside_BT]).min(axis=(1, 2)).max(), 0)

  @parameterized.parameters("by_length", "splash", "triton")
  def test_lowers_for_its_devices_without_them(self, form):
    platform = {"splash": "tpu", "triton": "cuda"}.get(form, "cpu")
    q, k = (
      jax.ShapeDtypeStruct(shape, jnp.bfloat16)
      for shape in ((1, 640, 2, 64), (1, 2, 640, 64))
    )
    ids = jax.ShapeDtypeStruct((1, 640), jnp.int32)
    one = layout.Layout(attention=form)

    def total(q, k, v, ids):
      out = flash.attend(one, q, k, v, ids, 0.1)
      return jnp.sum(out.astype(jnp.float32))

    traced = jax.jit(jax.grad(total, (0, 1, 2))).trace(q, k, k, ids)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    # A kernel forward, and one or two backward.
    kernels = text.count("tpu_custom_call") + text.count("triton")
    self.assertEqual(kernels > 1, form != "by_length")


@pytest.mark.slow
class CostTest(parameterized.TestCase):
  def test_memory_grows_with_tokens_not_with_their_square(self):
    def temp(T):
      shapes = ((1, T, 2, 8), (1, 2, T, 8), (1, 2, T, 8))
      arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]

      def total(q, k, v):
        segments_BT = jnp.ones((1, T), jnp.int32)
        return jnp.sum(flash.chunked(q, k, v, segments_BT, 1.0, block=128))

      compiled = jax.jit(jax.grad(total, (0, 1, 2))).lower(*arrays).compile()
      return compiled.memory_analysis().temp_size_in_bytes

    short, long = temp(1024), temp(4096)
    self.assertLess(long, 4 * short)
    self.assertLess(long, 4096 * 4096)

  def test_pairs_in_which_nothing_is_seen_are_not_computed(self):
    # NaN in the first sequence would spread through any product with it.
    arrays, segments_BT, weights = inputs(GQA, [[1] * 16 + [2] * 16])
    for array in arrays[1:]:
      array[:, :, :8] = np.nan
    values, dq, dk, dv = results(
      lambda q, k, v: FORMS["chunked"](q, k, v, segments_BT, scale=0.3),
      arrays,
      weights * (segments_BT == 2)[:, :, None, None],
    )
    del values
    for grad in (dq[:, 16:], dk[:, :, 16:], dv[:, :, 16:]):
      self.assertTrue(np.all(np.isfinite(grad)))


class ChoiceTest(parameterized.TestCase):
  @parameterized.parameters((512, "mask"), (513, "chunked"))
  def test_by_length(self, T, form):
    self.assertEqual(flash.form_of(layout.SINGLE, T), form)
    segments_BT = jnp.ones((1, T), jnp.int32)
    context = attention.packed_context(layout.SINGLE, segments_BT, segments_BT)
    self.assertEqual(context.mask_BTS is None, form == "chunked")


@pytest.mark.slow
class ModelTest(parameterized.TestCase):
  @parameterized.parameters("gqa", "mla")
  def test_the_model_is_the_same_in_either_form(self, kind):
    config = small.CONFIGS[kind]()
    sequences = [small.tokens(n, seed=n) for n in (5, 3, 7, 4)]
    rows = small.rows(sequences, (2, 2), 12)
    outs = []
    for form in ("mask", "chunked"):
      one = layout.Layout(attention=form)
      out = small.forward(config, layout=one)(*small.weights(config), *rows)
      outs.append(np.where(rows[1][..., None] != 0, out.hidden_BTD, 0))
    np.testing.assert_allclose(*outs, atol=2e-5)
    self.assertGreater(np.abs(outs[0] - outs[1]).max(), 0)  # Two programs.


if __name__ == "__main__":
  absltest.main()
