"""Distillation from a teacher whose probabilities can be had.

The loss is a divergence of the student's next-token distribution from the
teacher's, at each token of a response:

  make            responses that the teacher wrote (Hinton et al.,
                  arXiv:1503.02531; GKD, arXiv:2306.13649, lambda 0)
  make_on_policy  responses that the student samples each round (GKD, lambda
                  1; MiniLLM, arXiv:2306.08543)

with no gradient through the sampling. DeepSeek-R1 distils by the text
alone, which is stage `lm`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from r1jax import divergences, kl, policy, registry, rollout, tree
from r1jax.models.config import ModelConfig
from r1jax.models.layout import SINGLE, Layout
from r1jax.records import Question
from r1jax.stages import lm
from r1jax.types import Aux, Batch, Params, Stage

SAMPLED = "sampled_reverse_kl"


class Settings(NamedTuple):
  """What of the config an on-policy stage reads; `weigh` of WEIGHTINGS."""

  seed: int
  questions: int
  samples: int
  row_tokens: int
  rows: int
  weigh: Callable[..., Any]


def make(
  loss_fn: Callable[..., Any],
  teacher: tuple[Params, Params],
  documents: lm.Documents,
  put: Callable[[Batch], Batch],
  *,
  weigh: lm.Weighting,
  row_tokens: int,
  rows: int,
) -> Stage:
  """The stage on the teacher's responses.

  Args:
    loss_fn: Of `exact_loss`.
    teacher: Its (params, buffers), on the mesh.
    documents, put, weigh, row_tokens, rows: As of `lm.collector`.
  """
  collect = lm.collector(
    documents,
    with_teacher(teacher, put),
    loss_on="response",
    weigh=weigh,
    row_tokens=row_tokens,
    rows=rows,
  )
  return Stage(collect, loss_fn)


def make_on_policy(
  loss_fn: Callable[..., Any],
  prepare: Callable[[Batch], Batch],
  roll: rollout.Roll,
  questions: Callable[[int, int], list[Question]],
  write_rows: Callable[[list[dict[str, Any]]], Any],
  settings: Settings,
) -> Stage:
  """The stage on the student's own responses.

  Args:
    loss_fn: Of `exact_loss` or `sampled_loss`.
    prepare: Places a microbatch on the mesh and adds what the loss reads of
      the teacher: of `with_teacher` or `with_scores`.
    roll: Of `rollout.make`; its rewards are measured, not trained on.
    questions: (index, n) -> n questions from that place of the order on.
    write_rows: Takes the rows of rollouts.jsonl.
    settings: The config's.
  """
  s = settings

  def collect(state, round):
    key = jax.random.fold_in(jax.random.key(s.seed), round)
    asked = questions(round * s.questions, s.questions)
    rolled = roll(state.params, state.buffers, key, asked, s.samples)
    digest = tree.digest(state.params)
    write_rows([rollout.record(round, row, 0.0, digest) for row in rolled.rows])
    update = lm.pack_update(
      [lm.sequence(row.prompt, row.sample.tokens_T) for row in rolled.rows],
      s.weigh,
      row_tokens=s.row_tokens,
      rows=s.rows,
    )
    metrics = rollout.metrics(rolled.rows) | {
      "rollout/slot_utilization": rolled.slot_utilization,
      "time/rollout_secs": rolled.rollout_secs,
      "time/grade_secs": rolled.grade_secs,
      "data/loss_tokens": lm.loss_tokens(update),
    }
    return [[prepare(batch) for batch in update]], metrics

  return Stage(collect, loss_fn)


def with_teacher(
  teacher: tuple[Params, Params], put: Callable[[Batch], Batch]
) -> Callable[[Batch], Batch]:
  """A microbatch with the teacher's weights, for `exact_loss`."""
  return lambda batch: put(batch)._replace(teacher=teacher)


def with_scores(
  model: policy.Policy,
  teacher: tuple[Params, Params],
  put: Callable[[Batch], Batch],
) -> Callable[[Batch], Batch]:
  """A microbatch with the teacher's log-probabilities, for `sampled_loss`."""
  score = jax.jit(lambda *a: model.logprobs(*a).logprobs_BT)

  def prepare(batch):
    batch = put(batch)
    return batch._replace(ref_logprobs_BT=score(*teacher, batch))

  return prepare


def exact_loss(
  compare: policy.Comparison, balance_coef: float
) -> Callable[..., tuple[jax.Array, Aux]]:
  """(params, buffers, batch) -> (loss, Aux): the whole vocabulary's.

  Args:
    compare: Of `policy.make_comparison`.
    balance_coef: Of the sequence-wise balance loss.
  """

  def loss_fn(params, buffers, batch):
    scores, divergence_BT = compare(params, buffers, batch)
    return _finish(batch, scores, divergence_BT, divergence_BT, balance_coef)

  return loss_fn


def sampled_loss(
  model: policy.Policy, balance_coef: float
) -> Callable[..., tuple[jax.Array, Aux]]:
  """(params, buffers, batch) -> (loss, Aux): the sampled tokens' alone.

  The gradient is (log q - log p) grad log q at each token that the student
  q sampled: without bias that of KL(q || p), as k2's is (`kl`). What is
  reported is log q - log p, whose mean is the divergence.
  """

  def loss_fn(params, buffers, batch):
    scores = model.logprobs(params, buffers, batch)
    arrays = (scores.logprobs_BT, batch.ref_logprobs_BT)
    loss_BT = kl.penalty(
      "k2", *arrays, None, batch.mask_BT, importance_weighted=False
    )
    shown_BT = kl.in_reward("k1", *arrays, batch.mask_BT)
    return _finish(batch, scores, loss_BT, shown_BT, balance_coef)

  return loss_fn


def _finish(batch, scores, token_loss_BT, shown_BT, balance_coef):
  loss = jnp.sum(batch.weights_BT * token_loss_BT)
  sums, balance = lm.common_sums(batch, scores)
  sums["train/loss"] = loss
  sums["train/divergence"] = jnp.sum(batch.metric_weights_BT * shown_BT)
  return loss + balance_coef * balance, Aux(sums, {})


def loss_of(
  config: Any,
  student: ModelConfig,
  teacher: ModelConfig,
  layout: Layout = SINGLE,
) -> Callable[..., tuple[jax.Array, Aux]]:
  """The loss of config.divergence.

  Raises:
    ValueError: For an argument that the divergence does not have.
  """
  with_balance = config.balance_coef > 0
  choice = config.divergence.to_dict()
  temperature = choice.pop("temperature")
  if choice["name"] == SAMPLED:
    model = policy.make(
      student, temperature=1.0, with_balance=with_balance, layout=layout
    )
    return sampled_loss(model, config.balance_coef)
  compare = policy.make_comparison(
    student,
    teacher,
    registry.make(divergences.DIVERGENCES, choice, "config.divergence"),
    temperature=temperature,
    with_balance=with_balance,
    layout=layout,
  )
  return exact_loss(compare, config.balance_coef)


def preparation(
  config: Any,
  dims: ModelConfig,
  teacher: tuple[Params, Params],
  put: Callable[[Batch], Batch],
  layout: Layout = SINGLE,
) -> Callable[[Batch], Batch]:
  """What a microbatch needs for `loss_of` the config.

  Args:
    config: Of job "on_policy_distill".
    dims, teacher: The teacher's.
    put: Places a microbatch on the mesh.
    layout: Of that mesh.
  """
  if config.divergence.name != SAMPLED:
    return with_teacher(teacher, put)
  model = policy.make(dims, temperature=1.0, layout=layout)
  return with_scores(model, teacher, put)


def settings_of(config: Any, weigh: Callable[..., Any]) -> Settings:
  """The settings of a config of job "on_policy_distill"."""
  return Settings(
    config.seed,
    config.questions_per_round,
    config.samples_per_question,
    config.row_tokens,
    config.rows_per_microbatch,
    weigh,
  )
