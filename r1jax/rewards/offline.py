"""Lines of question and response to grade outside a run, and what they expect.

Two kinds of line, each one JSON object:

A record holds a question and a response. The question is either an object
with the fields of `records.Question`, or its fields stand in the line itself:

  {"question": {"id": "a", "question": "2+2?", "answer": "4",
    "verifier": "math"}, "response": "<answer>4</answer>", "expect": true}
  {"id": "a", "question": "2+2?", "answer": "4", "verifier": "math",
    "response": {"text": "4", "tokens": 2, "finish_reason": "length"}}

A case has a `kind` and is about one reward: math and code about accuracy,
format and language about those.

  {"id": "b", "kind": "math", "input": "\\boxed{4}", "gold": "4",
    "expect": true, "limit_s": 5, "also": ["within:2"]}

Its `input` is the response (of kind language: the chain of thought), either
a text or {"parts": [[text, count], ...]}; `gold` is the gold answer (format:
{"think_prefilled": true} or null; language: the wanted language).

Both may have `cls`, a class for the summary, `why` and `source`, for readers
alone, `limit_s`, seconds within which the verdict must be there, and `also`,
of which "within:N" is another such limit; the other conditions of `also`, and
the placeholders @CANARY@ and @PORT@, need a harness around the grader.
`expect` is true (1), false (0), a number (within 1e-6), [low, high], or an
object of these by reward; without names it is about the line's first reward.
What it says of rewards that are not asked for does not count.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from r1jax import registry
from r1jax.records import FINISH_REASONS, Question, Response, Reward
from r1jax.rewards import table, verifiers

KINDS = {
  "math": "accuracy",
  "code": "accuracy",
  "format": "format",
  "language": "language",
}
MAX_INPUT_CHARS = 50_000_000  # Of a case that is given in parts.
_TOLERANCE = 1e-6
_MARKS = ("@CANARY@", "@PORT@")
_CONDITIONS = re.compile(
  r"within:(\d+(?:\.\d+)?)|canary|no_connection|no_orphans"
  r"|grader_rss_mb:\d+|grader_survives|env:\w+=.*",
  re.DOTALL,
)
_NOTES = ("cls", "why", "source", "expect", "limit_s", "also")
_CASE = ("id", "kind", "input", "gold", *_NOTES)
# What a reward reads of a response that a text alone does not have.
_NEEDED = {"overlong": "tokens", "repetition": "ids"}


class Item(NamedTuple):
  """A line to grade.

  Attributes:
    line: Its number in the file, from 1.
    cls: A class for the summary, or "".
    question: What was asked.
    response: What is graded.
    rewards: Names of the rewards that it is about.
    expect: Name of a reward to what it should be, as this module says.
    limit_secs: Within which the verdict should be there; may be infinite.
    skipped: Conditions that cannot be checked here.
    is_gradable: Whether it can be graded without a harness.
  """

  line: int
  cls: str
  question: Question
  response: Response
  rewards: tuple[str, ...]
  expect: dict[str, Any]
  limit_secs: float
  skipped: tuple[str, ...]
  is_gradable: bool


def items(
  lines: Iterable[bytes], rewards: Sequence[str]
) -> tuple[list[Item], list[str]]:
  """The lines of a file, blank ones left out, and what is wrong with others.

  Args:
    lines: Of UTF-8.
    rewards: Names to grade by; a case about none of them is left out.

  Returns:
    Items, and a message with line number, field and value for each line that
    is none.
  """
  found, problems = [], []
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      item = _item(number, _object(line), rewards)
    except ValueError as error:
      problems.append(f"line {number}: {error}")
    else:
      found += [item] if item.rewards else []
  return found, problems


def disagreement(
  item: Item, name: str, reward: Reward, secs: float
) -> str | None:
  """How a verdict differs from what its line expects, or None.

  A verdict that failed agrees with nothing; one that was ended for its time
  agrees with 0 where the line has a limit and that was kept.
  """
  expect = item.expect[name]
  low, high = _range(expect)
  if not low <= reward.value <= high:
    return f"expected {json.dumps(expect)}"
  is_bounded = math.isfinite(item.limit_secs) and high < 1.0
  if reward.status not in (("ok", "timeout") if is_bounded else ("ok",)):
    return f"expected {json.dumps(expect)}, graded"
  if secs > item.limit_secs:
    return f"took {secs:.2f} s of {item.limit_secs:g}"
  return None


def _object(line: bytes) -> dict[str, Any]:
  try:
    value = json.loads(line.decode())
  except UnicodeDecodeError as error:
    raise ValueError(f"byte {error.start + 1} is not UTF-8.") from None
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{_short(line)} is not JSON: {error}.") from None
  if not isinstance(value, dict):
    raise ValueError(f"{_short(line)} is not an object. Write {{...}}.")
  return value


def _item(number: int, row: dict[str, Any], rewards: Sequence[str]) -> Item:
  if "kind" in row:
    name, question, response = _case(row)
    names = (name,) if name in rewards else ()
  else:
    names = tuple(rewards)
    question, response = _record(row)
    _check_response(response, row["response"], names)
    if "accuracy" in names:  # The gold of a case may be one to refuse.
      verifiers.check(question)
  skipped, limit_secs = [], _number(row, "limit_s", math.inf)
  for condition in _list(row, "also"):
    match = isinstance(condition, str) and _CONDITIONS.fullmatch(condition)
    if not match:
      raise ValueError(
        f"also has {_short(condition)}. Known: within:SECONDS, and for a "
        "harness canary, no_connection, no_orphans, grader_rss_mb:MB, "
        "grader_survives, env:NAME=VALUE."
      )
    if match[1]:
      limit_secs = min(limit_secs, float(match[1]))
    else:
      skipped.append(condition)
  marks = [mark for mark in _MARKS if mark in response.text]
  return Item(
    number,
    str(row.get("cls") or ""),
    question,
    response,
    names,
    _expectations(row, names),
    limit_secs,
    (*skipped, *marks),
    not marks,
  )


def _case(row: dict[str, Any]) -> tuple[str, Question, Response]:
  _check_fields(row, _CASE, ("id", "kind", "input"))
  kind, gold, prefilled = row["kind"], row.get("gold"), False
  name = registry.lookup(KINDS, kind, "kind")
  text, verifier, language = _input(row["input"]), "none", "en"
  match kind:
    case "math" if isinstance(gold, dict):
      verifier = gold.get("task")
    case "math" | "code":
      verifier = kind
    case "format":
      values = (None, {"think_prefilled": True}, {"think_prefilled": False})
      if gold not in values:
        raise ValueError(
          f"gold is {_short(gold)}. Set it to null or "
          '{"think_prefilled": true}.'
        )
      prefilled, gold = gold == values[1], None
    case "language":
      language, gold = _text(row, "gold"), None
      text = f"<think>{text}</think>"
  question = Question(_text(row, "id"), "", gold, verifier, language)
  return name, question, Response(text, len(text), "eos", prefilled)


def _input(value: Any) -> str:
  match value:
    case str():
      return value
    case {"parts": [*parts]} if len(value) == 1:
      pass
    case _:
      parts = [None]
  for part in parts:
    match part:
      case [str(), int(count)] if count >= 0:
        pass
      case _:
        raise ValueError(
          f"input is {_short(value)}. Set it to a text or to "
          '{"parts": [[text, count], ...]}.'
        )
  chars = sum(len(text) * count for text, count in parts)
  if chars > MAX_INPUT_CHARS:
    raise ValueError(
      f"input has {chars} characters. At most {MAX_INPUT_CHARS} are allowed."
    )
  return "".join(text * count for text, count in parts)


def _record(row: dict[str, Any]) -> tuple[Question, Response]:
  if isinstance(row.get("question"), dict):
    _check_fields(row, ("question", "response", *_NOTES), ("response",))
    fields, where = row["question"], "question."
    _check_fields(fields, Question._fields, Question._fields[:4], where)
  else:
    known = (*Question._fields, "response", *_NOTES)
    _check_fields(row, known, (*Question._fields[:4], "response"))
    fields, where = {k: row[k] for k in Question._fields if k in row}, ""
  for name in ("id", "question", "verifier", "language"):
    if name in fields:
      _text(fields, name, where)
  if not isinstance(fields.get("meta", {}), dict):
    raise ValueError(f"{where}meta is {_short(fields['meta'])}, no object.")
  given = row["response"]
  if isinstance(given, str):
    given = {"text": given}
  if not isinstance(given, dict):
    raise ValueError(
      f'response is {_short(given)}. Set it to a text or to {{"text": ...}}.'
    )
  known = Response._fields
  _check_fields(given, known, ("text",), "response.")
  tokens = len(given.get("ids") or ())
  given = {"tokens": tokens, "finish_reason": "eos", **given}
  return Question(**fields), Response(**given)


def _check_response(
  response: Response, given: Any, names: Sequence[str]
) -> None:
  """Raises ValueError for fields that are wrong, or wanted by a reward."""
  _text(response._asdict(), "text", "response.")
  if response.finish_reason not in FINISH_REASONS:
    raise ValueError(
      f"response.finish_reason is {_short(response.finish_reason)}. Known: "
      f"{', '.join(FINISH_REASONS)}."
    )
  if not isinstance(response.think_prefilled, bool):
    raise ValueError(
      f"response.think_prefilled is {_short(response.think_prefilled)}. "
      "Set it to true or false."
    )
  tokens = response.tokens
  if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
    raise ValueError(
      f"response.tokens is {_short(tokens)}. Set it to an integer of 0 or more."
    )
  for name in names:
    field = _NEEDED.get(name)
    if field and (isinstance(given, str) or field not in given):
      raise ValueError(
        f"response.{field} is missing, which the reward {name} reads. Set it."
      )


def _expectations(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
  expect = row.get("expect")
  if expect is None or not names:
    return {}
  if not isinstance(expect, dict):
    expect = {names[0]: expect}
  for name, value in expect.items():
    registry.lookup(table.REWARDS, name, "expect: the reward")
    _range(value)
  return {name: expect[name] for name in expect if name in names}


def _range(expect: Any) -> tuple[float, float]:
  match expect:
    case bool():
      return float(expect), float(expect)
    case int() | float() if math.isfinite(expect):
      return expect - _TOLERANCE, expect + _TOLERANCE
    case [int() | float() as low, int() | float() as high] if low <= high:
      return low, high
  raise ValueError(
    f"expect is {_short(expect)}. Set it to true, false, a number, "
    "[low, high] or an object of these by reward."
  )


def _check_fields(
  row: Mapping[str, Any],
  known: Sequence[str],
  required: Sequence[str],
  where: str = "",
) -> None:
  for name in row:
    if name not in known:
      registry.lookup(dict.fromkeys(known), name, f"{where or 'a '}field")
  for name in required:
    if name not in row:
      raise ValueError(f"{where}{name} is missing. Known: {', '.join(known)}.")


def _text(row: Mapping[str, Any], name: str, where: str = "") -> str:
  if not isinstance(row.get(name), str):
    raise ValueError(f"{where}{name} is {_short(row.get(name))}, no text.")
  return row[name]


def _number(row: Mapping[str, Any], name: str, default: float) -> float:
  value = row.get(name, default)
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  if not is_number or not value > 0:
    raise ValueError(f"{name} is {_short(value)}. Set it to seconds above 0.")
  return float(value)


def _list(row: Mapping[str, Any], name: str) -> Iterator[Any]:
  value = row.get(name) or []
  if not isinstance(value, list):
    raise ValueError(f"{name} is {_short(value)}, no list.")
  return iter(value)


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 80 else f"{text[:77]}..."
