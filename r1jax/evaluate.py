"""Evaluation: pass@1 as a mean over samples, pass@k, cons@k.

The paper samples k responses at temperature 0.6 and top-p 0.95 rather than
decode greedily (arXiv:2501.12948, §3).
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from r1jax import experiment, rollout
from r1jax.data import few_shot, readable, sources
from r1jax.data.tokenizer import Tokenizer
from r1jax.records import Question
from r1jax.rewards import extract

KEY = (1 << 31) - 1  # Apart from every round's key.


class Suite(NamedTuple):
  """A suite's questions as they are asked.

  Attributes:
    questions: Their text holds the solved examples, if there are any.
    overlong: How many are left out, their prompt being too long.
  """

  questions: list[Question]
  overlong: int


def suites(
  config: ml_collections.ConfigDict, tokenizer: Tokenizer, mode: str
) -> dict[str, Suite]:
  """The suites of config.eval_data as a mode of config.eval_modes asks them.

  The same first questions of a fixed order for every checkpoint, with
  `shots` solved examples of the suite's `shots_from` in front.

  Raises:
    ValueError: For a data set that cannot be had or is named twice, or,
      unless config.overlong is "drop", a prompt over the budget.
  """
  settings = config.eval_modes[mode]
  out = {}
  for i, choice in enumerate(config.eval_data):
    data, field = dict(choice), f"config.eval_data[{i}]"
    name, shots_from = data.pop("suite"), data.pop("shots_from", None)
    if name in out:
      raise ValueError(f"{field}.suite is {name!r}, as is another's. Rename.")
    asked = experiment.questions(data, field)
    order = sources.order(asked, 0)
    asked = [order[j] for j in range(min(settings.questions, len(asked)))]
    if settings.shots:
      pool = experiment.questions(shots_from, f"{field}.shots_from")
      asked = [
        few_shot.with_examples(q, pool, settings.shots, config.seed)
        for q in asked
      ]
    field = f"config.eval_modes.{mode}, {field}"
    fitting = experiment.within_budget(config, tokenizer, asked, field)
    out[name] = Suite(fitting, len(asked) - len(fitting))
  return out


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


def score(
  rows: Sequence[rollout.Row],
  samples: int,
  filters: Mapping[str, readable.Filter] | None = None,
) -> dict[str, float]:
  """A suite's metrics, from its rows question by question.

  pass@k, cons@k, the mean of each reward but accuracy, and shares of the
  responses: `readable_frac` is of those that no filter drops.
  """
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
        extract.graded(
          r.response.text, r.response.think_prefilled, r.question.meta
        )
        for r in group
      ]
      texts = [None if a is None else a.text for a in answers]
      votes.append(consensus(texts, correct[q : q + samples]))
    out[f"cons@{samples}"] = float(np.mean(votes))
  for name, value in rollout.metrics(rows).items():
    if name not in ("rollout/reward_mean", "rollout/accuracy_mean"):
      out[name.removeprefix("rollout/")] = value
  if filters:
    good = [
      all(f(r.question, r.response, r.rewards) is None for f in each)
      for each, r in ((filters.values(), r) for r in rows)
    ]
    out["readable_frac"] = float(np.mean(good))
  return out


def make(
  roll: rollout.Roll,
  suites: Mapping[str, Sequence[Question]],
  *,
  seed: int,
  samples: int,
  write_row: Callable[[dict[str, Any]], Any],
  filters: Mapping[str, readable.Filter] | None = None,
  notes: Mapping[str, Any] | None = None,
) -> Callable[[Any, int], dict[str, float]]:
  """(state, round) -> metrics named eval/<suite>/<metric>.

  Each suite's row is written, with the notes. The key depends on the seed
  alone: every call samples with the same random numbers, so checkpoints are
  compared on equal terms.
  """

  def evaluate(state, round):
    key = jax.random.fold_in(jax.random.key(seed), KEY)
    out = {}
    for suite, questions in suites.items():
      rows = roll(state.params, state.buffers, key, questions, samples).rows
      scores = score(rows, samples, filters)
      write_row(
        {
          "round": round,
          "suite": suite,
          **(notes or {}),
          "questions": len(questions),
          "samples": samples,
          **scores,
        }
      )
      out |= {f"eval/{suite}/{name}": x for name, x in scores.items()}
    return out

  return evaluate


# Field of a row and its heading on the screen.
_SHOWN = {
  "questions": "n",
  "samples": "k",
  "pass@1": "pass@1",
  "cons": "cons@k",
  "format_mean": "format",
  "language_mean": "lang",
  "readable_frac": "read",
  "harmless_mean": "safe",
  "truncated_frac": "cut",
  "response_tokens_mean": "tokens",
}


def table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list]]:
  """(headings, cells) for the screen, a line for each row; blank if absent."""
  lines = []
  for row in rows:
    cons = {"cons": row.get(f"cons@{row['samples']}")}
    values = [(row | cons).get(name) for name in _SHOWN]
    cells = [
      "" if x is None else f"{x:.3f}" if isinstance(x, float) else str(x)
      for x in values
    ]
    lines.append([row["suite"], row["mode"], *cells])
  return ["suite", "mode", *_SHOWN.values()], lines
