"""The corpus of the miniature world: each document a function of its index.

Countdown is answered by bare guesses and by searches. A search writes one
attempt after another, each with its verdict, and stops when it is right
or when it gives up, which it does early (plain, in English) or late
(mixed, most verdicts in Chinese). Nothing else is planted: that longer
thinking pays, and that it drags the second language along, is for RL to
find. The arithmetic is always right and no attempt is made twice.
"""

import functools
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

from r1jax.data import countdown, general, programs
from r1jax.records import Question

WORDS = {
  "en": {"no": "no", "yes": "yes", "guess": "guess"},
  "zh": {"no": "不", "yes": "对", "guess": "猜"},
}


_SHARES = (
  "general_frac",
  "programs_frac",
  "guess",
  "mixed",
  "plain_stop",
  "mixed_stop",
  "chinese",
  "helpful",
  "unsafe",
  "right_program",
  "test_frac",
)


class Document(NamedTuple):
  """A question with one of the ways to answer it.

  Attributes:
    question: From a train split, always.
    response: Thoughts and answer in their tags.
    kind: "guess", "plain", "mixed", "general" or "program".
    meta: Whether the answer is right, or its label, and the attempts.
  """

  question: Question
  response: str
  kind: str
  meta: dict[str, Any]


def layout(thoughts: str, answer: str) -> str:
  """A response in its tags, with no blanks between."""
  return f"<think>{thoughts}</think><answer>{answer}</answer>"


def attempt(expression: countdown.Expression, verdict: str) -> str:
  """One line of a search: `3 + 5 = 8 - 2 = 6 no`."""
  e = expression
  return f"{e.a} {e.op1} {e.b} = {e.first} {e.op2} {e.c} = {e.value} {verdict}"


def search(
  question: Question,
  rng: random.Random,
  *,
  stop: float,
  chinese: float,
  max_attempts: int,
) -> tuple[str, str, int]:
  """Thoughts, answer and number of attempts of one search.

  Args:
    question: A countdown question.
    rng: Source of all choices.
    stop: Probability of giving up after a failed attempt; the answer is
      a guess then, as after `max_attempts`.
    chinese: Probability that a verdict is written in Chinese.
    max_attempts: With 0 this is a bare guess.
  """

  def word(meaning: str) -> str:
    return WORDS["zh" if rng.random() < chinese else "en"][meaning]

  target = question.answer["target"]
  tried = _shuffled(question, rng)[:max_attempts]
  lines = []
  for expression in tried:
    if expression.value == target:
      lines.append(attempt(expression, word("yes")))
      return "\n".join(lines), expression.text, len(lines)
    lines.append(attempt(expression, word("no")))
    if rng.random() < stop:
      break
  attempts = len(lines)
  lines.append(word("guess"))
  return "\n".join(lines), _shuffled(question, rng)[0].text, attempts


def document(
  index: int,
  *,
  seed: int = 0,
  general_frac: float = 0.1,
  programs_frac: float = 0.06,
  guess: float = 0.6,
  mixed: float = 0.6,
  plain_stop: float = 0.5,
  mixed_stop: float = 0.15,
  chinese: float = 0.7,
  max_attempts: int = 16,
  helpful: float = 0.5,
  unsafe: float = 0.5,
  right_program: float = 0.5,
  test_frac: float = 0.2,
) -> Document:
  """The document at an index of the endless corpus, for any index from 0.

  Args:
    index: Which document.
    seed: Another seed is another corpus.
    general_frac: Share of documents that are general prompts.
    programs_frac: Share of documents that are program questions.
    guess: Share of countdown answers that do not search.
    mixed: Share of searches that are mixed, not plain.
    plain_stop: Giving up after a failed attempt, plain.
    mixed_stop: Giving up after a failed attempt, mixed.
    chinese: Share of a mixed search's words that are Chinese.
    max_attempts: Of one search.
    helpful: Share of helpful answers to general prompts.
    unsafe: Share of unsafe answers to harmful prompts.
    right_program: Share of right programs.
    test_frac: Share of the questions that are held out.

  Raises:
    ValueError: For a share outside of [0, 1] or no attempts.
  """
  _check(locals())
  rng = random.Random(f"miniature:{seed}:{index}")
  world = rng.random()
  if world < general_frac:
    question = _pick("general", test_frac, rng)
    return _general(question, rng, helpful, unsafe)
  if world < general_frac + programs_frac:
    question = _pick("programs", test_frac, rng)
    return _program(question, rng, right_program)
  question = _pick("countdown", test_frac, rng)
  kind = _style(rng, guess, mixed)
  thoughts, answer, attempts = search(
    question,
    rng,
    stop=mixed_stop if kind == "mixed" else plain_stop,
    chinese=chinese if kind == "mixed" else 0.0,
    max_attempts=0 if kind == "guess" else max_attempts,
  )
  meta = {"right": _solves(answer, question), "attempts": attempts}
  return Document(question, layout(thoughts, answer), kind, meta)


def _check(settings: Mapping[str, Any]) -> None:
  for name in _SHARES:
    if not 0.0 <= settings[name] <= 1.0:
      raise ValueError(f"{name} is {settings[name]}. It must be in [0, 1].")
  others = settings["general_frac"] + settings["programs_frac"]
  if others > 1.0:
    raise ValueError(
      f"general_frac + programs_frac is {others}. It must be at most 1."
    )
  if settings["max_attempts"] < 1:
    raise ValueError(
      f"max_attempts is {settings['max_attempts']}. It must be 1 or more."
    )


def _general(
  question: Question, rng: random.Random, helpful: float, unsafe: float
) -> Document:
  thoughts, answer, label = general.response(
    question, rng, helpful=helpful, unsafe=unsafe
  )
  text = layout(thoughts, answer)
  return Document(question, text, "general", {"label": label})


def _program(
  question: Question, rng: random.Random, right_program: float
) -> Document:
  thoughts, answer, right = programs.response(
    question, rng, right=right_program
  )
  text = layout(thoughts, answer)
  return Document(question, text, "program", {"right": right})


def _style(rng: random.Random, guess: float, mixed: float) -> str:
  if rng.random() < guess:
    return "guess"
  return "mixed" if rng.random() < mixed else "plain"


@functools.cache
def _train(world: str, test_frac: float) -> list[Question]:
  questions = {
    "countdown": countdown.questions,
    "general": general.questions,
    "programs": programs.questions,
  }[world]
  chosen = questions(split="train", test_frac=test_frac)
  if not chosen:
    raise ValueError(
      f"test_frac is {test_frac}, which leaves no {world} question to train on."
    )
  return chosen


def _pick(world: str, test_frac: float, rng: random.Random) -> Question:
  # Of a generator's methods only random() promises to stay as it is.
  items = _train(world, test_frac)
  return items[int(rng.random() * len(items))]


def _shuffled(
  question: Question, rng: random.Random
) -> list[countdown.Expression]:
  numbers = tuple(sorted(question.answer["numbers"]))
  return sorted(countdown.expressions(numbers), key=lambda _: rng.random())


def _solves(answer: str, question: Question) -> bool:
  numbers = tuple(sorted(question.answer["numbers"]))
  return any(
    e.text == answer and e.value == question.answer["target"]
    for e in countdown.expressions(numbers)
  )
