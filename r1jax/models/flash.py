"""Causal attention inside packed sequences, without a mask of all pairs.

Forms of one product, softmax(scale * q k') v, each of which sees
segments_BT, so that nothing of size T * T exists, and recomputes its
probabilities in the backward pass from each token's log-normaliser
(FlashAttention-2, arXiv:2307.08691, §3.1). What padding gets, whose segment
is 0, is finite, and nobody reads it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.gpu import attention as triton_lib
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as splash_lib,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as splash_mask,
)

from r1jax.models.layout import Layout

MASKED = -1e30  # Finite, so a row with nothing to see stays finite.
LONG = 512  # Tokens of a row above which "by_length" is chunked.
_LANES = 128  # Blocks of the kernels are multiples of it.


def form_of(layout: Layout, T: int) -> str:
  """The form for rows of T tokens: "mask", or one of FORMS.

  On two CPU cores "chunked" takes 0.06 to 0.3 of the time of "mask" at
  1024 tokens, and as long at 128; rows of up to 512 keep the bits that the
  mask gives.
  """
  if layout.attention == "by_length":
    return "chunked" if T > LONG else "mask"
  return layout.attention


def attend(
  layout: Layout,
  q_BTNH: jax.Array,
  k_BKTH: jax.Array,
  v_BKTH: jax.Array,
  segments_BT: jax.Array,
  scale: float,
) -> jax.Array:
  """The product in the layout's form, as [B, T, N, H].

  On a mesh each device computes its own rows and heads.
  """
  form = FORMS[form_of(layout, q_BTNH.shape[1])]
  run = functools.partial(form, scale=scale)
  if layout.mesh is None:
    return run(q_BTNH, k_BKTH, v_BKTH, segments_BT)
  heads = ("batch", "heads", None, None)
  q_spec = layout.spec(q_BTNH.shape, "batch", None, "heads", None)
  return jax.shard_map(
    run,
    mesh=layout.mesh,
    in_specs=(
      q_spec,
      layout.spec(k_BKTH.shape, *heads),
      layout.spec(v_BKTH.shape, *heads),
      layout.spec(segments_BT.shape, "batch", None),
    ),
    out_specs=q_spec,
    check_vma=False,
  )(q_BTNH, k_BKTH, v_BKTH, segments_BT)


def splash(
  q_BTNH: jax.Array,
  k_BKTH: jax.Array,
  v_BKTH: jax.Array,
  segments_BT: jax.Array,
  scale: float,
  interpret: bool = False,
) -> jax.Array:
  """The product by jax's splash kernel, on a TPU."""
  T = q_BTNH.shape[1]
  block = min(512, -(-T // _LANES) * _LANES)
  q_BNTH = _scaled(q_BTNH, scale).transpose(0, 2, 1, 3)
  q_BNTH, k_BKTH, v_BKTH = (
    _padded(each, block, 2) for each in (q_BNTH, k_BKTH, v_BKTH)
  )
  segments_BT = _padded(segments_BT, block, 1)
  side = segments_BT.shape[1]
  kernel = _splash_kernel(side, q_BNTH.shape[1], block, interpret)
  ids = splash_lib.SegmentIds(segments_BT, segments_BT)
  out_BNTH = jax.vmap(kernel)(q_BNTH, k_BKTH, v_BKTH, ids)
  return out_BNTH[:, :, :T].transpose(0, 2, 1, 3)


@functools.lru_cache
def _splash_kernel(side, heads, block, interpret):
  """The kernel of rows of `side` tokens; its mask takes seconds to make."""
  sizes = (
    *("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute"),
    *("q_dq", "kv_dq"),
  )
  causal = splash_mask.CausalMask((side, side))
  with jax.ensure_compile_time_eval():  # Its arrays outlive a trace.
    return splash_lib.make_splash_mha(
      splash_mask.MultiHeadMask([causal] * heads),
      block_sizes=splash_lib.BlockSizes(
        **{f"block_{part}": block for part in sizes}
      ),
      head_shards=1,
      q_seq_shards=1,
      interpret=interpret,
    )


def triton(
  q_BTNH: jax.Array,
  k_BKTH: jax.Array,
  v_BKTH: jax.Array,
  segments_BT: jax.Array,
  scale: float,
  interpret: bool = False,
) -> jax.Array:
  """The product by jax's Triton kernel, on a GPU.

  It takes one width and as many key heads as query heads; where values are
  narrower than keys, as in latent attention, zeros fill them up.
  """
  _, T, N, H = q_BTNH.shape
  K, width = v_BKTH.shape[1], v_BKTH.shape[-1]
  v_BKTH = jnp.pad(v_BKTH, ((0, 0), (0, 0), (0, 0), (0, H - width)))
  block = min(128 if H <= 128 else 64, max(16, 1 << (T - 1).bit_length()))
  q_BTNH, k_BTNH, v_BTNH = (
    _padded(each, block, 1)
    for each in (
      _scaled(q_BTNH, scale),
      *(
        jnp.repeat(each.transpose(0, 2, 1, 3), N // K, axis=2)
        for each in (k_BKTH, v_BKTH)
      ),
    )
  )
  small = min(block, 32)
  out_BTNH = triton_lib.mha(
    q_BTNH,
    k_BTNH,
    v_BTNH,
    _padded(segments_BT, block, 1),
    causal=True,
    block_sizes=triton_lib.BlockSizes(block, block, *[small] * 4),
    interpret=interpret,
  )
  return out_BTNH[:, :T, :, :width]


def _scaled(array, scale):
  """The product with the scale, rounded once."""
  return (array.astype(jnp.float32) * scale).astype(array.dtype)


def _padded(array, block, axis):
  """The array with zeros up to a whole number of blocks along an axis."""
  pads = [(0, 0)] * array.ndim
  pads[axis] = (0, -array.shape[axis] % block)
  return jnp.pad(array, pads)


def chunked(
  q_BTNH: jax.Array,
  k_BKTH: jax.Array,
  v_BKTH: jax.Array,
  segments_BT: jax.Array,
  scale: float,
  block: int = 0,
) -> jax.Array:
  """The product in plain XLA, anywhere.

  Pairs of a block of queries and a block of keys, one after another, with
  the softmax carried along (arXiv:2307.08691, algorithms 1 and 2). Pairs
  above the diagonal are left out, and those in which no query sees a key
  are not computed.

  Args:
    q_BTNH: Queries; N is a multiple of K.
    k_BKTH, v_BKTH: Keys and values; their widths may differ.
    segments_BT: As in `types.Batch`.
    scale: Of the logits.
    block: Tokens of a block; 0 makes it 128 to 512, about 32 in a row.
  """
  B, T, N, H = q_BTNH.shape
  K = k_BKTH.shape[1]
  block = min(block or _block_of(T), -(-T // 8) * 8)
  q_BKGTH = q_BTNH.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
  out_BKGTH = _blocks(
    scale,
    block,
    _padded(q_BKGTH, block, 3),
    _padded(k_BKTH, block, 2),
    _padded(v_BKTH, block, 2),
    _padded(segments_BT, block, 1),
  )
  out_BTKGH = out_BKGTH[:, :, :, :T].transpose(0, 3, 1, 2, 4)
  return out_BTKGH.reshape(B, T, N, -1)


def _block_of(T):
  return max(128, min(512, 1 << max(0, (T - 1) // 32).bit_length()))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _blocks(scale, block, q_BKGTH, k_BKTH, v_BKTH, segments_BT):
  """Attention of a whole number of blocks."""
  return _forward(scale, block, q_BKGTH, k_BKTH, v_BKTH, segments_BT)[0]


def _pairs(T, block):
  """Blocks of queries and of keys on and below the diagonal, row by row."""
  rows_P, columns_P = np.tril_indices(T // block)
  return jnp.asarray(rows_P), jnp.asarray(columns_P)


def _cut(array, i, block, axis):
  """Block i of an axis."""
  return jax.lax.dynamic_slice_in_dim(array, i * block, block, axis)


def _put(array, new, i, block, axis):
  """The array with block i of an axis replaced."""
  return jax.lax.dynamic_update_slice_in_dim(array, new, i * block, axis)


def _visible(segments_BT, i, j, block):
  """visible_BXY: which queries of block i see which keys of block j."""
  own_BX, other_BY = (_cut(segments_BT, b, block, 1) for b in (i, j))
  at_X, at_Y = (b * block + jnp.arange(block) for b in (i, j))
  same_BXY = own_BX[:, :, None] == other_BY[:, None, :]
  return same_BXY & (own_BX != 0)[:, :, None] & (at_X[:, None] >= at_Y)


def _logits(scale, q_BKGXH, k_BKYH):
  logits_BKGXY = jnp.einsum(
    "BKGXH,BKYH->BKGXY",
    q_BKGXH,
    k_BKYH,
    preferred_element_type=jnp.float32,
  )
  return logits_BKGXY * scale


def _forward(scale, block, q_BKGTH, k_BKTH, v_BKTH, segments_BT):
  """(out_BKGTH, log-normalisers_BKGT)."""
  T = q_BKGTH.shape[3]
  head = q_BKGTH.shape[:3]
  width = v_BKTH.shape[-1]
  fresh = (
    jnp.full((*head, block), MASKED),
    jnp.zeros((*head, block)),
    jnp.zeros((*head, block, width)),
  )

  def step(carry, pair):
    i, j = pair
    *running, out, lse = carry
    running = [jnp.where(j == 0, a, b) for a, b in zip(fresh, running)]
    visible_BXY = _visible(segments_BT, i, j, block)

    def look(most, total, mixed):
      logits = _logits(
        scale, _cut(q_BKGTH, i, block, 3), _cut(k_BKTH, j, block, 2)
      )
      shown = visible_BXY[:, None, None]
      logits = jnp.where(shown, logits, MASKED)
      new = jnp.maximum(most, jnp.max(logits, axis=-1))
      mass = jnp.where(shown, jnp.exp(logits - new[..., None]), 0.0)
      fade = jnp.exp(most - new)
      v_BKYH = _cut(v_BKTH, j, block, 2)
      more = jnp.einsum(
        "BKGXY,BKYH->BKGXH",
        mass.astype(v_BKYH.dtype),
        v_BKYH,
        preferred_element_type=jnp.float32,
      )
      total = total * fade + jnp.sum(mass, axis=-1)
      return new, total, mixed * fade[..., None] + more

    most, total, mixed = jax.lax.cond(
      jnp.any(visible_BXY), look, lambda *same: same, *running
    )
    safe = jnp.where(total > 0, total, 1.0)
    here = (mixed / safe[..., None]).astype(v_BKTH.dtype)
    out = _put(out, here, i, block, 3)
    lse = _put(lse, most + jnp.log(safe), i, block, 3)
    return (most, total, mixed, out, lse), None

  empty = (
    jnp.zeros((*head, T, width), v_BKTH.dtype),
    jnp.zeros((*head, T)),
  )
  (*_, out_BKGTH, lse_BKGT), _ = jax.lax.scan(
    step, (*fresh, *empty), _pairs(T, block)
  )
  return out_BKGTH, lse_BKGT


def _keep(scale, block, *arrays):
  out_BKGTH, lse_BKGT = _forward(scale, block, *arrays)
  return out_BKGTH, (*arrays, out_BKGTH, lse_BKGT)


def _backward(scale, block, kept, dout_BKGTH):
  """Gradients of queries, keys and values (arXiv:2307.08691, eq. 3)."""
  q_BKGTH, k_BKTH, v_BKTH, segments_BT, out_BKGTH, lse_BKGT = kept
  wide = dout_BKGTH.astype(jnp.float32)
  delta_BKGT = jnp.sum(wide * out_BKGTH.astype(jnp.float32), axis=-1)

  def step(grads, pair):
    i, j = pair
    visible_BXY = _visible(segments_BT, i, j, block)
    at = ((i, 3), (j, 2), (j, 2))

    def look():
      q, dout, lse, delta = (
        _cut(each, i, block, 3)
        for each in (q_BKGTH, dout_BKGTH, lse_BKGT, delta_BKGT)
      )
      k, v = (_cut(each, j, block, 2) for each in (k_BKTH, v_BKTH))
      shown = visible_BXY[:, None, None]
      probs = jnp.exp(_logits(scale, q, k) - lse[..., None])
      probs = jnp.where(shown, probs, 0.0)
      product = functools.partial(
        jnp.einsum, preferred_element_type=jnp.float32
      )
      dprobs = product("BKGXH,BKYH->BKGXY", dout, v)
      dlogits = (probs * (dprobs - delta[..., None]) * scale).astype(q.dtype)
      return (
        product("BKGXY,BKYH->BKGXH", dlogits, k),
        product("BKGXY,BKGXH->BKYH", dlogits, q),
        product("BKGXY,BKGXH->BKYH", probs.astype(dout.dtype), dout),
      )

    def skip():
      return tuple(
        jnp.zeros_like(_cut(grad, b, block, axis))
        for grad, (b, axis) in zip(grads, at)
      )

    more = jax.lax.cond(jnp.any(visible_BXY), look, skip)
    return tuple(
      _put(grad, _cut(grad, b, block, axis) + new, b, block, axis)
      for grad, new, (b, axis) in zip(grads, more, at)
    ), None

  arrays = (q_BKGTH, k_BKTH, v_BKTH)
  zeros = tuple(jnp.zeros(each.shape, jnp.float32) for each in arrays)
  grads, _ = jax.lax.scan(step, zeros, _pairs(q_BKGTH.shape[3], block))
  grads = tuple(grad.astype(a.dtype) for grad, a in zip(grads, arrays))
  return *grads, np.zeros(segments_BT.shape, jax.dtypes.float0)


_blocks.defvjp(_keep, _backward)

FORMS = {"chunked": chunked, "splash": splash, "triton": triton}
