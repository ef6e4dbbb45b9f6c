"""The prose of a thought: its text without formulas, code and addresses.

What is no prose, for the language reward:

* Code: fences of ``` or ~~~ that start their line, the last one closed by
  the end; spans in backticks; indented lines that look like statements.
* Formulas: $..$, $$..$$, \\(..\\), \\[..\\], \\begin{x}..\\end{x}, and what
  stands outside of them: commands, tokens with a digit or an operator, the
  letters on both sides of an operator. A span that holds a whole sentence
  is none, so that nothing can be hidden in one.
* Addresses, paths, tags, entities, identifiers, calls, acronyms, units and
  the names of functions such as sin.

Every pass takes linear time, on hostile text too.
"""

import re

from r1jax.rewards import extract

# Letters of formulas and of code: Latin and Greek.
_LETTER = "A-Za-z\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u03ff"
_LETTER += "\u1e00-\u1fff"
_FUNCTIONS = (
  "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp "
  "lim inf sup max min mod gcd lcm det dim ker deg sgn arg "
)
_UNITS = (
  "nm mm cm dm km mg kg ml dl ms ns hz khz mhz ghz kb mb gb tb kj kw kwh mol "
  "kmh mph lb lbs oz ft yd ev kpa mpa"
)
_NAMES = frozenset((_FUNCTIONS + _UNITS).split())

# Characters that show nothing and, inside a word, would hide it.
_INVISIBLE = re.compile(
  "[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e"
  "\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]++"
)
_FENCE = re.compile(
  r"^[ \t>]*+(?:(?:[-*+]|\d{1,3}[.)])[ \t]++)?(`{3,}+|~{3,}+)([^\n]*+)",
  re.MULTILINE,
)
_TICKS = re.compile(r"`++")
_BEGIN_END = re.compile(r"\\(begin|end)\s?\{[A-Za-z]{1,20}\*?\}")
_DOLLARS = re.compile(r"(?<![\\$])\$([^$\n]{1,2000})\$(?!\$)")
_ADDRESS = re.compile(
  r"(?<![A-Za-z])(?:(?:https?|ftp|file|mailto)://|www\.)[!-;=?-~]*+"
)
_TAG = re.compile(
  r"</?[A-Za-z][\w:.-]*+(?:\s++[\w:-]++\s*+=[^<>]*+)?+\s?/?>|&#?\w{1,10};"
)
_STATEMENT = re.compile(
  r"^(?:\t| {4})[ \t]*+(?=[^\n]*(?:[=;{}()]|:[ \t]*$))(?:"
  r"[\w.\[\]]+ ?[-+*/|&%]?= ?\S|[\w.]+\(|[{}]"
  r"|(?:def|class|for|while|if|elif|else|try|return|import|from|int|print)\b"
  r"[^\n]*[:;{()])[^\n]*+$",
  re.MULTILINE,
)
_COMMAND = re.compile(r"\\[A-Za-z]+|[\\{}]")
_SENTENCE = re.compile(
  r"(?:[^\W\d_]{2,}+[ ,]++){3}[^\W\d_]{2}"
  r"|[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]{8}"
)
_TOKEN = re.compile(rf"[!-~{_LETTER}]++")
_EDGES = ".,;:!?\"'()[]*_~`-"
_PLAIN = re.compile(rf"[{_LETTER}'\-.,;:!?/()\"]++")
_IDENTIFIER = re.compile(r"\w\.[a-z]|::|\w\(.|^[./]|/[^/]*/|\w/\w*\.|/$")
_OPERATOR = (
  "(?:[ \t]*+[=+^\u00d7\u00f7\u00b7\u2264\u2265\u2260\u2248][ \t]*+| [*/] )"
)
_OPERANDS = re.compile(
  rf"(?<![{_LETTER}])[{_LETTER}]++"
  rf"(?:{_OPERATOR}[{_LETTER}]++)++"
  rf"|(?<![{_LETTER}])[{_LETTER}]++(?=[ \t]*+[:+*/-]?=)"
)
_CAMEL = re.compile("[a-z][A-Z]")
_WORD = re.compile(rf"(?<![{_LETTER}])[{_LETTER}]++")


def prose(text: str) -> str:
  """The text with a blank for whatever this module's docstring leaves out."""
  text = _INVISIBLE.sub("", text)
  for tag in extract.TAGS:
    text = text.replace(tag, " ")
  text = _without_fences(text)
  text = _STATEMENT.sub(" ", text)
  text = _without_ticks(text)
  text = _without_environments(text)
  for opening, closing in (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)")):
    text = _without_spans(text, opening, closing)
  text = _DOLLARS.sub(lambda m: _formula(m.group(1)), text)
  text = _ADDRESS.sub(" ", text)
  text = _TAG.sub(" ", text.replace("](", "] ("))
  text = _OPERANDS.sub(" ", text)
  text = _TOKEN.sub(_token, text)
  return _WORD.sub(_word, text)


def _without_fences(text: str) -> str:
  kept, at, opened = [], 0, ""
  for fence in _FENCE.finditer(text):
    marks, info = fence.groups()
    if opened:
      if not marks.startswith(opened) or info.strip():
        continue
      at, opened = fence.end(), ""
    elif "`" not in info:
      kept += [text[at : fence.start()], " \n"]
      opened = marks
  return "".join(kept if opened else [*kept, text[at:]])


def _without_ticks(text: str) -> str:
  """Without spans between two runs of as many backticks in a paragraph."""
  runs = [(m.start(), m.end()) for m in _TICKS.finditer(text)]
  partner: dict[int, int] = {}
  after: dict[int, int] = {}  # Length of a run to the next run of it.
  for i in range(len(runs) - 1, -1, -1):
    size = runs[i][1] - runs[i][0]
    if size in after:
      partner[i] = after[size]
    after[size] = i
  kept, at, i = [], 0, 0
  while i < len(runs):
    start, end = runs[i]
    closing = partner.get(i)
    if (
      closing is None or "\n\n" in text[end : min(runs[closing][0], end + 999)]
    ):
      i += 1
      continue
    kept += [text[at:start], " "]
    at = runs[closing][1]
    i = closing + 1
  return "".join([*kept, text[at:]])


def _without_environments(text: str) -> str:
  """Without \\begin{x}..\\end{x}, the outermost with all it holds."""
  kept, at, depth, start = [], 0, 0, 0
  for mark in _BEGIN_END.finditer(text):
    if mark.group(1) == "begin":
      if not depth:
        start = mark.start()
      depth += 1
    elif depth:
      depth -= 1
      if not depth:
        kept += [text[at:start], _formula(text[start : mark.start()])]
        at = mark.end()
  return _BEGIN_END.sub(" ", "".join([*kept, text[at:]]))


def _without_spans(text: str, opening: str, closing: str) -> str:
  kept, at = [], 0
  while (start := text.find(opening, at)) >= 0:
    start += len(opening)
    end = text.find(closing, start)
    if end < 0:  # An opening that nothing closes is text.
      break
    kept += [text[at : start - len(opening)], _formula(text[start:end])]
    at = end + len(closing)
  return "".join([*kept, text[at:]])


def _formula(inner: str) -> str:
  """What stands for a span: a blank, or its text if it is a sentence."""
  inner = _COMMAND.sub(" ", _BEGIN_END.sub(" ", inner))
  return f" {inner} " if _SENTENCE.search(inner) else " "


def _token(match: re.Match[str]) -> str:
  """A token of printable ASCII, Latin and Greek, if it may hold words."""
  token = match.group()
  if token.isalpha():
    return token
  core = token.strip(_EDGES)
  if _PLAIN.fullmatch(core) and not _IDENTIFIER.search(token):
    return token
  return " " * bool(core) + token[len(token.rstrip(_EDGES)) :]


def _word(match: re.Match[str]) -> str:
  word = match.group()
  is_name = word.lower() in _NAMES or (word.isupper() and len(word) <= 4)
  if is_name or _CAMEL.search(word):
    return " "
  return word
