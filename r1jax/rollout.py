"""A rollout: questions to graded groups of responses."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax import grading
from r1jax.data import templates
from r1jax.data.tokenizer import Tokenizer
from r1jax.records import Question, Response, Reward
from r1jax.rewards import language
from r1jax.sampling import engine


class Row(NamedTuple):
  """One graded response.

  Attributes:
    question: What was asked.
    prompt: Its ids.
    sample: Ids, log-probabilities, experts and finish reason.
    response: The text that was graded.
    rewards: By name, unweighted, each with its reason.
    reward: Their weighted sum.
  """

  question: Question
  prompt: list[int]
  sample: engine.Sample
  response: Response
  rewards: dict[str, Reward]
  reward: float


class Rollout(NamedTuple):
  """Rows question by question, and what they cost.

  Attributes:
    slot_utilization: Response tokens over slots times decode steps.
    rollout_secs: Of sampling.
    grade_secs: Waited for grades after the last row was sampled.
  """

  rows: list[Row]
  slot_utilization: float
  rollout_secs: float = 0.0
  grade_secs: float = 0.0


Roll = Callable[..., Rollout]
# (responses to one question, rewards of each by name) -> reward of each.
GroupReward = Callable[
  [Sequence[Response], Sequence[Mapping[str, Reward]]], list[Reward]
]


def make(
  programs: engine.Programs,
  tokenizer: Tokenizer,
  template: str,
  grader: grading.Grader,
  weights: Mapping[str, float],
  group_rewards: Mapping[str, GroupReward],
  sends_ids: bool,
) -> Roll:
  """(params, buffers, key, questions, samples, first=0) -> Rollout.

  The key of a response depends on the round's key, the place of its
  question in the round, which `first` offsets, and its sample alone.
  Responses are graded while others decode, the groups once all are.

  Args:
    programs: The sampler's.
    tokenizer: Its and the prompts'.
    template: Name of the prompts' template.
    grader: Of the rewards of one response.
    weights: Of all rewards, by name.
    group_rewards: Name to function, see `rewards.table`.
    sends_ids: Whether the grader's responses hold their ids.
  """
  return functools.partial(
    _roll,
    programs,
    tokenizer,
    template,
    grader,
    weights,
    group_rewards,
    sends_ids,
  )


def _roll(
  programs: engine.Programs,
  tokenizer: Tokenizer,
  template: str,
  grader: grading.Grader,
  weights: Mapping[str, float],
  group_rewards: Mapping[str, GroupReward],
  sends_ids: bool,
  params: Any,
  buffers: Any,
  key: jax.Array,
  questions: Sequence[Question],
  samples: int,
  first: int = 0,
) -> Rollout:
  prompts = [templates.prompt_ids(template, q, tokenizer) for q in questions]
  prefilled = templates.get(template).think_prefilled
  responses: dict[tuple[int, int], Response] = {}

  def on_finish(each: engine.Sample) -> None:
    ids = each.tokens_T
    text = tokenizer.decode(ids[: len(ids) - (each.finish_reason == "eos")])
    response = Response(text, len(ids), each.finish_reason, prefilled)
    place = (each.question, each.sample)
    responses[place] = response
    if sends_ids:
      response = response._replace(ids=ids.tolist())
    grader.submit(place, questions[each.question - first], response)

  requests = [
    engine.Request(first + q, g)
    for q in range(len(questions))
    for g in range(samples)
  ]
  start = time.perf_counter()
  sampled, stats = engine.sample(
    programs,
    params,
    buffers,
    key,
    {first + q: prompt for q, prompt in enumerate(prompts)},
    requests,
    on_finish=on_finish,
  )
  sampled_at = time.perf_counter()
  graded = grader.collect()
  _grade_groups(group_rewards, responses, graded)
  graded_at = time.perf_counter()
  rows = []
  for each in sampled:
    place, q = (each.question, each.sample), each.question - first
    rewards = graded[place]
    total = grading.weighted_sum(rewards, weights)
    rows.append(
      Row(questions[q], prompts[q], each, responses[place], rewards, total)
    )
  return Rollout(
    rows, stats.slot_utilization, sampled_at - start, graded_at - sampled_at
  )


def _grade_groups(
  group_rewards: Mapping[str, GroupReward],
  responses: Mapping[tuple[int, int], Response],
  graded: Mapping[tuple[int, int], dict[str, Reward]],
) -> None:
  """Adds the group rewards to `graded`, question by question."""
  if not group_rewards:
    return
  groups: dict[int, list[tuple[int, int]]] = {}
  for place in sorted(responses):
    groups.setdefault(place[0], []).append(place)
  for places in groups.values():
    group = [responses[place] for place in places]
    for name, function in group_rewards.items():
      try:
        rewards = function(group, [graded[place] for place in places])
      except Exception as error:  # Foreign code, like every reward.
        reason = f"{type(error).__name__}: {error}"[:300]
        rewards = [Reward(0.0, reason, "failed")] * len(group)
      for place, reward in zip(places, rewards, strict=True):
        graded[place][name] = reward


def metrics(rows: Sequence[Row]) -> dict[str, float]:
  """The rollout's metrics by name (DESIGN §5)."""
  tokens = [len(row.sample.tokens_T) for row in rows]
  unfinished = [row.sample.finish_reason != "eos" for row in rows]
  mixed = [language.is_mixed(row.response.text) for row in rows]
  out = {
    "rollout/reward_mean": np.mean([row.reward for row in rows]),
    "rollout/response_tokens_mean": np.mean(tokens),
    "rollout/truncated_frac": np.mean(unfinished),
    "rollout/mixed_language_frac": np.mean(mixed),
  }
  for name in rows[0].rewards:
    values = [row.rewards[name].value for row in rows]
    out[f"rollout/{name}_mean"] = np.mean(values)
  out |= grading.counts(row.rewards for row in rows)
  return {name: float(value) for name, value in out.items()}


def record(
  round: int, row: Row, advantage: float, digest: str
) -> dict[str, Any]:
  """The row as rollouts.jsonl holds it."""
  return {
    "round": round,
    "question": row.question.id,
    "sample": row.sample.sample,
    "prompt": row.question.question,
    "response": row.response.text,
    "tokens": len(row.sample.tokens_T),
    "finish_reason": row.sample.finish_reason,
    "reward": row.reward,
    "rewards": {k: r._asdict() for k, r in row.rewards.items()},
    "advantage": advantage,
    "weights": digest,
  }
