"""Rewards of a response's length and of its repetitions, in tokens."""

from collections.abc import Mapping, Sequence

from r1jax import records
from r1jax.records import Question, Response, Reward


def overlong(
  question: Question,
  response: Response,
  *,
  max_tokens: int,
  cache_tokens: int,
) -> Reward:
  """Soft penalty for responses that come close to the limit.

    0                                      if tokens <= max - cache
    ((max - cache) - tokens) / cache       up to max
    -1                                     beyond

  DAPO (arXiv:2503.14476), R_length, of max_tokens 20,480 and cache_tokens
  4096. However a response ended, its tokens count, end-of-sequence too; one
  that is cut off at max_tokens gets -1.

  Raises:
    ValueError: Unless 0 < cache_tokens <= max_tokens, or if the finish
      reason is unknown.
  """
  del question
  if not 0 < cache_tokens <= max_tokens:
    raise ValueError(
      f"overlong got cache_tokens={cache_tokens}, max_tokens={max_tokens}. "
      "Set cache_tokens between 1 and max_tokens."
    )
  cut = records.cut_off(response)
  free_tokens = max_tokens - cache_tokens
  value = (free_tokens - response.tokens) / cache_tokens
  value = min(0.0, max(-1.0, value))
  how = f"{response.tokens} tokens" if cut is None else cut
  return Reward(value, f"{how}, {free_tokens} are free")


def repetition(
  question: Question, response: Response, *, ngram_tokens: int
) -> Reward:
  """Penalty for saying the same again, on the whole response.

    distinct / n-grams - 1, in (-1, 0]

  N-grams are runs of ngram_tokens token ids; 0 where there are none. A
  response that the sampler stopped for repetition gets -1, where it was
  heading. Our choice of penalty.

  Raises:
    ValueError: If ngram_tokens is below 1, the response comes without its
      ids, or its finish reason is unknown.
  """
  del question
  if ngram_tokens < 1:
    raise ValueError(
      f"repetition got ngram_tokens={ngram_tokens}. Set it to 1 or more."
    )
  ids = response.ids
  if len(ids) != response.tokens:
    raise ValueError(
      f"repetition got {len(ids)} ids of a response of {response.tokens} "
      "tokens. Fill Response.ids."
    )
  cut = records.cut_off(response)
  if cut and response.finish_reason == "repetition":
    return Reward(-1.0, cut)
  ngrams = list(zip(*(ids[i:] for i in range(ngram_tokens))))
  if not ngrams:
    return Reward(0.0, f"fewer than {ngram_tokens} tokens")
  repeated = len(ngrams) - len(set(ngrams))
  reason = f"{repeated} of {len(ngrams)} {ngram_tokens}-grams came before"
  return Reward(-repeated / len(ngrams), f"{reason}; {cut}" if cut else reason)


def group_length(
  responses: Sequence[Response], graded: Sequence[Mapping[str, Reward]]
) -> list[Reward]:
  """Reward for short right responses, among the responses to a question.

    lambda = 0.5 - (tokens - min) / (max - min)
    lambda for a right response, min(0, lambda) for a wrong one

  Kimi k1.5 (arXiv:2501.12599), length penalty, min and max over the group;
  0 for all where these are equal. Right is what earns an accuracy of 1; a
  response that was cut off has none. The paper adds it late in training,
  for it slows the start.

  Args:
    responses: To one question.
    graded: The rewards of each, accuracy among them.

  Returns:
    A reward in [-0.5, 0.5] for each response.

  Raises:
    ValueError: If a response has no accuracy.
  """
  for each in responses:
    records.cut_off(each)
  if not all("accuracy" in rewards for rewards in graded):
    raise ValueError(
      "length needs the accuracy of each response. Add accuracy to "
      "config.rewards."
    )
  tokens = [response.tokens for response in responses]
  low, high = min(tokens), max(tokens)
  if low == high:
    return [Reward(0.0, f"all have {low} tokens")] * len(tokens)
  out = []
  for n, rewards in zip(tokens, graded):
    value = 0.5 - (n - low) / (high - low)
    is_right = rewards["accuracy"].value >= 1.0
    how = "right" if is_right else "wrong"
    out.append(
      Reward(
        value if is_right else min(0.0, value),
        f"{how}, {n} tokens of {low} to {high}",
      )
    )
  return out
