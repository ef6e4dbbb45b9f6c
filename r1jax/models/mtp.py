"""Multi-token prediction (DeepSeek-V3, arXiv:2412.19437, §2.2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.models.attention import Context, packed_context
from r1jax.models.block import rematerialized
from r1jax.models.config import ModelConfig
from r1jax.models.layers import Linear, RMSNorm
from r1jax.models.layout import SINGLE, Layout
from r1jax.models.moe import Report

NAME = "mtp"  # Of its parameters.


class MTP(nn.Module):
  """One more block, which predicts a token further ahead.

    x[t] = M [norm(embedding of token t); norm(hidden[t - 1])]
    out[t] = norm(block(x)[t]), which the head turns into token t + 1

  The paper's eqs. 21-23 with t for its i + 1. Its eq. 21 writes the hidden
  state first; the published weights take the embedding first. `hidden` is
  what the main model's head takes, after its norm, as in the code published
  with the weights.

  Attributes:
    with_balance, moe_impl, layout: As of `transformer.Transformer`.
  """

  config: ModelConfig
  with_balance: bool
  moe_impl: str
  layout: Layout = SINGLE

  @nn.compact
  def __call__(
    self, embedded_BTD: jax.Array, hidden_BTD: jax.Array, context: Context
  ) -> tuple[jax.Array, Report | None]:
    """What the head takes, and the block's report.

    A sequence's first token has no hidden state before it: it takes no
    part, and nothing attends to it, so what lies before it in a packed row
    is never seen.
    """
    c = self.config
    before_BTD = jnp.pad(hidden_BTD[:, :-1], ((0, 0), (1, 0), (0, 0)))
    parts = (
      RMSNorm(c.norm_eps, name="embedding_norm")(embedded_BTD),
      RMSNorm(c.norm_eps, name="hidden_norm")(before_BTD),
    )
    x_BTD = Linear(
      c, (c.d_model,), ("mlp", "embed"), layout=self.layout, name="join"
    )(jnp.concatenate(parts, axis=-1))
    segments_BT = context.segments_BT * (context.positions_BT > 0)
    block = rematerialized(c, prevent_cse=True)(
      config=c,
      is_moe=c.num_moe_layers > 0,
      keep_cache=False,
      with_balance=self.with_balance,
      moe_impl=self.moe_impl,
      layout=self.layout,
      name="block",
    )
    inside = packed_context(self.layout, context.positions_BT, segments_BT)
    x_BTD, (_, report) = block(x_BTD, (None, None), inside)
    return RMSNorm(c.norm_eps, name="final_norm")(x_BTD), report
