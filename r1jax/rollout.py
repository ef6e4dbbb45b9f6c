"""A rollout: questions to graded groups of responses."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax import distributed, grading, records
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
    score_secs: Of the reward models on the device, None without any.
    grade_secs: Waited for grades after that.
  """

  rows: list[Row]
  slot_utilization: float
  rollout_secs: float = 0.0
  grade_secs: float = 0.0
  score_secs: float | None = None


Roll = Callable[..., Rollout]
# (responses to one question, rewards of each by name) -> reward of each.
GroupReward = Callable[
  [Sequence[Response], Sequence[Mapping[str, Reward]]], list[Reward]
]
# (questions, responses, ids of each without EOS) -> reward of each, by a
# model on the device.
ModelReward = Callable[
  [Sequence[Question], Sequence[Response], Sequence[Sequence[int]]],
  list[Reward],
]
Graded = dict[tuple[int, int], dict[str, Reward]]


class Rewards(NamedTuple):
  """What responses earn.

  Attributes:
    grader: Of the rewards of one response.
    weights: Of all rewards, by name.
    group: Name to function, see `rewards.table`.
    model: Name to function; only in `by_kind`.
    by_kind: Names of the rewards that a question of a kind takes; the
      others are no part of its rows. Empty: all take all but `model`.
    sends_ids: Whether the grader's responses hold their ids.
  """

  grader: grading.Grader
  weights: Mapping[str, float]
  group: Mapping[str, GroupReward] = {}
  model: Mapping[str, ModelReward] = {}
  by_kind: Mapping[str, Sequence[str]] = {}
  sends_ids: bool = False

  def apply(self, name: str, question: Question) -> bool:
    """Whether a question takes a reward."""
    if not self.by_kind:
      return name not in self.model
    return name in self.by_kind[records.kind(question)]


def make(
  programs: engine.Programs,
  tokenizer: Tokenizer,
  template: templates.Names,
  rewards: Rewards,
) -> Roll:
  """(params, buffers, key, questions, samples, first=0) -> Rollout.

  The key of a response depends on the round's key, the place of its
  question in the round, which `first` offsets, and its sample alone.
  Responses are graded while others decode, by reward models and as groups
  once all are sampled. Of several processes each renders and grades its
  share of the responses; then all have all.

  Args:
    programs: The sampler's.
    tokenizer: Its and the prompts'.
    template: Of the prompts.
    rewards: What responses earn.
  """
  return functools.partial(_roll, programs, tokenizer, template, rewards)


def _roll(
  programs: engine.Programs,
  tokenizer: Tokenizer,
  template: templates.Names,
  rewards: Rewards,
  params: Any,
  buffers: Any,
  key: jax.Array,
  questions: Sequence[Question],
  samples: int,
  first: int = 0,
) -> Rollout:
  prompts = [templates.prompt_ids(template, q, tokenizer) for q in questions]
  asked = dict(enumerate(questions, first))
  responses: dict[tuple[int, int], Response] = {}

  def on_finish(each: engine.Sample) -> None:
    if not distributed.is_mine(each.question * samples + each.sample):
      return
    question = asked[each.question]
    text = tokenizer.decode(_without_eos(each))
    prefilled = templates.of(template, question).think_prefilled
    response = Response(text, len(each.tokens_T), each.finish_reason, prefilled)
    place = (each.question, each.sample)
    responses[place] = response
    ids = each.tokens_T.tolist() if rewards.sends_ids else []
    rewards.grader.submit(place, question, response._replace(ids=ids))

  requests = [engine.Request(q, g) for q in asked for g in range(samples)]
  start = time.perf_counter()
  sampled, stats = engine.sample(
    programs,
    params,
    buffers,
    key,
    dict(zip(asked, prompts)),
    requests,
    on_finish=on_finish,
  )
  responses = _all_responses(responses)
  sampled_at = time.perf_counter()
  scored = _score(rewards, asked, responses, sampled)
  scored_at = time.perf_counter()
  graded = _grade(rewards, asked, responses, scored)
  graded_at = time.perf_counter()
  rows = []
  for each in sampled:
    place, question = (each.question, each.sample), asked[each.question]
    prompt = prompts[each.question - first]
    total = grading.weighted_sum(graded[place], rewards.weights)
    rows.append(
      Row(question, prompt, each, responses[place], graded[place], total)
    )
  return Rollout(
    rows,
    stats.slot_utilization,
    rollout_secs=sampled_at - start,
    grade_secs=graded_at - scored_at,
    score_secs=scored_at - sampled_at if rewards.model else None,
  )


def _all_responses(
  responses: Mapping[tuple[int, int], Response],
) -> dict[tuple[int, int], Response]:
  """Those of every process."""
  if distributed.count() == 1:
    return dict(responses)
  parts = distributed.gathered([*responses.items()])
  return {
    (q, g): Response(*fields) for part in parts for (q, g), fields in part
  }


def _all_grades(graded: Graded) -> Graded:
  """Those of every process."""
  if distributed.count() == 1:
    return graded
  parts = distributed.gathered([*graded.items()])
  return {
    (q, g): {name: Reward(*fields) for name, fields in row.items()}
    for part in parts
    for (q, g), row in part
  }


def _without_eos(sample: engine.Sample) -> np.ndarray:
  ended = sample.finish_reason == "eos"
  return sample.tokens_T[: len(sample.tokens_T) - ended]


def _score(
  rewards: Rewards,
  asked: Mapping[int, Question],
  responses: Mapping[tuple[int, int], Response],
  sampled: Sequence[engine.Sample],
) -> Graded:
  """The rewards by models, of each response that takes any."""
  scored: Graded = {}
  for name, function in rewards.model.items():
    chosen = [s for s in sampled if rewards.apply(name, asked[s.question])]
    if not chosen:
      continue
    places = [(each.question, each.sample) for each in chosen]
    values = function(
      [asked[each.question] for each in chosen],
      [responses[place] for place in places],
      [_without_eos(each).tolist() for each in chosen],
    )
    for place, value in zip(places, values, strict=True):
      scored.setdefault(place, {})[name] = value
  return scored


def _grade(
  rewards: Rewards,
  asked: Mapping[int, Question],
  responses: Mapping[tuple[int, int], Response],
  scored: Graded,
) -> Graded:
  """All rewards of each response, waited for if they must be."""
  graded = {
    place: {k: r for k, r in row.items() if rewards.apply(k, asked[place[0]])}
    for place, row in _all_grades(rewards.grader.collect()).items()
  }
  for place, row in scored.items():
    graded[place] |= row
  if rewards.group:
    _grade_groups(rewards, asked, responses, graded)
  return graded


def _grade_groups(
  rewards: Rewards,
  asked: Mapping[int, Question],
  responses: Mapping[tuple[int, int], Response],
  graded: Graded,
) -> None:
  """Adds the group rewards to `graded`, question by question."""
  groups: dict[int, list[tuple[int, int]]] = {}
  for place in sorted(responses):
    groups.setdefault(place[0], []).append(place)
  for q, places in groups.items():
    group = [responses[place] for place in places]
    for name, function in rewards.group.items():
      if not rewards.apply(name, asked[q]):
        continue
      try:
        values = function(group, [graded[place] for place in places])
      except Exception as error:  # Foreign code, like every reward.
        reason = f"{type(error).__name__}: {error}"[:300]
        values = [Reward(0.0, reason, "failed")] * len(group)
      for place, value in zip(places, values, strict=True):
        graded[place][name] = value


def metrics(rows: Sequence[Row]) -> dict[str, float]:
  """The rollout's metrics by name (DESIGN §5).

  A reward's mean is over the rows that have it. Where there are other
  kinds of questions than reasoning, `rollout/<kind>/<name>` are those of
  each kind, and responses that no reward model could read are counted.
  """
  out = {f"rollout/{name}": value for name, value in _means(rows).items()}
  kinds = [records.kind(row.question) for row in rows]
  out |= grading.counts(row.rewards for row in rows)
  if {*kinds} - {records.REASONING}:
    for kind in sorted({*kinds}):
      part = [row for row, its in zip(rows, kinds) if its == kind]
      means = _means(part)
      out |= {f"rollout/{kind}/{name}": x for name, x in means.items()}
    statuses = [r.status for row in rows for r in row.rewards.values()]
    out["grade/unscored_count"] = statuses.count("unscored")
  return {name: float(value) for name, value in out.items()}


def _means(rows):
  values = {
    "reward_mean": [row.reward for row in rows],
    "response_tokens_mean": [len(row.sample.tokens_T) for row in rows],
    "truncated_frac": [row.sample.finish_reason != "eos" for row in rows],
    "mixed_language_frac": [
      language.is_mixed(row.response.text) for row in rows
    ],
  }
  for row in rows:
    for name, reward in row.rewards.items():
      values.setdefault(f"{name}_mean", []).append(reward.value)
  return {name: np.mean(each) for name, each in values.items()}


def record(
  round: int, row: Row, advantage: float, digest: str
) -> dict[str, Any]:
  """The row as rollouts.jsonl holds it."""
  return {
    "round": round,
    "question": row.question.id,
    "kind": records.kind(row.question),
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
