"""The accuracy reward: is the answer of a response right?"""

from r1jax import registry
from r1jax.records import Question, Response, Reward
from r1jax.rewards import extract
from r1jax.rewards.verifiers import VERIFIERS


def accuracy(question: Question, response: Response) -> Reward:
  """1 if the question's verifier accepts the answer, else 0.

  DeepSeek-R1 (arXiv:2501.12948), section 2.2. Where the answer stands is
  `extract`'s policy. A response that the sampler cut off, for length or
  repetition, earns 0 whatever it says: it was not given as an answer.

  Raises:
    ValueError: If the gold is malformed or the verifier unknown, which
      `verifiers.check` finds when data is loaded.
  """
  verifier = registry.lookup(
    VERIFIERS, question.verifier, f"question {question.id!r}: verifier"
  )
  match response.finish_reason:
    case "eos":
      answer = extract.answer(response.text, response.think_prefilled)
    case "length":
      return Reward(0.0, f"cut off after {response.tokens} tokens")
    case "repetition":
      return Reward(
        0.0, f"stopped for repetition after {response.tokens} tokens"
      )
    case other:
      raise ValueError(
        f"response.finish_reason is {other!r}. Known: eos, length, repetition."
      )
  if answer is None:
    return Reward(0.0, "no answer")
  return verifier.verify(question, answer)
