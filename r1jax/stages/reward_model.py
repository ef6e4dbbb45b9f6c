"""Reward models: a pair's better response above the other, or its label.

A round makes one update on the next records of the shuffled order. Both
members of a pair lie in one row, where they do not see each other, so a pair
is whole in whichever microbatch it lies; each member carries half of its
pair's weight, and the loss of the update is a plain sum.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import (
  calibration,
  distributed,
  experiment,
  preference,
  registry,
  score_losses,
  sharding,
  weighting,
)
from r1jax.data import preferences, sources
from r1jax.data import tokenizer as tokenizer_lib
from r1jax.models.config import ModelConfig
from r1jax.models.layout import Layout
from r1jax.records import Response
from r1jax.stages import lm
from r1jax.types import Aux, Batch, Stage

# The data sets that a loss is for.
TABLES = {"pairwise": preferences.PAIRS, "pointwise": preferences.LABELLED}
Record = preferences.Pair | preferences.Labelled
Loss = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


class Example(NamedTuple):
  """A record as tokens.

  Attributes:
    parts: Ids of the response, or of the chosen and the rejected one.
    targets: What `score_losses` asks for, of each part.
  """

  record: Record
  parts: tuple[list[int], ...]
  targets: tuple[float, ...]


def make(
  model: preference.RewardModel,
  examples: Callable[[int], Sequence[Example]],
  put: Callable[[Batch], Batch],
  *,
  loss: Loss,
  row_tokens: int,
  rows: int,
  balance_coef: float,
) -> Stage:
  """The stage.

  Args:
    model: To be trained.
    examples: A round's.
    put: Places a microbatch on the mesh.
    loss: Of score_losses.LOSSES.
    row_tokens, rows: Shape of a microbatch; a pair fits in a row.
    balance_coef: Of the sequence-wise balance loss.
  """

  def collect(state, round):
    del state
    chosen = examples(round)
    update = lm.pack_update(
      [_sequence(example) for example in chosen],
      weighting.sequence_mean,
      row_tokens=row_tokens,
      rows=rows,
    )
    tokens = sum(len(part) for example in chosen for part in example.parts)
    metrics = {"data/tokens": tokens, "data/records": len(chosen)}
    return [[put(batch) for batch in update]], metrics

  def loss_fn(params, buffers, batch):
    scores_BT, report = model.scores(
      params,
      buffers,
      batch.tokens_BT,
      batch.segments_BT,
      batch.positions_BT,
    )
    compared = (
      scores_BT,
      _rivals(scores_BT, batch.rivals_BT),
      batch.targets_BT,
      batch.mask_BT,
    )
    total = jnp.sum(batch.weights_BT * loss(*compared))
    sums, balance = lm.routing_sums(batch, report)
    sums |= _sums(batch, scores_BT, score_losses.margins(*compared))
    sums["train/loss"] = total
    return total + balance_coef * balance, Aux(sums, {})

  return Stage(collect, loss_fn)


def example(
  reading: preference.Reading, record: Record, max_tokens: int
) -> Example | None:
  """The record as tokens; None if a response has more than max_tokens.

  Raises:
    ValueError: If a response has no summary and that is what is read.
  """
  if isinstance(record, preferences.Pair):
    texts = (record.chosen, record.rejected)
    targets = (record.margin, -record.margin)
  else:
    texts, targets = (record.response,), (1.0 if record.is_safe else -1.0,)
  parts = []
  for text in texts:
    response = Response(text, 0, "eos")
    ids = preference.token_ids(reading, record.question, response)
    if ids is None:
      raise ValueError(
        f"record {record.id!r}: {text!r:.80} has no answer, which is what "
        "config.score_on 'summary' reads. Remove the record."
      )
    parts.append(ids)
  if max(map(len, parts)) > max_tokens:
    return None
  return Example(record, tuple(parts), targets)


def _sequence(example: Example) -> dict[str, np.ndarray]:
  lengths = [len(part) for part in example.parts]
  ends = np.cumsum(lengths) - 1
  sequence = {
    "tokens_T": np.concatenate(example.parts).astype(np.int32),
    "segments_T": np.repeat(np.arange(1, len(lengths) + 1), lengths),
  }
  for name, values, dtype in (
    ("mask_T", True, bool),
    ("targets_T", example.targets, np.float32),
    # From one end to the other, and from a single end to itself.
    ("rivals_T", ends[::-1] - ends, np.int32),
  ):
    sequence[name] = np.zeros(sum(lengths), dtype)
    sequence[name][ends] = values
  return sequence


def _rivals(scores_BT, rivals_BT):
  """The score at the other end of each token's pair; 0 without one."""
  places_BT = jnp.arange(scores_BT.shape[1])[None] + rivals_BT
  found_BT = jnp.take_along_axis(scores_BT, places_BT, axis=1)
  return jnp.where(rivals_BT != 0, found_BT, 0.0)


def _sums(batch, scores_BT, margins_BT):
  """Metrics of the records, as sums."""
  mean_BT = jnp.where(batch.mask_BT, batch.metric_weights_BT, 0.0)
  right_BT = 0.5 * (1 + jnp.sign(margins_BT))  # A tie is half right.
  brier_BT = jnp.square(jax.nn.sigmoid(-margins_BT))
  scores_BT = jnp.where(batch.mask_BT, scores_BT, 0.0)
  return {
    "reward_model/accuracy": jnp.sum(mean_BT * right_BT),
    "reward_model/margin_mean": jnp.sum(mean_BT * margins_BT),
    "reward_model/brier": jnp.sum(mean_BT * brier_BT),
    "reward_model/score_mean": jnp.sum(mean_BT * scores_BT),
  }


def evaluator(
  score: preference.Scorer,
  suites: Mapping[str, Sequence[Example]],
  write_row: Callable[[dict[str, Any]], Any],
) -> Callable[[Any, int], dict[str, float]]:
  """(state, round) -> metrics named eval/<suite>/<metric>."""

  def evaluate(state, round):
    out = {}
    for suite, examples in suites.items():
      parts = [part for each in examples for part in each.parts]
      scores_B = score(state.params, state.buffers, parts)
      found = measure(examples, scores_B)
      counted = {"suite": suite, "records": len(examples)}
      write_row({"round": round, **counted, **found})
      out |= {f"eval/{suite}/{name}": x for name, x in found.items()}
    return out

  return evaluate


def measure(
  examples: Sequence[Example], scores_B: np.ndarray
) -> dict[str, float]:
  """Accuracy, calibration and, of labels, the area under the ROC curve.

  Args:
    examples: All pairs or all labels.
    scores_B: Of their parts, in order.
  """
  targets = np.array([example.targets[0] for example in examples])
  if len(examples[0].parts) == 2:
    margins_B = scores_B[0::2] - scores_B[1::2]
    out = {}
  else:
    margins_B = scores_B * np.sign(targets)
    out = {"auc": calibration.area_under_curve(scores_B, targets > 0)}
  out |= {
    "accuracy": calibration.accuracy(margins_B),
    "margin_mean": float(np.mean(margins_B)),
    "brier": calibration.brier(margins_B),
    "ece": calibration.calibration_error(margins_B),
  }
  groups = np.array(
    [str(each.record.meta.get("group", "")) for each in examples]
  )
  for group in sorted({*groups} - {""}):
    part_B = margins_B[groups == group]
    out[f"accuracy_{group}"] = calibration.accuracy(part_B)
  return out


class Assembled(NamedTuple):
  """What a config's run needs besides its loop.

  Attributes:
    make_stage: () -> the stage.
    evaluate: Of `evaluator`.
    rounds: Of config.epochs passes over the records.
    digest: Of the records.
    notes: For run card and exported file: how the model is to be used,
      and what its data held.
  """

  model: preference.RewardModel
  make_stage: Callable[[], Stage]
  evaluate: Callable[[Any, int], dict[str, float]]
  rounds: int
  digest: str
  notes: dict[str, Any]


def assemble(
  config: Any,
  tokenizer: tokenizer_lib.Tokenizer,
  dims: ModelConfig,
  mesh: jax.sharding.Mesh,
  layout: Layout,
  write_row: Callable[[dict[str, Any]], Any],
) -> Assembled:
  """The parts of a config of job "reward_model".

  Raises:
    ValueError: For data that cannot be had, does not fit the loss, or is in
      train and held out.
  """
  reading = preference.Reading(tokenizer, config.template, config.score_on)
  preference.check(reading)
  loss = registry.make(
    score_losses.LOSSES, config.loss.to_dict(), "config.loss"
  )
  table = TABLES[config.loss.name]
  data, counts = _examples(
    config, reading, table, config.data.to_dict(), "config.data"
  )
  suites = {}
  for i, choice in enumerate(config.eval_records):
    choice, field = dict(choice), f"config.eval_records[{i}]"
    suite = choice.pop("suite")
    suites[suite], _ = _examples(config, reading, table, choice, field)
    preferences.check_disjoint(_records(data), _records(suites[suite]))
  order, n = sources.order(data, config.seed), config.records_per_round
  model = preference.make(
    dims, with_balance=config.balance_coef > 0, layout=layout
  )
  put = functools.partial(distributed.place, shardings=sharding.rows(mesh))
  shape = dict(row_tokens=config.row_tokens, rows=config.rows_per_microbatch)
  return Assembled(
    model,
    lambda: make(
      model,
      lambda round: sources.batch(order, round, n),
      put,
      loss=loss,
      balance_coef=config.balance_coef,
      **shape,
    ),
    evaluator(preference.make_scorer(model, put, **shape), suites, write_row),
    max(1, round(config.epochs * len(data) / n)),
    experiment.digest_of(_records(data)),
    {
      preference.NOTE: preference.describe(
        dims,
        experiment.file_digest(tokenizer_lib.path_of(config.tokenizer)),
        reading,
      ),
      "data": counts,
    },
  )


def _records(examples):
  return [each.record for each in examples]


def _examples(config, reading, table, choice, field):
  """(examples, counts) of a data set."""
  records, counts = registry.make(table, choice, field)()
  made = [example(reading, record, config.max_tokens) for record in records]
  long = [r.id for r, each in zip(records, made) if each is None]
  if config.overlong == "refuse" and long:
    raise ValueError(
      f"{field}: {len(long)} of {len(records)} records have a response of "
      f"more than config.max_tokens {config.max_tokens} tokens, as "
      f"{long[0]!r}. Raise it, or set config.overlong to 'drop'."
    )
  examples = [each for each in made if each is not None]
  if not examples:
    raise ValueError(f"{field} leaves no record. Give it more.")
  tokens = np.mean([[len(p) for p in each.parts] for each in examples], axis=0)
  return examples, counts | {
    "records": len(examples),
    "overlong": len(long),
    "tokens_mean": tokens.tolist(),
  }
