"""Countdown: reach a target with three numbers from 1 to 9, + and -."""

import functools
import itertools
from typing import NamedTuple

from r1jax.data import split_by_content
from r1jax.records import Question

NUMBERS = range(1, 10)


class Expression(NamedTuple):
  """An expression `a ± b ± c`; op1 and op2 are "+" or "-"."""

  a: int
  op1: str
  b: int
  op2: str
  c: int

  @property
  def first(self) -> int:
    """Value of `a ± b`."""
    return self.a + self.b if self.op1 == "+" else self.a - self.b

  @property
  def value(self) -> int:
    """Value of the whole expression."""
    return self.first + self.c if self.op2 == "+" else self.first - self.c

  @property
  def text(self) -> str:
    """The expression with a blank around each operator."""
    return f"{self.a} {self.op1} {self.b} {self.op2} {self.c}"


@functools.cache
def expressions(numbers: tuple[int, int, int]) -> tuple[Expression, ...]:
  """All expressions of three numbers, each once: 24 if they differ."""
  return tuple(
    sorted(
      {
        Expression(a, op1, b, op2, c)
        for a, b, c in itertools.permutations(numbers)
        for op1, op2 in itertools.product("+-", repeat=2)
      }
    )
  )


def question(numbers: tuple[int, int, int], target: int) -> Question:
  """The question record of sorted numbers and a target."""
  listed = " ".join(map(str, numbers))
  return Question(
    id=f"countdown:{listed.replace(' ', ',')}:{target}",
    question=f"{listed} -> {target}",
    answer={"numbers": list(numbers), "target": target},
    verifier="countdown",
  )


@functools.cache
def all_questions() -> tuple[Question, ...]:
  """Every question there is, 955 of them, sorted by numbers and target."""
  return tuple(
    question(numbers, target)
    for numbers in itertools.combinations_with_replacement(NUMBERS, 3)
    for target in sorted({e.value for e in expressions(numbers)})
  )


def questions(*, split: str, test_frac: float = 0.2) -> list[Question]:
  """The questions of "train" or "test", disjoint by content."""
  return split_by_content.select(
    list(all_questions()), split, test_frac=test_frac
  )
