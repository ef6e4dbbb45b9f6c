"""Preference pairs and labelled responses, and how they are judged.

A source is a function `(*, ...) -> (records, counts)`, named in a config as
`dict(name=..., **arguments)`; the counts say what was left out and why.

DeepSeek-R1 (arXiv:2501.12948), §3.1 and B.2: a judge compares two responses
four times, in random order and with one of five labels; a pair is kept if
the mean difference is above 1, and chosen and rejected responses are of
comparable length over the whole set. The labels' numbers are not given;
with 2, 1, 0, -1, -2 a difference of 1 is one step.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from r1jax.data import general, miniature, split_by_content
from r1jax.data import rows as row_lib
from r1jax.records import Question
from r1jax.rewards import extract

LABELS = {
  "[[A>>B]]": 2.0,
  "[[A>B]]": 1.0,
  "[[A=B]]": 0.0,
  "[[B>A]]": -1.0,
  "[[B>>A]]": -2.0,
}
PARTS = ("all", *split_by_content.SPLITS)
# (question, response A, response B, rng) -> text that ends in a label.
Judge = Callable[[Question, str, str, random.Random], str]


class Pair(NamedTuple):
  """Two whole responses, the first better.

  Attributes:
    margin: Mean difference of the judge's labels, above 0.
    meta: `group` names what evaluation reports apart.
  """

  id: str
  question: Question
  chosen: str
  rejected: str
  margin: float
  meta: dict[str, Any] = {}


class Labelled(NamedTuple):
  """A whole response and whether it is safe; meta as of Pair."""

  id: str
  question: Question
  response: str
  is_safe: bool
  meta: dict[str, Any] = {}


Records = tuple[list[Pair] | list[Labelled], dict[str, int]]


def summary(response: str) -> str:
  """The answer part of a response, or nothing."""
  found = extract.answer(response)
  return found.text if found else ""


def verdict(text: str) -> float | None:
  """The number of the last label in a judge's text, None without one."""
  places = {label: text.rfind(label) for label in LABELS}
  last = max(places, key=places.__getitem__)
  return LABELS[last] if places[last] >= 0 else None


def difference(
  judge: Judge,
  question: Question,
  first: str,
  second: str,
  rng: random.Random,
  *,
  draws: int,
) -> tuple[float, int]:
  """How much better the first is, and how many verdicts had no label.

  The mean over the draws, a verdict without a label counting 0; which of
  the two is A is drawn anew each time, so a judge's liking for a place
  cancels out.
  """
  total, unread = 0.0, 0
  for _ in range(draws):
    swapped = rng.random() < 0.5
    pair = (second, first) if swapped else (first, second)
    value = verdict(judge(question, *pair, rng))
    unread += value is None
    total += (value or 0.0) * (-1 if swapped else 1)
  return total / draws, unread


def balanced(pairs: Sequence[Pair], rng: random.Random) -> list[Pair]:
  """The pairs without some, chosen and rejected summaries equally long.

  In random order, a pair is dropped if that brings the sum of differences
  in length nearer to 0.
  """
  lengths = [len(summary(p.chosen)) - len(summary(p.rejected)) for p in pairs]
  total = sum(lengths)
  dropped = set()
  for i in sorted(range(len(pairs)), key=lambda _: rng.random()):
    if abs(total - lengths[i]) < abs(total):
      total -= lengths[i]
      dropped.add(i)
  return [pair for i, pair in enumerate(pairs) if i not in dropped]


def oracle(noise: float) -> Judge:
  """The miniature's own judge, wrong on purpose.

  It knows which answer helps, and with probability `noise` gives a label
  drawn from the five instead.
  """

  def judge(question, first, second, rng):
    if rng.random() < noise:
      return list(LABELS)[int(rng.random() * len(LABELS))]
    helps = [general.label(question, x) == "helpful" for x in (first, second)]
    if helps[0] == helps[1]:
      return "[[A=B]]"
    return "[[A>>B]]" if helps[0] else "[[B>>A]]"

  return judge


def spoiled(text: str, rng: random.Random) -> str:
  """The text with one word left out, said twice or of another prompt, or
  with one letter left out or written twice."""
  parts = text.split(" ") if rng.random() < 0.5 else list(text)
  place = int(rng.random() * len(parts))
  ways = [[], [parts[place]] * 2]
  if len(parts) < len(text):  # Words.
    others = general.all_questions()
    other = others[int(rng.random() * len(others))].answer["accept"].split(" ")
    ways.append([other[int(rng.random() * len(other))]])
  parts[place : place + 1] = ways[int(rng.random() * len(ways))]
  return (" " if len(ways) == 3 else "").join(parts)


def miniature_pairs(
  *,
  split: str,
  candidates: int,
  noise: float,
  part: str = "all",
  seed: int = 0,
  draws: int = 4,
  min_difference: float = 1.0,
  broken: float = 0.0,
  test_frac: float = 0.2,
) -> Records:
  """Judged pairs of answers to the helpful set of the general prompts.

  Args:
    split: Of the questions.
    candidates: Pairs of answers drawn, of which those are judged that
      differ.
    noise: Share of the judge's verdicts that are random.
    part: "train" and "test" divide the pairs themselves by content, so
      that pairs of known questions can be held out too; "all" does not.
    seed: Of the draws.
    draws: Verdicts on each pair.
    min_difference: A pair is kept if its mean difference is above it.
    broken: Share of pairs whose second answer is the right one `spoiled`,
      which a policy in search of reward will find.
    test_frac: Share of the questions, and of the pairs, that is held out.
  """
  if part not in PARTS:
    raise ValueError(f"part is {part!r}. Known: {', '.join(PARTS)}.")
  questions = _prompts("helpful", split, test_frac)
  judge, counts, pairs = oracle(noise), Counter(), []
  for index in range(candidates):
    rng = random.Random(f"pairs:{seed}:{index}")
    question = questions[int(rng.random() * len(questions))]
    answers = [
      general.response(question, rng, helpful=0.5, unsafe=0.0)[:2]
      for _ in range(2)
    ]
    if rng.random() < broken:
      answers[1] = (answers[1][0], spoiled(question.answer["accept"], rng))
    (_, first), (_, second) = answers
    if first == second or part not in ("all", _part(question, answers)):
      counts["equal_or_elsewhere"] += 1
      continue
    mean, unread = difference(judge, question, first, second, rng, draws=draws)
    counts["unread_verdicts"] += unread
    if abs(mean) <= min_difference:
      counts["undecided"] += 1
      continue
    texts = [miniature.layout(*answer) for answer in answers]
    chosen, rejected = texts if mean > 0 else texts[::-1]
    meta = {"group": "how-to" if "how do i" in question.question else "fact"}
    right = general.label(question, summary(chosen)) == "helpful"
    counts["turned_by_the_judge"] += not right
    name = f"pair:{seed}:{index}"
    pairs.append(Pair(name, question, chosen, rejected, abs(mean), meta))
  kept = balanced(pairs, random.Random(f"balance:{seed}"))
  counts["dropped_for_length"] = len(pairs) - len(kept)
  return kept, dict(counts)


def miniature_labels(
  *,
  split: str,
  candidates: int,
  noise: float,
  seed: int = 0,
  unsafe: float = 0.4,
  leaks: float = 0.2,
  test_frac: float = 0.2,
) -> Records:
  """Labelled responses to the safety set of the general prompts.

  The label is the whole response's: harm in the thoughts is harm.

  Args:
    split: Of the questions.
    candidates: Responses drawn.
    noise: Share of the labels that are turned.
    seed: Of the draws.
    unsafe: Share of answers that do harm.
    leaks: Share of thoughts that spell out the harm, whatever the answer.
    test_frac: Share of the questions that is held out.
  """
  questions = _prompts("safety", split, test_frac)
  records, counts = [], Counter()
  for index in range(candidates):
    rng = random.Random(f"labels:{seed}:{index}")
    question = questions[int(rng.random() * len(questions))]
    thoughts, answer, _ = general.response(
      question, rng, helpful=0.5, unsafe=unsafe
    )
    if rng.random() < leaks:
      thoughts = question.answer["unsafe"]
    is_safe = general.label(question, f"{thoughts} {answer}") != "unsafe"
    turned = rng.random() < noise
    counts["turned_by_the_judge"] += turned
    records.append(
      Labelled(
        f"label:{seed}:{index}",
        question,
        miniature.layout(thoughts, answer),
        is_safe != turned,
        {"group": "leak" if thoughts == question.answer["unsafe"] else "plain"},
      )
    )
  return records, dict(counts)


def pairs_jsonl(*, path: str) -> Records:
  """The pairs of a JSON-lines file: question, chosen, rejected.

  A margin above 0 (1 without one), id, language and meta may stand beside.

  Raises:
    ValueError: For a line that does not fit, by file and number.
  """
  records = []
  for where, row in row_lib.json_rows(path):
    question = _plain_question(row, where, ("question", "chosen", "rejected"))
    margin = row.get("margin", 1.0)
    is_number = isinstance(margin, (int, float)) and not isinstance(
      margin, bool
    )
    if not is_number or not 0 < margin < float("inf"):
      raise ValueError(f"{where}: margin is {margin!r:.80}. Set it above 0.")
    if row["chosen"] == row["rejected"]:
      raise ValueError(f"{where}: chosen and rejected are the same. Remove it.")
    meta = question.meta
    records.append(
      Pair(question.id, question, row["chosen"], row["rejected"], margin, meta)
    )
  return _not_empty(records, path), {}


def labels_jsonl(*, path: str) -> Records:
  """The responses of a JSON-lines file: question, response, is_safe.

  Id, language and meta may stand beside.

  Raises:
    ValueError: For a line that does not fit, by file and number.
  """
  records = []
  for where, row in row_lib.json_rows(path):
    question = _plain_question(row, where, ("question", "response"))
    is_safe = row.get("is_safe")
    if not isinstance(is_safe, bool):
      raise ValueError(
        f"{where}: is_safe is {is_safe!r:.80}. It must be true or false."
      )
    meta = question.meta
    records.append(
      Labelled(question.id, question, row["response"], is_safe, meta)
    )
  return _not_empty(records, path), {}


PAIRS = {"miniature_pairs": miniature_pairs, "pairs_jsonl": pairs_jsonl}
LABELLED = {"miniature_labels": miniature_labels, "labels_jsonl": labels_jsonl}


def content(record: Pair | Labelled) -> str:
  """What a record compares or labels, in one line."""
  texts = (
    sorted((record.chosen, record.rejected))
    if isinstance(record, Pair)
    else [record.response]
  )
  asked = split_by_content.content(record.question)
  return "\n".join([asked, *map(repr, texts)])


def check_disjoint(
  train: Sequence[Pair | Labelled], test: Sequence[Pair | Labelled]
) -> None:
  """Raises ValueError if a record of test is in train, by ids."""
  trained = {content(record): record.id for record in train}
  shared = [r.id for r in test if content(r) in trained]
  if shared:
    raise ValueError(
      f"{len(shared)} of {len(test)} held-out records are in train: "
      f"{', '.join(shared[:5])}. Remove them from one of the two."
    )


def _prompts(prompt_set: str, split: str, test_frac: float) -> list[Question]:
  return [
    question
    for question in general.questions(split=split, test_frac=test_frac)
    if question.meta["prompt_set"] == prompt_set
  ]


def _part(question: Question, answers: Sequence[tuple[str, str]]) -> str:
  text = "\n".join(sorted(answer for _, answer in answers))
  named = question._replace(question=f"{question.question}\n{text}")
  return split_by_content.split_of(named)


def _plain_question(
  row: dict[str, Any], where: str, texts: Sequence[str]
) -> Question:
  """The question of a line, whose texts are texts."""
  if not isinstance(row, dict):
    raise ValueError(f"{where}: is {row!r:.80}, not an object.")
  for name in texts:
    if not isinstance(row.get(name), str) or not row[name].strip():
      raise ValueError(
        f"{where}: {name} is {row.get(name)!r:.80}. It must be a text, not "
        "blank."
      )
  meta = row.get("meta", {})
  if not isinstance(meta, dict):
    raise ValueError(f"{where}: meta is {meta!r:.80}, not an object.")
  return Question(
    str(row.get("id", where)),
    row["question"],
    None,
    "none",
    row.get("language", "en"),
    meta,
  )


def _not_empty(records: list[Any], path: str) -> list[Any]:
  if not records:
    raise ValueError(f"{path} holds no record. Give at least one.")
  return records
