"""Verifier "code": does a program pass its tests?

The gold is {"type": ..., "tests": [...]} and, where it matters, "fn",
"module", "language" ("python"), "score" ("all" or "fraction"), "float_tol",
"timeout_s" (5, of each test) and "mem_mb" (1024).

* stdin: run as __main__, fed `in`; what it prints must be `out`, line by
  line without blanks at line ends and empty lines at both ends, and its
  exit status 0. With float_tol, tokens that are not both integers may differ
  by that much, absolute or relative; nan and inf never match a number.
  Every test gets a process and a scratch folder of its own. The only type
  for languages other than Python.
* call: fn(*args), at top level or else a method of class Solution, must
  return plain data equal to `out`: numbers by value, True and False only to
  themselves, tuples as lists, numbers as keys of dicts as their text.
* assert: each test is Python source that uses the program's names and must
  run to its end.
* unittest (the bug-fix form): each test is a file with TestCase classes or
  test functions that imports the program as `module`; all must pass.

All tests must pass for 1, and the first that fails ends the matter; with
score "fraction" the share that passes counts. The program is found by
`code_text`; calls and tests of one answer share one process of it
(`code_session`), in a sandbox (`sandbox`).
"""

import ast
import json
import math
import re
import sys
from collections.abc import Iterator
from typing import Any

from r1jax import registry
from r1jax.records import Question, Reward
from r1jax.rewards import code_session, code_text, extract, runners, sandbox

_OUTPUT_BYTES = 1 << 20  # Beyond what is expected.
_DEFAULTS = {
  "language": "python",
  "score": "all",
  "float_tol": None,
  "timeout_s": 5.0,
  "mem_mb": 1024,
  "fn": None,
  "module": "solution",
}
_IGNORED = ("type", "tests", "program")
_MAX_PASSED = 1024  # The oldest is forgotten first.
_passed: dict[str, Reward] = {}
_INTEGER = re.compile(r"[-+]?[0-9]+")


def verify(question: Question, answer: extract.Answer) -> Reward:
  """1 if the answer's program passes all tests, else 0, or the share.

  A program that passed is not run again, as long as it is among the last
  ones of this process to pass: the samples of a question repeat themselves.

  Raises:
    ValueError: If the gold is malformed.
    RuntimeError: If this machine cannot run the language, or no sandbox.
  """
  if isinstance(question.answer, dict) and question.answer.get("tests") == []:
    return Reward(0.0, "there is no test to pass")
  gold = _gold(question)
  tags = runners.RUNNERS[gold["language"]].tags
  program = code_text.program(answer.text, tags)
  if "\0" in program:
    return Reward(0.0, "no program: there is a NUL in it")
  key = repr((gold, program))
  if key in _passed:
    return _passed[key]
  reward = _judge(gold, program)
  if reward.value == 1.0:
    if len(_passed) == _MAX_PASSED:
      del _passed[next(iter(_passed))]
    _passed[key] = reward
  return reward


def _judge(gold: dict[str, Any], program: str) -> Reward:
  passed, total, why = 0, len(gold["tests"]), ""
  results = TYPES[gold["type"]](gold, program)
  for number, failure in enumerate(results, start=1):
    if failure is None:
      passed += 1
      continue
    why = why or f"test {number} of {total}: {failure}"
    if gold["score"] == "all":
      return Reward(0.0, why)
  if passed == total:
    return Reward(1.0, f"passes {total} tests")
  return Reward(passed / total, f"passes {passed} of {total} tests; {why}")


def check_gold(question: Question) -> None:
  """Raises ValueError unless the gold is tests that something could pass."""
  gold = _gold(question)
  if gold["type"] not in ("assert", "unittest"):
    return
  known = sys.stdlib_module_names | {"program", gold["module"]}
  for i, source in enumerate(gold["tests"]):
    try:
      tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
      raise ValueError(
        f"answer.tests[{i}] is {source!r:.80}, no Python: {error}."
      ) from None
    for node in tree.body:
      for name in _imported(node):
        if name not in known:
          raise ValueError(
            f"answer.tests[{i}] imports {name}, which the sandbox has not. "
            "Use the standard library only, or drop the question."
          )


def _imported(node: ast.stmt) -> list[str]:
  """Top packages that a statement imports."""
  if isinstance(node, ast.Import):
    return [alias.name.split(".")[0] for alias in node.names]
  if isinstance(node, ast.ImportFrom):
    return [(node.module or "").split(".")[0]]
  return []


def _stdin(gold: dict[str, Any], program: str) -> Iterator[str | None]:
  try:
    files = runners.prepared(gold["language"], program)
  except runners.NotCompiled as error:
    for _ in gold["tests"]:
      yield str(error)
    return
  command = runners.RUNNERS[gold["language"]].run
  for test in gold["tests"]:
    expected = test["out"]
    limits = _limits(gold)._replace(
      output_bytes=_OUTPUT_BYTES + 2 * len(expected.encode())
    )
    given = test["in"].encode(errors="surrogatepass")
    outcome = sandbox.run(command, files, limits, given=given)
    if outcome.ending:
      yield outcome.ending
      continue
    printed = outcome.output.decode(errors="replace")
    yield _difference(expected, printed, gold["float_tol"])


def _difference(expected: str, printed: str, tol: float | None) -> str | None:
  """Where an output is another than the expected one; None if nowhere."""
  mine, other = _lines(expected), _lines(printed)
  for number, (a, b) in enumerate(zip(mine, other), start=1):
    if a != b and not (tol is not None and _close_line(a, b, tol)):
      return f"line {number} is {b[:60]!r}, not {a[:60]!r}"
  if len(mine) != len(other):
    return f"{len(other)} lines, not {len(mine)}"
  return None


def _lines(text: str) -> list[str]:
  lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
  while lines and not lines[-1]:
    lines.pop()
  while lines and not lines[0]:
    lines.pop(0)
  return lines


def _close_line(expected: str, printed: str, tol: float) -> bool:
  mine, other = expected.split(), printed.split()
  return len(mine) == len(other) and all(
    a == b or _close_token(a, b, tol) for a, b in zip(mine, other)
  )


def _close_token(expected: str, printed: str, tol: float) -> bool:
  if _INTEGER.fullmatch(expected) and _INTEGER.fullmatch(printed):
    return expected.lstrip("+") == printed.lstrip("+")
  if len(printed) > 400 or "_" in printed or not printed.isascii():
    return False
  try:
    return _close(float(expected), float(printed), tol)
  except ValueError:
    return False


def _close(expected: float, found: float, tol: float) -> bool:
  if not (math.isfinite(expected) and math.isfinite(found)):
    return False
  return abs(found - expected) <= tol * max(1.0, abs(expected))


def _call(gold: dict[str, Any], program: str) -> Iterator[str | None]:
  tests = gold["tests"]
  done = 0
  while done < len(tests):
    arguments = [test["args"] for test in tests[done:]]
    limits = _limits(gold)._replace(
      output_bytes=_OUTPUT_BYTES + 8 * max(map(_size, tests[done:]))
    )
    values = code_session.calls(program, gold["fn"], arguments, limits)
    try:
      for value in values:
        expected = tests[done]["out"]
        done += 1
        same = _same(expected, value, gold["float_tol"])
        wrong = f"returns {_shown(value)}, not {_shown(expected)}"
        yield None if same else wrong
    except code_session.Broken as error:  # The rest in a new process.
      done += 1
      yield str(error)
    finally:
      values.close()


def _same(expected: Any, found: Any, tol: float | None) -> bool:
  """Whether a value is what JSON says it should be."""
  if isinstance(expected, list):
    return (
      isinstance(found, list | tuple)
      and len(found) == len(expected)
      and all(_same(a, b, tol) for a, b in zip(expected, found))
    )
  if isinstance(expected, dict):
    if not isinstance(found, dict):
      return False
    named = {_key(key): value for key, value in found.items()}
    return (
      len(named) == len(found)
      and named.keys() == expected.keys()
      and all(_same(value, named[k], tol) for k, value in expected.items())
    )
  if expected is None or isinstance(expected, bool | str):
    return type(found) is type(expected) and found == expected
  if isinstance(found, bool) or not isinstance(found, int | float):
    return False
  if tol is not None and not (
    isinstance(expected, int) and isinstance(found, int)
  ):
    try:
      return _close(float(expected), float(found), tol)
    except OverflowError:
      return False
  return found == expected


def _key(key: Any) -> Any:
  if isinstance(key, int | float) and not isinstance(key, bool):
    return _shown(key)
  return key


def _size(test: dict[str, Any]) -> int:
  """Bytes of what a test expects."""
  return len(json.dumps(test["out"]))


def _shown(value: Any) -> str:
  """The start of a value's text."""
  try:
    return repr(value)[:60]
  except ValueError:  # Python writes no integer of that many digits.
    return "a number of more digits than can be shown"


def _tests(gold: dict[str, Any], program: str) -> Iterator[str | None]:
  sources, done = gold["tests"], 0
  module = gold["module"] if gold["type"] == "unittest" else "program"
  while done < len(sources):
    verdicts = code_session.tests(
      gold["type"], module, program, sources[done:], _limits(gold)
    )
    try:
      for why in verdicts:
        done += 1
        yield why
    except code_session.Broken as error:  # The rest in new processes.
      done += 1
      yield str(error)
    finally:
      verdicts.close()


TYPES = {"stdin": _stdin, "call": _call, "assert": _tests, "unittest": _tests}


def _limits(gold: dict[str, Any]) -> sandbox.Limits:
  return sandbox.Limits(
    timeout_secs=float(gold["timeout_s"]), mem_mb=int(gold["mem_mb"])
  )


def _gold(question: Question) -> dict[str, Any]:
  gold = question.answer
  if not isinstance(gold, dict):
    raise ValueError(
      f"answer is {gold!r:.200}. The verifier code needs a dict "
      '{"type": ..., "tests": [...]}.'
    )
  kind = registry.lookup(TYPES, gold.get("type"), "answer.type")
  del kind
  for name in gold:
    if name not in (*_DEFAULTS, *_IGNORED):
      known = ", ".join((*_IGNORED, *_DEFAULTS))
      raise ValueError(f"answer.{name} is unknown. Known: {known}.")
  gold = _DEFAULTS | gold
  registry.lookup(runners.RUNNERS, gold["language"], "answer.language")
  if gold["language"] != "python" and gold["type"] != "stdin":
    raise ValueError(
      f"answer.type is {gold['type']!r} for {gold['language']}. Only stdin "
      "works for languages other than python."
    )
  if gold["score"] not in ("all", "fraction"):
    raise ValueError(
      f"answer.score is {gold['score']!r}. Known: all, fraction."
    )
  for name in ("timeout_s", "mem_mb", "float_tol"):
    value = gold[name]
    if name == "float_tol" and value is None:
      continue
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
      raise ValueError(f"answer.{name} is {value!r}. Set it above 0, finite.")
  _check_names(gold)
  _check_tests(gold["type"], gold.get("tests"))
  return gold


def _check_names(gold: dict[str, Any]) -> None:
  for kind, name in (("call", "fn"), ("unittest", "module")):
    value = gold[name]
    if gold["type"] == kind and not (
      isinstance(value, str) and value.isidentifier()
    ):
      raise ValueError(f"answer.{name} is {value!r}. It must be a name.")
  if gold["module"] in code_session.MODULES:
    raise ValueError(
      f"answer.module is {gold['module']!r}, which the sandbox uses itself. "
      "Name it otherwise."
    )


def _check_tests(kind: str, tests: Any) -> None:
  if not isinstance(tests, list) or not tests:
    raise ValueError(
      f"answer.tests is {tests!r:.200}. Give a list of one test or more."
    )
  for i, test in enumerate(tests):
    if kind in ("assert", "unittest"):
      if not isinstance(test, str) or not test.strip():
        raise ValueError(f"answer.tests[{i}] is {test!r:.80}, no source text.")
      continue
    if kind == "stdin":
      fits = isinstance(test, dict) and all(
        isinstance(test.get(name), str) for name in ("in", "out")
      )
      wanted = '{"in": text, "out": text}'
    else:
      fits = isinstance(test, dict) and isinstance(test.get("args"), list)
      fits = fits and "out" in test
      wanted = '{"args": [...], "out": value}'
    if not fits:
      raise ValueError(f"answer.tests[{i}] is {test!r:.80}. Give {wanted}.")
