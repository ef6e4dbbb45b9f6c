"""Questions whose answer is a one-line program, with its tests."""

import functools
import random
from collections.abc import Callable

from r1jax.data import split_by_content
from r1jax.records import Question

INPUTS = (97, -1)  # What they give tells all the programs apart.

# What the question says, the program, and what the program must do; k and
# j run over the numbers 2 to 9.
_TASKS: dict[str, tuple[str, Callable[[int, int, int], int]]] = {
  "x plus {k}": ("print(int(input())+{k})", lambda x, k, j: x + k),
  "x minus {k}": ("print(int(input())-{k})", lambda x, k, j: x - k),
  "x times {k}": ("print(int(input())*{k})", lambda x, k, j: x * k),
  "rest of x by {k}": ("print(int(input())%{k})", lambda x, k, j: x % k),
  "larger of x and {k}": (
    "print(max(int(input()),{k}))",
    lambda x, k, j: max(x, k),
  ),
  "smaller of x and {k}": (
    "print(min(int(input()),{k}))",
    lambda x, k, j: min(x, k),
  ),
  "x times {k} plus {j}": (
    "print(int(input())*{k}+{j})",
    lambda x, k, j: x * k + j,
  ),
  "x times {k} minus {j}": (
    "print(int(input())*{k}-{j})",
    lambda x, k, j: x * k - j,
  ),
}


@functools.cache
def all_questions() -> tuple[Question, ...]:
  """Every program question, 176 of them, with its gold program and tests.

  The answer is `{"type": "stdin", "tests": [{"in", "out"}, ...],
  "program"}`; the program solves the tests.
  """
  questions = []
  for task, (program, function) in _TASKS.items():
    pairs = [(k, j) for k in range(2, 10) for j in range(2, 10)]
    if "{j}" not in task:
      pairs = [(k, 0) for k in range(2, 10)]
    for k, j in pairs:
      text = task.format(k=k, j=j)
      tests = [
        {"in": f"{x}\n", "out": f"{function(x, k, j)}\n"} for x in INPUTS
      ]
      questions.append(
        Question(
          id=f"programs:{text}",
          question=f"program: {text}",
          answer={
            "type": "stdin",
            "tests": tests,
            "program": program.format(k=k, j=j),
          },
          verifier="code",
        )
      )
  return tuple(questions)


def questions(*, split: str, test_frac: float = 0.2) -> list[Question]:
  """The program questions of "train" or "test", disjoint by content."""
  return split_by_content.select(
    list(all_questions()), split, test_frac=test_frac
  )


def response(
  question: Question, rng: random.Random, *, right: float
) -> tuple[str, str, bool]:
  """Thoughts, program and whether it is right, for the corpus.

  A wrong answer is the program of another question.
  """
  thoughts = question.question.removeprefix("program: ")
  if rng.random() < right:
    return thoughts, question.answer["program"], True
  others = [q for q in all_questions() if q.id != question.id]
  other = others[int(rng.random() * len(others))]
  return thoughts, other.answer["program"], False
