"""A judge: a model that says whether an answer is right, or which is better.

DeepSeek-R1 (arXiv:2501.12948), supplement B.3.3, asks a model for a verdict
where no rule can check an answer: it is given question, reference and answer
and writes JSON with the keys analysis and correctness. B.2 has it compare two
answers by one of five labels, for the data of the helpful reward model. The
prompts here are our own.

What is judged is material, never instruction:

* Each text stands between lines with a fence drawn from (seed, id, draw) that
  occurs in none of them.
* What looks like a token of a chat template, `<|im_end|>`, `</think>`,
  `[INST]`, or like one of the labels is opened by a blank.
* A verdict counts only if the reply holds exactly one, outside the judge's
  thoughts, and if it is not one that the material holds.

So a text can at most make a reply unparseable, as far as form goes; that a
judge believes what it reads is the judge's own weakness.

A backend is a function, `Ask`: prompts in, as many replies out, in order.
`rewards.judge_http` and `judging` have one each.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from r1jax.rewards import extract, judge_text

FAILED = "failed"


class Query(NamedTuple):
  """An answer to grade; the id is unique in its data set."""

  id: str
  question: str
  reference: str
  answer: str


class Pair(NamedTuple):
  """Two answers to compare."""

  id: str
  question: str
  answer_a: str
  answer_b: str


class Prompt(NamedTuple):
  """What a backend is asked, and the seed, below 2**31, of its reply."""

  text: str
  seed: int


class Reply(NamedTuple):
  """What a backend gives back.

  Attributes:
    text: None if there is none.
    attempts: Requests made for it.
    reason: Why there is no text, or why it is cut off; empty for a whole
      reply.
  """

  text: str | None
  attempts: int = 1
  reason: str = ""


Ask = Callable[[Sequence[Prompt]], list[Reply]]


class Verdict(NamedTuple):
  """Whether an answer is right.

  Attributes:
    status: "correct", "incorrect", "unparseable" (the judge replied, but
      gave no verdict) or "failed" (there is no reply).
    analysis: The judge's, where there is a verdict.
    reply: All that the judge wrote.
    attempts: Requests made for it.
    reason: Why there is no verdict.
  """

  status: str
  analysis: str = ""
  reply: str = ""
  attempts: int = 0
  reason: str = ""


class Comparison(NamedTuple):
  """Which of two answers is better.

  Attributes:
    winner: "a", "b", "tie", "unparseable" or "failed".
    label: A key of judge_text.MARGINS, mapped back to the pair's own order.
    margin: The label's; None without one.
    swapped: Whether the judge saw B first.
    reply, attempts, reason: As in Verdict.
  """

  winner: str
  label: str = ""
  margin: int | None = None
  swapped: bool = False
  reply: str = ""
  attempts: int = 0
  reason: str = ""


class Preference(NamedTuple):
  """Repeated comparisons of a pair.

  Attributes:
    margin: Mean over the draws that have a label, -2 to 2, positive for A;
      None if none has.
    draws: All of them, in order.
  """

  margin: float | None
  draws: tuple[Comparison, ...]


def grade(
  ask: Ask, queries: Sequence[Query], *, seed: int, draw: int = 0
) -> list[Verdict]:
  """A verdict on each query, in order.

  What a backend is asked depends on (seed, id, draw) and the query alone. A
  blank answer is incorrect, and nobody is asked.

  Raises:
    ValueError: If a reference is blank.
  """
  prompts = [grade_prompt(query, seed=seed, draw=draw) for query in queries]
  asked = [i for i, q in enumerate(queries) if not extract.is_blank(q.answer)]
  replies = ask([prompts[i] for i in asked])
  verdicts = [Verdict(judge_text.INCORRECT, reason="blank answer")] * len(
    queries
  )
  for i, reply in zip(asked, replies, strict=True):
    verdicts[i] = _verdict(queries[i], reply)
  return verdicts


def compare(
  ask: Ask, pairs: Sequence[Pair], *, seed: int, draw: int = 0
) -> list[Comparison]:
  """A comparison of each pair, in order; (seed, id, draw) places A and B."""
  prompts = [compare_prompt(pair, seed=seed, draw=draw) for pair in pairs]
  replies = ask(prompts)
  return [
    _comparison(reply, is_swapped(pair.id, seed=seed, draw=draw))
    for pair, reply in zip(pairs, replies, strict=True)
  ]


def prefer(
  ask: Ask, pairs: Sequence[Pair], *, seed: int, draws: int = 4
) -> list[Preference]:
  """Each pair compared several times, A and B placed anew each time.

  arXiv:2501.12948, B.2: four calls a pair, their scores averaged; a pair is
  kept if |margin| > 1.

  Raises:
    ValueError: If draws is below 1.
  """
  if draws < 1:
    raise ValueError(f"draws is {draws}. Set it to 1 or more.")
  asked = [(pair, draw) for pair in pairs for draw in range(draws)]
  prompts = [compare_prompt(pair, seed=seed, draw=d) for pair, d in asked]
  replies = ask(prompts)
  all_draws = [
    _comparison(reply, is_swapped(pair.id, seed=seed, draw=d))
    for (pair, d), reply in zip(asked, replies, strict=True)
  ]
  out = []
  for i in range(0, len(asked), draws):
    of_pair = tuple(all_draws[i : i + draws])
    margins = [each.margin for each in of_pair if each.margin is not None]
    mean = sum(margins) / len(margins) if margins else None
    out.append(Preference(mean, of_pair))
  return out


def grade_prompt(query: Query, *, seed: int, draw: int) -> Prompt:
  """What a judge is asked about an answer.

  Raises:
    ValueError: If the reference is blank.
  """
  if extract.is_blank(query.reference):
    raise ValueError(
      f"query {query.id!r}: reference is {query.reference!r:.80}. A judge "
      "needs one that is not blank; leave the query out."
    )
  place = ("grade", seed, query.id, draw)
  texts = {
    "question": query.question,
    "reference": query.reference,
    "answer": query.answer,
  }
  text = judge_text.render(judge_text.GRADE, place, texts)
  return Prompt(text, judge_text.drawn(31, *place))


def compare_prompt(pair: Pair, *, seed: int, draw: int) -> Prompt:
  """What a judge is asked about a pair, B first where it `is_swapped`."""
  place = ("compare", seed, pair.id, draw)
  a, b = pair.answer_a, pair.answer_b
  if is_swapped(pair.id, seed=seed, draw=draw):
    a, b = b, a
  texts = {"question": pair.question, "a": a, "b": b}
  text = judge_text.render(judge_text.COMPARE, place, texts)
  return Prompt(text, judge_text.drawn(31, *place))


def is_swapped(id: str, *, seed: int, draw: int) -> bool:
  """Whether the judge sees B first, a fair coin of (seed, id, draw)."""
  return bool(judge_text.drawn(1, "swap", seed, id, draw))


def _verdict(query: Query, reply: Reply) -> Verdict:
  if reply.text is None:
    return Verdict(FAILED, attempts=reply.attempts, reason=reply.reason)
  if reply.reason:
    status, analysis, reason = judge_text.UNPARSEABLE, "", reply.reason
  else:
    raw = (query.question, query.reference, query.answer)
    material = (*raw, *map(judge_text.plain, raw))
    status, analysis, reason = judge_text.parse_grade(reply.text, material)
  return Verdict(status, analysis, reply.text, reply.attempts, reason)


def _comparison(reply: Reply, swapped: bool) -> Comparison:
  rest = {"swapped": swapped, "attempts": reply.attempts}
  if reply.text is None:
    return Comparison(FAILED, reason=reply.reason, **rest)
  rest["reply"] = reply.text
  label, reason = "", reply.reason
  if not reason:
    label, reason = judge_text.parse_compare(reply.text)
  if not label:
    return Comparison(judge_text.UNPARSEABLE, reason=reason, **rest)
  if swapped:
    label = label.translate(str.maketrans("AB", "BA"))
    label = {"B=A": "A=B"}.get(label, label)
  margin = judge_text.MARGINS[label]
  winner = "tie" if not margin else "a" if margin > 0 else "b"
  return Comparison(winner, label, margin, **rest)
