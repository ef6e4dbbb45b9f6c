"""Formulas: products, powers and what they are made of.

The lower half of the grammar; `math_parse` is the upper one and says what
holds for both.
"""

from fractions import Fraction

from r1jax.rewards import math_brackets, math_parse, math_units
from r1jax.rewards import math_tables as tables
from r1jax.rewards.math_nodes import (
  EMPTY,
  MAX_DEPTH,
  Node,
  Tokens,
  accept,
  expect,
  in_base,
  negated,
  number,
  peek,
  repeating,
  replaced,
)
from r1jax.rewards.math_text import NotParsed, Token

_FRACS = (r"\frac", r"\dfrac", r"\tfrac", r"\cfrac", r"\nicefrac", r"\sfrac")
_BINOMIALS = (r"\binom", r"\dbinom", r"\tbinom")
_ACCENTS = (
  r"\vec", r"\hat", r"\bar", r"\overline", r"\tilde", r"\mathcal",
  r"\mathfrak", r"\overrightarrow", r"\widehat", r"\mathscr",
)  # fmt: skip
_NAMES = (r"\ell", r"\hbar", r"\aleph", r"\Re", r"\Im", r"\nabla",
          r"\partial")  # fmt: skip
_ATOM_COMMANDS = frozenset((
  *_FRACS, *_BINOMIALS, *_ACCENTS, *_NAMES, r"\sqrt", r"\radical",
  r"\infty", r"\emptyset", r"\mathbb", r"\langle", r"\lfloor", r"\lceil",
))  # fmt: skip


def product(left: Tokens, depth: int) -> Node:
  """Factors, written with a sign between them or not, and a unit."""
  unit = _currency(left)
  node = signed_factor(left, depth)
  while True:
    if accept(left, "*"):
      node = _times(node, signed_factor(left, depth))
    elif peek(left).text == "/" and len(left) > 1 and left[1].kind != "word":
      left.popleft()
      node = ("div", node, signed_factor(left, depth))
    elif math_units.is_letter_unit(node, left):
      return math_units.quantity(node, math_units.letter_unit(left))
    elif _starts_factor(left):
      node = _times(node, _next_factor(node, left, depth))
    else:
      break
  if accept(left, "$"):
    unit = (("dollar", 1),)
  node = math_units.with_unit(node, left)
  if unit:
    node = math_units.quantity(node[1] if node[0] == "unit" else node, unit)
  return node


def _currency(left: Tokens) -> math_units.Unit:
  if accept(left, "$"):
    return (("dollar", 1),)
  if token := accept(left, "gbp", "euro", "yen", "rupee"):
    return ((token.text, 1),)
  return ()


def _times(a: Node, b: Node) -> Node:
  if b[0] == "mixed":
    return ("add", a, b[1])
  return (*a, b) if a[0] == "mul" else ("mul", a, b)


def _starts_factor(left: Tokens) -> bool:
  """Whether a factor without a sign before it comes next."""
  token = peek(left)
  if token.kind == "op":
    return token.text in ("(", "[", "{", r"\{")
  if token.kind == "cmd":
    return token.text in _ATOM_COMMANDS
  return token.kind in ("num", "rep", "base", "sym", "fn", "begin")


def _next_factor(before: Node, left: Tokens, depth: int) -> Node:
  """The next factor; ("mixed", fraction) where it ends a mixed number."""
  token = peek(left)
  is_whole = before[0] == "num" and before[1].denominator == 1
  if token.kind in ("num", "rep"):
    if not (
      is_whole
      and token.blank
      and len(left) > 2
      and left[1].text == "/"
      and left[2].kind == "num"
    ):
      raise NotParsed("two numbers side by side")
    top, _, bottom = left.popleft(), left.popleft(), left.popleft()
    node = ("div", number(top.text), number(bottom.text))
    if not _is_proper(node):
      raise NotParsed("two numbers side by side")
    return ("mixed", node)
  node = power(left, depth)
  if is_whole and token.text in _FRACS and _is_proper(node):
    return ("mixed", node)
  return node


def _is_proper(node: Node) -> bool:
  """Whether a node is a fraction of whole numbers below 1."""
  if node[0] != "div" or not node[1][0] == node[2][0] == "num":
    return False
  a, b = node[1][1], node[2][1]
  return a.denominator == b.denominator == 1 and 0 < a < b


def signed_factor(left: Tokens, depth: int) -> Node:
  """A factor with signs before it."""
  sign = 1
  for _ in range(MAX_DEPTH):
    if accept(left, "-"):
      sign = -sign
    elif not accept(left, "+"):
      node = (
        ("pm", 1, power(left, depth))
        if accept(left, r"\pm")
        else power(left, depth)
      )
      return node if sign > 0 else negated(node)
  raise NotParsed("too many signs")


def power(left: Tokens, depth: int) -> Node:
  """An atom with what stands behind it: exponent, factorial, per cent."""
  node = atom(left, depth + 1)
  for _ in range(MAX_DEPTH):
    if accept(left, "^", "**"):
      node = _raised(node, left, depth + 1)
    elif accept(left, "!"):
      if accept(left, "!"):
        raise NotParsed("a double factorial")
      node = ("fn", "factorial", node)
    elif accept(left, "%"):
      node = ("pct", node)
    elif node[0] == "sym" and accept(left, "'"):
      node = ("sym", node[1] + "'")
    else:
      return node
  raise NotParsed("too many exponents")


def _raised(base: Node, left: Tokens, depth: int) -> Node:
  if accept(left, r"\circ"):
    return ("deg", base)
  texts = [token.text for token in list(left)[:3]]
  if texts == ["{", r"\circ", "}"]:
    for _ in texts:
      left.popleft()
    return ("deg", base)
  if texts[:2] == ["{", "'"] or texts[:1] == ["'"]:
    if base[0] != "sym":
      raise NotParsed("a prime without a name")
    while accept(left, "{", "'", "}"):
      base = ("sym", base[1] + "'")
    return base
  exponent = _script(left, depth)
  if exponent[0] == "words":
    if exponent[1] in ("st", "nd", "rd", "th"):
      return base
    raise NotParsed("words in an exponent")
  return ("pow", base, exponent)


def _script(left: Tokens, depth: int) -> Node:
  """An exponent: in braces, or a sign and an atom with its own exponent."""
  if depth > MAX_DEPTH:
    raise NotParsed(f"nested deeper than {MAX_DEPTH}")
  if peek(left).text == "{":
    return argument(left, depth)
  sign = accept(left, "+", "-")
  node = atom(left, depth + 1)
  if accept(left, "^", "**"):
    node = ("pow", node, _script(left, depth + 1))
  return negated(node) if sign and sign.text == "-" else node


def argument(left: Tokens, depth: int) -> Node:
  """The argument of a command: in braces, or a single digit or atom."""
  if depth > MAX_DEPTH:
    raise NotParsed(f"nested deeper than {MAX_DEPTH}")
  token = peek(left)
  if token.kind == "num" and len(token.text) > 1:
    left[0] = Token("num", token.text[1:])
    return number(token.text[0])
  if accept(left, "{"):
    return braced(left, depth)
  return atom(left, depth + 1)


def braced(left: Tokens, depth: int) -> Node:
  """What stands after an opening brace of TeX's, with \\over."""
  node = math_parse.members(left, depth + 1)
  if accept(left, r"\over"):
    node = ("div", node, math_parse.total(left, depth + 1))
  elif accept(left, r"\choose"):
    node = ("fn", "binomial", node, math_parse.total(left, depth + 1))
  expect(left, "}")
  if node[0] == "list":
    return ("set", *node[2:])
  return node


def atom(left: Tokens, depth: int) -> Node:
  """A number, a name, a function's value or what stands in brackets."""
  if depth > MAX_DEPTH:
    raise NotParsed(f"nested deeper than {MAX_DEPTH}")
  if not left:
    raise NotParsed("it ends where a number or name should be")
  token = left.popleft()
  match token.kind:
    case "num":
      return number(token.text)
    case "rep":
      return repeating(token.text)
    case "base":
      return in_base(token.text)
    case "sym":
      return _name(token.text, left, depth)
    case "fn":
      return _function(token.text, left, depth)
    case "begin":
      return math_brackets.environment(token.text, left, depth)
    case "op":
      return math_brackets.bracketed(token.text, left, depth)
    case "cmd":
      return _command(token.text, left, depth)
    case "word" if token.text.casefold() in tables.NUMBER_WORDS:
      return ("num", Fraction(tables.NUMBER_WORDS[token.text.casefold()]))
    case "word" if token.text in ("st", "nd", "rd", "th"):
      return ("words", token.text)
  raise NotParsed(f"{token.text[:20]!r} where a number should be")


def _name(name: str, left: Tokens, depth: int) -> Node:
  """A constant or a symbol, with its subscript."""
  if accept(left, "_"):
    script = _subscript(left)
    return ("sym", f"{name}_{script}")
  if name == "pi" or name == "e" or name == "i":
    return ("const", name)
  return ("sym", name)


def _subscript(left: Tokens) -> str:
  """The text of a subscript."""
  if not accept(left, "{"):
    if not left or left[0].kind not in ("num", "sym", "word"):
      raise NotParsed("a subscript is missing")
    return left.popleft().text
  texts = []
  while left and left[0].text not in ("{", "}"):
    texts.append(left.popleft().text)
    if len(texts) > 20:
      raise NotParsed("a long subscript")
  expect(left, "}")
  return "".join(texts)


def _function(name: str, left: Tokens, depth: int) -> Node:
  """A function's value: f(x), f x, f^n x, f_b x."""
  base = exponent = None
  for _ in range(2):
    if base is None and accept(left, "_"):
      base = argument(left, depth + 1)
    if exponent is None and accept(left, "^", "**"):
      exponent = _script(left, depth + 1)
  if exponent == ("num", Fraction(-1)):
    if name not in tables.INVERSES:
      raise NotParsed(f"{name}^-1")
    name, exponent = tables.INVERSES[name], None
  inner = _function_argument(name, left, depth + 1)
  items = inner[1:] if inner[0] == "tuple" else (inner,)
  if name in ("gcd", "lcm", "max", "min"):
    if base is not None:
      raise NotParsed(f"{name} with a subscript")
    if items[0][0] == "set" and len(items) == 1:
      items = items[0][1:]
    node = ("fn", name, *items)
  elif len(items) != 1:
    if name != "log" or len(items) != 2 or base is not None:
      raise NotParsed(f"{name} of {len(items)} arguments")
    node = ("fn", "logb", items[1], items[0])
  elif base is not None:
    if name not in ("log", "lg"):
      raise NotParsed(f"{name} with a subscript")
    node = ("fn", "logb", base, inner)
  elif name in ("sqrt", "cbrt"):
    node = ("fn", "root", ("num", Fraction(2 + (name == "cbrt"))), inner)
  elif name == "exp":
    node = ("pow", ("const", "e"), inner)
  else:
    if name in tables.TRIGONOMETRIC:
      inner = _in_radians(inner)
    node = ("fn", name, inner)
  return ("pow", node, exponent) if exponent else node


def _in_radians(node: Node) -> Node:
  """The node with degrees in it turned into radians."""
  if node[0] == "deg":
    half_turn = ("div", ("const", "pi"), ("num", Fraction(180)))
    return ("mul", _in_radians(node[1]), half_turn)
  return replaced(node, _in_radians)


def _function_argument(name: str, left: Tokens, depth: int) -> Node:
  """What a function is applied to, in brackets or without."""
  if peek(left).text in ("(", "[", "{", "|", r"\lfloor", r"\lceil"):
    return atom(left, depth)
  if name in ("sqrt", "cbrt", "abs", "floor", "ceil", "gcd", "lcm"):
    return atom(left, depth)
  sign = accept(left, "-")
  node = power(left, depth)
  while _starts_factor(left) and peek(left).kind != "fn":
    if peek(left).text in ("(", "[") or peek(left).kind == "num":
      break
    node = _times(node, power(left, depth))
  while peek(left).text == "/" and node[0] in ("sym", "const", "num", "mul"):
    if len(left) < 2 or left[1].kind not in ("num", "sym"):
      break
    left.popleft()
    node = ("div", node, power(left, depth))
  return negated(node) if sign else node


def _command(command: str, left: Tokens, depth: int) -> Node:
  """What a LaTeX command with its arguments stands for."""
  if command in _FRACS:
    top = argument(left, depth + 1)
    return ("div", top, argument(left, depth + 1))
  if command in _BINOMIALS:
    top = argument(left, depth + 1)
    return ("fn", "binomial", top, argument(left, depth + 1))
  if command in (r"\sqrt", r"\radical"):
    return _radical(left, depth + 1)
  if command in math_brackets.PAIRS:
    return math_brackets.paired(command, left, depth)
  if command == r"\infty":
    return ("const", "inf")
  if command == r"\emptyset":
    return EMPTY
  if command == r"\langle":
    items = math_brackets.items_until(left, (r"\rangle",), depth)[0]
    return ("tuple", *items)
  if command == r"\mathbb":
    node = argument(left, depth + 1)
    if node[0] != "sym" or node[1] not in "RNZQC":
      raise NotParsed("an unknown set of numbers")
    return ("field", node[1])
  if command in _ACCENTS:
    node = argument(left, depth + 1)
    if node[0] not in ("sym", "const"):
      raise NotParsed(f"{command} of more than a name")
    return ("sym", f"{command[1:]} {node[1]}")
  if command in _NAMES:
    return _name(command[1:], left, depth)
  raise NotParsed(f"the command {command[:20]}")


def _radical(left: Tokens, depth: int) -> Node:
  index = ("num", Fraction(2))
  if accept(left, "["):
    index = math_parse.total(left, depth)
    expect(left, "]")
  if peek(left).text == "{":
    return ("fn", "root", index, argument(left, depth))
  return ("fn", "root", index, atom(left, depth))
