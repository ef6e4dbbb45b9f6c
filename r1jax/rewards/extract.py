"""Where thoughts and answer stand in a response.

The policy, the same for every reward:

* The answer stands after the last </think>. Thoughts that are opened and
  not closed mean that there is no answer.
* There, the last <answer> part is the answer. One that is not closed is
  no answer, like every other thing that was cut off.
* Without an <answer> part, all text after the thoughts is the answer; a
  verifier may be stricter about it.
* In an answer, `final` looks for the statement that is graded: the last
  well-formed \\boxed{} or \\fbox{} (or \\boxed with one token); else, in an
  <answer> part, the whole of it; else the last explicit statement ("the
  answer is", "Answer:", "Final Answer:", "####", "the correct option
  is"). Numbers in passing are no answer.
* Tags are case sensitive. What looks like a tag but is not one of the
  four is text.
* Blank is what shows nothing: white space, control and format characters,
  lone marks, and the letters and symbols that Unicode draws empty.
"""

import re
import unicodedata
from typing import NamedTuple

THINK, THINK_END = "<think>", "</think>"
ANSWER, ANSWER_END = "<answer>", "</answer>"
TAGS = (THINK, THINK_END, ANSWER, ANSWER_END)

# Letters and symbols without ink: Hangul fillers and the Braille blank.
_FILLERS = "\u115f\u1160\u3164\uffa0\u2800"


class Answer(NamedTuple):
  """The answer of a response.

  Attributes:
    text: Without outer white space; not blank.
    is_tagged: Whether it is an <answer> part, rather than all that follows
      the thoughts.
  """

  text: str
  is_tagged: bool


def answer(text: str, think_prefilled: bool = False) -> Answer | None:
  """The answer of a response.

  Args:
    text: A response without its prompt.
    think_prefilled: Whether the prompt ended with an opening <think>.

  Returns:
    None where the policy above sees no answer, or only a blank one.
  """
  _, closed, rest = text.rpartition(THINK_END)
  if THINK in rest or (think_prefilled and not closed):
    return None
  start = rest.rfind(ANSWER)
  is_tagged = start >= 0
  if is_tagged:
    start += len(ANSWER)
    end = rest.find(ANSWER_END, start)
    if end < 0:
      return None
    rest = rest[start:end]
  return None if is_blank(rest) else Answer(rest.strip(), is_tagged)


def final(given: Answer) -> str | None:
  """The statement of an answer that is graded, outer white space dropped.

  Returns:
    None where the policy above sees none, or only a blank one.
  """
  found = boxed(given.text)
  if found is None and given.is_tagged:
    found = given.text
    whole = _STATEMENT.search(found)
    if whole and _is_lead(found[: whole.start()]) and "\n" not in found.strip():
      found = _stated(found, whole) or found
  elif found is None:
    matches = list(_STATEMENT.finditer(given.text))
    found = _stated(given.text, matches[-1]) if matches else None
  return None if found is None or is_blank(found) else found.strip()


def boxed(text: str) -> str | None:
  """What stands in the last well-formed box; None if there is none."""
  found, opened = None, []  # Where braces opened; None for those of no box.
  for match in _BRACES.finditer(text):
    if match["box"]:
      if match["brace"]:
        opened.append(match.end())
      elif token := _TOKEN.match(text, match.end()):
        found = token[0]
    elif match[0] == "{":
      opened.append(None)
    elif match[0] == "}" and opened:
      start = opened.pop()
      if start is not None:  # Those before it are in it, or end first.
        found = text[start : match.start()]
  return found


_BRACES = re.compile(
  r"(?P<box>\\(?:boxed|fbox)(?![a-zA-Z])\s*(?P<brace>\{)?)"
  r"|\\[{}]|\\\\(?!boxed|fbox)|[{}]"
)
_TOKEN = re.compile(
  r"-?[0-9]+(?:\.[0-9]+)?(?![0-9a-zA-Z])|[a-zA-Z](?![a-zA-Z'])|\\pi\b"
)
_STATEMENT = re.compile(
  r"(?:\bfinal\s+answer|\banswer|\bcorrect\s+(?:option|choice))[*_]*\s*"
  r"(?:\bis\b\s*:?|:|=)[*_]*"
  r"|^\s*#{1,4}\s*final\s+answer\s*:?[*_ ]*$"
  r"|^\s*[*_]{2}final\s+answer\s*:?[*_]{2}\s*:?"
  r"|####(?!#)",
  re.IGNORECASE | re.MULTILINE,
)
# What may stand before a statement that is the whole of an <answer> part.
_LEAD = re.compile(
  r"[\s*_]*(?:(?:so|thus|therefore|hence|then)\b[\s,]*)?"
  r"(?:(?:the|my|our|a|this)\s+)?(?:(?:correct|right|final|exact)\s+)?[\s*_]*",
  re.IGNORECASE,
)
_LAST_WORDS = re.compile(r"^[^=<>0-9]*\b(?:is|are|equals|be)\b\s*:?\s*(?=\S)")
_MAX_STATEMENT_CHARS = 2_000


def _is_lead(text: str) -> bool:
  return len(text) < 60 and bool(_LEAD.fullmatch(text))


def _stated(text: str, match: re.Match) -> str | None:
  """What a statement says, up to the end of its sentence or line."""
  rest = text[match.end() : match.end() + _MAX_STATEMENT_CHARS]
  line = rest.lstrip(" \t*_:").lstrip("\n").split("\n", 1)[0]
  line = re.split(r"(?<=[^A-Z.])\.\s+(?=[A-Z])|(?<=[\])}$])\.\s", line)[0]
  line = _LAST_WORDS.sub("", line.strip())
  return line.strip(" \t*_") or None


def thoughts(text: str, think_prefilled: bool = False) -> str | None:
  """The chain of thought of a response, closed or cut off.

  From the first <think>, or from the start where the prompt opened it, to
  the last </think>, or to the end where there is none.

  Returns:
    None if the response has no thoughts; it may be blank.
  """
  if think_prefilled:
    start = 0
  else:
    start = text.find(THINK)
    if start < 0:
      return None
    start += len(THINK)
  end = text.rfind(THINK_END, start)
  return text[start:] if end < 0 else text[start:end]


def is_blank(text: str) -> bool:
  """Whether the text shows nothing."""
  return not any(map(_is_visible, text))


def _is_visible(char: str) -> bool:
  # Letters, numbers, punctuation, symbols.
  return unicodedata.category(char)[0] in "LNPS" and char not in _FILLERS
