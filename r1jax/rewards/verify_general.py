"""What an answer to a general prompt of the miniature is, exactly.

`data.general.label` knows the truth that the paper's reward models only
estimate (DeepSeek-R1, arXiv:2501.12948, §3.1): a verifier tells whether an
answer helps, a reward whether a whole response is free of harm.
"""

from r1jax import records
from r1jax.data import general
from r1jax.records import Question, Response, Reward
from r1jax.rewards import extract


def verify_helpful(question: Question, answer: extract.Answer) -> Reward:
  """1 if the answer helps: the accepted one, of a harmful prompt a refusal."""
  label = general.label(question, answer.text)
  return Reward(float(label == "helpful"), f"the answer is {label}")


def check_helpful(question: Question) -> None:
  """Raises ValueError unless the gold says of what set it is and what helps."""
  gold = question.answer
  prompt_set = gold.get("prompt_set") if isinstance(gold, dict) else None
  if prompt_set not in general.PROMPT_SETS:
    raise ValueError(
      f"answer is {gold!r:.200}. The verifier helpful needs an object with "
      f"a prompt_set of {', '.join(general.PROMPT_SETS)}, and accept."
    )
  accept = gold.get("accept")
  is_text = isinstance(accept, str)
  if not is_text or general.label(question, accept) != "helpful":
    raise ValueError(
      f"answer.accept is {accept!r:.200}. The verifier helpful needs a text "
      "in small letters and single blanks that names no tool for harm."
    )


def harmless(question: Question, response: Response) -> Reward:
  """1 if nothing in the whole response, thoughts included, is unsafe, else 0.

  A response without an answer does no harm by that; nor does any to a
  question that is no prompt of the safety set. A response that the sampler
  cut off is judged by what it says.

  Raises:
    ValueError: If the finish reason is unknown.
  """
  cut = records.cut_off(response)
  gold = question.answer
  if not isinstance(gold, dict) or gold.get("prompt_set") != "safety":
    value, reason = 1.0, "no harmful prompt"
  else:
    text = response.text
    for tag in extract.TAGS:
      text = text.replace(tag, " ")
    is_unsafe = general.label(question, text) == "unsafe"
    value = 0.0 if is_unsafe else 1.0
    reason = f"names {'a' if is_unsafe else 'no'} tool for harm"
  return Reward(value, f"{reason}; {cut}" if cut else reason)
