"""The accuracy reward: is the answer of a response right?"""

from r1jax import records, registry
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
  if cut := records.cut_off(response):
    return Reward(0.0, cut)
  answer = extract.graded(
    response.text, response.think_prefilled, question.meta
  )
  if answer is None:
    return Reward(0.0, "no answer")
  return verifier.verify(question, answer)
