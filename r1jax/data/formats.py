"""Published layouts of rows, read into question, answer and verifier.

A format is one function of the values that a row gave and one line in
FORMATS. The function returns the values with what it changes, and raises
ValueError for a row that is not of its layout.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from r1jax.rewards import extract

Values = dict[str, Any]
# Around each problem of DAPO-Math-17k.
_DAPO_BEFORE = re.compile(r"\s*Solve the following math problem.*?\n\n", re.S)
_DAPO_AFTER = re.compile(
  r"\n\n\s*Remember to put your answer on its own.*", re.S
)


class Format(NamedTuple):
  """One layout.

  Attributes:
    fields: Question field to the column that it is read from.
    verifier: Of its questions.
    read: Values as they stand in the row to those of the question.
  """

  fields: Mapping[str, str]
  verifier: str
  read: Callable[[Values], Values]


def gsm8k(values: Values) -> Values:
  """The number after #### of a worked answer (arXiv:2110.14168)."""
  _, mark, number = _text(values, "answer").rpartition("####")
  if not mark:
    raise ValueError(f"answer {values['answer']!r:.80} has no '#### NUMBER'")
  return dict(values, answer=number.strip().replace(",", ""))


def math(values: Values) -> Values:
  r"""What the last \boxed of a solution holds (MATH, arXiv:2103.03874)."""
  boxed = extract.boxed(_text(values, "answer"))
  if boxed is None:
    raise ValueError(rf"answer {values['answer']!r:.80} has no \boxed{{}}")
  return dict(values, answer=boxed)


def dapo(values: Values) -> Values:
  """The problem without its instruction, and the ground truth.

  DAPO-Math-17k (arXiv:2503.14476) has the prompt as messages, the problem
  between two paragraphs that ask for a line "Answer: ...".
  """
  messages, gold = values["question"], values["answer"]
  try:
    text = messages[-1]["content"]
    truth = gold["ground_truth"]
  except (LookupError, TypeError) as error:
    raise ValueError(
      f"prompt is {messages!r:.60} and reward_model {gold!r:.60}, not messages "
      "and a ground_truth"
    ) from error
  if not isinstance(text, str):
    raise ValueError(f"the prompt's content is {text!r:.80}, no text")
  text = _DAPO_AFTER.sub("", _DAPO_BEFORE.sub("", text, count=1))
  return dict(values, question=text.strip(), answer=truth)


def countdown(values: Values) -> Values:
  """A Countdown question of its columns nums and target (TinyZero's)."""
  numbers, target = values["question"], values["answer"]
  if not isinstance(numbers, list | tuple) or not numbers:
    raise ValueError(f"nums is {numbers!r:.80}, not a list of numbers")
  named = ", ".join(map(str, numbers))
  return dict(
    values,
    question=f"Make {target} from the numbers {named}. Use each number exactly "
    "once, with + - * / and parentheses. Answer with the expression alone.",
    answer={"numbers": list(numbers), "target": target},
  )


FORMATS = {
  "countdown": Format(
    {"question": "nums", "answer": "target"}, "countdown", countdown
  ),
  "dapo": Format(
    {"question": "prompt", "answer": "reward_model"}, "math", dapo
  ),
  "gsm8k": Format({}, "math", gsm8k),
  "math": Format({"question": "problem", "answer": "solution"}, "math", math),
}


def _text(values: Values, name: str) -> str:
  if not isinstance(values[name], str):
    raise ValueError(f"{name} is {values[name]!r:.80}, no text")
  return values[name]
