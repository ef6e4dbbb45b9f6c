"""Grouped-query attention, and the attention product all forms share."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.models import flash
from r1jax.models.config import ModelConfig
from r1jax.models.flash import MASKED
from r1jax.models.layers import Linear, RMSNorm, rotary, rotate
from r1jax.models.layout import SINGLE, Layout


class Context(NamedTuple):
  """What every layer's attention needs to know of its tokens.

  Attributes:
    positions_BT: Position inside the sequence; also the cache column.
    mask_BTS: True where token t may look at token (or column) s; None
      where the layout's form of attention reads the segments instead.
    segments_BT: As in `types.Batch`; None where nothing is packed.
  """

  positions_BT: jax.Array
  mask_BTS: jax.Array | None
  segments_BT: jax.Array | None = None


def packed_context(
  layout: Layout, positions_BT: jax.Array, segments_BT: jax.Array
) -> Context:
  """The context of packed rows, with a mask where the layout needs one."""
  mask_BTS = None
  if flash.form_of(layout, segments_BT.shape[1]) == "mask":
    mask_BTS = packed_mask(segments_BT)
  return Context(positions_BT, mask_BTS, segments_BT)


def packed_mask(segments_BT: jax.Array) -> jax.Array:
  """mask_BTS of packed rows: causal, inside one sequence, no padding."""
  T = segments_BT.shape[1]
  same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
  causal_1TS = jnp.tril(jnp.ones((1, T, T), bool))
  return same_BTS & causal_1TS & (segments_BT != 0)[:, :, None]


def write_columns(
  cache_BXSY: jax.Array, new_BXY: jax.Array, columns_B: jax.Array
) -> jax.Array:
  """The cache with one column of every row replaced, axis 2 its columns."""

  def write(cache_XSY, new_XY, column):
    return jax.lax.dynamic_update_slice(
      cache_XSY, new_XY[:, None, :], (0, column, 0)
    )

  return jax.vmap(write)(cache_BXSY, new_BXY, columns_B)


def attend(
  q_BTNH: jax.Array,
  k_BKSH: jax.Array,
  v_BKSH: jax.Array,
  mask_BTS: jax.Array,
  scale: float,
) -> jax.Array:
  """softmax(scale * q k' over what the mask shows) v, as [B, T, N, H].

  The keys' layout is the cache's, heads before columns, so that decoding
  multiplies it where it lies. Softmax is in float32.
  """
  B, T, N, H = q_BTNH.shape
  K = k_BKSH.shape[1]
  G = N // K
  q_BKXH = q_BTNH.reshape(B, T, K, G, H).transpose(0, 2, 3, 1, 4)
  q_BKXH = q_BKXH.reshape(B, K, G * T, H)
  logits_BKXS = jnp.einsum("BKXH,BKSH->BKXS", q_BKXH, k_BKSH)
  logits = logits_BKXS.astype(jnp.float32).reshape(B, K, G, T, -1) * scale
  logits = jnp.where(mask_BTS[:, None, None], logits, MASKED)
  probs = jax.nn.softmax(logits, axis=-1).astype(v_BKSH.dtype)
  out_BKXH = jnp.einsum(
    "BKXS,BKSH->BKXH", probs.reshape(B, K, G * T, -1), v_BKSH
  )
  out = out_BKXH.reshape(B, K, G, T, -1).transpose(0, 3, 1, 2, 4)
  return out.reshape(B, T, N, -1)


def look(
  layout: Layout,
  q_BTNH: jax.Array,
  k_BKSH: jax.Array,
  v_BKSH: jax.Array,
  context: Context,
  scale: float,
) -> jax.Array:
  """The attention product of a context, by its mask or its segments."""
  if context.mask_BTS is not None:
    return attend(q_BTNH, k_BKSH, v_BKSH, context.mask_BTS, scale)
  return flash.attend(
    layout, q_BTNH, k_BKSH, v_BKSH, context.segments_BT, scale
  )


class GroupedQueryAttention(nn.Module):
  """Attention whose query heads share keys and values in groups."""

  config: ModelConfig
  layout: Layout = SINGLE

  @nn.compact
  def __call__(
    self,
    x_BTD: jax.Array,
    context: Context,
    cache: tuple[jax.Array, jax.Array] | None,
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The layer's output and its cache.

    Without a cache the tokens attend to each other; the cache returned
    then is their own keys and values, [B, K, T, H]. With one, T is 1 and
    the token is written to its column first.
    """
    c = self.config

    def project(heads, kind, name):
      axes = ("embed", kind, "head_dim")
      outputs = (heads, c.head_dim)
      return Linear(c, outputs, axes, 1, c.qkv_bias, self.layout, name=name)(
        x_BTD
      )

    q_BTNH = project(c.num_heads, "heads", "query")
    k_BTKH = project(c.num_kv_heads, "kv_heads", "key")
    v_BTKH = project(c.num_kv_heads, "kv_heads", "value")
    if c.qk_norm:
      q_BTNH = RMSNorm(c.norm_eps, "head_dim", name="query_norm")(q_BTNH)
      k_BTKH = RMSNorm(c.norm_eps, "head_dim", name="key_norm")(k_BTKH)
    cos_sin = rotary(context.positions_BT, c.head_dim, c)
    q_BTNH = rotate(q_BTNH, cos_sin, c.rope_interleaved)
    k_BTKH = rotate(k_BTKH, cos_sin, c.rope_interleaved)
    if cache is None:
      k_BKSH, v_BKSH = (a.transpose(0, 2, 1, 3) for a in (k_BTKH, v_BTKH))
    else:
      columns_B = context.positions_BT[:, 0]
      k_BKSH = write_columns(cache[0], k_BTKH[:, 0], columns_B)
      v_BKSH = write_columns(cache[1], v_BTKH[:, 0], columns_B)
    out_BTNH = look(
      self.layout, q_BTNH, k_BKSH, v_BKSH, context, c.head_dim**-0.5
    )
    y_BTD = Linear(
      c,
      (c.d_model,),
      ("heads", "head_dim", "embed"),
      2,
      layout=self.layout,
      name="out",
    )(out_BTNH)
    return y_BTD, (k_BKSH, v_BKSH)
