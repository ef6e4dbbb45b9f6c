"""GRPO: pure RL on rewards, as DeepSeek-R1-Zero was trained.

A round, after DeepSeek-R1 (arXiv:2501.12948), §2.1 and appendix A.3:

  1. sample G responses to each of Q questions and grade them;
  2. advantages, over whole groups;
  3. log-probabilities under the old policy and the reference;
  4. a random split into minibatches, one update each.

With one update a round the old policy is the policy at hand, so step 3
leaves it out and the ratio is exactly 1.
"""

import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import (
  advantages,
  distributed,
  kl,
  losses,
  packing,
  policy,
  rollout,
  tree,
)
from r1jax.models.config import ModelConfig
from r1jax.records import Question
from r1jax.sampling import engine
from r1jax.stages import lm
from r1jax.types import Aux, Batch, Stage


class Settings(NamedTuple):
  """What of the config the stage reads; choices are made functions.

  Attributes:
    loss, advantage, weigh, importance: Of LOSSES, ADVANTAGES, WEIGHTINGS,
      IMPORTANCE; importance may be None.
    kl: name, coef, where ("loss" or "reward"), importance_weighted.
    max_waves: Most times a round samples new questions until enough
      groups have a signal; 1 keeps every group.
  """

  seed: int
  questions: int
  samples: int
  updates: int
  row_tokens: int
  rows: int
  loss: Callable[..., Any]
  advantage: Callable[..., Any]
  weigh: Callable[..., Any]
  importance: Callable[..., Any] | None
  kl: dict[str, Any]
  max_waves: int
  filter_truncated: bool
  routing_replay: bool
  balance_coef: float


def make(
  model: policy.Policy,
  roll: rollout.Roll,
  questions: Callable[[int, int], list[Question]],
  write_rows: Callable[[list[dict[str, Any]]], Any],
  put: Callable[[Batch], Batch],
  settings: Settings,
) -> Stage:
  """The stage.

  Args:
    model: The policy to be trained.
    roll: Of `rollout.make`.
    questions: (index, n) -> n questions from that place of the order on.
    write_rows: Takes the rows of rollouts.jsonl.
    put: Places a microbatch on the mesh.
    settings: The config's.
  """
  score = jax.jit(lambda *a: model.logprobs(*a).logprobs_BT)

  def collect(state, round):
    key = jax.random.fold_in(jax.random.key(settings.seed), round)
    rows, metrics = _gather(roll, questions, state, key, round, settings)
    rewards_B = np.array([row.reward for row in rows], np.float32)
    if settings.kl["coef"] and settings.kl["where"] == "reward":
      kl_B = _kl_in_reward(score, put, state, rows, settings)
      metrics["train/kl_in_reward"] = float(np.mean(kl_B))
      rewards_B = rewards_B - settings.kl["coef"] * kl_B
    rewards_QG = rewards_B.reshape(-1, settings.samples)
    advantages_B = np.asarray(settings.advantage(rewards_QG)).reshape(-1)
    digest = tree.digest(state.params)
    write_rows(
      [
        rollout.record(round, row, float(advantage), digest)
        for row, advantage in zip(rows, advantages_B)
      ]
    )
    updates = []
    metrics["data/loss_tokens"] = 0
    for part in _split(len(rows), round, settings):
      batches = _pack([rows[i] for i in part], advantages_B[part], settings)
      metrics["data/loss_tokens"] += lm.loss_tokens(batches)
      batches = [put(batch) for batch in batches]
      updates.append([_scored(score, state, b, settings) for b in batches])
    return updates, metrics

  return Stage(collect, make_loss(model, settings))


def _gather(roll, questions, state, key, round, s):
  """A round's rows, whole groups, and the rollout's metrics.

  With dynamic sampling (DAPO, arXiv:2503.14476, §3.2) groups whose
  rewards are all equal are set aside while waves are left; if too few
  others turn up, they fill the rest, so that the round has its shape.
  """
  kept, equal, seen, waves = [], [], [], []
  for wave in range(s.max_waves):
    first = wave * s.questions
    batch = questions(round * s.max_waves * s.questions + first, s.questions)
    rolled = roll(state.params, state.buffers, key, batch, s.samples, first)
    seen += rolled.rows
    waves.append(rolled)
    groups = _groups(rolled.rows, s)
    for group, varied in zip(groups, _has_signal(groups)):
      (kept if varied or s.max_waves == 1 else equal).append(group)
    if len(kept) >= s.questions:
      break
  groups = (kept + equal)[: s.questions]
  metrics = rollout.metrics(seen)
  metrics["rollout/slot_utilization"] = float(
    np.mean([wave.slot_utilization for wave in waves])
  )
  metrics["rollout/waves"] = len(waves)
  for name in ("rollout_secs", "score_secs", "grade_secs"):
    secs = [getattr(wave, name) for wave in waves]
    if None not in secs:
      metrics[f"time/{name}"] = sum(secs)
  metrics["rollout/zero_variance_frac"] = float(np.mean(~_has_signal(groups)))
  return [row for group in groups for row in group], metrics


def _groups(rows, s):
  return [rows[i : i + s.samples] for i in range(0, len(rows), s.samples)]


def _has_signal(groups):
  rewards_QG = np.array([[row.reward for row in group] for group in groups])
  return np.asarray(advantages.has_signal_Q(rewards_QG))


def _split(n, round, s):
  """Indices of each update's responses: a random split of the round."""
  if s.updates == 1:
    return [np.arange(n)]
  order = np.random.default_rng((s.seed, round)).permutation(n)
  return np.split(order, s.updates)


def _sequence(row, advantage, s):
  prompt, sample = row.prompt, row.sample
  n, m = len(prompt), len(sample.tokens_T)
  sequence = {
    "tokens_T": np.array([*prompt, *sample.tokens_T], np.int32),
    "mask_T": np.arange(n + m) >= n,
    "advantages_T": np.full(n + m, advantage, np.float32),
    "sampler_logprobs_T": np.concatenate(
      [np.zeros(n, np.float32), sample.logprobs_T]
    ),
  }
  if s.routing_replay:
    sequence["experts_TLP"] = sample.experts_TLP
  return sequence


def _pack(rows, advantages_B, s):
  keep_B = np.array(
    [
      not s.filter_truncated or row.sample.finish_reason != "length"
      for row in rows
    ]
  )
  sequences = [_sequence(*pair, s) for pair in zip(rows, advantages_B)]
  return lm.pack_update(
    sequences, s.weigh, row_tokens=s.row_tokens, rows=s.rows, keep_B=keep_B
  )


def _scored(score, state, batch, s):
  """The batch with the log-probabilities its loss will ask for."""
  if s.updates > 1 or s.importance:
    old_BT = score(state.params, state.buffers, batch)
    batch = batch._replace(old_logprobs_BT=old_BT)
  if s.kl["coef"] and s.kl["where"] == "loss":
    plain = batch._replace(experts_BTLP=None)
    ref_BT = score(*state.reference, plain)
    batch = batch._replace(ref_logprobs_BT=ref_BT)
  return batch


def abstract_batch(settings: Settings, dims: ModelConfig) -> Batch:
  """Shapes and types of a microbatch as the loss takes it."""
  picks = (2, dims.num_moe_layers, dims.experts_per_token)
  zeros_T = np.zeros(1, np.float32)
  sample = engine.Sample(
    0, 0, zeros_T.astype(np.int32), zeros_T, np.zeros(picks, np.int32), "eos"
  )
  row = rollout.Row(None, [0], sample, None, {}, 0.0)
  [batch] = _pack([row], zeros_T, settings._replace(rows=1))
  state = types.SimpleNamespace(
    params=None, buffers=None, reference=(None, None)
  )
  batch = _scored(lambda *_: batch.weights_BT, state, batch, settings)
  return jax.tree.map(
    lambda a: jax.ShapeDtypeStruct((settings.rows, *a.shape[1:]), a.dtype),
    batch,
  )


def _kl_in_reward(score, put, state, rows, s):
  """Each response's summed KL from the reference, by the old policy."""
  sequences = [_sequence(row, 0.0, s) for row in rows]
  for sequence in sequences:
    zeros_T = np.zeros(len(sequence["tokens_T"]), np.float32)
    sequence |= {"weights_T": zeros_T, "metric_weights_T": zeros_T}
  pads = {"experts_TLP": -1} if s.routing_replay else {}
  microbatches, layout = packing.pack(
    sequences, row_tokens=s.row_tokens, rows=s.rows, pad_values=pads
  )
  parts = []
  for fields in microbatches:
    batch = put(Batch(**fields))
    old_BT = score(state.params, state.buffers, batch)
    plain = batch._replace(experts_BTLP=None)
    ref_BT = score(*state.reference, plain)
    kl_BT = kl.in_reward(s.kl["name"], old_BT, ref_BT, batch.mask_BT)
    parts.append(distributed.fetch(kl_BT))
  return np.array([p.sum() for p in packing.unpack(parts, layout)])


def make_loss(model: policy.Policy, s: Settings):
  """(params, buffers, batch) -> (loss, Aux) of the settings' objective."""

  def loss_fn(params, buffers, batch):
    scores = model.logprobs(params, buffers, batch)
    logprobs_BT, mask_BT = scores.logprobs_BT, batch.mask_BT
    fixed_BT = jax.lax.stop_gradient(logprobs_BT)
    old_BT = batch.old_logprobs_BT
    token_loss_BT, stats = s.loss(
      logprobs_BT, old_BT, batch.advantages_BT, mask_BT, batch.segments_BT
    )
    trainer_BT = fixed_BT if old_BT is None else old_BT
    if s.importance:
      token_loss_BT *= s.importance(
        trainer_BT, batch.sampler_logprobs_BT, mask_BT, batch.segments_BT
      )
    mean_BT = batch.metric_weights_BT
    sums, balance = lm.common_sums(batch, scores)
    if s.kl["coef"] and s.kl["where"] == "loss":
      kl_BT = kl.penalty(
        s.kl["name"],
        logprobs_BT,
        batch.ref_logprobs_BT,
        old_BT,
        mask_BT,
        importance_weighted=s.kl["importance_weighted"],
      )
      token_loss_BT += s.kl["coef"] * kl_BT
      sums["train/kl"] = jnp.sum(mean_BT * kl_BT)
    loss = jnp.sum(batch.weights_BT * token_loss_BT)
    gap_BT = jnp.abs(
      losses.log_ratio(trainer_BT, batch.sampler_logprobs_BT, mask_BT)
    )
    sums["train/loss"] = loss
    sums["train/clip_frac"] = jnp.sum(mean_BT * stats["clipped_BT"])
    sums["train/logprob_gap_mean"] = jnp.sum(mean_BT * gap_BT)
    maxima = {
      "train/ratio_max": jnp.max(jnp.where(mask_BT, stats["ratio_BT"], 0.0)),
      "train/logprob_gap_max": jnp.max(gap_BT),
    }
    return loss + s.balance_coef * balance, Aux(sums, maxima)

  return loss_fn


def settings_of(
  config: Any,
  loss: Callable[..., Any],
  advantage: Callable[..., Any],
  weigh: Callable[..., Any],
  importance: Callable[..., Any] | None,
) -> Settings:
  """The settings of a config of job "grpo", its choices made functions."""
  return Settings(
    config.seed,
    config.questions_per_round,
    config.samples_per_question,
    config.updates_per_round,
    config.row_tokens,
    config.rows_per_microbatch,
    loss,
    advantage,
    weigh,
    importance,
    kl=dict(config.kl),
    max_waves=(
      config.dynamic_sampling_max_waves if config.dynamic_sampling else 1
    ),
    filter_truncated=config.filter_truncated,
    routing_replay=config.routing_replay,
    balance_coef=config.balance_coef,
  )
