"""Verdicts a second of every kind of reward, and of the pool of workers.

  python -m benchmarks.rewards [--quick]

The first table is one process without a pool: each response is graded by
itself, in turn with the others of its kind, after one round that is not
counted. The second is `grading.Grader` over a batch of all kinds but code,
and over the programs. Language `lingua` needs the extra `language`.
"""

import importlib.util
import itertools
import os
import statistics
import time
from typing import NamedTuple

from absl import app, flags

from r1jax import grading
from r1jax.records import Question, Response
from r1jax.rewards import table, worker

_QUICK = flags.DEFINE_bool("quick", False, "A quarter of the verdicts.")

THOUGHTS = (
  "We need the number of ways to choose two balls from five. The order does "
  "not matter, so we divide by two. Five times four is $5 \\cdot 4 = 20$, and "
  "half of that is ten. Let me check: there are four pairs with the first "
  "ball, three more with the second, two and one. That makes ten again. "
) * 8
FRENCH = (
  "Nous devons choisir deux boules parmi cinq. L'ordre n'a pas d'importance, "
  "donc nous divisons par deux. Cinq fois quatre font vingt et la moitié est "
  "dix. La réponse est donc dix. "
) * 8

# Answer and gold, right and wrong in turn.
NUMERIC = (
  ("42", "42"),
  ("-17", "17"),
  ("\\frac{63}{400}", "\\frac{63}{400}"),
  ("3/4", "0.75"),
  ("1,234,567", "1234567"),
  ("12.5", "12.51"),
  ("28\\%", "28"),
  ("1\\frac{1}{2}", "1.5"),
)
SYMBOLIC = (
  ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt2}"),
  ("x^2 + y^2 + 4x - 6y + 13", "(x + 2)^2 + (y - 3)^2"),
  ("\\sec^2(y)", "\\tan^2(y)+1"),
  ("1+\\sqrt{19},\\ 1-\\sqrt{19}", "1 \\pm \\sqrt{19}"),
  ("-2 \\le x \\le 7", "x \\in [-2,7]"),
  ("3x + 4y + 14=0", "3x-y+13=0"),
  ("2\\sin x\\cos x", "\\sin(2x)"),
  ("e^{x+1}", "e^x"),
)
SUM = "a, b = map(int, input().split())\nprint(a + b)"
SQUARE = "def square(x):\n  return x * x"
CODE = {
  "code, stdin, 2 tests": (
    SUM,
    {
      "type": "stdin",
      "tests": [{"in": "1 2\n", "out": "3\n"}, {"in": "9 -4\n", "out": "5\n"}],
    },
  ),
  "code, call, 2 tests": (
    SQUARE,
    {
      "type": "call",
      "fn": "square",
      "tests": [{"args": [3], "out": 9}, {"args": [-4], "out": 16}],
    },
  ),
  "code, assert, 2 tests": (
    SQUARE,
    {
      "type": "assert",
      "tests": ["assert square(3) == 9", "assert square(-4) == 16"],
    },
  ),
}


class Row(NamedTuple):
  """One response to grade, and by what."""

  reward: str
  question: Question
  response: Response


def row(
  reward: str, answer: str, gold: object, verifier: str, language: str = "en"
) -> Row:
  """A well-formed response of about 2,500 characters of thoughts."""
  thoughts = FRENCH if language == "fr" else THOUGHTS
  text = f"<think>{thoughts}</think><answer>{answer}</answer>"
  question = Question("q", "?", gold, verifier, language)
  return Row(reward, question, Response(text, 600, "eos"))


def workloads() -> dict[str, list[Row]]:
  """Name to the rows that are graded in turn."""
  found = {
    name: [row("accuracy", f"$\\boxed{{{a}}}$", g, "math") for a, g in pairs]
    for name, pairs in (
      ("math, plain numbers", NUMERIC),
      ("math, symbolic", SYMBOLIC),
    )
  }
  for name, (program, gold) in CODE.items():
    answer = f"\n```python\n{program}\n```\n"
    found[name] = [row("accuracy", answer, gold, "code")]
  found["format"] = [row("format", "42", None, "none")]
  found["language, by script"] = [row("language", "42", None, "none", "zh")]
  if importlib.util.find_spec("lingua"):
    found["language, by lingua"] = [
      row("language", "42", None, "none", language) for language in ("en", "fr")
    ]
  return found


def seconds_each(rows: list[Row], verdicts: int) -> list[float]:
  """How long each of so many verdicts took, the rows in turn."""
  times = []
  for i, each in enumerate(itertools.islice(itertools.cycle(rows), verdicts)):
    start = time.perf_counter()
    graded = worker.grade(
      table.REWARDS, each.question, each.response, {each.reward: {}}
    )
    times.append(time.perf_counter() - start)
    status = graded[each.reward].status
    if status != "ok":
      raise RuntimeError(f"row {i}: {graded}")
  return times


def pool_seconds(rows: list[Row], workers: int) -> float:
  """How long a pool takes for the rows, once its workers have started."""
  rewards = {each.reward: {} for each in rows}
  with grading.Grader(rewards, workers=workers, timeout_secs=60) as grader:
    for key in range(4 * workers):  # Starts the workers.
      grader.submit(key, rows[key % len(rows)].question, rows[0].response)
    grader.collect()
    start = time.perf_counter()
    for key, each in enumerate(rows):
      grader.submit(key, each.question, each.response)
    grader.collect()
    return time.perf_counter() - start


def print_singles(share: float) -> None:
  """Verdicts a second and milliseconds of each kind, in this process."""
  print(f"{'kind':24} {'verdicts/s':>10} {'median ms':>10} {'p99 ms':>10}")
  for name, rows in workloads().items():
    seconds_each(rows, 2 * len(rows))
    count = 200 if rows[0].question.verifier == "code" else 2000
    times = seconds_each(rows, max(8, int(count * share)))
    middle = statistics.median(times) * 1e3
    last = statistics.quantiles(times, n=100)[-1] * 1e3
    rate = len(times) / sum(times)
    print(f"{name:24} {rate:10.0f} {middle:10.3f} {last:10.3f}")


def print_pools(share: float) -> None:
  """Verdicts a second of pools, over text and over programs."""
  print(f"\n{'pool':24} {'1 worker':>10} {'2 workers':>10} {'ratio':>10}")
  kinds = workloads()
  text = [each for k, rows in kinds.items() if "code" not in k for each in rows]
  code = [each for k, rows in kinds.items() if "code" in k for each in rows]
  for name, rows, count in (
    ("math, format, language", text, 2000),
    ("code, 2 tests", code, 200),
  ):
    count = int(count * share)
    batch = list(itertools.islice(itertools.cycle(rows), count))
    one, two = (count / pool_seconds(batch, n) for n in (1, 2))
    print(f"{name:24} {one:10.0f} {two:10.0f} {two / one:10.2f}")


def main(argv: list[str]) -> None:
  """Prints both tables."""
  del argv
  print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
  share = 0.25 if _QUICK.value else 1.0
  print_singles(share)
  print_pools(share)


if __name__ == "__main__":
  app.run(main)
