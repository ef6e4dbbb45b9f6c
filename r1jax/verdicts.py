"""Who decides on responses that no rule can check.

A judge is a function of rows and one line in JUDGES; it gives for each row
None, which keeps it, or in a word why it is dropped.
"""

import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any

from r1jax import judging, rollout
from r1jax.data import general
from r1jax.records import Question
from r1jax.rewards import extract, judge, judge_http

Judge = Callable[[Sequence[rollout.Row]], list[str | None]]


def nothing(rows: Sequence[rollout.Row]) -> list[str | None]:
  """Drops every response that no rule can check."""
  return ["nothing_to_verify"] * len(rows)


def oracle(rows: Sequence[rollout.Row]) -> list[str | None]:
  """Keeps helpful answers, by the miniature's own labels."""
  reasons = []
  for row in rows:
    answer = extract.answer(row.response.text, row.response.think_prefilled)
    label = (
      general.label(row.question, answer.text) if answer else "without_answer"
    )
    reasons.append(None if label == "helpful" else f"judged_{label}")
  return reasons


def by_model(rows: Sequence[rollout.Row], **endpoint: Any) -> list[str | None]:
  """Keeps what a model behind an endpoint finds correct.

  DeepSeek-R1 (arXiv:2501.12948), supplement B.3.3, listing 4. Verdicts that
  cannot be read, or that do not come, are counted; if none comes at all the
  judge is down.

  Args:
    rows: To be judged.
    **endpoint: As of `judge_http.connect`.

  Raises:
    OSError: If the judge is down; the rounds before this one are kept.
  """
  ask = judging.http(None, **endpoint)
  queries, reasons = {}, ["without_answer"] * len(rows)
  for i, row in enumerate(rows):
    answer = extract.answer(row.response.text, row.response.think_prefilled)
    if answer is None:
      continue
    asked, id_ = row.question, f"{row.question.id}/{row.sample.sample}"
    reference = _reference(asked)
    queries[i] = judge.Query(id_, asked.question, reference, answer.text)
  verdicts = judge.grade(ask, list(queries.values()), seed=0)
  if verdicts and all(v.status == judge.FAILED for v in verdicts):
    raise OSError(
      f"the judge of config.judge is down: none of {len(verdicts)} requests "
      f"had a reply ({verdicts[0].reason}). Start it; the same command goes "
      "on with this round."
    )
  for i, verdict in zip(queries, verdicts):
    is_kept = verdict.status == "correct"
    reasons[i] = None if is_kept else f"judged_{verdict.status}"
  return reasons


# What a config may set of it.
by_model.__signature__ = inspect.signature(judge_http.connect)


def _reference(question: Question) -> str:
  gold = question.answer
  if isinstance(gold, dict) and "accept" in gold:
    gold = gold["accept"]
  return gold if isinstance(gold, str) else json.dumps(gold)


JUDGES: dict[str, Callable[..., list[str | None]]] = {
  "none": nothing,
  "oracle": oracle,
  "http": by_model,
}
