"""The decoder with a scalar head in place of the vocabulary's."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.models import mtp
from r1jax.models.attention import Context
from r1jax.models.config import ModelConfig
from r1jax.models.layout import SINGLE, Layout
from r1jax.models.moe import Report
from r1jax.models.transformer import Transformer
from r1jax.types import Params

DECODER, HEAD = "decoder", "reward_head"


class RewardModel(nn.Module):
  """A score of every token's prefix: w . hidden, in float32.

  The reward model of DeepSeek-R1 (arXiv:2501.12948, supplement): "the same
  architecture, with a reward head predicting scalar preference scores".
  """

  config: ModelConfig
  with_balance: bool = False
  layout: Layout = SINGLE

  def setup(self):
    """Declares the parameters."""
    # With tied embeddings the decoder declares no vocabulary head.
    config = dataclasses.replace(
      self.config, tie_embeddings=True, num_mtp_layers=0
    )
    self.decoder = Transformer(
      config, with_balance=self.with_balance, layout=self.layout
    )
    # Scores start near 0: hidden states are of size sqrt(d_model).
    init = nn.initializers.normal(1 / config.d_model)
    self.reward_head = self.param(
      HEAD,
      nn.with_logical_partitioning(init, ("embed",)),
      (config.d_model,),
      jnp.float32,
    )

  def __call__(
    self, tokens_BT: jax.Array, context: Context
  ) -> tuple[jax.Array, Report | None]:
    """(scores_BT, report); a response's score is its last token's."""
    out = self.decoder(tokens_BT, context)
    hidden_BTD = out.hidden_BTD.astype(jnp.float32)
    return jnp.sum(hidden_BTD * self.reward_head, axis=-1), out.report


def from_policy(
  params: Params, buffers: Params, head_D: jax.Array
) -> tuple[Params, Params]:
  """(params, buffers) of the reward model on a policy's decoder.

  Args:
    params, buffers: The policy's; its vocabulary head and multi-token
      prediction are left behind.
    head_D: Of a fresh reward model.
  """
  decoder, inside = (
    {k: part for k, part in tree.items() if k not in ("head", mtp.NAME)}
    for tree in (params, buffers)
  )
  return (
    {DECODER: decoder, HEAD: head_D},
    {DECODER: inside} if inside else {},
  )
