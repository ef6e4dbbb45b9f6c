"""The language consistency reward, and whether a text mixes languages.

A word is a run of letters of one script, two at least, for one letter is
mostly the name of a variable; in scripts written without blanks each letter
counts. Only prose has words (`prose`): no formulas, code or addresses; nor
do digits, punctuation and emoji count. Marks and characters of no width do
not split a word. A word with letters of scripts that look alike, such as a
Cyrillic one among Latin ones, is of no language.

The Unicode script tells most languages apart; the languages that share one
are told apart by `language_id`. Kana tell Japanese from Chinese: the
ideographs of a sentence with kana are Japanese. A short sentence without
them is whichever of the two is wanted. Chinese is one language, traditional
or simplified.
"""

import functools
import unicodedata
from collections import Counter
from typing import NamedTuple

from r1jax import records
from r1jax.records import Question, Response, Reward
from r1jax.rewards import extract, language_id, prose

# ISO 639-1 code to the scripts of the language.
LANGUAGES = {
  "ar": ("Arabic",),
  "bg": ("Cyrillic",),
  "bn": ("Bengali",),
  "cs": ("Latin",),
  "de": ("Latin",),
  "el": ("Greek",),
  "en": ("Latin",),
  "es": ("Latin",),
  "fa": ("Arabic",),
  "fi": ("Latin",),
  "fr": ("Latin",),
  "he": ("Hebrew",),
  "hi": ("Devanagari",),
  "hu": ("Latin",),
  "hy": ("Armenian",),
  "id": ("Latin",),
  "it": ("Latin",),
  "ja": ("Han", "Hiragana", "Katakana"),
  "ka": ("Georgian",),
  "ko": ("Hangul",),
  "mr": ("Devanagari",),
  "nl": ("Latin",),
  "pl": ("Latin",),
  "pt": ("Latin",),
  "ro": ("Latin",),
  "ru": ("Cyrillic",),
  "sr": ("Cyrillic",),
  "sv": ("Latin",),
  "ta": ("Tamil",),
  "te": ("Telugu",),
  "th": ("Thai",),
  "tr": ("Latin",),
  "uk": ("Cyrillic",),
  "ur": ("Arabic",),
  "vi": ("Latin",),
  "zh": ("Han", "Bopomofo"),
}

# First word of a letter's Unicode name, where it is not the script's own.
_SCRIPTS = {
  "CJK": "Han",
  "IDEOGRAPHIC": "Han",
  "KATAKANA-HIRAGANA": "Katakana",
}
_KANA = ("Hiragana", "Katakana")
_UNSPACED = {
  *("Han", "Bopomofo", *_KANA),
  *("Thai", "Lao", "Khmer", "Myanmar", "Tibetan"),
}
_ALIKE = {"Latin", "Greek", "Cyrillic", "Armenian", "Cherokee", "Coptic"}
_MIXED = "Mixed"
_INHERITED = "Inherited"
_APOSTROPHE = "Apostrophe"
_STOP = "Stop"
_STOPS = ".!?;:\n\u2026\u3002\uff01\uff1f\uff1b\uff1a\u0964\u061f\u06d4"
# Scripts that one language writes side by side.
_TOGETHER = {"Hiragana": "Han", "Katakana": "Han"}
# A sentence of so many ideographs and no kana is hardly Japanese.
_KANALESS_CHARS = 8


class Word(NamedTuple):
  """A word and its script, or _MIXED; a letter of an unspaced script."""

  script: str
  text: str


def consistency(
  question: Question, response: Response, *, identifier: str = "lingua"
) -> Reward:
  """Share of the words of the thoughts that are in the wanted language.

    Num(words of the language) / Num(words)

  DeepSeek-R1 (arXiv:2501.12948), the language consistency reward of its
  first RL stage; how words are counted is our choice, see this module. Cut
  off thoughts are judged like others.

  Args:
    question: Its language is the wanted one; of "pt-BR", "pt" counts.
    response: Its thoughts are judged.
    identifier: "lingua" tells languages of one script apart; "script" takes
      them for one, and needs nothing installed.

  Returns:
    0..1; 0.5 for thoughts without words, 0 without thoughts.

  Raises:
    ValueError: If the question's language is not in LANGUAGES, or the
      identifier or finish reason unknown.
    ModuleNotFoundError: If lingua is needed and not installed.
  """
  code = question.language.replace("_", "-").split("-")[0].lower()
  if code not in LANGUAGES:
    known = ", ".join(LANGUAGES)
    raise ValueError(
      f"question {question.id!r}: language is {question.language!r}. "
      f"Known: {known}."
    )
  if identifier not in ("lingua", "script"):
    raise ValueError(
      f"language got identifier={identifier!r}. Known: lingua, script."
    )
  cut = records.cut_off(response)
  text = extract.thoughts(response.text, response.think_prefilled)
  if text is None or extract.is_blank(text):
    return Reward(0.0, "no thoughts")
  counts = languages(text, code, identifier)
  words = counts.total()
  if not words:
    return Reward(0.5, "no words")
  wanted = counts.pop(code, 0)
  reason = f"{wanted} of {words} words are {code}"
  if counts:
    reason += "; " + ", ".join(f"{n} {x}" for x, n in counts.most_common(4))
  if cut:
    reason += f"; {cut}"
  return Reward(wanted / words, reason)


def languages(text: str, code: str, identifier: str) -> Counter[str]:
  """Number of words in the language `code` and in every other.

  A word that is certainly not in it counts under its script's name.
  """
  counts = Counter()
  shared = [[]]  # Words of a script that the language shares, by sentence.
  wanted = LANGUAGES[code]
  rivals = [x for x, scripts in LANGUAGES.items() if wanted[0] in scripts]
  is_shared = (
    identifier == "lingua" and len(rivals) > 1 and wanted[0] not in _UNSPACED
  )
  for words in sentences(text):
    scripts = Counter(word.script for word in words)
    if is_shared:
      shared.append([w.text for w in words if w.script == wanted[0]])
      del scripts[wanted[0]]
    if "Han" in wanted:
      counts.update(_chinese_or_japanese(scripts, code))
    for script, n in scripts.items():
      counts[code if script in wanted else script] += n
  if any(shared):
    counts.update(language_id.labels(shared, rivals, code))
  return +counts


def _chinese_or_japanese(scripts: Counter[str], wanted: str) -> Counter[str]:
  """Takes the ideographs and kana of a sentence out of its counts."""
  kana = sum(scripts.pop(script, 0) for script in _KANA)
  han = scripts.pop("Han", 0)
  if not kana and han < _KANALESS_CHARS:
    return Counter({wanted: han})
  if 10 * kana < han:  # A borrowed sign in Chinese.
    return Counter(zh=han, ja=kana)
  return Counter(ja=han + kana)


def is_mixed(text: str) -> bool:
  """Whether the text has words of scripts that no language mixes.

  It goes by scripts alone, so English and French do not mix by it; that is
  cheap enough for a metric of every response.
  """
  return len({_TOGETHER.get(s, s) for s in scripts(text)} - {_MIXED}) > 1


def scripts(text: str) -> Counter[str]:
  """Number of words of each Unicode script, by its English name."""
  return Counter(word.script for words in sentences(text) for word in words)


def sentences(text: str) -> list[list[Word]]:
  """The words of the text's prose, sentence by sentence."""
  found, words = [], []
  run: list[str] = []  # Letters, with the apostrophes between them.
  kinds: list[str] = []  # The script of each letter.
  for char in prose.prose(text) + "\n":
    kind = _kind(char)
    if kind == _INHERITED:
      if run:
        run.append(char)
      continue
    if kind == _APOSTROPHE and run:
      run.append("'")
      continue
    if kinds and (kind != kinds[-1] and not {kind, kinds[-1]} <= _ALIKE):
      words += _words(run, kinds)
      run, kinds = [], []
    if kind == _STOP:
      if words:
        found.append(words)
        words = []
    elif kind in _UNSPACED:
      words.append(Word(kind, char))
    elif kind is not None and kind != _APOSTROPHE:
      run.append(char)
      kinds.append(kind)
  return found


def _words(run: list[str], kinds: list[str]) -> list[Word]:
  """The word that a run of letters is, if it is one."""
  if len(kinds) < 2:
    return []
  script = kinds[0]
  if any(kind != script for kind in kinds):
    if set(kinds) == {"Latin", "Greek"} and len(kinds) < 5:
      return []  # Such as sin next to alpha.
    script = _MIXED
  return [Word(script, "".join(run).rstrip("'"))]


@functools.lru_cache(maxsize=1 << 16)
def _kind(char: str) -> str | None:
  """The script of a letter; what else it does to words, or None."""
  if char in _STOPS:
    return _STOP
  if char in "'\u2019\u02bc":
    return _APOSTROPHE
  category = unicodedata.category(char)
  if category[0] == "M" or category == "Cf":
    return _INHERITED
  if category[0] != "L":
    return None
  how = unicodedata.decomposition(char).partition(">")[0]
  if how in ("<font", "<super", "<sub", "<circle"):
    return None  # A sign of formulas.
  if how.startswith("<"):
    return _kind(unicodedata.normalize("NFKC", char)[0])
  first = unicodedata.name(char, "").split(" ", 1)[0]
  if first == "MODIFIER":
    return _INHERITED
  return _SCRIPTS.get(first, first.capitalize()) or None
