"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, §2.1)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.models import parallel
from r1jax.models.attention import MASKED, Context, look, write_columns
from r1jax.models.config import ModelConfig
from r1jax.models.layers import Linear, RMSNorm, rotary, rotate, yarn_mscale
from r1jax.models.layout import SINGLE, Layout


def softmax_scale(config: ModelConfig) -> float:
  """(nope + rope widths)^-1/2, times m^2 under YaRN with mscale_all_dim."""
  scale = (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5
  scaling = config.rope_scaling
  if scaling is not None and scaling.mscale_all_dim:
    scale *= yarn_mscale(scaling.factor, scaling.mscale_all_dim) ** 2
  return scale


class LatentAttention(nn.Module):
  """Attention whose cache is one latent and one rotary key a token.

  DeepSeek-V3 (arXiv:2412.19437), eqs. 1-11. Training expands the latent
  into keys and values; decoding folds both expansions into the query and
  the output instead (absorption), so that the cache is read as it lies.
  """

  config: ModelConfig
  layout: Layout = SINGLE

  @nn.compact
  def __call__(
    self,
    x_BTD: jax.Array,
    context: Context,
    cache: tuple[jax.Array, jax.Array] | None,
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The layer's output and its cache, latent_BSC and rope_key_BSR.

    Without a cache the tokens attend to each other. With one, T is 1 and
    the token is written to its column first.
    """
    c = self.config
    q_nope_BTNH, q_rope_BTNR = self._queries(x_BTD, context)
    down_BTX = Linear(
      c,
      (c.kv_lora_rank + c.qk_rope_head_dim,),
      ("embed", "kv_lora"),
      layout=self.layout,
      name="kv_down",
    )(x_BTD)
    latent_BTC, rope_BTR = jnp.split(down_BTX, [c.kv_lora_rank], axis=-1)
    latent_BTC = RMSNorm(c.norm_eps, "kv_lora", name="kv_norm")(latent_BTC)
    cos_sin = rotary(context.positions_BT, c.qk_rope_head_dim, c)
    rope_BTR = rotate(rope_BTR[:, :, None], cos_sin, c.rope_interleaved)
    rope_BTR = rope_BTR[:, :, 0]
    up_CNX = self.param(
      "kv_up",
      nn.with_logical_partitioning(
        nn.initializers.normal(c.init_std), ("latent", "heads", "head_dim")
      ),
      (c.kv_lora_rank, c.num_heads, c.qk_nope_head_dim + c.v_head_dim),
      jnp.dtype(c.param_dtype),
    ).astype(x_BTD.dtype)
    if cache is None:
      latent_BSC, rope_BSR = latent_BTC, rope_BTR
      product = functools.partial(_expanded, self.layout)
    else:
      columns_B = context.positions_BT[:, 0]
      latent_BSC = write_columns(cache[0][:, None], latent_BTC, columns_B)
      rope_BSR = write_columns(cache[1][:, None], rope_BTR, columns_B)
      latent_BSC, rope_BSR = latent_BSC[:, 0], rope_BSR[:, 0]
      product = _absorbed
    out_BTNH = product(
      q_nope_BTNH, q_rope_BTNR, latent_BSC, rope_BSR, up_CNX, context, c
    )
    y_BTD = Linear(
      c,
      (c.d_model,),
      ("heads", "head_dim", "embed"),
      2,
      layout=self.layout,
      name="out",
    )(out_BTNH)
    return y_BTD, (latent_BSC, rope_BSR)

  def _queries(self, x_BTD, context):
    c = self.config
    if c.q_lora_rank:
      x_BTD = Linear(
        c,
        (c.q_lora_rank,),
        ("embed", "q_lora"),
        layout=self.layout,
        name="query_down",
      )(x_BTD)
      x_BTD = RMSNorm(c.norm_eps, "q_lora", name="query_norm")(x_BTD)
    outputs = (c.num_heads, c.qk_nope_head_dim + c.qk_rope_head_dim)
    first = "latent" if c.q_lora_rank else "embed"
    q_BTNX = Linear(
      c, outputs, (first, "heads", "head_dim"), layout=self.layout, name="query"
    )(x_BTD)
    nope_BTNH, rope_BTNR = jnp.split(q_BTNX, [c.qk_nope_head_dim], axis=-1)
    cos_sin = rotary(context.positions_BT, c.qk_rope_head_dim, c)
    return nope_BTNH, rotate(rope_BTNR, cos_sin, c.rope_interleaved)


def _expanded(
  layout, q_nope_BTNH, q_rope_BTNR, latent, rope, up_CNX, context, c
):
  """Per-head keys and values, as in training."""
  if layout.mesh is None:
    expanded_BNSX = jnp.einsum("BSC,CNX->BNSX", latent, up_CNX)
  else:
    axes = ("latent", "heads", "head_dim")
    expanded_BSNX = parallel.linear(layout, latent, up_CNX, axes, 1)
    expanded_BNSX = expanded_BSNX.swapaxes(1, 2)
  k_nope_BNSH, v_BNSH = jnp.split(expanded_BNSX, [c.qk_nope_head_dim], axis=-1)
  rope_B1SR = rope[:, None]
  rope_BNSR = jnp.broadcast_to(
    rope_B1SR, k_nope_BNSH.shape[:3] + rope_B1SR.shape[-1:]
  )
  return look(
    layout,
    jnp.concatenate([q_nope_BTNH, q_rope_BTNR], axis=-1),
    jnp.concatenate([k_nope_BNSH, rope_BNSR], axis=-1),
    v_BNSH,
    context,
    softmax_scale(c),
  )


def _absorbed(q_nope_BTNH, q_rope_BTNR, latent, rope, up_CNX, context, c):
  """One latent for all heads, as in decoding (T is 1)."""
  key_up_CNH, value_up_CNH = jnp.split(up_CNX, [c.qk_nope_head_dim], axis=-1)
  q_nope_BNH, q_rope_BNR = q_nope_BTNH[:, 0], q_rope_BTNR[:, 0]
  q_latent_BNC = jnp.einsum("BNH,CNH->BNC", q_nope_BNH, key_up_CNH)
  logits_BNS = jnp.einsum("BNC,BSC->BNS", q_latent_BNC, latent)
  logits_BNS += jnp.einsum("BNR,BSR->BNS", q_rope_BNR, rope)
  logits_BNS = logits_BNS.astype(jnp.float32) * softmax_scale(c)
  logits_BNS = jnp.where(context.mask_BTS, logits_BNS, MASKED)
  probs_BNS = jax.nn.softmax(logits_BNS, axis=-1).astype(latent.dtype)
  out_BNC = jnp.einsum("BNS,BSC->BNC", probs_BNS, latent)
  return jnp.einsum("BNC,CNH->BNH", out_BNC, value_up_CNH)[:, None]
