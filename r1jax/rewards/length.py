"""Rewards of a response's length and of its repetitions; none above 0."""

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

  DAPO (arXiv:2503.14476), R_length. Tokens are counted, not characters.

  Raises:
    ValueError: Unless 0 < cache_tokens <= max_tokens.
  """
  del question
  if not 0 < cache_tokens <= max_tokens:
    raise ValueError(
      f"overlong got cache_tokens={cache_tokens}, max_tokens={max_tokens}. "
      "Set cache_tokens between 1 and max_tokens."
    )
  free_tokens = max_tokens - cache_tokens
  value = (free_tokens - response.tokens) / cache_tokens
  value = min(0.0, max(-1.0, value))
  return Reward(value, f"{response.tokens} tokens, {free_tokens} are free")


def repetition(
  question: Question, response: Response, *, ngram_words: int
) -> Reward:
  """Penalty for saying the same again, on the whole response.

    distinct / n-grams - 1, in (-1, 0]

  N-grams are runs of ngram_words words, separated by white space; 0 where
  there are none. Our choice of penalty.

  Raises:
    ValueError: If ngram_words is below 1.
  """
  del question
  if ngram_words < 1:
    raise ValueError(
      f"repetition got ngram_words={ngram_words}. Set it to 1 or more."
    )
  words = response.text.split()
  ngrams = list(zip(*(words[i:] for i in range(ngram_words))))
  if not ngrams:
    return Reward(0.0, f"fewer than {ngram_words} words")
  repeated = len(ngrams) - len(set(ngrams))
  return Reward(
    -repeated / len(ngrams),
    f"{repeated} of {len(ngrams)} {ngram_words}-grams came before",
  )
