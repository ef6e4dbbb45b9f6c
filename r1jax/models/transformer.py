"""The decoder: embedding, layers, final norm, head."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.models.attention import Context, GroupedQueryAttention
from r1jax.models.config import ModelConfig
from r1jax.models.layers import MLP, RMSNorm
from r1jax.models.mla import LatentAttention
from r1jax.models.moe import MoE, Report

ATTENTIONS = {"gqa": GroupedQueryAttention, "mla": LatentAttention}
STACKS = ("dense_layers", "moe_layers")


class Output(NamedTuple):
  """What the decoder gives.

  Attributes:
    hidden_BTD: After the final norm; entry t has seen tokens up to t.
    caches: By stack, each layer's cache; None unless asked for.
    report: The MoE layers' reports, stacked on a first axis L, or None.
  """

  hidden_BTD: jax.Array
  caches: dict[str, Any] | None
  report: Report | None


class Block(nn.Module):
  """x + attention(norm(x)), then the same with the MLP or experts."""

  config: ModelConfig
  is_moe: bool
  keep_cache: bool
  with_balance: bool
  moe_impl: str

  @nn.compact
  def __call__(self, x_BTD, inputs, context):
    """(x_BTD, (cache, report)) from x and its (cache, replay)."""
    c = self.config
    cache, replay_BTP = inputs
    normed_BTD = RMSNorm(c.norm_eps, name="attention_norm")(x_BTD)
    attention = ATTENTIONS[c.attention](c, name="attention")
    y_BTD, cache = attention(normed_BTD, context, cache)
    x_BTD = x_BTD + y_BTD
    normed_BTD = RMSNorm(c.norm_eps, name="mlp_norm")(x_BTD)
    report = None
    if self.is_moe:
      moe = MoE(c, self.with_balance, self.moe_impl, name="moe")
      y_BTD, report = moe(normed_BTD, context, replay_BTP)
    else:
      y_BTD = MLP(c, c.d_ff, name="mlp")(normed_BTD)
    return x_BTD + y_BTD, (cache if self.keep_cache else None, report)


class Transformer(nn.Module):
  """The decoder.

  Attributes:
    unrolled: False scans over layers stacked on a first axis, the form
      that trains and is saved. True reads `unstack`ed parameters, a tree
      a layer, which spares decoding a copy of every weight.
    keep_cache: Whether the output has caches.
    with_balance: Whether the balance loss is computed.
    moe_impl: Overrides config.moe_impl.
  """

  config: ModelConfig
  unrolled: bool = False
  keep_cache: bool = False
  with_balance: bool = False
  moe_impl: str = ""

  def setup(self):
    """Declares the parameters."""
    c = self.config
    dtype = jnp.dtype(c.param_dtype)
    init = nn.initializers.normal(c.init_std)
    self.embedding = self.param(
      "embedding",
      nn.with_logical_partitioning(init, ("vocab", "embed")),
      (c.vocab_size, c.d_model),
      dtype,
    )
    if not c.tie_embeddings:
      self.head = self.param(
        "head",
        nn.with_logical_partitioning(init, ("embed", "vocab")),
        (c.d_model, c.vocab_size),
        dtype,
      )
    self.dense_layers = self._stack(False, c.num_dense_layers)
    self.moe_layers = self._stack(True, c.num_moe_layers)
    self.final_norm = RMSNorm(c.norm_eps)

  def _stack(self, is_moe, length):
    c = self.config
    arguments = dict(
      config=c,
      is_moe=is_moe,
      keep_cache=self.keep_cache,
      with_balance=self.with_balance,
      moe_impl=self.moe_impl or c.moe_impl,
    )
    block = Block
    if c.remat != "none":
      policies = jax.checkpoint_policies
      policy = policies.dots_with_no_batch_dims_saveable
      block = nn.remat(
        Block,
        policy=policy if c.remat == "dots" else policies.nothing_saveable,
        prevent_cse=self.unrolled,
      )
    if not length:
      return []
    if self.unrolled:
      return [block(**arguments) for _ in range(length)]
    return nn.scan(
      block,
      variable_axes={"params": 0, "buffers": 0},
      split_rngs={"params": True},
      in_axes=(0, nn.broadcast),
      length=length,
      unroll=min(c.scan_unroll, length),
      metadata_params={nn.PARTITION_NAME: "layers"},
    )(**arguments)

  def __call__(
    self,
    tokens_BT: jax.Array,
    context: Context,
    caches: dict[str, Any] | None = None,
    replay_BTLP: jax.Array | None = None,
  ) -> Output:
    """Hidden states of the tokens.

    Args:
      tokens_BT: Token ids.
      context: Positions and mask.
      caches: By stack; given in decoding, where T is 1.
      replay_BTLP: Experts to use instead of the router's pick in the MoE
        layers; where the first is negative, the router picks.
    """
    c = self.config
    dtype = jnp.dtype(c.compute_dtype)
    x_BTD = jnp.take(self.embedding, tokens_BT, axis=0).astype(dtype)
    replay_LBTP = None
    if replay_BTLP is not None:
      replay_LBTP = replay_BTLP.transpose(2, 0, 1, 3)
    out_caches, report = {}, None
    for name, replay in (("dense_layers", None), ("moe_layers", replay_LBTP)):
      layers = getattr(self, name)
      if isinstance(layers, (list, tuple)) and not layers:
        continue
      cache = None if caches is None else caches[name]
      x_BTD, (out_caches[name], report) = _run(
        layers, x_BTD, cache, replay, context, self.unrolled
      )
    return Output(
      self.final_norm(x_BTD), out_caches if self.keep_cache else None, report
    )

  def logits(self, hidden_XD: jax.Array) -> jax.Array:
    """Next-token logits, float32, of any number of hidden states."""
    dtype = jnp.dtype(self.config.compute_dtype)
    if self.config.tie_embeddings:
      kernel_DV = self.embedding.astype(dtype).T
    else:
      kernel_DV = self.head.astype(dtype)
    logits_XV = jnp.dot(
      hidden_XD.reshape(-1, hidden_XD.shape[-1]).astype(dtype),
      kernel_DV,
      preferred_element_type=jnp.float32,
    )
    return logits_XV.reshape(*hidden_XD.shape[:-1], -1)


def _run(layers, x_BTD, cache, replay_LBTP, context, unrolled):
  """x after a stack of layers, with their caches and reports."""
  if not unrolled:
    return layers(x_BTD, (cache, replay_LBTP), context)
  outs = []
  for i, layer in enumerate(layers):
    replay = None if replay_LBTP is None else replay_LBTP[i]
    inputs = (None if cache is None else cache[i], replay)
    x_BTD, out = layer(x_BTD, inputs, context)
    outs.append(out)
  caches = [cache for cache, _ in outs]
  reports = [report for _, report in outs]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *reports)
  return x_BTD, (caches, stacked)


def unstack(params: Any) -> Any:
  """Parameters (or buffers) with every stacked layer a tree of its own."""
  out = {k: v for k, v in params.items() if k not in STACKS}
  for name in STACKS:
    if name not in params:
      continue
    length = jax.tree.leaves(params[name])[0].shape[0]
    for i in range(length):
      out[f"{name}_{i}"] = jax.tree.map(lambda a, i=i: a[i], params[name])
  return out
