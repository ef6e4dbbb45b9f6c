"""Cases for the rewards: read them, grade them, say what is wrong.

  python -m tests.rewards.cases [FILE ...] [--kind=math] [--id=pub-m-001]

grades the public cases and this project's own, or those in the files, and
prints the ones that got another verdict than they should. The format, one
JSON object a line, is that of `shared/cases/rewards-README.md`.
"""

import argparse
import contextlib
import ctypes
import json
import math
import os
import pathlib
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from r1jax.records import Question, Response, Reward
from r1jax.rewards import worker

ROOT = pathlib.Path(__file__).parents[2]
PUBLIC = ROOT.parent / "shared/cases/rewards-public.jsonl"
OWN = pathlib.Path(__file__).parent / "cases-own.jsonl"

KINDS = ("math", "code", "format", "language")
CONDITIONS = re.compile(
  r"within:\d+|canary|no_connection|no_orphans|grader_rss_mb:\d+"
  r"|grader_survives|env:\w+=.*"
)
MARKS = ("@CANARY@", "@PORT@")
LIMIT_SECS = 60.0  # Of a case that names no limit.
_LEAVE_SECS = 1.5  # Until what a program started must be gone.
_PR_SET_CHILD_SUBREAPER = 36


class Case(NamedTuple):
  """A line of a file of cases."""

  id: str
  kind: str
  cls: str
  input: Any
  gold: Any
  expect: Any
  why: str
  source: str
  limit_s: float = LIMIT_SECS
  also: tuple[str, ...] = ()


def load(path: pathlib.Path) -> list[Case]:
  """The cases of a file.

  Raises:
    ValueError: For a line that no harness could check, by its id.
  """
  cases = []
  for line in path.read_text(encoding="utf-8").splitlines():
    case = Case(**json.loads(line))
    if case.kind not in KINDS:
      raise ValueError(f"{case.id}: kind is {case.kind!r}. Known: {KINDS}.")
    for condition in case.also:
      if not CONDITIONS.fullmatch(condition):
        raise ValueError(f"{case.id}: also has {condition!r}, unknown.")
    cases.append(case._replace(also=tuple(case.also)))
  ids = [case.id for case in cases]
  if len(set(ids)) < len(ids):
    raise ValueError(f"{path.name} has an id twice.")
  return cases


def text_of(case: Case) -> str:
  """The response, or chain of thought, that the case is about."""
  if isinstance(case.input, str):
    return case.input
  return "".join(text * count for text, count in case.input["parts"])


def job_of(case: Case) -> tuple[str, Question, Response]:
  """What a case asks of the real code: reward, question and response."""
  text = text_of(case)
  gold, prefilled = case.gold, False
  match case.kind:
    case "math" if isinstance(gold, dict):
      name, verifier, language = "accuracy", gold["task"], "en"
    case "math" | "code":
      name, verifier, language = "accuracy", case.kind, "en"
    case "format":
      name, verifier, language = "format", "none", "en"
      prefilled, gold = bool(gold and gold["think_prefilled"]), None
    case "language":
      name, verifier, language = "language", "none", gold
      text, gold = f"<think>{text}</think><answer>=</answer>", None
  question = Question(case.id, "", gold, verifier, language)
  return name, question, Response(text, len(text), "eos", prefilled)


def filled(text: str, canary: pathlib.Path, port: int) -> str:
  """The text with path and port for their placeholders."""
  return text.replace("@CANARY@", str(canary)).replace("@PORT@", str(port))


def problem(case: Case, reward: Reward, secs: float = 0.0) -> str | None:
  """How a verdict differs from what the case expects, or None.

  A deadline is a verdict only where the case has a limit and expects 0.
  """
  match case.expect:
    case bool():
      is_expected = reward.value == float(case.expect)
    case [low, high]:
      is_expected = low <= reward.value <= high
    case number:
      is_expected = math.isclose(reward.value, number, abs_tol=1e-6)
  is_bounded = case.limit_s < LIMIT_SECS and case.expect is False
  allowed = ("ok", "timeout") if is_bounded else ("ok",)
  got = f"got {reward.value:.4g}, {reward.status}: {reward.reason}"
  if not is_expected or reward.status not in allowed:
    return f"{case.id} ({case.cls}) expects {case.expect}, {got}"
  if secs > case.limit_s:
    return (
      f"{case.id} ({case.cls}) took {secs:.1f} s of {case.limit_s:g}, {got}"
    )
  return None


def needs_process(case: Case) -> bool:
  """Whether a case can be checked in a process of its own only."""
  return bool(case.also) or any(mark in str(case.input) for mark in MARKS)


@contextlib.contextmanager
def deadline(secs: float) -> Iterator[None]:
  """Raises TimeoutError in the main thread; rewards leave SIGALRM alone."""

  def late(*_):
    raise TimeoutError(f"no verdict after {secs:g} s")

  before = signal.signal(signal.SIGALRM, late)
  signal.setitimer(signal.ITIMER_REAL, secs)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def graded(case: Case, table: str = worker.DEFAULT_TABLE) -> Reward:
  """The verdict of a case; "failed" if the reward raised."""
  name, question, response = job_of(case)
  rewards = worker.load_table(table)
  return worker.grade(rewards, question, response, {name: {}})[name]


def problem_here(case: Case) -> str | None:
  """What is wrong with the verdict of a case, graded in this process."""
  start = time.perf_counter()
  try:
    with deadline(case.limit_s + 5):
      reward = graded(case)
  except TimeoutError as error:
    return f"{case.id} ({case.cls}): {error}"
  return problem(case, reward, time.perf_counter() - start)


def problems_apart(case: Case, table: str = worker.DEFAULT_TABLE) -> list[str]:
  """What is wrong with a case, graded in a throw-away process.

  The process (`_supervise`) holds canary and port, and starts the grader in
  turn, so that it can tell what became of the grader and of its children.
  """
  done = subprocess.run(
    [sys.executable, "-m", "tests.rewards.cases", f"--apart={table}"],
    input=json.dumps(case).encode(),
    cwd=ROOT,
    stdout=subprocess.PIPE,
    timeout=case.limit_s + 120,
    check=False,
  )
  if done.returncode:
    return [f"{case.id} ({case.cls}): harness exit {done.returncode}"]
  return json.loads(done.stdout)


def _supervise(case: Case, table: str) -> list[str]:
  libc = ctypes.CDLL(None, use_errno=True)
  libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
  limit_secs, found = case.limit_s, []
  for condition in case.also:
    key, _, value = condition.partition(":")
    if key == "env":
      os.environ.update([value.split("=", 1)])
    if key == "within":
      limit_secs = min(limit_secs, float(value))
  with tempfile.TemporaryDirectory() as folder, socket.socket() as listener:
    canary = pathlib.Path(folder) / "canary.txt"
    canary.write_text(secret := secrets.token_hex(16))
    listener.bind(("127.0.0.1", 0))
    listener.listen(8)
    text = filled(text_of(case), canary, listener.getsockname()[1])
    with _Grader(table) as grader:
      grader.grade(_WARM_UP, 60.0)
      before = _descendants() | {grader.pid}
      rss_kb = _status_kb(grader.pid, "VmRSS")
      start = time.monotonic()
      reward = grader.grade(case._replace(input=text), limit_secs + 10)
      secs = time.monotonic() - start
      if reward is None:
        return [f"{case.id} ({case.cls}): the grader died or gave no verdict"]
      found += filter(
        None, [problem(case._replace(limit_s=limit_secs), reward, secs)]
      )
      grown_mb = (_status_kb(grader.pid, "VmHWM") - rss_kb) / 1024
      left = _left(before)
      again = grader.grade(_WARM_UP, 60.0)
    listener.setblocking(False)
    with contextlib.suppress(BlockingIOError):
      listener.accept()
      found += ["the program reached the harness's port"]
    if list(pathlib.Path(folder).iterdir()) != [canary]:
      found += ["the canary's folder changed"]
    elif canary.read_text() != secret:
      found += ["the canary changed"]
  if left:
    found += [f"processes live on: {left}"]
  if again is None or again.value != 1.0:
    found += [f"the grader's next verdict is {again}"]
  for condition in case.also:
    key, _, value = condition.partition(":")
    if key == "grader_rss_mb" and grown_mb > float(value):
      found += [f"the grader grew by {grown_mb:.0f} MB of {value}"]
  return [text if case.id in text else f"{case.id}: {text}" for text in found]


_WARM_UP = Case(
  "warm-up",
  "code",
  "ok",
  "```python\nprint(input())\n```",
  {"type": "stdin", "tests": [{"in": "7\n", "out": "7\n"}]},
  True,
  "",
  "own",
)


class _Grader:
  """Owns a forked process that grades cases, one a line."""

  def __init__(self, table: str) -> None:
    ours, theirs = socket.socketpair()
    self.pid = os.fork()
    if not self.pid:
      ours.close()
      os.dup2(2, 1)  # Standard output is for what the harness finds.
      status = 1
      try:
        _serve(theirs, table)
        status = 0
      except Exception:
        traceback.print_exc()
      finally:
        os._exit(status)
    theirs.close()
    self._socket = ours
    self._replies = ours.makefile("rb")

  def __enter__(self) -> "_Grader":
    return self

  def __exit__(self, *exception: object) -> None:
    self._replies.close()
    self._socket.close()
    with contextlib.suppress(ProcessLookupError):
      os.kill(self.pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
      os.waitpid(self.pid, 0)

  def grade(self, case: Case, secs: float) -> Reward | None:
    """The verdict, or None if there is none in time."""
    try:
      self._socket.sendall(json.dumps(case).encode() + b"\n")
    except OSError:
      return None
    if not select.select([self._socket], [], [], secs)[0]:
      return None
    line = self._replies.readline()
    return Reward(*json.loads(line)) if line else None


def _serve(connection: socket.socket, table: str) -> None:
  with connection.makefile("rwb") as stream:
    for line in stream:
      stream.write(
        json.dumps(graded(Case(*json.loads(line)), table)).encode() + b"\n"
      )
      stream.flush()


def _left(before: set[int]) -> list[str]:
  """Command lines of descendants that outstay their time; ends them."""
  end = time.monotonic() + _LEAVE_SECS
  while new := _descendants() - before:
    if time.monotonic() > end:
      left = [_command(pid) for pid in sorted(new)]
      for pid in new:
        with contextlib.suppress(ProcessLookupError):
          os.kill(pid, signal.SIGKILL)
      return left
    time.sleep(0.05)
  return []


def _descendants() -> set[int]:
  """Ids of living processes below this one, orphans of theirs included."""
  parents = {}
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    with contextlib.suppress(OSError):
      state, parent = path.read_text().rpartition(")")[2].split()[:2]
      if state not in "ZX":
        parents[int(path.parent.name)] = int(parent)
  below = {os.getpid()}
  while more := {p for p, q in parents.items() if q in below} - below:
    below |= more
  return below - {os.getpid()}


def _command(pid: int) -> str:
  with contextlib.suppress(OSError):
    data = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    return data.replace(b"\0", b" ").decode(errors="replace")[:200]
  return str(pid)


def _status_kb(pid: int, field: str) -> int:
  status = pathlib.Path(f"/proc/{pid}/status").read_text()
  return int(re.search(rf"^{field}:\s+(\d+)", status, re.M)[1])


def problems(cases: Iterable[Case]) -> Iterator[str]:
  """What is wrong with the verdicts of cases, each graded where it must be."""
  for case in cases:
    if needs_process(case):
      yield from problems_apart(case)
    elif found := problem_here(case):
      yield found


def main() -> None:
  """Grades cases and prints what is wrong."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("files", nargs="*", type=pathlib.Path)
  parser.add_argument("--kind", choices=KINDS)
  parser.add_argument("--id", default="", help="start of the ids to grade")
  parser.add_argument("--slow", type=float, default=1.0, help="print above, s")
  parser.add_argument("--apart", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.apart:
    print(json.dumps(_supervise(Case(*json.load(sys.stdin)), args.apart)))
    return
  files = args.files or [path for path in (PUBLIC, OWN) if path.exists()]
  wrong = count = 0
  for case in [case for path in files for case in load(path)]:
    if args.kind not in (None, case.kind) or not case.id.startswith(args.id):
      continue
    start = time.perf_counter()
    found = list(problems([case]))
    secs = time.perf_counter() - start
    count, wrong = count + 1, wrong + bool(found)
    for line in found:
      print(f"{line}\n    why: {case.why}")
      print(f"    input: {text_of(case)[:300]!r}\n    gold: {case.gold!r:.300}")
    if secs > args.slow:
      print(f"{case.id} took {secs:.1f} s")
  print(f"{count - wrong} of {count} cases as expected")
  sys.exit(bool(wrong))


if __name__ == "__main__":
  main()
