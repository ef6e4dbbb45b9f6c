"""Formulas: what stands in brackets, bars and environments."""

from r1jax.rewards import math_atoms, math_parse
from r1jax.rewards.math_nodes import EMPTY, Node, Tokens, accept, expect, peek
from r1jax.rewards.math_text import NotParsed

MAX_CELLS = 400
PAIRS = {"|": "|", r"\|": r"\|", r"\lfloor": r"\rfloor",
          r"\lceil": r"\rceil"}  # fmt: skip
_PAIR_NAMES = {"|": "abs", r"\|": "norm", r"\lfloor": "floor",
               r"\lceil": "ceil"}  # fmt: skip
_MATRICES = ("matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix",
             "array")  # fmt: skip


def bracketed(opening: str, left: Tokens, depth: int) -> Node:
  """What stands after an opening bracket."""
  if opening in PAIRS:
    return paired(opening, left, depth)
  if opening == "{":
    if accept(left, "}"):
      return EMPTY
    return math_atoms.braced(left, depth)
  if opening == r"\{":
    if accept(left, r"\}"):
      return EMPTY
    return ("set", *items_until(left, (r"\}",), depth)[0])
  if opening not in ("(", "["):
    raise NotParsed(f"{opening[:20]!r} where a number should be")
  items, closing = items_until(left, (")", "]"), depth)
  if len(items) == 1:
    if opening == "(" and closing == ")":
      return items[0]
    if (opening, closing) == ("[", "]"):
      return ("row", *items)
    raise NotParsed("brackets that do not match")
  if (opening, closing) == ("(", ")"):
    return ("tuple", *items)
  if len(items) == 2:
    return ("range", opening, closing, *items)
  if (opening, closing) == ("[", "]"):
    return ("tuple", *items)
  raise NotParsed("brackets that do not match")


def items_until(
  left: Tokens, closers: tuple[str, ...], depth: int
) -> tuple[tuple[Node, ...], str]:
  """What commas part, up to a closing bracket, and that bracket."""
  node = math_parse.members(left, depth + 1)
  closing = expect(left, *closers).text
  return (node[2:] if node[0] == "list" else (node,)), closing


def paired(opening: str, left: Tokens, depth: int) -> Node:
  """What stands between bars and the like, its bar at the front consumed."""
  node = math_parse.total(left, depth + 1)
  expect(left, PAIRS[opening])
  return ("fn", _PAIR_NAMES[opening], node)


def environment(name: str, left: Tokens, depth: int) -> Node:
  """A matrix, or the lines of a system."""
  is_matrix = name in _MATRICES
  if not is_matrix and name not in ("cases", "aligned", "align", "gathered"):
    raise NotParsed(f"the environment {name[:20]}")
  if name == "array" and accept(left, "{"):
    while left and left.popleft().text != "}":
      pass
  rows: list[list[Node]] = [[]]
  count = 0
  while not (peek(left).kind == "end" and peek(left).text == name):
    count += 1
    if count > MAX_CELLS:
      raise NotParsed(f"more than {MAX_CELLS} cells")
    rows[-1].append(math_parse.relation(left, depth + 1))
    if accept(left, "\\\\"):
      rows.append([])
    elif not accept(left, "&") and not is_matrix:
      accept(left, ",")
    if not left:
      raise NotParsed("an environment that does not end")
  left.popleft()
  rows = [row for row in rows if row]
  if is_matrix:
    if not rows or len({len(row) for row in rows}) != 1:
      raise NotParsed("rows of different lengths")
    return ("matrix", *map(tuple, rows))
  if any(len(row) != 1 for row in rows):
    raise NotParsed("a system of more than one column")
  lines = [row[0] for row in rows]
  return lines[0] if len(lines) == 1 else ("list", "and", *lines)
