"""Which responses become training data, and in what form.

A refiner gives a right response its final form, and is one line in
REFINERS. A filter is a function (question, response, rewards, *, arguments)
of the refined response and the rewards of the original -> None, or in a
word why it is dropped, and one line in FILTERS.

DeepSeek-R1 (arXiv:2501.12948) keeps correct responses in readable form and
drops thoughts with mixed languages, long paragraphs or code blocks; the
limits are not stated, so they are arguments here.
"""

from collections.abc import Callable, Mapping
from typing import Any

from r1jax import registry
from r1jax.data import miniature as corpus
from r1jax.records import Question, Response, Reward
from r1jax.rewards import extract, language

Rewards = Mapping[str, Reward]
Filter = Callable[[Question, Response, Rewards], str | None]


def finished(
  question: Question, response: Response, rewards: Rewards
) -> str | None:
  """Drops what the sampler cut off."""
  del question, rewards
  return None if response.finish_reason == "eos" else "cut_off"


def rewarded(
  question: Question,
  response: Response,
  rewards: Rewards,
  *,
  reward: str,
  least: float,
) -> str | None:
  """Drops what earned less than `least` of a reward."""
  del question, response
  if rewards[reward].status != "ok":
    return f"{reward}_{rewards[reward].status}"
  return None if rewards[reward].value >= least else f"{reward}_too_low"


def one_language(
  question: Question, response: Response, rewards: Rewards
) -> str | None:
  """Drops words of another script than the question's language has."""
  del rewards
  wanted = language.LANGUAGES[question.language]
  strange = set(language.scripts(response.text)) - set(wanted)
  return "another_language" if strange else None


def short_paragraphs(
  question: Question,
  response: Response,
  rewards: Rewards,
  *,
  max_chars: int,
) -> str | None:
  """Drops thoughts with a line longer than `max_chars`."""
  del question, rewards
  lines = _thoughts(response).split("\n")
  return "long_paragraph" if max(map(len, lines)) > max_chars else None


def no_code(
  question: Question, response: Response, rewards: Rewards
) -> str | None:
  """Drops thoughts with a code block."""
  del question, rewards
  return "code_in_thoughts" if "```" in _thoughts(response) else None


def no_repeats(
  question: Question,
  response: Response,
  rewards: Rewards,
  *,
  max_frac: float,
) -> str | None:
  """Drops thoughts of which more than `max_frac` of the lines came before."""
  del question, rewards
  lines = [line.strip() for line in _thoughts(response).split("\n")]
  repeated = len(lines) - len(set(lines))
  return "repeats_itself" if repeated > max_frac * len(lines) else None


def searches(
  question: Question,
  response: Response,
  rewards: Rewards,
  *,
  least: int,
  most: int,
  gave_up: bool = False,
) -> str | None:
  """Drops Countdown thoughts of fewer or of more lines.

  With `gave_up` it drops those too that found the answer, so that what is
  left tried, gave up and guessed.
  """
  del rewards
  if question.verifier != "countdown":
    return None
  lines = _thoughts(response).split("\n")
  if not least <= len(lines) <= most:
    return "search_too_short" if len(lines) < least else "search_too_long"
  guesses = [words["guess"] for words in corpus.WORDS.values()]
  if gave_up and lines[-1].strip() not in guesses:
    return "did_not_give_up"
  return None


FILTERS: dict[str, Callable[..., str | None]] = {
  "finished": finished,
  "no_code": no_code,
  "no_repeats": no_repeats,
  "one_language": one_language,
  "rewarded": rewarded,
  "searches": searches,
  "short_paragraphs": short_paragraphs,
}


def filters(
  choices: Mapping[str, Mapping[str, Any]], field: str
) -> dict[str, Filter]:
  """Name to filter, arguments bound.

  Raises:
    ValueError: For an unknown filter or argument, by field.
  """
  return {
    name: registry.make(FILTERS, {"name": name, **args}, f"{field}.{name}")
    for name, args in choices.items()
  }


def _thoughts(response: Response) -> str:
  return extract.thoughts(response.text, response.think_prefilled) or ""


def as_it_is(question: Question, text: str) -> str:
  """The response unchanged."""
  del question
  return text


def miniature(question: Question, text: str) -> str:
  """The thoughts of a Countdown response made readable, its answer kept.

  The verdicts are put into the question's language and lines that say
  again what was said are left out; the answer part is the summary. What a
  model and people did for the paper. Others stay as they are.
  """
  if question.verifier != "countdown":
    return text
  words = corpus.WORDS[question.language]
  thoughts = extract.thoughts(text) or ""
  for meaning, word in words.items():
    for other in corpus.WORDS.values():
      thoughts = thoughts.replace(other[meaning], word)
  lines = dict.fromkeys(thoughts.split("\n"))
  answer = extract.answer(text)
  return corpus.layout("\n".join(lines), answer.text if answer else "")


REFINERS: dict[str, Callable[[Question, str], str]] = {
  "as_it_is": as_it_is,
  "miniature": miniature,
}
