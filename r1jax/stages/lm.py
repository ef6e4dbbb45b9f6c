"""Next-token training: pretraining, SFT, sequence distillation.

A round takes its documents from the data order, packs them into rows and
makes one update on the cross-entropy of the tokens the config names.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import losses, packing, policy, weighting
from r1jax.models.moe import Report
from r1jax.types import Aux, Batch, Stage

LOSS_ON = ("all", "response")
# (round) -> pairs of prompt ids and response ids.
Documents = Callable[[int], Sequence[tuple[list[int], list[int]]]]
Weighting = Callable[[np.ndarray, np.ndarray], np.ndarray]


def make(
  model: policy.Policy,
  documents: Documents,
  put: Callable[[Batch], Batch],
  *,
  loss_on: str,
  weigh: Weighting,
  row_tokens: int,
  rows: int,
  balance_coef: float,
  mtp_coef: float = 0.0,
) -> Stage:
  """The stage.

  Args:
    model: The policy to be trained.
    documents, put, loss_on, weigh, row_tokens, rows: As of `collector`.
    balance_coef: Of the sequence-wise balance loss.
    mtp_coef: Of the loss of multi-token prediction, weighted alike; above
      0 the model must score it. DeepSeek-V3 (arXiv:2412.19437), §4.2: 0.3,
      later 0.1.
  """

  def loss_fn(params, buffers, batch):
    scores = model.logprobs(params, buffers, batch)
    token_loss_BT, _ = losses.cross_entropy(
      scores.logprobs_BT, None, None, batch.mask_BT, None
    )
    loss = jnp.sum(batch.weights_BT * token_loss_BT)
    sums, balance = common_sums(batch, scores)
    sums["train/loss"] = loss
    if mtp_coef:
      mtp_BT = batch.weights_BT * scores.mtp_logprobs_BT
      sums["train/mtp_loss"] = -jnp.sum(mtp_BT)
      loss += mtp_coef * sums["train/mtp_loss"]
    return loss + balance_coef * balance, Aux(sums, {})

  collect = collector(
    documents,
    put,
    loss_on=loss_on,
    weigh=weigh,
    row_tokens=row_tokens,
    rows=rows,
  )
  return Stage(collect, loss_fn)


def collector(
  documents: Documents,
  put: Callable[[Batch], Batch],
  *,
  loss_on: str,
  weigh: Weighting,
  row_tokens: int,
  rows: int,
) -> Callable[[Any, int], tuple[list[list[Batch]], dict[str, Any]]]:
  """The `collect` of a stage that makes one update on a round's documents.

  Args:
    documents: A round's.
    put: Places a microbatch on the mesh.
    loss_on: "all" tokens but a document's first, or the "response".
    weigh: Of WEIGHTINGS.
    row_tokens, rows: Shape of a microbatch.
  """

  def collect(state, round):
    del state
    pairs = documents(round)
    sequences = [sequence(*pair, loss_on) for pair in pairs]
    update = pack_update(sequences, weigh, row_tokens=row_tokens, rows=rows)
    metrics = {
      "data/tokens": sum(len(s["tokens_T"]) for s in sequences),
      "data/loss_tokens": loss_tokens(update),
      "data/documents": len(pairs),
    }
    return [[put(batch) for batch in update]], metrics

  return collect


def sequence(
  prompt: Sequence[int], response: Sequence[int], loss_on: str = "response"
) -> dict[str, np.ndarray]:
  """A prompt and its response as `pack_update` takes them."""
  length = len(prompt) + len(response)
  mask_T = np.ones(length, bool)
  mask_T[: len(prompt) if loss_on == "response" else 1] = False
  tokens_T = np.array([*prompt, *response], np.int32)
  return {"tokens_T": tokens_T, "mask_T": mask_T}


def pack_update(
  sequences: list[dict[str, Any]],
  weigh: Weighting,
  *,
  row_tokens: int,
  rows: int,
  keep_B: np.ndarray | None = None,
) -> list[Batch]:
  """An update's microbatches, every token weighted.

  Args:
    sequences: `packing.pack`'s, with mask_T and without weights; masks of
      responses left out are cleared.
    weigh: Of WEIGHTINGS.
    row_tokens, rows: Shape of a microbatch.
    keep_B: False for sequences to leave out of the loss.
  """
  if keep_B is None:
    keep_B = np.ones(len(sequences), bool)
  lengths_B = np.array([s["mask_T"].sum() for s in sequences])
  weights_B = weigh(lengths_B, keep_B)
  means_B = weighting.token_mean(lengths_B, keep_B)
  for s, weight, mean, keep in zip(sequences, weights_B, means_B, keep_B):
    s["mask_T"] = s["mask_T"] & keep
    s["weights_T"] = weight * s["mask_T"].astype(np.float32)
    s["metric_weights_T"] = mean * s["mask_T"].astype(np.float32)
  pads = {name: -1 for name in ("experts_TLP",) if name in sequences[0]}
  microbatches, _ = packing.pack(
    sequences, row_tokens=row_tokens, rows=rows, pad_values=pads
  )
  return [Batch(**fields) for fields in microbatches]


def loss_tokens(batches: Sequence[Batch]) -> int:
  """Tokens that the loss of some microbatches is about."""
  return sum(int(np.sum(batch.mask_BT)) for batch in batches)


def common_sums(batch: Batch, scores: policy.Scores):
  """Metrics of any loss, as sums, and the balance loss."""
  sums, balance = routing_sums(batch, scores.report)
  entropy_BT = batch.metric_weights_BT * scores.entropy_BT
  return sums | {"train/entropy": jnp.sum(entropy_BT)}, balance


def routing_sums(batch: Batch, report: Report | None):
  """Metrics of the MoE layers, as sums, and the balance loss."""
  if report is None:
    return {}, 0.0
  mean_BT = batch.metric_weights_BT
  sums = {"moe/load_LE": report.load_E}
  differs_BT = jnp.mean(report.differs_BT.astype(jnp.float32), axis=0)
  sums["moe/replay_differs_frac"] = jnp.sum(mean_BT * differs_BT)
  balance_BT = jnp.sum(report.balance_BT, axis=0)
  share_BT = spread(mean_BT, batch.segments_BT)
  return sums, jnp.sum(share_BT * balance_BT)


def spread(weights_BT: jax.Array, segments_BT: jax.Array) -> jax.Array:
  """Each sequence's weights, summed and dealt evenly to all its tokens.

  The balance loss is a mean over all tokens of a sequence (moe.balance);
  a sequence counts by its share of the tokens that the loss is about.
  """
  same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
  total_BT = jnp.sum(jnp.where(same_BTS, weights_BT[:, None], 0.0), axis=-1)
  mean_BT = total_BT / jnp.sum(same_BTS, axis=-1)
  return jnp.where(segments_BT != 0, mean_BT, 0.0)
