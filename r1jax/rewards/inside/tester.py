"""The process that runs the tests of a program in another process.

It reads a frame with what to run, then speaks with the program by way of
its parent (`proxies`), and says of each test whether it ran to its end. The
program never runs here: what it sends is plain data.
"""

import ast
import builtins
import importlib.util
import io
import os
import sys
import types
import unittest
from typing import Any, BinaryIO

from r1jax.rewards.inside import plain, proxies

RAISED = (Exception, SystemExit, KeyboardInterrupt, GeneratorExit)


class _Module(types.ModuleType):
  """The program as the module that tests import."""

  def __init__(self, name: str, program: proxies.Program):
    super().__init__(name)
    self.__dict__["_r1jax_program"] = program
    self.__dict__["__path__"] = []

  def __getattr__(self, name: str) -> Any:
    if name.startswith("__") and name != "__all__":
      raise AttributeError(name)
    program = self.__dict__["_r1jax_program"]
    return proxies.named(name, program.ask(op="module", name=name))

  def __setattr__(self, name: str, value: Any) -> None:
    if name.startswith("__"):
      super().__setattr__(name, value)
      return
    program = self.__dict__["_r1jax_program"]
    program.ask(op="module", name=name, value=value)


def run(requests: BinaryIO, replies: BinaryIO, work: dict[str, Any]) -> None:
  """Runs each test of the work and sends its verdict.

  Args:
    requests: To the parent.
    replies: From the parent.
    work: nonce, kind ("assert" or "unittest"), module, tests.
  """
  program = proxies.Program(
    requests, replies, lambda text: sys.stdout.write(text)
  )
  module = work["module"]
  error = None
  try:
    program.ask(op="load", module=module)
    sys.modules[module] = _Module(module, program)
  except RAISED as raised:
    error = f"loading the program: {_described(raised)}"
  for index, source in enumerate(work["tests"]):
    why = error
    if why is None:
      try:
        why = _run_test(program, work["kind"], index, source)
      except RAISED as raised:
        why = _described(raised)
    verdict = {"nonce": work["nonce"], "index": index, "why": why}
    text = plain.json.dumps(verdict).encode()
    requests.write(plain.frame(b"v", text))
    requests.flush()


def _run_test(
  program: proxies.Program, kind: str, index: int, source: str
) -> str | None:
  """Why a test failed, or None; raises what the test raised."""
  path = os.path.join(os.environ["TMPDIR"], f"test_{index}.py")
  with open(path, "w", encoding="utf-8") as file:
    file.write(source)
  given = {} if kind == "unittest" else _given(program, source)
  spec = importlib.util.spec_from_file_location("tests_of_program", path)
  tests = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = tests  # Data classes look themselves up there.
  vars(tests).update(given)
  spec.loader.exec_module(tests)
  found = vars(tests)
  return _run_cases(found) if kind == "unittest" else None


def _given(program: proxies.Program, source: str) -> dict[str, Any]:
  """What the program defines of the names that a test uses.

  A builtin name stays the builtin, and a module of the library the module:
  the program does not choose what `abs` or `math.isclose` are to the tests.
  Unless the test uses nothing else of the program, and only one builtin's
  name that it defines: then that is what is tested.
  """
  used, attributes = set(), {}
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Name) and not node.id.startswith("__"):
      used.add(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
      attributes.setdefault(node.value.id, []).append(node.attr)
  hidden = {name for name in used if hasattr(builtins, name)}
  found = _asked(program, used - hidden)
  if not found:
    found = _asked(program, hidden)
    found = found if len(found) == 1 else {}
  for name in found.keys() & attributes.keys() & sys.stdlib_module_names:
    module = importlib.import_module(name)
    if all(hasattr(module, attribute) for attribute in attributes[name]):
      found[name] = module
  return found


def _asked(program: proxies.Program, names: set[str]) -> dict[str, Any]:
  found = program.ask(op="names", names=sorted(names))
  return {n: proxies.named(n, v) for n, v in found.items() if n in names}


def _run_cases(found: dict[str, Any]) -> str | None:
  """Runs a test file's cases and test functions, of which there must be."""
  loader = unittest.TestLoader()
  suite = unittest.TestSuite()
  for name, value in found.items():
    if isinstance(value, type) and issubclass(value, unittest.TestCase):
      suite.addTests(loader.loadTestsFromTestCase(value))
    elif name.startswith("test") and isinstance(value, types.FunctionType):
      suite.addTest(unittest.FunctionTestCase(value))
  count = suite.countTestCases()
  if not count:
    return "there is no test in it"
  result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
  bad = result.failures + result.errors
  if bad:
    return f"{len(bad)} of {count}: {bad[0][1].strip().splitlines()[-1]}"
  if result.unexpectedSuccesses or len(result.skipped) == count:
    return "no test passed"
  return None


def _described(error: BaseException) -> str:
  try:
    return f"{type(error).__name__}: {error}"[:200]
  except RAISED:
    return type(error).__name__


def main() -> None:
  """Runs what standard input says; verdicts go to standard output."""
  replies, requests = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
  null = os.open(os.devnull, os.O_RDWR)
  for number in (0, 1):
    os.dup2(null, number)
  sys.stdout = io.StringIO()
  try:
    _, text = plain.read_frame(replies)
    run(requests, replies, plain.json.loads(text))
  except (EOFError, BrokenPipeError):
    pass
  os._exit(0)
