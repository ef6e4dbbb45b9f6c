"""Mixture of experts: the router, and dropless experts in three forms."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.models import dispatch, parallel
from r1jax.models.attention import Context
from r1jax.models.config import ModelConfig
from r1jax.models.layers import MLP
from r1jax.models.layout import SINGLE, Layout
from r1jax.types import Params

MAX_BLOCK_TOKENS = 64


class Routing(NamedTuple):
  """Where tokens go; X counts tokens of all rows.

  Attributes:
    experts_XP: Picked experts.
    gates_XP: Their weights, float32.
    scores_XE: Affinities before the bias, float32.
  """

  experts_XP: jax.Array
  gates_XP: jax.Array
  scores_XE: jax.Array


class Report(NamedTuple):
  """What a layer says about its routing.

  Attributes:
    experts_BTP: Picked experts.
    differs_BT: True where the live router would have picked another set
      than the one replayed.
    load_E: Tokens of real sequences each expert got, float32.
    balance_BT: The token's share of its sequence's balance loss.
  """

  experts_BTP: jax.Array
  differs_BT: jax.Array
  load_E: jax.Array
  balance_BT: jax.Array


def select(scores_XE: jax.Array, bias_E: jax.Array, c: ModelConfig):
  """experts_XP by biased score, inside the best groups only.

  DeepSeek-V3 (arXiv:2412.19437), eqs. 14-16 and §2.1.2. A group's score
  is the sum of its two best for sigmoid, its best for softmax (V2).
  Groups left out are at minus infinity, so they lose to any score.
  """
  biased_XE = jax.lax.stop_gradient(scores_XE) + bias_E[None]
  if c.router_groups > 1:
    X, E = biased_XE.shape
    size = E // c.router_groups
    grouped_XYE = biased_XE.reshape(X, c.router_groups, size)
    best = min(2, size) if c.router_score == "sigmoid" else 1
    group_XY = jnp.sum(jax.lax.top_k(grouped_XYE, best)[0], axis=-1)
    kept_XY = jax.lax.top_k(group_XY, c.router_topk_groups)[1]
    keep_XY = jnp.any(
      kept_XY[:, :, None] == jnp.arange(c.router_groups)[None, None], axis=1
    )
    grouped_XYE = jnp.where(keep_XY[:, :, None], grouped_XYE, -jnp.inf)
    biased_XE = grouped_XYE.reshape(X, E)
  return jax.lax.top_k(biased_XE, c.experts_per_token)[1]


def route(
  logits_XE: jax.Array,
  bias_E: jax.Array,
  replay_XP: jax.Array | None,
  c: ModelConfig,
) -> tuple[Routing, jax.Array]:
  """The routing, and where the replayed set differs from the live one.

  Gates come from unbiased scores over the set in use, so the router keeps
  its gradient under replay (R3, arXiv:2510.11370).
  """
  score = {"sigmoid": jax.nn.sigmoid, "softmax": jax.nn.softmax}
  scores_XE = score[c.router_score](logits_XE.astype(jnp.float32))
  experts_XP = select(scores_XE, bias_E, c)
  differs_X = jnp.zeros(experts_XP.shape[0], bool)
  if replay_XP is not None:
    known_X1 = replay_XP[:, :1] >= 0
    live_XP, old_XP = (jnp.sort(a, axis=-1) for a in (experts_XP, replay_XP))
    differs_X = jnp.any((live_XP != old_XP) & known_X1, axis=-1)
    experts_XP = jnp.where(known_X1, replay_XP, experts_XP)
  gates_XP = jnp.take_along_axis(scores_XE, experts_XP, axis=-1)
  if c.router_normalize:
    gates_XP = gates_XP / (jnp.sum(gates_XP, axis=-1, keepdims=True) + 1e-20)
  return Routing(experts_XP, gates_XP * c.router_scale, scores_XE), differs_X


def balance(
  routing: Routing, segments_BT: jax.Array, c: ModelConfig
) -> jax.Array:
  """Each token's term of the sequence-wise balance loss, [B, T].

  DeepSeek-V3 (arXiv:2412.19437), eqs. 17-20: a sequence's loss is the
  sum over experts of f_i P_i; the mean over the sequence's tokens of what
  is returned here equals it.
  """
  B, T = segments_BT.shape
  E = c.num_experts
  picks_XE = jnp.sum(jax.nn.one_hot(routing.experts_XP, E), axis=1)
  real_BT1 = (segments_BT != 0)[..., None].astype(jnp.float32)
  picks_BTE = picks_XE.reshape(B, T, E) * real_BT1

  @jax.vmap
  def of_sequence(values_TX, segments_T):  # Whole numbers: no rounding.
    sums_SX = jax.ops.segment_sum(values_TX, segments_T, T + 1)
    return sums_SX[segments_T]

  length_BT1 = jnp.maximum(of_sequence(real_BT1, segments_BT), 1)
  counts_BTE = of_sequence(picks_BTE, segments_BT)
  share_BTE = counts_BTE * (E / c.experts_per_token) / length_BT1
  scores_BTE = routing.scores_XE.reshape(B, T, E)
  scores_BTE /= jnp.sum(scores_BTE, axis=-1, keepdims=True)
  return jnp.sum(jax.lax.stop_gradient(share_BTE) * scores_BTE, axis=-1)


def dense_experts(x_XD, routing, gate_EDF, up_EDF, down_EFD):
  """Every expert on every token, weighted by the gates."""
  E = gate_EDF.shape[0]
  onehot_XPE = jax.nn.one_hot(routing.experts_XP, E, dtype=x_XD.dtype)
  gates_XE = jnp.einsum(
    "XPE,XP->XE", onehot_XPE, routing.gates_XP.astype(x_XD.dtype)
  )
  inner_EXF = nn.silu(jnp.einsum("XD,EDF->EXF", x_XD, gate_EDF))
  inner_EXF *= jnp.einsum("XD,EDF->EXF", x_XD, up_EDF)
  inner_EXF *= gates_XE.T[:, :, None]
  return jnp.einsum("EXF,EFD->XD", inner_EXF, down_EFD)


def _sorted_tokens(x_XD, routing):
  """Token copies in order of their expert, and the order."""
  X, P = routing.experts_XP.shape
  order_Y = jnp.argsort(routing.experts_XP.reshape(X * P), stable=True)
  return x_XD[order_Y // P], order_Y


def _combine(out_YD, order_Y, routing):
  """The gated sum of each token's expert outputs."""
  X, P = routing.experts_XP.shape
  back_Y = jnp.zeros_like(order_Y).at[order_Y].set(jnp.arange(X * P))
  out_XPD = out_YD[back_Y].reshape(X, P, -1)
  gates_XP = routing.gates_XP.astype(out_YD.dtype)
  return jnp.einsum("XPD,XP->XD", out_XPD, gates_XP)


def ragged_experts(x_XD, routing, gate_EDF, up_EDF, down_EFD):
  """Grouped matmuls over sorted tokens by lax.ragged_dot."""
  E = gate_EDF.shape[0]
  sorted_YD, order_Y = _sorted_tokens(x_XD, routing)
  sizes_E = jnp.bincount(routing.experts_XP.reshape(-1), length=E)
  sizes_E = sizes_E.astype(jnp.int32)
  inner_YF = nn.silu(jax.lax.ragged_dot(sorted_YD, gate_EDF, sizes_E))
  inner_YF *= jax.lax.ragged_dot(sorted_YD, up_EDF, sizes_E)
  out_YD = jax.lax.ragged_dot(inner_YF, down_EFD, sizes_E)
  return _combine(out_YD, order_Y, routing)


def blocked_experts(x_XD, routing, gate_EDF, up_EDF, down_EFD):
  """Batched matmuls over sorted tokens, in blocks of a single expert.

  At most E blocks are partly empty. Weights are fetched by a one-hot
  product, whose transpose is again a matmul and not a scatter.
  """
  X, P = routing.experts_XP.shape
  E = gate_EDF.shape[0]
  block = MAX_BLOCK_TOKENS
  while block > 8 and block * E > X * P:
    block //= 2
  num_blocks = -(-X * P // block) + E
  sorted_YD, order_Y = _sorted_tokens(x_XD, routing)
  expert_Y = routing.experts_XP.reshape(-1)[order_Y]
  sizes_E = jnp.bincount(expert_Y, length=E)
  blocks_E = -(-sizes_E // block)
  first_block_E = jnp.cumsum(blocks_E) - blocks_E
  first_row_E = jnp.cumsum(sizes_E) - sizes_E
  rank_Y = jnp.arange(X * P) - first_row_E[expert_Y]
  place_Y = first_block_E[expert_Y] * block + rank_Y
  padded_ZD = jnp.zeros((num_blocks * block, x_XD.shape[1]), x_XD.dtype)
  padded_ZD = padded_ZD.at[place_Y].set(sorted_YD, unique_indices=True)
  x_ZBD = padded_ZD.reshape(num_blocks, block, -1)
  owner_ZE = jnp.arange(num_blocks)[:, None] >= first_block_E[None]
  owner_Z = jnp.sum(owner_ZE, axis=1) - 1
  onehot_ZE = jax.nn.one_hot(owner_Z, E, dtype=x_XD.dtype)

  def product(x_ZBI, kernel_EIO):
    kernel_ZIO = jnp.einsum("ZE,EIO->ZIO", onehot_ZE, kernel_EIO)
    return jnp.einsum("ZBI,ZIO->ZBO", x_ZBI, kernel_ZIO)

  inner_ZBF = nn.silu(product(x_ZBD, gate_EDF)) * product(x_ZBD, up_EDF)
  out_ZBD = product(inner_ZBF, down_EFD)
  out_YD = out_ZBD.reshape(num_blocks * block, -1)[place_Y]
  return _combine(out_YD, order_Y, routing)


EXPERTS = {
  "dense": dense_experts,
  "blocked": blocked_experts,
  "ragged": ragged_experts,
}


class MoE(nn.Module):
  """Shared experts on every token, routed experts on some.

  DeepSeek-V3 (arXiv:2412.19437), eq. 12, without the residual.

  Attributes:
    with_balance: Whether the balance loss is computed.
    impl: Form of the experts, of EXPERTS or `grouped.FORMS`.
    layout: The mesh and its kernels.
  """

  config: ModelConfig
  with_balance: bool
  impl: str
  layout: Layout = SINGLE

  @nn.compact
  def __call__(
    self,
    x_BTD: jax.Array,
    context: Context,
    replay_BTP: jax.Array | None,
  ) -> tuple[jax.Array, Report]:
    """The layer's output and what it says about its routing."""
    c = self.config
    B, T, _ = x_BTD.shape
    replay_XP = None if replay_BTP is None else replay_BTP.reshape(B * T, -1)
    routing, differs_X = route(*self._router(x_BTD), replay_XP, c)
    dtype = jnp.dtype(c.compute_dtype)
    kernels = (
      self._kernel("gate", ("experts", "expert_embed", "expert_mlp"), dtype),
      self._kernel("up", ("experts", "expert_embed", "expert_mlp"), dtype),
      self._kernel("down", ("experts", "expert_inner", "expert_out"), dtype),
    )
    y_BTD = self._routed(x_BTD.astype(dtype), routing, kernels)
    if c.num_shared_experts:
      width = c.num_shared_experts * c.d_expert
      y_BTD = y_BTD + MLP(c, width, self.layout, name="shared")(x_BTD)
    return y_BTD, self._report(routing, differs_X, context, (B, T))

  def _routed(self, x_BTD, routing, kernels):
    """The routed experts' part, on one device or over the mesh."""
    B, T, D = x_BTD.shape
    if self.layout.mesh is None and self.impl in EXPERTS:
      y_XD = EXPERTS[self.impl](x_BTD.reshape(B * T, D), routing, *kernels)
      return y_XD.reshape(B, T, D)
    experts_BTP = routing.experts_XP.reshape(B, T, -1)
    gates_BTP = routing.gates_XP.reshape(B, T, -1)
    return dispatch.experts(
      self.layout, self.impl, x_BTD, experts_BTP, gates_BTP, *kernels
    )

  def _router(self, x_BTD):
    """(logits_XE, bias_E)."""
    c, E = self.config, self.config.num_experts
    kernel_DE = self.param(
      "router",
      nn.with_logical_partitioning(
        nn.initializers.normal(c.init_std), ("embed", "router")
      ),
      (c.d_model, c.num_experts),
      jnp.float32,
    )
    bias_E = jnp.zeros((c.num_experts,), jnp.float32)
    if c.router_bias:
      bias_E = self.variable("buffers", "router_bias", lambda: bias_E).value
    x_BTD = x_BTD.astype(jnp.float32)
    if self.layout.mesh is not None:
      axes = ("embed", "router")
      logits_BTE = parallel.linear(self.layout, x_BTD, kernel_DE, axes, 1)
      return logits_BTE.reshape(-1, E), bias_E
    return jnp.dot(x_BTD.reshape(-1, c.d_model), kernel_DE), bias_E

  def _kernel(self, name, axes, dtype):
    c = self.config
    widths = {"expert_embed": (c.d_model, c.d_expert)}
    inner = widths.get(axes[1], (c.d_expert, c.d_model))
    shape = (c.num_experts, *inner)
    init = nn.with_logical_partitioning(
      nn.initializers.normal(c.init_std), axes
    )
    return self.param(name, init, shape, jnp.dtype(c.param_dtype)).astype(dtype)

  def _report(self, routing, differs_X, context, shape):
    c = self.config
    B, T = shape
    real_BT = jnp.ones(shape, bool)
    balance_BT = jnp.zeros(shape)
    if context.segments_BT is not None:
      real_BT = context.segments_BT != 0
      if self.with_balance:
        balance_BT = balance(routing, context.segments_BT, c)
    picks_XE = jnp.sum(
      jax.nn.one_hot(routing.experts_XP, c.num_experts), axis=1
    )
    load_E = jnp.sum(jnp.where(real_BT.reshape(-1, 1), picks_XE, 0.0), axis=0)
    return Report(
      routing.experts_XP.reshape(B, T, -1),
      differs_X.reshape(B, T),
      load_E,
      balance_BT,
    )


def update_bias(
  bias_LE: jax.Array, load_LE: jax.Array, rate: float
) -> jax.Array:
  """The bias moved by `rate` towards experts below the mean load.

  DeepSeek-V3 (arXiv:2412.19437), §2.1.2: down if overloaded, up if
  underloaded; unchanged at exactly the mean.
  """
  mean_L1 = jnp.mean(load_LE, axis=-1, keepdims=True)
  return bias_LE + rate * jnp.sign(mean_L1 - load_LE)


def update_buffers(buffers: Params, load_LE: jax.Array, rate: float) -> Params:
  """The buffers, every router's bias moved by `update_bias`.

  Args:
    buffers: Of the decoder, or of a model around it.
    load_LE: Of the MoE layers; one row more is multi-token prediction's,
      whose bias stays where there is none.
    rate: Of `update_bias`.
  """

  def update(bias):
    if bias.ndim == 2:
      return update_bias(bias, load_LE[: len(bias)], rate)
    if len(load_LE) == layers:
      return bias
    return update_bias(bias[None], load_LE[-1:], rate)[0]

  leaves = jax.tree.leaves(buffers)
  layers = sum(len(bias) for bias in leaves if bias.ndim == 2)
  return jax.tree.map(update, buffers)
