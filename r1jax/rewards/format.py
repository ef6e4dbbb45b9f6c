"""The format reward: thoughts in their tags, then the answer in its tags."""

from r1jax import records
from r1jax.records import Question, Response, Reward
from r1jax.rewards import extract


def format_reward(question: Question, response: Response) -> Reward:
  """1 for a response of exactly the asked layout, else 0.

    blanks <think> X </think> blanks <answer> Y </answer> blanks

  Each tag once, X and Y not blank, nothing else outside. DeepSeek-R1
  (arXiv:2501.12948), section 2.2, asks for the think tags; the answer tags
  are of its template (table 1). A response that the sampler cut off, for
  length or repetition, did not end by itself and earns 0 whatever it says.

  Raises:
    ValueError: If the finish reason is unknown.
  """
  del question
  error = records.cut_off(response)
  if error is None:
    error = format_error(response.text, response.think_prefilled)
  return Reward(0.0, error) if error else Reward(1.0, "well formed")


def format_error(text: str, think_prefilled: bool = False) -> str | None:
  """What is wrong with the layout of a response; None if nothing is.

  Args:
    text: A response without its prompt.
    think_prefilled: Whether the prompt ended with an opening <think>, which
      then must not come again.
  """
  if think_prefilled:
    text = extract.THINK + text
  for tag in extract.TAGS:
    count = text.count(tag)
    if count != 1:
      return f"{tag} is there {count} times, not once"
  before, _, rest = text.partition(extract.THINK)
  thoughts, _, rest = rest.partition(extract.THINK_END)
  between, _, rest = rest.partition(extract.ANSWER)
  answer, end, after = rest.partition(extract.ANSWER_END)
  if not end:  # Some tag stands before the one it should follow.
    return "tags are out of order"
  for place, outside in (
    ("before <think>", before),
    ("between </think> and <answer>", between),
    ("after </answer>", after),
  ):
    if not extract.is_blank(outside):
      return f"text {place}"
  if extract.is_blank(thoughts):
    return "thoughts are blank"
  if extract.is_blank(answer):
    return "answer is blank"
  return None
