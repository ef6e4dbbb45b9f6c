"""Rejection sampling: responses of a policy, the good ones kept as data.

A round samples several responses to each of its questions, grades them,
and keeps what no filter drops and what is right: by the question's
verifier, or where it has none, by the judge. DeepSeek-R1
(arXiv:2501.12948), §2.3.1 for the cold start, §2.3.3 for the SFT data.
"""

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from r1jax import (
  distributed,
  interrupt,
  metrics,
  registry,
  rollout,
  tree,
  verdicts,
)
from r1jax.data import documents, general, miniature, readable, sources
from r1jax.data import rows as row_lib
from r1jax.records import Question

KEPT = "kept.jsonl"
DATA = "data.jsonl"
# (n, seed) -> at most n records that were not sampled here.
OtherData = Callable[[int, int], list[dict[str, Any]]]


class Settings(NamedTuple):
  """What is kept.

  Attributes:
    seed: Of the keys and of the mixture.
    samples: Responses to each question.
    filters: Name to function (question, response, rewards) -> reason.
    judge: For questions with verifier "none".
    refine: (question, text) -> the text that is kept.
    max_kept: Of one question.
    max_other_frac: Most that questions with verifier "none" may be of the
      whole; what is over is dropped at random.
    other_data: What fills this share up, where the samples do not.
  """

  seed: int
  samples: int
  filters: Mapping[str, Callable[..., str | None]]
  judge: verdicts.Judge
  refine: Callable[[Question, str], str]
  max_kept: int
  max_other_frac: float
  other_data: OtherData


def settings_of(config: Any) -> Settings:
  """The settings of a config of job "generate".

  Raises:
    ValueError: For an unknown filter, judge or refiner, by field.
  """
  filters = readable.filters(config.filters.to_dict(), "config.filters")
  judge = registry.make(verdicts.JUDGES, config.judge.to_dict(), "config.judge")
  judge([])  # An endpoint that cannot be is told before anything is sampled.
  return Settings(
    config.seed,
    config.samples_per_question,
    filters,
    judge,
    registry.make(readable.REFINERS, config.refine.to_dict(), "config.refine"),
    config.max_kept_per_question,
    config.max_other_frac,
    registry.make(OTHER_DATA, config.other_data.to_dict(), "config.other_data"),
  )


def no_other_data(n: int, seed: int) -> list[dict[str, Any]]:
  """None."""
  del n, seed
  return []


def miniature_other_data(
  n: int, seed: int, *, helpful: float, unsafe: float, test_frac: float = 0.2
) -> list[dict[str, Any]]:
  """n answers to general prompts, as of an older model's SFT data.

  DeepSeek-R1 (arXiv:2501.12948), §2.3.3, takes 200,000 samples from the SFT
  data of DeepSeek-V3; they are not all what a reward model would choose.

  Args:
    n: How many.
    seed: Of the draws.
    helpful, unsafe: Shares, as of `general.response`.
    test_frac: Share of the prompts that is held out.
  """
  questions = general.questions(split="train", test_frac=test_frac)
  records = []
  for index in range(n):
    rng = random.Random(f"other:{seed}:{index}")
    question = questions[int(rng.random() * len(questions))]
    thoughts, answer, _ = general.response(
      question, rng, helpful=helpful, unsafe=unsafe
    )
    records.append(
      {
        "id": f"other:{index}",
        "question": question._asdict(),
        "response": miniature.layout(thoughts, answer),
      }
    )
  return records


def other_data_file(n: int, seed: int, *, path: str) -> list[dict[str, Any]]:
  """At most n lines of a file with id, question and response each.

  Raises:
    ValueError: If there is no such file, or for a line that does not fit.
  """
  order = sources.order(range(documents.count_responses(path=path)), seed)
  rows = [row for _, row in row_lib.json_rows(path)]
  return [rows[order[i]] for i in range(min(n, len(rows)))]


OTHER_DATA: dict[str, Callable[..., list[dict[str, Any]]]] = {
  "none": no_other_data,
  "miniature": miniature_other_data,
  "file": other_data_file,
}


def collect(
  roll: rollout.Roll,
  params: Any,
  buffers: Any,
  questions: Sequence[Question],
  round: int,
  settings: Settings,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
  """(records, metrics) of one round.

  A record has the question, the kept response, what it was before it was
  refined, its tokens, the round and sample, and the weights' digest.
  """
  key = jax.random.fold_in(jax.random.key(settings.seed), round)
  sampled = roll(params, buffers, key, questions, settings.samples).rows
  rows = [_refined(row, settings.refine) for row in sampled]
  reasons = drop_reasons(rows, settings)
  digest = tree.digest(params)
  records, dropped, kept = [], Counter(), Counter()
  seen: set[tuple[str, str]] = set()
  for row, original, reason in zip(rows, sampled, reasons):
    id_ = row.question.id
    text = _folded(row.response.text)
    if reason is None and (id_, text) in seen:
      reason = "duplicate"
    elif reason is None and kept[id_] == settings.max_kept:
      reason = "enough_of_its_question"
    if reason is not None:
      dropped[reason] += 1
      continue
    seen.add((id_, text))
    kept[id_] += 1
    records.append(_record(round, row, original.response.text, digest))
  out = rollout.metrics(sampled)
  out |= {f"drop/{name}": n / len(reasons) for name, n in dropped.items()}
  out["data/kept"] = len(records)
  out["data/sampled"] = len(reasons)
  return records, out


def drop_reasons(
  rows: Sequence[rollout.Row], settings: Settings
) -> list[str | None]:
  """Why each row is dropped, the first reason found; None for kept ones."""
  reasons = [_filtered(row, settings.filters) for row in rows]
  open_ = [
    i
    for i, row in enumerate(rows)
    if reasons[i] is None and row.question.verifier == "none"
  ]
  judged = distributed.agreed(lambda: settings.judge([rows[i] for i in open_]))
  for i, reason in zip(open_, judged):
    reasons[i] = reason
  return reasons


def _refined(row, refine):
  """The row with its response in its final form, if it is a right one."""
  if row.rewards["accuracy"].value != 1.0:
    return row
  text = refine(row.question, row.response.text)
  return row._replace(response=row.response._replace(text=text))


def _filtered(row, filters):
  if row.question.verifier != "none":
    verdict = row.rewards["accuracy"]
    if verdict.status != "ok":
      return f"grading_{verdict.status}"
    if verdict.value != 1.0:
      return "wrong"
  for each in filters.values():
    reason = each(row.question, row.response, row.rewards)
    if reason is not None:
      return reason
  return None


def _record(round, row, original, digest):
  text = row.response.text
  return {
    "round": round,
    "id": f"{row.question.id}/{row.sample.sample}",
    "question": row.question._asdict(),
    "response": text,
    "original": None if text == original else original,
    "tokens": len(row.sample.tokens_T),
    "weights": digest,
  }


def _folded(text: str) -> str:
  return " ".join(text.split())


def mixed(
  records: Sequence[dict[str, Any]], settings: Settings
) -> list[dict[str, Any]]:
  """The records in their order, without what is over max_other_frac."""
  missing = _missing(records, settings)
  if missing >= 0:
    return list(records)
  other = [i for i, record in enumerate(records) if _is_other(record)]
  rng = np.random.default_rng(settings.seed)
  surplus = set(rng.permutation(other)[missing:].tolist())
  return [r for i, r in enumerate(records) if i not in surplus]


def _is_other(record):
  return record["question"]["verifier"] == "none"


def _missing(records, settings):
  """How many others more would make their share; negative if too many."""
  other = sum(map(_is_other, records))
  frac = settings.max_other_frac
  if frac == 1:
    return 0
  return int((len(records) - other) * frac / (1 - frac)) - other


def run(
  workdir: str,
  collect_round: Callable[[int], tuple[list[dict[str, Any]], dict[str, float]]],
  rounds: int,
  settings: Settings,
  write_metrics: Callable[[int, Mapping[str, Any]], None],
  first_round: int,
) -> dict[str, Any] | None:
  """Samples what is missing of the rounds and writes DATA.

  Returns:
    `records`, `sampled` and `dropped` by reason, and DATA's digest; None if
    a signal came before the last round.

  Raises:
    ValueError: If nothing at all was kept; it lists the reasons.
  """
  kept = metrics.JsonLines(os.path.join(workdir, KEPT))
  try:
    with interrupt.watch() as stopped:
      for round in metrics.progress(range(first_round, rounds), "rounds"):
        records, row = collect_round(round)
        kept.write(records)
        write_metrics(round, row)
        if stopped() and round + 1 < rounds:
          logging.info("Stopped by a signal; %d rounds are saved.", round + 1)
          return None
  finally:
    kept.close()
  return distributed.agreed(lambda: _finish(workdir, settings))


def _finish(workdir: str, settings: Settings) -> dict[str, Any]:
  """Writes DATA from all rounds; what `run` returns."""
  rows = metrics.read_jsonl(os.path.join(workdir, "metrics.jsonl"))
  records = metrics.read_jsonl(os.path.join(workdir, KEPT))
  summary = _summary(rows)
  if not records:
    reasons = ", ".join(f"{k}: {n}" for k, n in summary["dropped"].items())
    raise ValueError(
      f"{workdir}: none of {summary['sampled']} responses was kept "
      f"({reasons}). Loosen config.filters, or sample from better weights."
    )
  chosen = mixed(records, settings)
  summary["dropped"]["over_max_other_frac"] = len(records) - len(chosen)
  more = settings.other_data(_missing(chosen, settings), settings.seed)
  summary["other_data"] = len(more)
  chosen += more
  digest = write_data(os.path.join(workdir, DATA), chosen)
  return {**summary, "records": len(chosen), "digest": digest}


def _summary(rows):
  dropped = Counter()
  for row in rows:
    for name, value in row.items():
      if name.startswith("drop/"):
        count = round(value * row["data/sampled"])
        dropped[name.removeprefix("drop/")] += count
  sampled = sum(row["data/sampled"] for row in rows)
  return {"sampled": sampled, "dropped": dict(sorted(dropped.items()))}


def write_data(path: str, records: Iterable[dict[str, Any]]) -> str:
  """Writes the records in one step; first 16 digits of their SHA-256."""
  lines = [json.dumps(r, ensure_ascii=False) + "\n" for r in records]
  data = "".join(lines).encode(errors="backslashreplace")
  with open(path + ".new", "wb") as file:
    file.write(data)
  os.replace(path + ".new", path)
  return hashlib.sha256(data).hexdigest()[:16]
