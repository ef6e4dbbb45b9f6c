import ml_dtypes
import numpy as np
from absl.testing import absltest, parameterized

from r1jax.models import fp8

SHAPES = ((576, 256), (130, 257), (128, 128), (1, 1), (127, 129))


def weight(shape, seed=0, dtype=np.float32):
  """Normal numbers whose blocks are of very different sizes."""
  rng = np.random.default_rng(seed)
  rows, columns = (np.arange(size) // 128 for size in shape)
  sizes = 10.0 ** (2 * rows[:, None] - 3 * columns[None])
  return (rng.standard_normal(shape) * sizes).astype(dtype)


class Tensors(dict):
  """A source of arrays in memory."""

  def names(self):
    return list(self)

  def shape(self, name):
    return self[name].shape

  def dtype(self, name):
    return self[name].dtype

  def read(self, name):
    return self[name]


class Fp8Test(parameterized.TestCase):
  @parameterized.parameters(*SHAPES)
  def test_dequantize_agrees_with_a_loop(self, *shape):
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 127, shape).astype(np.uint8)
    codes |= (rng.integers(0, 2, shape) << 7).astype(np.uint8)
    weight_OI = codes.view(fp8.FLOAT8)  # Every value but NaN.
    scale_PQ = rng.uniform(0.1, 9.0, fp8.blocks(shape)).astype(np.float32)
    want_OI = np.zeros(shape)
    for o in range(shape[0]):
      for i in range(shape[1]):
        want_OI[o, i] = float(weight_OI[o, i]) * float(
          scale_PQ[o // 128, i // 128]
        )
    got_OI = fp8.dequantize(weight_OI, scale_PQ)
    # One float32 rounding of the exact product.
    np.testing.assert_array_equal(got_OI, want_OI.astype(np.float32))

  @parameterized.parameters(*SHAPES)
  def test_quantizing_again_gives_the_same_bits(self, *shape):
    for seed in range(3):
      once, scale_PQ = fp8.quantize(weight(shape, seed))
      whole = fp8.dequantize(once, scale_PQ)
      again, same_PQ = fp8.quantize(whole)
      np.testing.assert_array_equal(scale_PQ, same_PQ)
      np.testing.assert_array_equal(once.view(np.uint8), again.view(np.uint8))

  @parameterized.parameters(*SHAPES)
  def test_scale_is_the_largest_of_a_block_over_448(self, *shape):
    weight_OI = weight(shape)
    quantized, scale_PQ = fp8.quantize(weight_OI)
    self.assertEqual(scale_PQ.dtype, np.float32)
    for (p, q), scale in np.ndenumerate(scale_PQ):
      block = (slice(p * 128, p * 128 + 128), slice(q * 128, q * 128 + 128))
      most = float(np.abs(weight_OI[block]).max())
      self.assertBetween(float(scale), most / 448, most / 448 * (1 + 2**-19))
      part = np.abs(quantized[block].astype(np.float32))
      self.assertEqual(part.max(), 448.0)

  def test_every_weight_goes_to_the_nearest_code(self):
    weight_OI = weight((130, 257))
    quantized, scale_PQ = fp8.quantize(weight_OI)
    codes = np.arange(256, dtype=np.uint8).view(fp8.FLOAT8)
    codes = codes.astype(np.float64)
    codes = codes[np.isfinite(codes)]
    scale_OI = np.kron(scale_PQ, np.ones((128, 128)))[:130, :257]
    wanted_OI = weight_OI / scale_OI
    nearest_OI = np.abs(wanted_OI[..., None] - codes).min(axis=-1)
    found_OI = np.abs(wanted_OI - quantized.astype(np.float64))
    # The division is rounded to float32: a tie may fall either way.
    np.testing.assert_allclose(found_OI, nearest_OI, rtol=1e-5, atol=1e-9)

  @parameterized.parameters(0.0, 1e-42)
  def test_block_of_zeros_or_of_tiny_numbers(self, value):
    quantized, scale_PQ = fp8.quantize(np.full((130, 3), value, np.float32))
    self.assertTrue(np.all(scale_PQ > 0))
    whole = fp8.dequantize(quantized, scale_PQ)
    self.assertTrue(np.all(np.isfinite(whole)))
    np.testing.assert_allclose(whole, value, atol=1e-40)

  def test_bfloat16_is_taken(self):
    whole = weight((130, 257)).astype(ml_dtypes.bfloat16)
    quantized, scale_PQ = fp8.quantize(whole)
    want, want_PQ = fp8.quantize(whole.astype(np.float32))
    np.testing.assert_array_equal(quantized, want)
    np.testing.assert_array_equal(scale_PQ, want_PQ)

  @parameterized.parameters(np.inf, np.nan)
  def test_what_is_not_finite_is_refused(self, value):
    weight_OI = weight((3, 200))
    weight_OI[1, 150] = value
    with self.assertRaisesRegex(ValueError, "not finite"):
      fp8.quantize(weight_OI)

  def test_wrong_number_of_scales_is_refused(self):
    with self.assertRaisesRegex(ValueError, r"\[2, 2\] .*\[130, 257\].*2, 3\]"):
      fp8.dequantize(
        np.zeros((130, 257), fp8.FLOAT8), np.zeros((2, 2), np.float32)
      )

  @parameterized.parameters(
    ("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", True),
    ("model.layers.0.self_attn.kv_b_proj.weight", True),
    ("model.layers.3.mlp.experts.17.down_proj.weight", True),
    ("model.layers.3.mlp.gate.weight", False),
    ("model.layers.61.eh_proj.weight", False),
    ("model.layers.0.input_layernorm.weight", False),
    ("lm_head.weight", False),
  )
  def test_which_are_quantized(self, name, want):
    self.assertEqual(fp8.is_quantized(name), want)


class DequantizedTest(parameterized.TestCase):
  def test_scales_are_taken_in(self):
    quantized, scale_PQ = fp8.quantize(weight((130, 257)))
    norm = np.ones(4, ml_dtypes.bfloat16)
    source = fp8.Dequantized(
      Tensors(
        {
          "a_proj.weight": quantized,
          "a_proj.weight_scale_inv": scale_PQ,
          "norm.weight": norm,
        }
      )
    )
    self.assertEqual(source.names(), ["a_proj.weight", "norm.weight"])
    self.assertEqual(source.shape("a_proj.weight"), (130, 257))
    self.assertEqual(source.dtype("a_proj.weight"), np.float32)
    self.assertEqual(source.dtype("norm.weight"), norm.dtype)
    np.testing.assert_array_equal(
      source.read("a_proj.weight"), fp8.dequantize(quantized, scale_PQ)
    )
    self.assertIs(source.read("norm.weight"), norm)

  def test_scale_without_its_weight_stays(self):
    source = fp8.Dequantized(Tensors({"a.weight_scale_inv": np.ones((1, 1))}))
    self.assertEqual(source.names(), ["a.weight_scale_inv"])

  @parameterized.parameters(
    ({}, r"a\.weight is float8 without a\.weight_scale_inv"),
    (
      {"a.weight_scale_inv": np.ones((2, 1), np.float32)},
      r"a\.weight_scale_inv: \[2, 1\] scales of a weight \[3, 4\]",
    ),
  )
  def test_missing_or_wrong_scales_are_named(self, more, message):
    quantized = np.zeros((3, 4), fp8.FLOAT8)
    source = fp8.Dequantized(Tensors({"a.weight": quantized, **more}))
    with self.assertRaisesRegex(ValueError, message):
      source.read("a.weight")


if __name__ == "__main__":
  absltest.main()
