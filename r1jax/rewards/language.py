"""The language consistency reward, and whether a text mixes languages.

Words are told by the Unicode script of their letters, so languages that
share a script (English and French) count as one. A word is a run of letters
of one script, two at least, for one letter is mostly the name of a variable;
in scripts written without blanks each letter counts. Digits, punctuation,
emoji, formulas, code, addresses and the four tags are no words.
"""

import functools
import re
import unicodedata
from collections import Counter

from r1jax.records import Question, Response, Reward
from r1jax.rewards import extract

# ISO 639-1 code to the scripts of the language.
LANGUAGES = {
  "ar": ("Arabic",),
  "de": ("Latin",),
  "el": ("Greek",),
  "en": ("Latin",),
  "es": ("Latin",),
  "fr": ("Latin",),
  "he": ("Hebrew",),
  "hi": ("Devanagari",),
  "it": ("Latin",),
  "ja": ("Han", "Hiragana", "Katakana"),
  "ko": ("Hangul",),
  "pt": ("Latin",),
  "ru": ("Cyrillic",),
  "th": ("Thai",),
  "uk": ("Cyrillic",),
  "vi": ("Latin",),
  "zh": ("Han",),
}

# First word of a letter's Unicode name, where it is not the script's own.
_SCRIPTS = {"CJK": "Han", "IDEOGRAPHIC": "Han"}
_UNSPACED = {"Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar"}
_INHERITED = "Inherited"
# Scripts that one language writes side by side.
_TOGETHER = {"Hiragana": "Han", "Katakana": "Han"}

_SPANS = (("```", "```"), ("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"))
_SHORT_SPANS = re.compile(
  r"`[^`\n]*`|\$[^$\n]*\$|\b(?:https?://|www\.)\S+|\\[A-Za-z]+"
)


def consistency(question: Question, response: Response) -> Reward:
  """Share of the words of the thoughts that are in the wanted language.

    Num(words of the language) / Num(words)

  DeepSeek-R1 (arXiv:2501.12948), the language consistency reward of its
  first RL stage; how words are counted is our choice, see this module. Cut
  off thoughts are judged like others.

  Returns:
    0..1; 0.5 for thoughts without words, 0 without thoughts.

  Raises:
    ValueError: If the question's language is not in LANGUAGES.
  """
  if question.language not in LANGUAGES:
    known = ", ".join(LANGUAGES)
    raise ValueError(
      f"question {question.id!r}: language is {question.language!r}. "
      f"Known: {known}."
    )
  text = extract.thoughts(response.text, response.think_prefilled)
  if text is None or extract.is_blank(text):
    return Reward(0.0, "no thoughts")
  counts = scripts(text)
  words = counts.total()
  if not words:
    return Reward(0.5, "no words")
  wanted = sum(counts[script] for script in LANGUAGES[question.language])
  return Reward(
    wanted / words, f"{wanted} of {words} words are {question.language}"
  )


def is_mixed(text: str) -> bool:
  """Whether the text has words of scripts that no language mixes."""
  return len({_TOGETHER.get(s, s) for s in scripts(text)}) > 1


def scripts(text: str) -> Counter[str]:
  """Number of words of each Unicode script, by its English name."""
  words = Counter()
  current, letters = None, 0
  for char in _prose(text) + " ":  # The blank ends the last word.
    script = _script(char)
    if script == _INHERITED:
      continue
    if script == current:
      letters += 1
      continue
    if current in _UNSPACED:
      words[current] += letters
    elif current and letters > 1:
      words[current] += 1
    current, letters = script, 1
  return words


def _prose(text: str) -> str:
  """The text with a blank for all that is no prose, in linear time."""
  for opening, closing in _SPANS:
    text = _without_spans(text, opening, closing)
  text = _SHORT_SPANS.sub(" ", text)
  for tag in extract.TAGS:
    text = text.replace(tag, " ")
  return text


def _without_spans(text: str, opening: str, closing: str) -> str:
  kept, at = [], 0
  while (start := text.find(opening, at)) >= 0:
    end = text.find(closing, start + len(opening))
    if end < 0:  # An opening that nothing closes is text.
      break
    kept += [text[at:start], " "]
    at = end + len(closing)
  return "".join([*kept, text[at:]])


@functools.lru_cache(maxsize=1 << 16)
def _script(char: str) -> str | None:
  """The script of a letter, None for no letter, or _INHERITED for a mark."""
  category = unicodedata.category(char)
  if category[0] == "M":
    return _INHERITED
  if category[0] != "L":
    return None
  first = unicodedata.name(char, "").split(" ", 1)[0]
  if first in ("FULLWIDTH", "HALFWIDTH"):
    return _script(unicodedata.normalize("NFKC", char)[0])
  if first in ("MATHEMATICAL", "MODIFIER", "SCRIPT", "DOUBLE-STRUCK"):
    return None
  return _SCRIPTS.get(first, first.capitalize()) or None
