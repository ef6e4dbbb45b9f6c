"""The policy: one forward function for loss, rollout, reference, judge.

Temperature, the one-token shift and float32 log-probabilities live here
and nowhere else.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1jax import sharding
from r1jax.models import parallel, transformer
from r1jax.models.attention import packed_context
from r1jax.models.config import ModelConfig
from r1jax.models.layout import BATCH_AXES, SINGLE, Layout
from r1jax.models.moe import Report
from r1jax.sampling import decode, engine
from r1jax.types import Batch, Params

# Logits that exist at a time on one processor, and on another device.
_HEAD_ELEMENTS, _DEVICE_ELEMENTS = 1 << 24, 1 << 27
_CHUNK_TOKENS, _DEVICE_TOKENS = 32, 1024


class Scores(NamedTuple):
  """What the policy says of a batch; 0 outside of the batch's mask.

  Attributes:
    logprobs_BT: log p(token t | tokens before), float32.
    entropy_BT: Of the distribution that token t was drawn from; carries
      no gradient.
    report: The MoE layers' routing, or None.
    mtp_logprobs_BT: log p(token t | tokens before t - 1, and that one) by
      multi-token prediction, 0 on a sequence's second token too; None
      where it is not run.
  """

  logprobs_BT: jax.Array
  entropy_BT: jax.Array
  report: Report | None
  mtp_logprobs_BT: jax.Array | None = None


# (student's params, its buffers, batch with a teacher) -> (Scores,
# divergence_BT), 0 outside of the batch's mask.
Comparison = Callable[[Params, Params, Batch], tuple[Scores, jax.Array]]


class Policy(NamedTuple):
  """A model as the rest of r1jax uses it.

  Attributes:
    init: key -> (params, buffers), boxed with their logical axes.
    logprobs: (params, buffers, batch) -> Scores.
    programs: (settings without temperature, shapes) -> engine.Programs.
  """

  init: Callable[[jax.Array], tuple[Params, Params]]
  logprobs: Callable[[Params, Params, Batch], Scores]
  programs: Callable[..., engine.Programs]


def make(
  config: ModelConfig,
  *,
  temperature: float,
  with_balance: bool = False,
  with_mtp: bool = False,
  layout: Layout = SINGLE,
) -> Policy:
  """The policy of a model at a temperature.

  Args:
    config: The model.
    temperature: Divides the logits, in training and in sampling alike; 0
      samples the likeliest token and scores at 1.
    with_balance: Whether the report holds the balance loss.
    with_mtp: Whether multi-token prediction is scored.
    layout: The mesh that the model runs on, and its kernels.
  """
  forward = functools.partial(
    _forward, config, with_balance, with_mtp=with_mtp, layout=layout
  )
  return Policy(
    functools.partial(_init, config),
    functools.partial(_logprobs, forward, temperature or 1.0, layout),
    functools.partial(_programs, config, temperature, layout),
  )


def _init(config: ModelConfig, key: jax.Array) -> tuple[Params, Params]:
  model = transformer.Transformer(config, with_mtp=config.num_mtp_layers > 0)
  ones_BT = jnp.ones((1, 2), jnp.int32)
  context = packed_context(SINGLE, ones_BT, ones_BT)

  def run(module):
    hidden_BTD = module(ones_BT, context).hidden_BTD
    return module.logits(hidden_BTD)

  variables = nn.init(run, model)(key)
  return variables["params"], variables.get("buffers", {})


def _programs(
  config: ModelConfig,
  temperature: float,
  layout: Layout,
  *,
  eos_id: int,
  chunk_tokens: int,
  top_k: int = 0,
  top_p: float = 1.0,
  min_response_tokens: int = 0,
  repetition_tokens: int = 0,
  stop_ids: tuple[int, ...] = (),
  weights: str = "as_trained",
  **shapes: int,
) -> engine.Programs:
  settings = decode.Settings(
    temperature=temperature,
    top_k=top_k,
    top_p=top_p,
    eos_id=eos_id,
    chunk_tokens=chunk_tokens,
    min_response_tokens=min_response_tokens,
    repetition_tokens=repetition_tokens,
    stop_ids=stop_ids,
  )
  layout = layout._replace(weights=weights)
  init = functools.partial(_init, config)
  places = sharding.decode_shardings(layout, init)
  return engine.make_programs(
    config, settings, layout=layout, weights=places, **shapes
  )


def _logprobs(
  forward: Callable,
  temperature: float,
  layout: Layout,
  params: Params,
  buffers: Params,
  batch: Batch,
) -> Scores:
  out, head = forward(params, buffers, batch)
  score = functools.partial(_score_tokens, layout, head, temperature)
  mtp_BT, mask_BT = None, batch.mask_BT
  if out.mtp_BTD is not None:
    further_BT = mask_BT & (batch.positions_BT > 1)
    mtp_BT, _ = score(out.mtp_BTD, batch.tokens_BT, further_BT)
  logprobs_BT, entropy_BT = score(out.hidden_BTD, batch.tokens_BT, mask_BT)
  return Scores(logprobs_BT, entropy_BT, out.report, mtp_BT)


def _forward(
  config,
  with_balance,
  params,
  buffers,
  batch,
  with_mtp=False,
  layout=SINGLE,
):
  """(output, `_Head`) of a model on a batch."""
  model = transformer.Transformer(
    config, with_balance=with_balance, with_mtp=with_mtp, layout=layout
  )
  variables = {"params": params, "buffers": buffers}
  context = packed_context(layout, batch.positions_BT, batch.segments_BT)
  out = model.apply(
    variables, batch.tokens_BT, context, None, batch.experts_BTLP
  )
  return out, _Head(config, model.apply(variables, method="head_kernel"))


def make_comparison(
  student: ModelConfig,
  teacher: ModelConfig,
  divergence: Callable[[jax.Array, jax.Array], jax.Array],
  *,
  temperature: float,
  with_balance: bool = False,
  layout: Layout = SINGLE,
) -> Comparison:
  """The comparison of a student with its teacher, token by token.

    temperature^2 * divergence(softmax(z / temperature), ...)

  The square keeps the size of the gradient (Hinton et al.,
  arXiv:1503.02531, §2). The student's Scores are at temperature 1.

  Args:
    student, teacher: The models; of one vocabulary.
    divergence: Of `divergences`.
    temperature: Divides both models' logits, above 0.
    with_balance, layout: As of `make`.
  """
  assert student.vocab_size == teacher.vocab_size

  def compare(params, buffers, batch):
    out, head = _forward(
      student, with_balance, params, buffers, batch, layout=layout
    )
    plain = batch._replace(experts_BTLP=None)
    theirs, their_head = _forward(
      teacher, False, *batch.teacher, plain, layout=layout
    )

    def score(project, teacher_project, hidden_BXD, teacher_BXD, tokens_BX):
      logits_BXV = project(hidden_BXD)
      divergence_BX = divergence(
        jax.nn.log_softmax(logits_BXV / temperature),
        jax.nn.log_softmax(teacher_project(teacher_BXD) / temperature),
      )
      return *_score(logits_BXV, tokens_BX), temperature**2 * divergence_BX

    *scores, divergence_BT = _in_chunks(
      layout,
      score,
      3,
      (head, their_head),
      (out.hidden_BTD, theirs.hidden_BTD),
      batch.tokens_BT,
      batch.mask_BT,
    )
    return Scores(*scores, out.report), divergence_BT

  return compare


def _score_tokens(layout, head, temperature, hidden_BTD, tokens_BT, mask_BT):
  """Log-probabilities and entropies of the masked tokens."""

  def score(project, hidden_BXD, tokens_BX):
    logits_BXV = project(hidden_BXD) / temperature
    return _score(logits_BXV, tokens_BX)

  return _in_chunks(
    layout, score, 2, (head,), (hidden_BTD,), tokens_BT, mask_BT
  )


def _score(logits_BXV, tokens_BX):
  """(log-probabilities, entropies) of tokens."""
  lse_BX = jax.nn.logsumexp(logits_BXV, axis=-1)
  picked_BX1 = jnp.take_along_axis(logits_BXV, tokens_BX[:, :, None], axis=-1)
  fixed_BXV = jax.lax.stop_gradient(logits_BXV)
  probs_BXV = jnp.exp(fixed_BXV - jax.lax.stop_gradient(lse_BX)[..., None])
  mean_BX = jnp.sum(probs_BXV * fixed_BXV, axis=-1)
  entropy_BX = jax.lax.stop_gradient(lse_BX) - mean_BX
  return picked_BX1[:, :, 0] - lse_BX, entropy_BX


class _Head(NamedTuple):
  """A model's head: its kernel, and what it makes of it."""

  config: ModelConfig
  kernel: jax.Array


def _in_chunks(layout, score, count, heads, hiddens, tokens_BT, mask_BT):
  """What `score` says of the masked tokens; 0 of the others.

  On a mesh every device scores its own rows, its share of them over tensor,
  so that a head's gradient is summed over devices once, not a chunk.

  Args:
    layout: The mesh.
    score: (hidden states to logits, of each model; hidden_BXD of each
      model; tokens_BX) -> `count` arrays _BX.
    count: Of them.
    heads: Of each model.
    hiddens: hidden_BTD of each model.
    tokens_BT, mask_BT: Of the batch.
  """
  configs = [head.config for head in heads]
  kernels = [head.kernel for head in heads]

  def run(kernels, *rest):
    projects = [
      functools.partial(transformer.project, config, kernel)
      for config, kernel in zip(configs, kernels)
    ]
    return _chunks(layout, functools.partial(score, *projects), count, V, *rest)

  V = configs[0].vocab_size
  if layout.mesh is None:
    return run(kernels, hiddens, tokens_BT, mask_BT)
  axes = [transformer.head_axes(config) for config in configs]

  def run_whole(kernels, *rest):
    whole = map(functools.partial(parallel.whole, layout), kernels, axes)
    return run(list(whole), *rest)

  rows = PartitionSpec(BATCH_AXES)
  specs = ([layout.kernel_spec(each) for each in axes], rows, rows, rows)
  # Narrowed before they travel.
  kernels = [
    kernel.astype(config.compute_dtype)
    for config, kernel in zip(configs, kernels)
  ]
  return parallel.on_rows(layout, run_whole, specs, (rows,) * count)(
    kernels, hiddens, tokens_BT, mask_BT
  )


def _chunks(layout, score, count, V, hiddens, tokens_BT, mask_BT):
  """What `score` says, in chunks.

  In each row the masked tokens are brought together first, so chunks
  without any are not computed; a chunk's logits are made again in the
  backward pass rather than kept.
  """
  B, T = tokens_BT.shape
  chunk = _chunk_tokens(layout, B, T, V)
  shares = layout.size("tensor")
  chunks = -(-T // chunk)
  chunks += -chunks % shares
  width = chunks * chunk
  order_BT = jnp.argsort(~mask_BT, axis=1, stable=True)

  def gather(values_BT):
    moved_BT = jnp.take_along_axis(values_BT, order_BT, axis=1)
    moved_BT = jnp.pad(moved_BT, ((0, 0), (0, width - T)))
    return moved_BT.reshape(B, chunks, chunk).swapaxes(0, 1)

  # The hidden state that predicts token t is that of token t - 1.
  source_BT = jnp.maximum(order_BT - 1, 0)

  def gather_hidden(hidden_BTD):
    moved_BTD = jax.vmap(lambda row_TD, at_T: row_TD[at_T])(
      hidden_BTD, source_BT
    )
    moved_BTD = jnp.pad(moved_BTD, ((0, 0), (0, width - T), (0, 0)))
    return moved_BTD.reshape(B, chunks, chunk, -1).swapaxes(0, 1)

  # Around the branch, not in it: what a branch keeps, the head with it, is
  # kept for every chunk.
  @jax.checkpoint
  def step(_, inputs):
    *hiddens_BXD, tokens_BX, mask_BX = inputs
    zeros_BX = jnp.zeros_like(tokens_BX, jnp.float32)
    found = jax.lax.cond(
      jnp.any(mask_BX),
      score,
      lambda *_: (zeros_BX,) * count,
      *hiddens_BXD,
      tokens_BX,
    )
    return None, tuple(jnp.where(mask_BX, each, 0.0) for each in found)

  inputs = (*map(gather_hidden, hiddens), gather(tokens_BT), gather(mask_BT))
  if shares > 1:
    found = _shared(step, inputs, shares)
  else:
    _, found = jax.lax.scan(step, None, inputs)
  back_BT = jnp.argsort(order_BT, axis=1)
  return tuple(
    jnp.take_along_axis(
      each.swapaxes(0, 1).reshape(B, width)[:, :T], back_BT, axis=1
    )
    for each in found
  )


def _shared(step, inputs, shares):
  """What a scan of `step` gives, each device along tensor its share.

  The shares are dealt out in turn, since chunks without tokens come last.
  """
  mine = jax.lax.axis_index("tensor")

  def deal(values_CBX):
    C, *rest = values_CBX.shape
    dealt = values_CBX.reshape(C // shares, shares, *rest)
    return jax.lax.dynamic_index_in_dim(dealt, mine, 1, keepdims=False)

  def collect(found_CBX):
    C, *rest = found_CBX.shape
    all_SCBX = jax.lax.all_gather(found_CBX, "tensor", to="invarying")
    return all_SCBX.swapaxes(0, 1).reshape(C * shares, *rest)

  _, found = jax.lax.scan(step, None, jax.tree.map(deal, inputs))
  return jax.tree.map(collect, found)


def _chunk_tokens(layout: Layout, B: int, T: int, V: int) -> int:
  """Tokens of a row in one chunk: a power of two, 8 or more."""
  most, elements = _CHUNK_TOKENS, _HEAD_ELEMENTS
  if layout != SINGLE:
    most, elements = _DEVICE_TOKENS, _DEVICE_ELEMENTS
  most = min(most, T, elements // (B * V))
  return max(8, 1 << max(0, most.bit_length() - 1))
