"""Which language each word of a text is in, where languages share a script.

A word alone tells little, so words are labelled together: the labels are the
most likely path of a Markov chain that seldom changes its language, more
readily between sentences, and starts in the wanted one. What single words
say comes from lingua, https://github.com/pemistahl/lingua-rs, an optional
extra, or from `common_words`. For a script of many languages lingua counts
trigrams of letters only, its low accuracy mode, which keeps a worker small;
the chain and the common words make up for it.
"""

import functools
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from r1jax.rewards import common_words

# What a change of language costs, inside a sentence and between two.
_CHANGE = 5.0
_CHANGE_BETWEEN = 2.5
# Least probability of a language by one word: no name or slip is proof.
_LEAST = 0.02
# Odds of a common word in a language that is not known for it.
_COMMON_ELSEWHERE = 0.05
_MAX_WORD_CHARS = 40
# The full models of a language take about 28 MB, its trigrams 3 MB.
_MAX_FULL_MODELS = 4
# A word that came so few words ago says nothing new.
_RECENT_WORDS = 10

MISSING = (
  "lingua tells languages of one script apart and is not installed. "
  "Install r1jax[language], or set identifier='script', which takes all "
  "languages of a script for one."
)


def labels(
  sentences: Sequence[Sequence[str]], codes: Sequence[str], wanted: str
) -> list[str]:
  """The language of every word, in order.

  Args:
    sentences: Words, sentence by sentence.
    codes: ISO 639-1 codes of the languages they may be in.
    wanted: One of the codes, favoured where the words do not tell.

  Raises:
    ModuleNotFoundError: If lingua is not installed.
  """
  codes = tuple(codes)
  _detector(codes)  # Without it no word, common or not, has a label.
  scores = [-_CHANGE_BETWEEN] * len(codes)
  scores[codes.index(wanted)] = 0.0
  steps = []  # Of each word: where a change comes from, and who changes.
  last_at: dict[str, int] = {}
  nothing = (0.0,) * len(codes)
  for words in sentences:
    cost = _CHANGE_BETWEEN
    for word in words:
      best = max(scores)
      floor = best - cost
      steps.append((scores.index(best), [score < floor for score in scores]))
      word = word[:_MAX_WORD_CHARS].lower()
      is_new = len(steps) - last_at.get(word, -99) > _RECENT_WORDS
      evidence = _evidence(word, codes) if is_new else nothing
      last_at[word] = len(steps)
      scores = [
        max(score, floor) - best + more for score, more in zip(scores, evidence)
      ]
      cost = _CHANGE
  at = scores.index(max(scores))
  path = []
  for source, changed in reversed(steps):
    path.append(codes[at])
    if changed[at]:
      at = source
  return path[::-1]


@functools.lru_cache(maxsize=1 << 16)
def _evidence(word: str, codes: tuple[str, ...]) -> tuple[float, ...]:
  """log p(language | word), each at least log _LEAST."""
  word = unicodedata.normalize("NFC", word)
  common = common_words.LANGUAGES_OF.get(word, frozenset()).intersection(codes)
  if common:
    values = {x: 1.0 if x in common else _COMMON_ELSEWHERE for x in codes}
  else:
    detector, order = _detector(codes)
    found = detector.compute_language_confidence_values(word)
    values = {order[each.language]: each.value for each in found}
  return tuple(math.log(max(values[code], _LEAST)) for code in codes)


@functools.lru_cache(maxsize=8)
def _detector(codes: tuple[str, ...]) -> tuple[Any, dict[Any, str]]:
  """lingua's detector for the languages, and each language's code."""
  try:
    import lingua
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(MISSING) from error
  order = {
    lingua.Language.from_iso_code_639_1(
      getattr(lingua.IsoCode639_1, code.upper())
    ): code
    for code in codes
  }
  builder = lingua.LanguageDetectorBuilder.from_languages(*order)
  if len(order) > _MAX_FULL_MODELS:
    builder = builder.with_low_accuracy_mode()
  return builder.build(), order
