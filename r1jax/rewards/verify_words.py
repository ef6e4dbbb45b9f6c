"""Verifiers "choice" and "logic": letters and words, matched exactly."""

import re
import unicodedata

from r1jax.records import Question, Reward
from r1jax.rewards import extract, math_text

LETTERS = "ABCDEFGH"
_CHOICE = re.compile(
  r"(?:(?:the\s+)?(?:(?:correct|final)\s+)?(?:option|choice|answer)"
  r"(?:\s+is\b)?\s*:?\s*)?"
  r"[(\[{]?\s*([A-Ha-h])\s*([)\]}]?\s*[.:,)=-]?)\s*(.*)",
  re.IGNORECASE | re.DOTALL,
)
# A second letter that stands for an option.
_OTHER = re.compile(
  r"(?:^|\b(?:and|or|option|choice)\b|[,;/&(])\s*[(]?([A-H])[)]?"
  r"(?=\s*(?:$|[,;/&).:]|\b(?:and|or)\b))"
  r"|(?:^|\s)[(\[]?([A-H])(?:[)\]:]|\.\s+\w)"
)
# Words with which nothing but options is said.
_JOINING_LINE = """
and or not maybe possibly perhaps option choice both also if either lor land
vee wedge then else
"""
_JOINING = frozenset(_JOINING_LINE.split())


def verify_choice(question: Question, answer: extract.Answer) -> Reward:
  """1 if the answer names the gold option, and no other.

  Args:
    question: Its answer is a letter A to H, for 4 to 8 options.
    answer: A letter, however styled, with the option's text or without.

  Raises:
    ValueError: If the gold is no such letter.
  """
  check_choice(question)
  stated = extract.final(answer)
  if stated is None:
    return Reward(0.0, "no final answer is stated")
  return same_choice(question.answer.strip(), stated)


def check_choice(question: Question) -> None:
  """Raises ValueError unless the gold is a letter A to H."""
  gold = question.answer
  if not isinstance(gold, str) or not is_choice(gold.strip()):
    raise ValueError(
      f"answer is {gold!r:.200}. The verifier choice needs one letter, "
      f"{LETTERS[0]} to {LETTERS[-1]}."
    )


def is_choice(gold: str) -> bool:
  """Whether a gold is a letter that stands for an option."""
  return len(gold) == 1 and gold in LETTERS


def choice_letter(gold: str) -> str | None:
  """The letter of a gold that is an option, styled or in brackets."""
  match = re.fullmatch(
    r"\(?\s*([A-H])\s*[).]?", math_text.unstyled(math_text.cleaned(gold))
  )
  return match[1] if match else None


def same_choice(gold: str, stated: str) -> Reward:
  """1 if a statement names the gold option, and no other."""
  if len(stated) > math_text.MAX_CHARS:
    return Reward(0.0, f"{len(stated)} characters are no option")
  text = math_text.unstyled(math_text.cleaned(stated))
  match = _CHOICE.fullmatch(text)
  if match is None:
    return Reward(0.0, f"{text[:60]!r} names no option")
  letter, mark, rest = match[1], match[2].strip(), match[3].strip()
  is_word = letter.islower() or (letter == "A" and rest[:1].islower())
  touches = rest[:1].isalnum() and match.end(1) == match.start(3)
  if rest and not mark and (is_word or touches):
    return Reward(0.0, f"{text[:60]!r} names no option")
  if _others(mark + rest if mark[-1:] in ",;" else rest) - {letter.upper()}:
    return Reward(0.0, "names more than one option")
  if letter.upper() != gold:
    return Reward(0.0, f"option {letter.upper()}, not {gold}")
  return Reward(1.0, f"option {gold}")


def _others(rest: str) -> set[str]:
  """The options that what follows an option names."""
  found = {letter for pair in _OTHER.findall(rest) for letter in pair if letter}
  words = re.findall(r"[^\W\d_]+", rest)
  if all(word in LETTERS or word.lower() in _JOINING for word in words):
    found |= {word for word in words if word in LETTERS}
  return found


def verify_logic(question: Question, answer: extract.Answer) -> Reward:
  """1 if the answer is the gold text after both were normalised.

  Case, styling, runs of white space, blanks beside punctuation, quotation
  marks and punctuation at the ends do not matter; nothing else is ignored.
  In a list of `key: value` or `key = value` the order does not matter.

  Raises:
    ValueError: If the gold is blank or no text or number.
  """
  check_logic(question)
  stated = extract.final(answer)
  if stated is None:
    return Reward(0.0, "no final answer is stated")
  gold, text = _normal(str(question.answer)), _normal(stated)
  if gold and gold == text:
    return Reward(1.0, "same text")
  pairs = _pairs(gold)
  if pairs and pairs == _pairs(text):
    return Reward(1.0, "same pairs")
  return Reward(0.0, f"{text[:60]!r} is not {gold[:60]!r}")


def check_logic(question: Question) -> None:
  """Raises ValueError unless the gold is a number or a visible text."""
  gold = question.answer
  if isinstance(gold, bool | str | int | float) and _normal(str(gold)):
    return
  raise ValueError(
    f"answer is {gold!r:.200}. "
    "The verifier logic needs a number or a text that is not blank."
  )


def _normal(text: str) -> str:
  text = unicodedata.normalize("NFKC", text)
  text = text.replace("\u2019", "'").replace("\u2018", "'")
  text = text.replace("\u201c", '"').replace("\u201d", '"')
  text = "".join(c for c in text if unicodedata.category(c) != "Cf")
  text = math_text.unstyled(text).casefold()
  text = " ".join(text.split())
  text = re.sub(r"\s*([,;:=()\[\]{}|])\s*", r"\1", text)
  return text.strip(" .,;:!?\"'`$*")


def _pairs(text: str) -> dict[str, str] | None:
  """The values by key of a text that is a list of such pairs only."""
  found = {}
  for part in re.split(r"[,;\n]", text.strip("{}[]()")):
    key, mark, value = (*re.split("([:=])", part, maxsplit=1), "", "")[:3]
    if not mark or not key or not value or key in found:
      return None
    found[key.strip("\"'")] = value.strip("\"'")
  return found if len(found) > 1 else None
