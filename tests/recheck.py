"""Checks generated data by code that shares nothing with its filters.

  python -m tests.recheck FILE...

Arithmetic and programs are read by a small grammar over Python's syntax
tree, questions by regular expressions, scripts by the names of Unicode.
"""

import ast
import json
import operator
import re
import sys
import unicodedata
from collections import Counter

_OPS = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Mod: operator.mod,
  ast.USub: operator.neg,
  ast.UAdd: operator.pos,
}
_PROGRAMS = (
  (r"x plus (\d)", lambda x, k: x + k),
  (r"x minus (\d)", lambda x, k: x - k),
  (r"x times (\d)", lambda x, k: x * k),
  (r"rest of x by (\d)", lambda x, k: x % k),
  (r"larger of x and (\d)", lambda x, k: x if x > k else k),
  (r"smaller of x and (\d)", lambda x, k: x if x < k else k),
  (r"x times (\d) plus (\d)", lambda x, k, j: x * k + j),
  (r"x times (\d) minus (\d)", lambda x, k, j: x * k - j),
)


def problem(record: dict) -> str | None:
  """What is wrong with a record, or None."""
  response = record["response"]
  found = re.fullmatch(
    r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", response, re.DOTALL
  )
  if not found:
    return f"not in its tags: {response!r}"
  if script_names(response) - {"LATIN"}:
    return f"another script: {response!r}"
  question, answer = record["question"], found[2].strip()
  kind = {"countdown": _countdown, "code": _program, "none": _general}
  return kind[question["verifier"]](question, answer)


def script_names(text: str) -> set[str]:
  """First words of the Unicode names of a text's letters."""
  return {unicodedata.name(c, "NONE").split()[0] for c in text if c.isalpha()}


def _countdown(question, answer):
  *numbers, target = map(int, re.findall(r"-?\d+", question["question"]))
  try:
    value = _value(ast.parse(answer, mode="eval").body, None)
  except (SyntaxError, ValueError) as error:
    return f"{answer!r}: {error}"
  used = sorted(map(int, re.findall(r"\d+", answer)))
  if value != target or used != sorted(numbers):
    return f"{answer!r} does not make {target} of {numbers}"
  return None


def _program(question, answer):
  text = question["question"].removeprefix("program: ")
  wanted = [
    (match, function)
    for pattern, function in _PROGRAMS
    if (match := re.fullmatch(pattern, text))
  ]
  ((match, function),) = wanted
  try:
    printed = re.fullmatch(r"print\((.*)\)", answer)
    shown = ast.parse(printed[1] if printed else "", mode="eval").body
    for x in range(-30, 130):
      if _value(shown, x) != function(x, *map(int, match.groups())):
        return f"{answer!r} is wrong for {x} of {text!r}"
  except (SyntaxError, ValueError) as error:
    return f"{answer!r}: {error}"
  return None


def _general(question, answer):
  wanted = question["answer"]["accept"]
  return None if answer == wanted else f"{answer!r} is not {wanted!r}"


def _value(node, x):
  if isinstance(node, ast.Constant) and isinstance(node.value, int):
    return node.value
  if isinstance(node, ast.BinOp) and type(node.op) in _OPS:
    return _OPS[type(node.op)](_value(node.left, x), _value(node.right, x))
  if isinstance(node, ast.UnaryOp) and type(node.op) in _OPS:
    return _OPS[type(node.op)](_value(node.operand, x))
  if isinstance(node, ast.Call) and ast.unparse(node) == "int(input())":
    return x
  if isinstance(node, ast.Call) and node.func.id in ("min", "max"):
    values = sorted(_value(argument, x) for argument in node.args)
    return values[0 if node.func.id == "min" else -1]
  raise ValueError(f"{ast.unparse(node)!r} is no arithmetic")


def main(paths: list[str]) -> int:
  """Prints what is wrong with the files; 1 if anything is."""
  wrong = 0
  for path in paths:
    with open(path, encoding="utf-8") as file:
      records = [json.loads(line) for line in file]
    problems = [p for record in records if (p := problem(record))]
    counts = Counter(r["question"]["verifier"] for r in records)
    print(
      f"{path}: {len(problems)} of {len(records)} are wrong; {dict(counts)}"
    )
    for each in problems[:5]:
      print(f"  {each}")
    wrong += len(problems)
  return int(wrong > 0)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
