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
* A data set may say where its answers stand instead (`answer_format`, a
  name of ANSWER_FORMATS): only in the tags, only in a box, the last number
  or the last line of the answer. One statement counts, the last.
* Tags are case sensitive. What looks like a tag but is not one of the
  four is text.
* Blank is what shows nothing: white space, control and format characters,
  lone marks, and the letters and symbols that Unicode draws empty.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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


def graded(
  text: str, think_prefilled: bool, meta: Mapping[str, Any]
) -> Answer | None:
  """The answer of a response where its question's meta says it stands.

  Args:
    text: A response without its prompt.
    think_prefilled: As of `answer`.
    meta: `answer_format` is a name of ANSWER_FORMATS; without one it is
      "stated", the answer as `answer` finds it.
  """
  given = answer(text, think_prefilled)
  name = meta.get("answer_format", "stated")
  return None if given is None else ANSWER_FORMATS[name](given)


def last_number(given: Answer) -> Answer | None:
  """The last number in an answer: digits, with a sign, a point, a slash.

  Commas before three digits are dropped. A minus sign that follows a digit,
  a letter or a bracket is an operator, and no part of the number.
  """
  numbers = _NUMBER.findall(given.text.replace("\u2212", "-"))
  return Answer(numbers[-1].replace(",", ""), True) if numbers else None


def _last_line(given: Answer) -> Answer | None:
  lines = [x for x in given.text.splitlines() if not is_blank(x)]
  return Answer(lines[-1].strip(), True)


def _last_box(given: Answer) -> Answer | None:
  found = boxed(given.text)
  if found is None or is_blank(found):
    return None
  return Answer(found.strip(), True)


_NUMBER = re.compile(
  r"(?:(?<![\w)\]}])-)?(?<![\w.])[0-9]+(?:,[0-9]{3}(?![0-9]))*"
  r"(?:\.[0-9]+)?(?:/[0-9]+)?"
)
# Name to what is left of an answer, as a statement of its own.
ANSWER_FORMATS: dict[str, Callable[[Answer], Answer | None]] = {
  "stated": lambda given: given,
  "tags": lambda given: given if given.is_tagged else None,
  "boxed": _last_box,
  "last_line": _last_line,
  "last_number": last_number,
}


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
