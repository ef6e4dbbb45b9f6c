"""The program in an answer.

It is the last fenced block of the language, else the last untagged block,
else the text itself. A fence is three or more backticks or tildes at the
start of a line, as in CommonMark: text after it names the language, and the
block ends at a bare fence of at least that length. Models forget to close
blocks: a tagged fence inside one of its length begins the next, and the end
of the text closes the last. Untagged blocks without any text do not count.
"""

import re
from collections.abc import Iterator

_OPEN = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*([^`\n]*)")


def program(text: str, tags: str) -> str:
  """The program in an answer's text.

  Args:
    text: The answer.
    tags: Regular expression of how fences name the language.
  """
  text = text.replace("\r\n", "\n")
  tagged, untagged = None, None
  for tag, block in _blocks(text):
    if re.fullmatch(tags, tag):
      tagged = block
    elif not tag and block.strip():
      untagged = block
  if tagged is not None or untagged is not None:
    return untagged if tagged is None else tagged
  return _without_outer_fences(text)


def _blocks(text: str) -> Iterator[tuple[str, str]]:
  """Tag and content of each fenced block."""
  fence = None
  for line in text.split("\n"):
    match = _OPEN.fullmatch(line)
    indent, marks, info = match.groups() if match else ("", "", "")
    if fence is None:
      if match:
        outer, fence, tag, lines = indent, marks, _tag(info), []
      continue
    is_fence = marks[:1] == fence[0] and len(indent) <= len(outer) + 3
    if is_fence and len(marks) >= len(fence) and not info.strip():
      yield tag, "\n".join(lines)
      fence = None
    elif is_fence and len(marks) == len(fence) and info.strip():
      yield tag, "\n".join(lines)
      outer, tag, lines = indent, _tag(info), []
    else:
      lines.append(line.removeprefix(outer))
  if fence is not None:
    yield tag, "\n".join(lines)


def _tag(info: str) -> str:
  words = info.strip().strip("{}").split()
  return words[0].lstrip(".").lower() if words else ""


def _without_outer_fences(text: str) -> str:
  """The text without fences that open or close nothing around it."""
  lines = text.strip("\n").split("\n")
  while lines and _OPEN.fullmatch(lines[-1]):
    lines.pop()
  while lines and _OPEN.fullmatch(lines[0]):
    lines.pop(0)
  return "\n".join(lines)
