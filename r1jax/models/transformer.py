"""The decoder: embedding, layers, final norm, head."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.models import mtp as mtp_lib
from r1jax.models import parallel
from r1jax.models.attention import Context
from r1jax.models.block import rematerialized
from r1jax.models.config import ModelConfig
from r1jax.models.layers import RMSNorm
from r1jax.models.layout import SINGLE, Layout
from r1jax.models.moe import Report

STACKS = ("dense_layers", "moe_layers")
HEAD_AXES = ("embed", "vocab")


class Output(NamedTuple):
  """What the decoder gives.

  Attributes:
    hidden_BTD: After the final norm; entry t has seen tokens up to t.
    caches: By stack, each layer's cache; None unless asked for.
    report: The MoE layers' reports, stacked on a first axis L, or None;
      multi-token prediction's comes last, where it is run.
    mtp_BTD: What multi-token prediction gives the head; entry t has seen
      tokens up to t and predicts t + 1. None where it is not run.
  """

  hidden_BTD: jax.Array
  caches: dict[str, Any] | None
  report: Report | None
  mtp_BTD: jax.Array | None = None


class Transformer(nn.Module):
  """The decoder.

  Attributes:
    unrolled: False scans over layers stacked on a first axis, the form
      that trains and is saved. True reads `unstack`ed parameters, a tree
      a layer, which spares decoding a copy of every weight.
    keep_cache: Whether the output has caches.
    with_balance: Whether the balance loss is computed.
    moe_impl: Form of the experts on one device, in place of the layout's
      or config.moe_impl.
    with_mtp: Whether multi-token prediction is run.
    layout: The mesh and its kernels.
  """

  config: ModelConfig
  unrolled: bool = False
  keep_cache: bool = False
  with_balance: bool = False
  moe_impl: str = ""
  with_mtp: bool = False
  layout: Layout = SINGLE

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
    if c.num_mtp_layers:
      self.mtp = mtp_lib.MTP(c, self.with_balance, self._experts(), self.layout)

  def _experts(self):
    if self.layout.mesh is not None:
      return self.layout.experts
    return self.moe_impl or self.layout.experts or self.config.moe_impl

  def _stack(self, is_moe, length):
    c = self.config
    arguments = dict(
      config=c,
      is_moe=is_moe,
      keep_cache=self.keep_cache,
      with_balance=self.with_balance,
      moe_impl=self._experts(),
      layout=self.layout,
    )
    if not length:
      return []
    block = rematerialized(c, prevent_cse=self.unrolled)
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
    if self.layout.mesh is None:
      embedded_BTD = jnp.take(self.embedding, tokens_BT, axis=0).astype(dtype)
    else:
      table_VD = self.embedding.astype(dtype)
      embedded_BTD = parallel.embed(self.layout, table_VD, tokens_BT)
    x_BTD = embedded_BTD
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
    hidden_BTD, mtp_BTD = self.final_norm(x_BTD), None
    if self.with_mtp:
      mtp_BTD, more = self.mtp(embedded_BTD, hidden_BTD, context)
      report = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b[None]]), report, more
      )
    return Output(
      hidden_BTD, out_caches if self.keep_cache else None, report, mtp_BTD
    )

  def logits(self, hidden_XD: jax.Array) -> jax.Array:
    """Next-token logits, float32, of any number of hidden states."""
    c, kernel = self.config, self.head_kernel()
    if self.layout.mesh is None:
      return project(c, kernel, hidden_XD)
    dtype = jnp.dtype(c.compute_dtype)
    kernel_DV = kernel.astype(dtype).T if c.tie_embeddings else kernel
    return parallel.linear(
      self.layout,
      hidden_XD.astype(dtype),
      kernel_DV.astype(dtype),
      HEAD_AXES,
      1,
      jnp.float32,
    )

  def head_kernel(self) -> jax.Array:
    """What `project` takes: the head, or the embedding that is one."""
    return self.embedding if self.config.tie_embeddings else self.head


def head_axes(config: ModelConfig) -> tuple[str, str]:
  """Logical axes of the head's kernel."""
  return HEAD_AXES[::-1] if config.tie_embeddings else HEAD_AXES


def project(
  config: ModelConfig, kernel: jax.Array, hidden_XD: jax.Array
) -> jax.Array:
  """Next-token logits, float32, of hidden states where the kernel is."""
  dtype = jnp.dtype(config.compute_dtype)
  kernel_DV = kernel.astype(dtype)
  if config.tie_embeddings:
    kernel_DV = kernel_DV.T
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
