"""Where thoughts and answer stand in a response.

The policy, the same for every reward:

* The answer stands after the last </think>. Thoughts that are opened and
  not closed mean that there is no answer.
* There, the last <answer> part is the answer. One that is not closed is
  no answer, like every other thing that was cut off.
* Without an <answer> part, all text after the thoughts is the answer; a
  verifier may be stricter about it.
* Tags are case sensitive. What looks like a tag but is not one of the
  four is text.
* Blank is what shows nothing: white space, control and format characters,
  lone marks, and the letters and symbols that Unicode draws empty.
"""

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
