"""Evaluation: pass@1 as a mean over samples, pass@k, cons@k.

The paper samples k responses at temperature 0.6 and top-p 0.95 rather than
decode greedily (arXiv:2501.12948, §3).
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from r1jax import rollout
from r1jax.records import Question
from r1jax.rewards import extract

KEY = (1 << 31) - 1  # Apart from every round's key.


def pass_at_k(samples: int, correct: int, k: int) -> float:
  """Unbiased probability that one of k responses is right.

    1 - C(samples - correct, k) / C(samples, k)

  Chen et al. (arXiv:2107.03374), eq. 1.
  """
  if not 1 <= k <= samples:
    raise ValueError(f"k is {k}, outside 1 to samples={samples}.")
  return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def consensus(answers: Sequence[str | None], correct: Sequence[bool]) -> float:
  """Whether the most frequent answer is right; ties share.

  Answers are compared as text with blanks folded; no answer is no vote.
  """
  folded = [None if a is None else " ".join(a.split()) for a in answers]
  votes = Counter(a for a in folded if a is not None)
  if not votes:
    return 0.0
  most = max(votes.values())
  winners = [a for a, n in votes.items() if n == most]
  right = {a for a, ok in zip(folded, correct) if ok}
  return sum(a in right for a in winners) / len(winners)


def score(rows: Sequence[rollout.Row], samples: int) -> dict[str, float]:
  """A suite's metrics, from its rows question by question."""
  correct = np.array([r.rewards["accuracy"].value == 1.0 for r in rows])
  correct_QG = correct.reshape(-1, samples)
  out = {"pass@1": float(np.mean(correct_QG))}
  k = 2
  while k <= samples:
    chances = [pass_at_k(samples, int(n), k) for n in correct_QG.sum(axis=1)]
    out[f"pass@{k}"] = float(np.mean(chances))
    k *= 2
  if samples > 1:
    votes = []
    for q in range(0, len(rows), samples):
      group = rows[q : q + samples]
      answers = [
        extract.answer(r.response.text, r.response.think_prefilled)
        for r in group
      ]
      texts = [None if a is None else a.text for a in answers]
      votes.append(consensus(texts, correct[q : q + samples]))
    out[f"cons@{samples}"] = float(np.mean(votes))
  more = rollout.metrics(rows)
  for name in (
    "format_mean",
    "response_tokens_mean",
    "truncated_frac",
    "mixed_language_frac",
  ):
    if f"rollout/{name}" in more:
      out[name] = more[f"rollout/{name}"]
  return out


def make(
  roll: rollout.Roll,
  suites: Mapping[str, Sequence[Question]],
  *,
  seed: int,
  samples: int,
  write_row: Callable[[dict[str, Any]], Any],
) -> Callable[[Any, int], dict[str, float]]:
  """(state, round) -> metrics named eval/<suite>/<metric>.

  The key depends on the seed alone: every call samples with the same
  random numbers, so checkpoints are compared on equal terms.
  """

  def evaluate(state, round):
    key = jax.random.fold_in(jax.random.key(seed), KEY)
    out = {}
    for suite, questions in suites.items():
      rows = roll(state.params, state.buffers, key, questions, samples).rows
      scores = score(rows, samples)
      write_row(
        {
          "round": round,
          "suite": suite,
          "questions": len(questions),
          "samples": samples,
          **scores,
        }
      )
      out |= {f"eval/{suite}/{name}": x for name, x in scores.items()}
    return out

  return evaluate


def table(metrics: Mapping[str, float]) -> list[tuple[str, str, str]]:
  """(suite, metric, value) rows for the screen."""
  rows = []
  for name, value in metrics.items():
    _, suite, metric = name.split("/", 2)
    rows.append((suite, metric, f"{value:.4f}"))
  return rows
