import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from r1jax.models import mla
from r1jax.models.attention import Context, packed_mask
from tests import small

T = 6


def config(**changes):
  return small.mla(num_layers=1, num_dense_layers=1, **changes)


def setting(**changes):
  """The layer, its parameters and some inputs."""
  c = config(**changes)
  params = small.weights(c)[0]["dense_layers"]["attention"]
  params = jax.tree.map(lambda a: a[0], params)
  rng = np.random.default_rng(1)
  x_BTD = rng.normal(size=(2, T, c.d_model)).astype(np.float32)
  return c, mla.LatentAttention(c), {"params": params}, x_BTD


def expanded(layer, variables, x_BTD):
  ones_BT = jnp.ones(x_BTD.shape[:2], jnp.int32)
  context = Context(jnp.cumsum(ones_BT, axis=1) - 1, packed_mask(ones_BT))
  return jax.jit(layer.apply)(variables, x_BTD, context, None)


def rms_norm(x, scale, eps=1e-6):
  return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * scale


def loop(c, p, x_TD):
  """One row of latent attention from V3's eqs. 1-11, float64."""
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), p)
  H, R, C = c.qk_nope_head_dim, c.qk_rope_head_dim, c.kv_lora_rank
  turns = c.rope_theta ** (-np.arange(0, R, 2) / R)

  def rope(x_R, t):
    pairs = x_R[0::2] + 1j * x_R[1::2]
    return pairs * np.exp(1j * t * turns)

  if c.q_lora_rank:
    down = x_TD @ p["query_down"]["kernel"]
    q_input = rms_norm(down, p["query_norm"]["scale"])
  else:
    q_input = x_TD
  q_TNX = np.einsum("TD,DNX->TNX", q_input, p["query"]["kernel"])
  down_TX = x_TD @ p["kv_down"]["kernel"]
  latent_TC = rms_norm(down_TX[:, :C], p["kv_norm"]["scale"])
  y_TD = np.zeros(x_TD.shape)
  for t in range(len(x_TD)):
    for n in range(c.num_heads):
      logits, values = [], []
      for s in range(t + 1):
        up = latent_TC[s] @ p["kv_up"][:, n]
        turned = rope(q_TNX[t, n, H:], t) * np.conj(rope(down_TX[s, C:], s))
        logits.append(q_TNX[t, n, :H] @ up[:H] + turned.real.sum())
        values.append(up[H:])
      exps = np.exp(np.array(logits) * (H + R) ** -0.5)
      out = exps / exps.sum() @ np.array(values)
      y_TD[t] += out @ p["out"]["kernel"][n]
  return y_TD


class LatentAttentionTest(parameterized.TestCase):
  @parameterized.parameters(12, 0)
  def test_agrees_with_the_equations(self, q_lora_rank):
    c, layer, variables, x_BTD = setting(q_lora_rank=q_lora_rank)
    got_BTD, _ = expanded(layer, variables, x_BTD)
    self.assertEqual("query_down" in variables["params"], q_lora_rank > 0)
    for x_TD, got_TD in zip(x_BTD, got_BTD):
      want_TD = loop(c, variables["params"], x_TD.astype(np.float64))
      np.testing.assert_allclose(got_TD, want_TD, atol=1e-5)

  @parameterized.parameters(
    dict(q_lora_rank=12),
    dict(
      q_lora_rank=0,
      rope_scaling=dict(
        name="yarn",
        factor=40.0,
        original_max_positions=4,
        mscale_all_dim=1.0,
      ),
    ),
  )
  def test_absorbed_decode_equals_expanded_attention(self, **changes):
    c, layer, variables, x_BTD = setting(**changes)
    want_BTD, (latent_BTC, rope_BTR) = expanded(layer, variables, x_BTD)
    columns = T + 2
    cache = tuple(
      jnp.full((2, columns, width), 7.0)  # Read before written would show.
      for width in (c.kv_lora_rank, c.qk_rope_head_dim)
    )

    @jax.jit
    def step(x_B1D, t, cache):
      positions_B1 = jnp.full((2, 1), t)
      mask_B1S = jnp.arange(columns)[None, None] <= positions_B1[:, :, None]
      context = Context(positions_B1, mask_B1S)
      return layer.apply(variables, x_B1D, context, cache)

    for t in range(T):
      got_B1D, cache = step(x_BTD[:, t : t + 1], t, cache)
      np.testing.assert_allclose(got_B1D[:, 0], want_BTD[:, t], atol=1e-5)
    np.testing.assert_allclose(cache[0][:, :T], latent_BTC, atol=1e-5)
    np.testing.assert_allclose(cache[1][:, :T], rope_BTR, atol=1e-5)

  def test_cache_is_the_normed_latent_and_one_rotated_key(self):
    c, layer, variables, x_BTD = setting()
    _, cache = expanded(layer, variables, x_BTD)
    self.assertEqual(cache[0].shape, (2, T, c.kv_lora_rank))
    self.assertEqual(cache[1].shape, (2, T, c.qk_rope_head_dim))
    down_BTX = x_BTD @ np.asarray(variables["params"]["kv_down"]["kernel"])
    scale_C = np.asarray(variables["params"]["kv_norm"]["scale"])
    want_BTC = rms_norm(down_BTX[..., : c.kv_lora_rank], scale_C)
    np.testing.assert_allclose(cache[0], want_BTC, atol=1e-5)
    # The key is not normed; position 0 does not turn it, only sorts it.
    key_BR = down_BTX[:, 0, c.kv_lora_rank :]
    np.testing.assert_allclose(
      cache[1][:, 0], key_BR[:, [0, 2, 1, 3]], atol=1e-5
    )


if __name__ == "__main__":
  absltest.main()
