"""The plain records that cross between data, rewards and the loop."""

from typing import Any, NamedTuple

FINISH_REASONS = ("eos", "length", "repetition")
REASONING = "reasoning"


class Question(NamedTuple):
  """One question and what its verifier needs.

  Attributes:
    id: Unique inside a data set, stable across runs.
    question: The text that a template wraps into a prompt.
    answer: The gold answer as the verifier reads it; a number, text, list
      or dict that JSON can hold.
    verifier: Name in `rewards.verifiers.VERIFIERS`.
    language: ISO 639-1 code of the language the answer is wanted in.
    meta: Anything else a reward or a report may want.
  """

  id: str
  question: str
  answer: Any
  verifier: str
  language: str = "en"
  meta: dict[str, Any] = {}


def kind(question: Question) -> str:
  """What kind of question it is, which says what is rewarded.

  A general prompt is of its set's kind, "helpful" or "safety"; all others
  are REASONING.
  """
  return question.meta.get("prompt_set", REASONING)


class Response(NamedTuple):
  """A response as rewards see it.

  Attributes:
    text: Decoded response, without prompt and end-of-sequence.
    tokens: Response tokens, the end-of-sequence token counted.
    finish_reason: One of FINISH_REASONS.
    think_prefilled: Whether the prompt ended with an opening <think>.
    ids: Its tokens' ids, or none where no reward asks for them.
  """

  text: str
  tokens: int
  finish_reason: str
  think_prefilled: bool = False
  ids: list[int] = []


def cut_off(response: Response) -> str | None:
  """Why the sampler ended a response, or None where it ended by itself.

  Raises:
    ValueError: If the finish reason is not one of FINISH_REASONS.
  """
  match response.finish_reason:
    case "eos":
      return None
    case "length":
      return f"cut off after {response.tokens} tokens"
    case "repetition":
      return f"stopped for repetition after {response.tokens} tokens"
    case other:
      known = ", ".join(FINISH_REASONS)
      raise ValueError(f"response.finish_reason is {other!r}. Known: {known}.")


class Reward(NamedTuple):
  """A reward's value and why.

  Attributes:
    value: Unweighted.
    reason: One line for a reader.
    status: "ok", "failed" (the grader raised or died), "timeout" or
      "unscored" (there was nothing that a reward model could read).
  """

  value: float
  reason: str
  status: str = "ok"
