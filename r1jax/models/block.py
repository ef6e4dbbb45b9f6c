"""One layer of the decoder: attention, then an MLP or experts."""

import flax.linen as nn
import jax

from r1jax.models.attention import GroupedQueryAttention
from r1jax.models.config import ModelConfig
from r1jax.models.layers import MLP, RMSNorm
from r1jax.models.layout import SINGLE, Layout
from r1jax.models.mla import LatentAttention
from r1jax.models.moe import MoE

ATTENTIONS = {"gqa": GroupedQueryAttention, "mla": LatentAttention}


class Block(nn.Module):
  """x + attention(norm(x)), then the same with the MLP or experts."""

  config: ModelConfig
  is_moe: bool
  keep_cache: bool
  with_balance: bool
  moe_impl: str
  layout: Layout = SINGLE

  @nn.compact
  def __call__(self, x_BTD, inputs, context):
    """(x_BTD, (cache, report)) from x and its (cache, replay)."""
    c = self.config
    cache, replay_BTP = inputs
    normed_BTD = RMSNorm(c.norm_eps, name="attention_norm")(x_BTD)
    attention = ATTENTIONS[c.attention](c, self.layout, name="attention")
    y_BTD, cache = attention(normed_BTD, context, cache)
    x_BTD = x_BTD + y_BTD
    normed_BTD = RMSNorm(c.norm_eps, name="mlp_norm")(x_BTD)
    report = None
    if self.is_moe:
      moe = MoE(c, self.with_balance, self.moe_impl, self.layout, name="moe")
      y_BTD, report = moe(normed_BTD, context, replay_BTP)
    else:
      y_BTD = MLP(c, c.d_ff, self.layout, name="mlp")(normed_BTD)
    return x_BTD + y_BTD, (cache if self.keep_cache else None, report)


def rematerialized(config: ModelConfig, prevent_cse: bool) -> type[Block]:
  """Block, whose backward pass recomputes what config.remat says."""
  if config.remat == "none":
    return Block
  policies = jax.checkpoint_policies
  policy = policies.nothing_saveable
  if config.remat == "dots":
    policy = policies.dots_with_no_batch_dims_saveable
  return nn.remat(Block, policy=policy, prevent_cse=prevent_cse)
