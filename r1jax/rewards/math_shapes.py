"""What an answer is: a value, a name and its value, an equation, a system.

`shape` turns a tree of `math_parse` into one of the same nodes and these:

  ("named", name, shape)   x = 5, f(x) = E, x in S
  ("system", (name, shape), ...)   x = 5, y = 4
  ("equation", a, b)   a = b, no side a name
  ("order", operators, *nodes)   a chain of inequalities
  ("all" | "any", *shapes)   several inequalities: all hold, any holds
  ("congruent", a, b, m)   a = b (mod m)
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction

from r1jax.rewards import math_exact
from r1jax.rewards.math_nodes import Node, children, has, replaced, symbols
from r1jax.rewards.math_text import NotParsed

_ORDER = ("<", ">", "<=", ">=", "!=")
_MAX_SIGNS = 4


def shape(node: Node) -> Node:
  """What an answer is; +- becomes a set of two.

  Raises:
    NotParsed: If its parts do not make a whole.
  """
  found = _shape(node)
  return ("set", *found[1:]) if found[0] == "branches" else found


def _shape(node: Node) -> Node:
  """As `shape`, with the values of +- as ("branches", *values)."""
  if has(node, "pm") and node[0] not in ("list", "set"):
    found = _of_list(["or", *map(shape, _branches(node))])
    return ("branches", *found[1:]) if found[0] == "set" else found
  match node[0]:
    case "list":
      return _of_list([node[1], *_flat(map(_shape, node[2:]))])
    case "set":
      return ("set", *_flat(map(_shape, node[1:])))
    case "rel":
      return _of_relation(node[1], list(node[2:]))
    case "mod":
      return _of_congruence(node[1], node[2])
    case "row":
      if node[1][0] == "matrix":
        return node[1]
      return ("matrix", (node[1],)) if node[1][0] != "list" else node[1]
    case "tuple":
      return ("tuple", *map(shape, node[1:]))
    case "mul" | "div" | "neg" if has(node, "matrix"):
      return _scaled(node)
  return node


def _branches(node: Node) -> list[Node]:
  """The nodes that +- stands for: linked where there is -+, else free."""
  signs = _signs(node)
  if len(signs) > _MAX_SIGNS:
    raise NotParsed(f"more than {_MAX_SIGNS} plus-minus signs")
  if -1 in signs:
    choices = [[s * sign for sign in signs] for s in (1, -1)]
  else:
    choices = [[]]
    for _ in signs:
      choices = [[*c, s] for c in choices for s in (1, -1)]
  return [_chosen(node, iter(choice)) for choice in choices]


def _signs(node: Node) -> list[int]:
  found = [node[1]] if node[0] == "pm" else []
  for each in children(node):
    found += _signs(each)
  return found


def _chosen(node: Node, signs: Iterator[int]) -> Node:
  if node[0] == "pm":
    sign, inner = next(signs), _chosen(node[2], signs)
    return inner if sign > 0 else ("neg", inner)
  return replaced(node, lambda each: _chosen(each, signs))


def _flat(members: Iterable[Node]) -> list[Node]:
  """Members, those of +- one by one."""
  found = []
  for each in members:
    found += each[1:] if each[0] == "branches" else [each]
  return found


def _of_list(parts: list) -> Node:
  """What members are together; the first part is what joins them."""
  connective, *members = parts
  kinds = {each[0] for each in members}
  if kinds <= {"order", "all", "any", "some"}:
    return ({"or": "any", "and": "all"}.get(connective, "some"), *members)
  names = [each[1] for each in members if each[0] == "named"]
  if len(names) == len(members):
    if len(set(names)) == len(names):
      return ("system", *(each[1:] for each in members))
    if len(set(names)) == 1:
      return ("named", names[0], _united([each[2] for each in members]))
  elif (
    len(names) == 1
    and members[0][0] == "named"
    and not kinds & {"order", "equation", "words", "congruent"}
  ):
    return ("named", names[0], _united([members[0][2], *members[1:]]))
  return ("set", *members)


def _united(values: list[Node]) -> Node:
  """One set of the values, and of the members of those that are sets."""
  found = []
  for each in values:
    found += each[1:] if each[0] == "set" else [each]
  return ("set", *found)


def _of_relation(operators: tuple[str, ...], nodes: list[Node]) -> Node:
  if r"\approx" in operators:  # The exact value stands left of it.
    end = operators.index(r"\approx")
    operators, nodes = operators[:end], nodes[: end + 1]
  if not operators:
    return shape(nodes[0])
  if operators == (r"\in",):
    name = _name(nodes[0])
    if name is None:
      raise NotParsed("membership of no name")
    return ("named", name, shape(nodes[1]))
  if all(each in _ORDER for each in operators):
    return ("order", operators, *nodes)
  if set(operators) != {"="}:
    raise NotParsed("relations of several kinds")
  if len(nodes) == 2:
    return _of_equation(*nodes)
  name = _name(nodes[0])
  values = [each for each in nodes if _name(each) is None]
  if not values:
    return _of_equation(nodes[0], nodes[-1])
  last = shape(values[-1])
  return last if name is None else ("named", name, last)


def _of_equation(a: Node, b: Node) -> Node:
  if (
    a[0] == b[0] == "tuple"
    and len(a) == len(b)
    and all(each[0] == "sym" for each in a[1:])
  ):
    names = [each[1] for each in a[1:]]
    return ("system", *zip(names, map(shape, b[1:])))
  for left, right in ((a, b), (b, a)):
    name = _name(left)
    if name is not None and (left is a or not symbols(right)):
      return ("named", name, shape(right))
  if not symbols(a) and not symbols(b):  # 2 + 3 = 5.
    if _is_false(a, b):
      raise NotParsed("the two sides of an equation differ")
    return shape(b)
  return ("equation", a, b)


def _is_false(a: Node, b: Node) -> bool:
  """Whether two sides have exact values that differ."""
  try:
    return not math_exact.is_same(math_exact.value(a), math_exact.value(b))
  except math_exact.Inexact:
    return False


def _name(node: Node) -> str | None:
  """x of x, f(x) of f(x), "" of words; None of anything else."""
  match node:
    case ("sym", name):
      return name
    case ("const", name) if name != "inf" and name != "pi":
      return name
    case ("words", _):
      return ""
    case ("mul", ("sym", name), ("sym", argument)):
      return f"{name}({argument})" if name in "fghpqFGPQyST" else None
    case ("mul", ("sym", name), ("tuple", *arguments)) if all(
      each[0] == "sym" for each in arguments
    ):
      return f"{name}({','.join(each[1] for each in arguments)})"
    case ("mul", ("sym", name), ("num", number)) if name in "fghFGP":
      return f"{name}({number.numerator.bit_length() < 64 and number})"
    case ("fn", "abs" | "norm", ("sym", name)):
      return f"|{name}|"
  return None


def _of_congruence(node: Node, modulus: Node) -> Node:
  if node[0] == "rel" and set(node[1]) <= {r"\equiv", "="}:
    return ("congruent", node[2], node[-1], modulus)
  if node[0] == "rel":
    raise NotParsed("a modulus behind another relation")
  return ("congruent", ("words", ""), node, modulus)


def _scaled(node: Node) -> Node:
  """A matrix times numbers as a matrix."""
  match node:
    case ("neg", inner):
      factors, matrix = [("num", Fraction(-1))], shape(inner)
    case ("div", inner, below):
      factors = [("div", ("num", Fraction(1)), below)]
      matrix = shape(inner)
    case ("mul", *parts):
      matrices = [each for each in parts if has(each, "matrix")]
      if len(matrices) != 1:
        raise NotParsed("a product of matrices")
      factors = [each for each in parts if each is not matrices[0]]
      matrix = shape(matrices[0])
  if matrix[0] != "matrix":
    raise NotParsed("a matrix inside a formula")
  rows = [tuple(("mul", *factors, cell) for cell in row) for row in matrix[1:]]
  return ("matrix", *rows)


def matrices(a: Node, b: Node) -> tuple[Node, Node]:
  """Two nodes, brackets or a vector as a matrix where the other is one."""
  if a[0] != "matrix":
    return _as_matrix(a, len(b[1])), b
  return a, _as_matrix(b, len(a[1]))


def _as_matrix(node: Node, columns: int) -> Node:
  """A vector is a column beside a matrix of one column, else a row."""
  cells = None if node[0] == "matrix" else _cells(node)
  if cells is None:
    return node
  rows = [_cells(cell) for cell in cells]
  if None not in rows:
    return ("matrix", *rows)
  if columns == 1:
    return ("matrix", *((cell,) for cell in cells))
  return ("matrix", cells)


def _cells(node: Node) -> Node | None:
  match node:
    case ("tuple", *cells) | ("range", "[", "]", *cells):
      return tuple(cells)
    case ("matrix", cells):
      return cells
  return None


def roots(node: Node) -> list[Node]:
  """The values of x_1 = 1, x_2 = 2; of anything else, itself."""
  if node[0] == "system":
    bases = [each[0].partition("_") for each in node[1:]]
    if len({base for base, _, _ in bases}) == 1 and all(
      index.isdecimal() for _, _, index in bases
    ):
      return [value for _, value in node[1:]]
  return [node]
