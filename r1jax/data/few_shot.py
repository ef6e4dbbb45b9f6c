"""Few-shot prompts: solved examples in front of a question."""

import random
from collections.abc import Sequence

from r1jax.data import countdown, miniature, split_by_content
from r1jax.records import Question


def worked(question: Question) -> str:
  """A response that solves the question, in its tags.

  Countdown's is the right attempt alone, a program's or a general prompt's
  what the corpus holds; any other question brings its own: `meta.thoughts`
  and a text or integer as answer.

  Raises:
    ValueError: If it does not.
  """
  gold, thoughts = question.answer, question.meta.get("thoughts")
  if question.verifier == "countdown":
    numbers = tuple(sorted(gold["numbers"]))
    right = next(
      (e for e in countdown.expressions(numbers) if e.value == gold["target"]),
      None,
    )
    if right is not None:
      word = miniature.WORDS[question.language]["yes"]
      return miniature.layout(miniature.attempt(right, word), right.text)
  elif isinstance(gold, dict):
    if "program" in gold:
      thoughts = question.question.removeprefix("program: ")
    gold = gold.get("program", gold.get("accept"))
  if not thoughts or not isinstance(gold, (str, int)):
    raise ValueError(
      f"question {question.id!r} has no solution to show in a few-shot "
      "prompt. Give it meta.thoughts and a text as answer, or set shots to 0."
    )
  return miniature.layout(thoughts, str(gold))


def with_examples(
  question: Question, pool: Sequence[Question], shots: int, seed: int
) -> Question:
  """The question with solved examples of the pool in its text.

  They are drawn by seed and question, none twice and never the question
  itself; each stands as text and response on lines of their own.

  Raises:
    ValueError: If the pool has too few others, or one has no solution.
  """
  if not shots:
    return question
  asked = split_by_content.content(question)
  others = [q for q in pool if split_by_content.content(q) != asked]
  if len(others) < shots:
    raise ValueError(
      f"shots is {shots}, but there are {len(others)} other questions to show "
      f"before {question.id!r}. Set it to that or less."
    )
  # Of a generator's methods only random() promises to stay as it is.
  rng = random.Random(f"few_shot:{seed}:{question.id}")
  lines = []
  for _ in range(shots):
    example = others.pop(int(rng.random() * len(others)))
    lines += [example.question, worked(example)]
  return question._replace(question="\n".join([*lines, question.question]))
