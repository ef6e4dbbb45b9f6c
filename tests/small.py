"""Models small enough for a test, and tokens for them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from r1jax import policy
from r1jax.models import config as config_lib
from r1jax.models import transformer
from r1jax.models.attention import Context, packed_context, packed_mask
from r1jax.types import Batch

VOCAB = 32


def gqa(**changes):
  """A dense decoder with two query heads a key head."""
  fields = dict(
    vocab_size=VOCAB,
    d_model=16,
    num_layers=2,
    num_dense_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    d_ff=24,
    attention="gqa",
    qkv_bias=True,
    qk_norm=True,
  )
  return config_lib.from_dict(fields | changes)


def mla(**changes):
  """DeepSeek-V3 in every part: one dense layer, two with experts."""
  fields = dict(
    vocab_size=VOCAB,
    d_model=16,
    num_layers=3,
    num_dense_layers=1,
    num_heads=2,
    d_ff=24,
    attention="mla",
    q_lora_rank=12,
    kv_lora_rank=8,
    qk_nope_head_dim=6,
    qk_rope_head_dim=4,
    v_head_dim=5,
    num_experts=8,
    experts_per_token=2,
    num_shared_experts=1,
    d_expert=8,
    router_groups=4,
    router_topk_groups=2,
    router_scale=2.5,
    rope_interleaved=True,
    tie_embeddings=True,
  )
  return config_lib.from_dict(fields | changes)


CONFIGS = {"gqa": gqa, "mla": mla}


@functools.lru_cache
def weights(config, seed=0, std=0.25):
  """(params, buffers), normal around 1 for scales and 0 for the rest."""
  model = policy.make(config, temperature=1.0)
  shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0)))
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    noise = std * rng.standard_normal(leaf.shape, np.float32)
    return jnp.asarray(noise + (path[-1].key == "scale"))

  return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.lru_cache
def forward(config, **arguments):
  """Jitted (params, buffers, tokens, segments, positions) -> Output."""
  model = transformer.Transformer(config, **arguments)

  def run(params, buffers, tokens_BT, segments_BT, positions_BT, replay=None):
    context = packed_context(model.layout, positions_BT, segments_BT)
    variables = {"params": params, "buffers": buffers}
    return model.apply(variables, tokens_BT, context, None, replay)

  return jax.jit(run)


@functools.lru_cache
def logits(config):
  """Jitted (params, buffers, tokens_BT) -> logits_BTV of whole rows."""
  model = transformer.Transformer(config)

  def run(params, buffers, tokens_BT):
    variables = {"params": params, "buffers": buffers}
    ones_BT = jnp.ones_like(tokens_BT)
    positions_BT = jnp.cumsum(ones_BT, axis=1) - 1
    context = Context(positions_BT, packed_mask(ones_BT), ones_BT)
    hidden_BTD = model.apply(variables, tokens_BT, context).hidden_BTD
    return model.apply(variables, hidden_BTD, method="logits")

  return jax.jit(run)


def tokens(*shape, seed=0):
  """Random ids."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, VOCAB, shape).astype(np.int32)


def rows(sequences, lengths_per_row, T, seed=9):
  """(tokens_BT, segments_BT, positions_BT), padded with random ids.

  Args:
    sequences: Ids, taken in order.
    lengths_per_row: How many sequences each row holds.
    T: Tokens of a row.
    seed: Of the ids in the padding.
  """
  tokens_BT = tokens(len(lengths_per_row), T, seed=seed)
  segments_BT, positions_BT = np.zeros((2, *tokens_BT.shape), np.int32)
  left = list(sequences)
  for b, count in enumerate(lengths_per_row):
    start = 0
    for segment in range(1, count + 1):
      ids = left.pop(0)
      span = slice(start, start + len(ids))
      tokens_BT[b, span] = ids
      segments_BT[b, span] = segment
      positions_BT[b, span] = np.arange(len(ids))
      start += len(ids)
  assert not left
  return tokens_BT, segments_BT, positions_BT


def batch(tokens_BT, segments_BT, positions_BT, mask_BT=None, **fields):
  """The Batch, its mask all tokens that have one before them."""
  if mask_BT is None:
    mask_BT = (segments_BT != 0) & (positions_BT > 0)
  weights_BT = mask_BT / np.float32(max(1, mask_BT.sum()))
  return Batch(
    tokens_BT,
    segments_BT,
    positions_BT,
    mask_BT,
    weights_BT.astype(np.float32),
    weights_BT.astype(np.float32),
    **fields,
  )


def markov(table_VV):
  """A decoder whose next-token logits are a row of a table.

  Token i's hidden state is its unit vector times sqrt(V), since the only
  layer adds nothing, and the head undoes the factor.

  Returns:
    (config, params, buffers)
  """
  V = len(table_VV)
  config = gqa(
    vocab_size=V,
    d_model=V,
    num_layers=1,
    num_dense_layers=1,
    num_heads=1,
    num_kv_heads=1,
    head_dim=2,
    d_ff=2,
    qk_norm=False,
    norm_eps=1e-12,
  )
  params, buffers = weights(config)
  params = jax.tree.map(jnp.zeros_like, params)
  params["embedding"] = jnp.eye(V)
  params["final_norm"]["scale"] = jnp.ones(V)
  params["head"] = jnp.asarray(table_VV, jnp.float32) / np.sqrt(V)
  return config, params, buffers
