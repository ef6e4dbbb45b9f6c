import math

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from configs import models
from r1jax.models import config as config_lib
from r1jax.models import layers, mla
from tests import small

R1 = config_lib.RopeScaling("yarn", 40.0, 4096, mscale=1.0, mscale_all_dim=1.0)
LLAMA3 = config_lib.RopeScaling("llama3", 8.0, 8192)


def turned(x_BTNR, positions_BT, **changes):
  """x after `rotary` and `rotate`, float64."""
  config = small.gqa(**changes)
  cos_sin = layers.rotary(positions_BT, x_BTNR.shape[-1], config)
  out = layers.rotate(x_BTNR, cos_sin, config.rope_interleaved)
  return np.asarray(out, np.float64)


class NormTest(parameterized.TestCase):
  def test_agrees_with_a_loop(self):
    x_BD = np.random.default_rng(0).normal(0, 3, (4, 6)).astype(np.float32)
    scale_D = np.linspace(0.5, 2.0, 6).astype(np.float32)
    norm = layers.RMSNorm(0.1)
    got_BD = norm.apply({"params": {"scale": scale_D}}, x_BD)
    for x_D, got_D in zip(x_BD.astype(np.float64), got_BD):
      rms = math.sqrt(sum(x * x for x in x_D) / 6 + 0.1)
      np.testing.assert_allclose(got_D, x_D / rms * scale_D, rtol=2e-6)

  def test_zero_stays_zero(self):
    norm = layers.RMSNorm(1e-6)
    got_D = norm.apply({"params": {"scale": jnp.ones(4)}}, jnp.zeros(4))
    np.testing.assert_array_equal(got_D, np.zeros(4))

  def test_bfloat16_is_normalised_in_float32(self):
    x_D = jnp.array([1e-25, 2e-25], jnp.bfloat16)
    norm = layers.RMSNorm(1e-6)
    got_D = norm.apply({"params": {"scale": jnp.full(2, 1e19)}}, x_D)
    self.assertEqual(got_D.dtype, jnp.bfloat16)
    np.testing.assert_allclose(
      np.asarray(got_D, np.float32),
      np.asarray(x_D, np.float32) * 1e22,
      rtol=1e-2,
    )


class LinearTest(parameterized.TestCase):
  def test_contracts_two_axes_and_adds_the_bias(self):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(3, 2, 4)), rng.normal(size=(2, 4, 5, 6))
    bias = rng.normal(size=(5, 6))
    linear = layers.Linear(
      small.gqa(), (5, 6), ("heads", "head_dim", "embed", "mlp"), 2, True
    )
    got = linear.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    want = np.einsum("bij,ijkl->bkl", x, kernel) + bias
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


class MLPTest(parameterized.TestCase):
  def test_agrees_with_numpy(self):
    rng = np.random.default_rng(0)
    x_D = rng.normal(size=(1, 1, 16))
    gate_DF, up_DF = rng.normal(size=(2, 16, 3))
    down_FD = rng.normal(size=(3, 16))
    kernels = {"gate": gate_DF, "up": up_DF, "down": down_FD}
    got = layers.MLP(small.gqa(), 3).apply(
      {"params": {k: {"kernel": v} for k, v in kernels.items()}}, x_D
    )
    gate_F = x_D @ gate_DF
    want = gate_F / (1 + np.exp(-gate_F)) * (x_D @ up_DF) @ down_FD
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


class RotaryTest(parameterized.TestCase):
  @parameterized.parameters(True, False)
  def test_pairs_turn_as_complex_numbers(self, interleaved):
    R, theta = 8, 100.0
    rng = np.random.default_rng(0)
    x_BTNR = rng.normal(size=(2, 5, 3, R)).astype(np.float32)
    positions_BT = rng.integers(0, 50, (2, 5))
    got = turned(
      x_BTNR, positions_BT, rope_interleaved=interleaved, rope_theta=theta
    )
    for b, t, n, i in np.ndindex(2, 5, 3, R // 2):
      pair = (2 * i, 2 * i + 1) if interleaved else (i, i + R // 2)
      number = complex(*(float(x_BTNR[b, t, n, j]) for j in pair))
      angle = positions_BT[b, t] * theta ** (-2 * i / R)
      number *= complex(math.cos(angle), math.sin(angle))
      # The result is in half order in both forms.
      np.testing.assert_allclose(got[b, t, n, i], number.real, atol=1e-5)
      np.testing.assert_allclose(
        got[b, t, n, i + R // 2], number.imag, atol=1e-5
      )

  @parameterized.parameters(True, False)
  def test_products_depend_on_the_distance_alone(self, interleaved):
    rng = np.random.default_rng(1)
    q, k = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

    def product(i, j):
      return np.sum(
        turned(q, np.array([[i]]), rope_interleaved=interleaved)
        * turned(k, np.array([[j]]), rope_interleaved=interleaved)
      )

    self.assertAlmostEqual(product(7, 3), product(104, 100), places=4)
    self.assertGreater(abs(product(7, 3) - product(7, 2)), 1e-2)

  def test_position_zero_leaves_all_as_it_is(self):
    x = np.arange(8.0, dtype=np.float32).reshape(1, 1, 1, 8)
    got = turned(x, np.zeros((1, 1), np.int32), rope_interleaved=True)
    np.testing.assert_array_equal(got[0, 0, 0], [0, 2, 4, 6, 1, 3, 5, 7])


class YarnTest(parameterized.TestCase):
  def test_ramp_of_r1(self):
    self.assertEqual(layers.yarn_ramp_bounds(64, 10000.0, R1), (10, 23))

  def test_ramp_stays_inside_the_pairs(self):
    scaling = config_lib.RopeScaling("yarn", 4.0, 16, beta_fast=1000.0)
    low, _ = layers.yarn_ramp_bounds(8, 10000.0, scaling)
    self.assertEqual(low, 0)
    scaling = config_lib.RopeScaling("yarn", 4.0, 1 << 60)
    self.assertEqual(layers.yarn_ramp_bounds(8, 10.0, scaling)[1], 7)

  def test_frequencies_of_r1_agree_with_a_loop(self):
    got = layers.rope_frequencies(64, 10000.0, R1)
    for i in range(32):
      theta = 10000.0 ** (-2 * i / 64)
      ramp = min(max((i - 10) / (23 - 10), 0.0), 1.0)
      want = ramp * theta / 40 + (1 - ramp) * theta
      np.testing.assert_allclose(got[i], want, rtol=1e-6)

  @parameterized.parameters(
    ("deepseek-v3", 0.1352338),
    ("deepseek-v2", 192**-0.5 * 1.5896262),
    ("moonlight-16b", 0.0721688),
  )
  def test_softmax_scale(self, preset, want):
    config = config_lib.from_dict(models.get_config(preset))
    self.assertAlmostEqual(mla.softmax_scale(config), want, places=7)

  def test_mscale(self):
    self.assertAlmostEqual(layers.yarn_mscale(40.0, 1.0), 1.3688879, places=7)
    self.assertAlmostEqual(layers.yarn_mscale(40.0, 0.707), 1.2608038, places=6)
    self.assertEqual(layers.yarn_mscale(1.0, 1.0), 1.0)

  @parameterized.parameters((1.0, 1.0), (0.0, 1.3688879))
  def test_cosines_carry_the_ratio_of_the_mscales(self, all_dim, want):
    scaling = dict(
      name="yarn",
      factor=40.0,
      original_max_positions=4096,
      mscale_all_dim=all_dim,
    )
    config = small.gqa(rope_scaling=scaling)
    cos, sin = layers.rotary(jnp.array([[3]]), 8, config)
    np.testing.assert_allclose(np.hypot(cos, sin), want, rtol=1e-5)


class Llama3Test(parameterized.TestCase):
  def test_agrees_with_a_loop(self):
    got = layers.rope_frequencies(128, 500000.0, LLAMA3)
    kinds = set()
    for i in range(64):
      theta = 500000.0 ** (-2 * i / 128)
      wavelength = 2 * math.pi / theta
      if wavelength < 8192 / 4.0:
        kinds.add("kept")
        want = theta
      elif wavelength > 8192 / 1.0:
        kinds.add("slowed")
        want = theta / 8.0
      else:
        kinds.add("between")
        smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
        want = (1 - smooth) * theta / 8.0 + smooth * theta
      np.testing.assert_allclose(got[i], want, rtol=1e-6)
    self.assertLen(kinds, 3)


if __name__ == "__main__":
  absltest.main()
