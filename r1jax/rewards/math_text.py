"""Text of an answer to plain text and to tokens of a formula."""

import re
import unicodedata
from typing import NamedTuple

from r1jax.rewards import math_tables as tables

MAX_CHARS = 2000  # Of an answer; a longer one is wrong.
MAX_DIGITS = 1500  # Of a number; a longer one is wrong.


class NotParsed(ValueError):
  """Why a text is no formula; one line for a reader."""


class Token(NamedTuple):
  """A piece of a formula.

  Attributes:
    kind: "num" (digits and a point), "base" (digits_base), "rep" (repeating
      decimal), "sym" (a letter or its name), "word", "fn" (a function),
      "cmd" (another LaTeX command), "begin", "end" (an environment) or
      "op" (anything else).
    text: What stands there.
    blank: Whether white space stands before it.
  """

  kind: str
  text: str
  blank: bool = False


_STYLE = re.compile(
  r"\\(?:left|right|middle|[bB]igg?[lrm]?)\s*\."
  r"|\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle"
  r"|scriptscriptstyle|limits|nolimits|rm|bf|it|sf|tt|cal|large|Large|huge"
  r"|small|normalsize|boldmath|centering|noindent|mathstrut|strut)"
  r"(?![a-zA-Z])\s*"
)
_SPACE = re.compile(
  r"\\(?:quad|qquad|enspace|thinspace|space|nobreakspace|hfill|newline)"
  r"(?![a-zA-Z])|(?<!\\)\\[,;:> ]|~|\\[hv]space\*?\{[^{}]*\}|(?<!\\)\\(?=\s)"
)
_NEGATIVE_SPACE = re.compile(r"\\!|\\negthinspace(?![a-zA-Z])")
_GROUPED = re.compile(r"(?<![0-9.])[1-9][0-9]{0,2}(?:\\,[0-9]{3})+(?![0-9])")
_BRACED_COMMA = re.compile(r"(?<=[0-9])\{,\}\s*(?=[0-9]{3}(?![0-9]))")
_TIMES_TEN = re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10\s*(?:\^|\*\*))")
_SCRIPTS = "".join(tables.SUPERSCRIPTS), "".join(tables.SUBSCRIPTS)
_SUPERSCRIPT = re.compile(f"[{re.escape(_SCRIPTS[0])}]+")
_SUBSCRIPT = re.compile(f"[{re.escape(_SCRIPTS[1])}]+")
_OVERLINED = re.compile("((?:[0-9]\u0305)+)")
_CHARACTERS = str.maketrans(
  tables.CHARACTERS
  | {char: f"\\{name} " for char, name in tables.GREEK.items()}
  | {c: rf"\frac{{{a}}}{{{b}}}" for c, (a, b) in tables.FRACTIONS.items()}
)
_MARKDOWN = (("***", "***"), ("**", "**"), ("__", "__"), ("`", "`"))
_OUTER = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_END_MARKS = ".,;:?"


def cleaned(text: str) -> str:
  """The text without styling, in the characters that tokens are made of.

  White space is collapsed, math delimiters and the styles of Markdown and
  TeX are dropped, characters become their LaTeX names, and thousands
  separators that cannot be anything else ({,} and \\, and ,\\!) vanish.
  """
  text = _OVERLINED.sub(
    lambda m: rf"\overline{{{m[1].replace(chr(0x305), '')}}}", text
  )
  text = _SUPERSCRIPT.sub(
    lambda m: f"^{{{''.join(tables.SUPERSCRIPTS[c] for c in m[0])}}}", text
  )
  text = _SUBSCRIPT.sub(
    lambda m: f"_{{{''.join(tables.SUBSCRIPTS[c] for c in m[0])}}}", text
  )
  text = text.translate(_CHARACTERS)
  if not text.isascii():
    text = "".join(_plain_char(c) for c in text)
  text = _undelimited(text.strip())
  text = re.sub(r"^~(?=\s*[-+$]?[0-9.])", r"\\approx ", text)
  text = _STYLE.sub("", text)
  text = re.sub(r",\s*\\!\s*", "{,}", text)
  text = _NEGATIVE_SPACE.sub("", text)
  text = _GROUPED.sub(lambda m: m[0].replace(r"\,", ""), text)
  text = _BRACED_COMMA.sub("", text)
  text = _SPACE.sub(" ", text)
  text = _TIMES_TEN.sub(r"\\times ", text)
  return _without_end_marks(" ".join(text.split()))


def _plain_char(char: str) -> str:
  if char.isascii():
    return char
  category = unicodedata.category(char)
  if category == "Nd":
    return str(unicodedata.digit(char))
  if category in ("Cf", "Cc", "Mn"):
    return char if category == "Mn" else ""
  return unicodedata.normalize("NFKC", char)


def _undelimited(text: str) -> str:
  """Without math delimiters and Markdown's styles."""
  before = None
  while text != before:
    before = text
    text = _without_end_marks(text.strip())
    for opening, closing in _MARKDOWN + _OUTER:
      size = len(opening) + len(closing)
      if (
        len(text) > size
        and text.startswith(opening)
        and text.endswith(closing)
        and not text.endswith("\\" + closing)
      ):
        text = text[len(opening) : -len(closing)].strip()
  text = re.sub(r"(\\\\)\s*\[[0-9.]+\s*[a-z]{2}\]", r"\1", text)
  text = re.sub(r"(?<!\\)\\[()\[\]]", " ", text)
  dollars = len(re.findall(r"(?<!\\)\$", text))
  if dollars % 2 == 0:
    text = re.sub(r"(?<!\\)\$", " ", text)
  return text.replace(r"\$", "$")


def _without_end_marks(text: str) -> str:
  while text and text[-1] in _END_MARKS and not text.endswith(("...", "\\.")):
    if text[-1] in ",;:" and text[-2:-1] == "\\":
      break
    text = text[:-1].rstrip()
  return text


_TEXT_COMMAND = re.compile(
  r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mbox|hbox|mathrm"
  r"|mathbf|mathit|mathsf|mathtt|boldsymbol|bm|pmb|operatorname\*?|emph"
  r"|underline|mathnormal|boxed|fbox)(?![a-zA-Z])"
)


def unstyled(text: str) -> str:
  """A text without commands and marks that only style it."""
  text = _TEXT_COMMAND.sub("", text)
  text = re.sub(r"(?<!\\)[{}]", "", text).replace("**", "").replace("`", "")
  return " ".join(text.split())


def plain(text: str) -> str:
  """The words of a cleaned text, in one case, without styling."""
  return unstyled(text).strip(" .,;:!?\"'").casefold()


_TOKEN = re.compile(
  r"(?P<blank>\s+)"
  r"|(?P<base>[0-9A-Z]*[0-9][0-9A-Z]*_(?:[0-9]{1,2}(?![0-9])"
  r"|\{\s*[0-9]{1,2}\s*\}))"
  r"|(?P<num>[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+(?![0-9.]))?|\.[0-9]+)"
  r"|(?P<env>\\(?:begin|end)\s*\{[a-zA-Z]+\*?\})"
  r"|(?P<cmd>\\[a-zA-Z]+|\\.)"
  r"|(?P<run>[a-zA-Z]+)"
  r"|(?P<op>\.\.\.|\*\*|<=|>=|!=|/=|==|:=|=<|->|\S)",
  re.DOTALL,
)
_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9]|,[0-9])")
_IN_BRACKETS = re.compile(r"[0-9,]+\s*(?:[)\]]|\\\}|\\rangle)")
_REPEATED = re.compile(
  r"([0-9]*\.[0-9]*?)(?:([0-9]{1,6}?)\2{2,}(?:\.\.\.|\\[cl]?dots(?![a-z]))"
  r"|\\(?:overline|bar|dot)\s*\{([0-9]+)\}|\(([0-9]+)\))"
)


def tokens(text: str) -> list[Token]:
  """The tokens of a cleaned text.

  Raises:
    NotParsed: If the text or a number in it is too long.
  """
  if len(text) > 3 * MAX_CHARS:
    raise NotParsed(f"{len(text)} characters, more than {MAX_CHARS}")
  found: list[Token] = []
  _tokenise(text, False, found)
  return found


def _tokenise(text: str, in_text: bool, found: list[Token]) -> None:
  at, blank = 0, False
  while at < len(text):
    number = _number(text, at)
    if number:
      token, at = number
      found.append(token._replace(blank=blank))
      blank = False
      continue
    match = _TOKEN.match(text, at)
    at = match.end()
    if match["blank"]:
      blank = True
      continue
    if match["cmd"]:
      opened = _text_argument(text, match["cmd"], at)
      if opened:
        inner, at = opened
        _text_tokens(match["cmd"], inner, blank, found)
        blank = inner[-1:].isspace()
        continue
      found.append(_command(match["cmd"], blank))
    elif match["env"]:
      kind = "begin" if match["env"][1] == "b" else "end"
      name = match["env"].partition("{")[2].rstrip("}* ")
      found.append(Token(kind, name, blank))
    elif match["run"]:
      found += _letters(match["run"], blank, in_text, text[at : at + 1], found)
    else:
      kind = match.lastgroup
      found.append(Token(kind, match[0], blank))
    blank = False


def _number(text: str, at: int) -> tuple[Token, int] | None:
  """A number with separators or a repeating end, which is more than digits."""
  if text[at] not in "0123456789.":
    return None
  if (match := _REPEATED.match(text, at)) and match[1] != ".":
    block = match[2] or match[3] or match[4]
    return Token("rep", f"{match[1]}|{block}"), match.end()
  match = _THOUSANDS.match(text, at)
  if not match or (text[at - 1 : at] == "," if at else False):
    return None
  is_bracketed = at and text[at - 1] in "([{"
  if is_bracketed and _IN_BRACKETS.match(text, at):
    return None
  digits, end = match[0].replace(",", ""), match.end()
  if fraction := re.compile(r"\.[0-9]+").match(text, end):
    digits, end = digits + fraction[0], fraction.end()
  return Token("num", digits), end


def _text_argument(text: str, command: str, at: int) -> tuple[str, int] | None:
  """What stands in the braces after a text command, and where they end."""
  if command[1:] not in tables.TEXT_COMMANDS:
    return None
  while at < len(text) and text[at] in " *":
    at += 1
  if text[at : at + 1] != "{":
    return None
  depth = 0
  for end in range(at, len(text)):
    if text[end - 1] == "\\":
      continue
    depth += (text[end] == "{") - (text[end] == "}")
    if not depth:
      return text[at + 1 : end], end + 1
  raise NotParsed("a brace is not closed")


def _text_tokens(
  command: str, inner: str, blank: bool, found: list[Token]
) -> None:
  """Tokens of the argument of a text command."""
  if len(inner) > MAX_CHARS or command in (r"\tag", r"\label"):
    return
  size = len(found)
  is_math = command[1:] in tables.MATH_COMMANDS
  if command in (r"\mathrm", r"\operatorname") and (
    inner.strip() in ("e", "i") or inner.strip() in tables.FUNCTIONS
  ):
    is_math = True
  if command == r"\mathrm" and inner.count("{") > 20:
    raise NotParsed("braces nested too deep")
  if inner.count("\\") > 40:
    raise NotParsed("too many commands in a text")
  _tokenise(inner, not is_math, found)
  if len(found) > size:
    first = found[size]
    found[size] = first._replace(blank=blank or first.blank)


_COMMANDS = {
  r"\times": "*", r"\cdot": "*", r"\ast": "*", r"\div": "/", r"\le": "<=",
  r"\leq": "<=", r"\leqslant": "<=", r"\ge": ">=", r"\geq": ">=",
  r"\geqslant": ">=", r"\lt": "<", r"\gt": ">", r"\ne": "!=", r"\neq": "!=",
  r"\lvert": "|", r"\rvert": "|", r"\vert": "|", r"\mid": "|", r"\%": "%",
  r"\lbrack": "[", r"\rbrack": "]", r"\lbrace": r"\{", r"\rbrace": r"\}",
  r"\lparen": "(", r"\rparen": ")", r"\{": r"\{", r"\}": r"\}",
  r"\dots": "...", r"\ldots": "...", r"\cdots": "...", r"\&": "and",
  r"\land": "and", r"\wedge": "and", r"\lor": "or", r"\vee": "or",
  r"\colon": ":", r"\coloneqq": "=", r"\pounds": "gbp", r"\euro": "euro",
  r"\yen": "yen", r"\rupee": "rupee", r"\prime": "'", r"\slash": "/",
  r"\sim": r"\approx", r"\simeq": r"\approx", r"\cong": r"\approx",
  r"\approxeq": r"\approx", r"\doteq": r"\approx", r"\varnothing": r"\emptyset",
  r"\backslash": r"\setminus", r"\degree": r"\circ",
}  # fmt: skip
_WORDS = frozenset(("and", "or", "gbp", "euro", "yen", "rupee"))
_RELATIONS = {"==": "=", ":=": "=", "/=": "!=", "=<": "<="}


def _command(command: str, blank: bool) -> Token:
  name = command[1:]
  text = _COMMANDS.get(command, command)
  if text in _WORDS:
    return Token("word", text, True)
  if text != command or command in (r"\{", r"\}"):
    return Token(
      "op" if text[0] != "\\" or text in (r"\{", r"\}") else "cmd", text, blank
    )
  if name in tables.FUNCTIONS and name != "sqrt":
    return Token("fn", tables.FUNCTIONS[name], blank)
  if name == "pi":
    return Token("sym", "pi", blank)
  if name in tables.GREEK_NAMES:
    return Token("sym", name.removeprefix("var"), blank)
  return Token("cmd", command, blank)


def _letters(
  run: str, blank: bool, in_text: bool, after: str, found: list[Token]
) -> list[Token]:
  """Tokens of a run of letters: a word, a name, a function or factors."""
  low = run.lower()
  if low in ("and", "or", "equals"):
    return [Token("word", low, blank)]
  if run in tables.FUNCTIONS and not (in_text and run in tables.UNITS):
    is_unit = run in tables.UNITS and after != "("
    if not is_unit:
      return [Token("fn", tables.FUNCTIONS[run], blank)]
  if in_text:
    return [Token("word", run, blank)]
  is_ordinal = low in ("st", "nd", "rd", "th") and not blank and found
  if is_ordinal and found[-1].kind == "num" and after not in tuple("^_({"):
    return [Token("word", low, blank)]
  if len(run) == 1:
    return [Token("sym", run, blank)]
  if low in ("infinity", "inf", "infty", "oo"):
    return [Token("cmd", r"\infty", blank)]
  if run in tables.GREEK_NAMES:
    return [Token("sym", run.removeprefix("var"), blank)]
  is_after = bool(found) and (
    found[-1].kind in ("num", "rep", "word") or found[-1].text in ")}]/%$"
  )
  if is_after and run in tables.UNITS:
    return [Token("word", run, blank)]
  for size in range(min(7, len(run) - 1), 1, -1):
    head, tail = run[:size], run[size:]
    if run[-size:] in tables.FUNCTIONS and after in "({\\" and after:
      return [
        *_letters(run[:-size], blank, False, "", found),
        Token("fn", tables.FUNCTIONS[run[-size:]]),
      ]
    if len(tail) <= 2 and (head in tables.FUNCTIONS or head == "pi"):
      kind = "sym" if head == "pi" else "fn"
      name = tables.FUNCTIONS.get(head, head)
      if kind == "sym" or head not in ("max", "min", "abs"):
        return [Token(kind, name, blank), *(Token("sym", c) for c in tail)]
  is_word = len(run) > 3 or (
    len(run) == 3 and (blank or not found) and set(low) & set("eiou")
  )
  if is_word or low in ("no", "if", "is", "by", "to", "on", "of", "in"):
    return [Token("word", run, blank)]
  first, *rest = run
  return [Token("sym", first, blank), *(Token("sym", c) for c in rest)]
