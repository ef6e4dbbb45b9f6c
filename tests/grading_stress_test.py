"""Batches of answers that hang, fork, kill and eat memory, on two workers.

Each runs in a process of its own, a subreaper, so that nothing it leaves
behind escapes: neither to another parent nor, by a marker in the
environment, to another session.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import uuid

import pytest
from absl.testing import absltest, parameterized

from r1jax import grading
from r1jax.records import Question, Response, Reward
from r1jax.rewards import keeper
from r1jax.rewards.verifiers import VERIFIERS

MARKER = "R1JAX_STRESS"
QUESTION = Question(
  "q", "reach it", {"numbers": [3, 5, 8], "target": 6}, "countdown"
)
DOUBLING = Question(
  "d",
  "double it",
  {"type": "stdin", "tests": [{"in": "4\n", "out": "8\n"}] * 2},
  "code",
)


def hostile(question, response):
  """Does what the response says, from inside the worker."""
  verb, _, detail = response.text.partition(" ")
  match verb, detail:
    case "hang", "sleep":
      signal.signal(signal.SIGALRM, signal.SIG_IGN)
      time.sleep(1000)
    case "hang", "spin":
      sum(range(10**15))
    case "hang", "stop":
      os.kill(os.getpid(), signal.SIGSTOP)
    case "hang", "stop-keeper":
      os.kill(os.getppid(), signal.SIGSTOP)
      time.sleep(1000)
    case "memory", "bytes":
      held = []
      while True:
        held.append(b"x" * (1 << 24))
    case "memory", "at once":
      bytearray(1 << 40)
    case "memory", "objects":
      held = [0]
      while True:
        held = [held, *held]
    case "fork", _:
      for _ in range(3):
        if not os.fork():
          if detail == "session":
            os.setsid()
          if detail == "orphan" and os.fork():
            os._exit(0)
          time.sleep(1000)
      return Reward(1.0, "forked")
    case "kill", "keeper":
      os.kill(os.getppid(), signal.SIGKILL)
      time.sleep(1000)
    case "kill", "group":
      os.killpg(0, signal.SIGKILL)
    case "kill", "fork":
      if not os.fork():
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(1000)
      time.sleep(1000)
    case "kill", "exit":
      raise SystemExit(0)
    case "kill", "pipes":
      os.closerange(0, 100)
    case "good", _:
      return Reward(1.0, "good")
    case "bad", _:
      return Reward(0.0, "bad")
  raise AssertionError(response.text)


def accomplice(question, response):
  """Honest, after the other one."""
  return Reward(float(len(response.text)), "length")


TABLE = {"hostile": hostile, "accomplice": accomplice}

_DETAILS = {
  "hang": ("sleep", "spin", "stop", "stop-keeper"),
  "memory": ("bytes", "at once", "objects"),
  "fork": ("session", "orphan", "plain"),
  "kill": ("keeper", "group", "fork", "exit", "pipes"),
}
_COUNTS = {"hang": 10, "memory": 10, "fork": 5, "kill": 5}
STATUS = {"hang": "timeout", "memory": "failed", "fork": "ok", "kill": "failed"}


def texts(rows: int = 256, counts=_COUNTS) -> list[str]:
  """The rows' texts, hostile ones at random places."""
  out = [
    f"{verb} {_DETAILS[verb][i % len(_DETAILS[verb])]}"
    for verb, count in counts.items()
    for i in range(count)
  ]
  out += [
    f"{('good', 'bad')[i % 2]} {i} " + "x" * (i % 7 * 1000)
    for i in range(rows - len(out))
  ]
  random.Random(0).shuffle(out)
  return out


PROGRAMS = {
  "hang": "while True: pass",
  "memory": "x = []\nwhile True: x.append(bytearray(1 << 24))",
  "fork": (
    "import os, time\nfor i in range(20):\n  if not os.fork():\n"
    "    os.setsid()\n    time.sleep(1000)\nprint(int(input()) * 2)"
  ),
  "kill": (
    "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n"
    "os.kill(0, signal.SIGKILL)\nprint(int(input()) * 2)"
  ),
  "good": "print(int(input()) * 2)",
  "bad": "print(int(input()) + 2)",
}


def resident_mb(name: str) -> float:
  status = pathlib.Path("/proc/self/status").read_text()
  return int(status.split(f"{name}:")[1].split()[0]) / 1024


def grade_batch(workers, timeout_secs, budget_secs, is_code, rows, counts):
  """Grades a batch; prints its verdicts and what it took, as JSON."""
  table = "r1jax.rewards.table:REWARDS" if is_code else f"{__name__}:TABLE"
  rewards = {"accuracy": {}} if is_code else {name: {} for name in TABLE}
  said = texts(rows, counts)
  question = DOUBLING if is_code else QUESTION
  with grading.Grader(
    rewards,
    workers=workers,
    timeout_secs=timeout_secs,
    budget_secs=budget_secs,
    worker_mem_mb=512 if not is_code else 1024,
    table=table,
  ) as grader:
    before_mb, start = resident_mb("VmRSS"), time.monotonic()
    for i, text in enumerate(said):
      verb = text.split()[0]
      if is_code:
        text = f"<answer>\n```python\n{PROGRAMS[verb]}\n```\n</answer>"
      grader.submit(i, question, Response(text, 9, "eos"))
    got = grader.collect()
    secs = time.monotonic() - start
    peak_mb = resident_mb("VmHWM") - before_mb
  # Zombies have ended; a subreaper that is no keeper does not reap them.
  left = [p for p in keeper.below(os.getpid()) if keeper.is_alive(p)]
  print(
    json.dumps(
      {
        "texts": said,
        "rewards": [got[i] for i in range(len(said))],
        "secs": secs,
        "peak_mb": peak_mb,
        "left": left,
      }
    ),
    flush=True,
  )


_SCRIPT = """
import os, sys, time
from r1jax.rewards import keeper
keeper.adopt_orphans()
from {module} import *
"""


def start(code: str, marker: str) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-c", _SCRIPT.format(module=__name__) + code],
    env=os.environ
    | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), MARKER: marker},
    stdout=subprocess.PIPE,
    start_new_session=True,
  )


def marked(marker: str) -> list[str]:
  """Command lines of the processes whose environment has the marker."""
  found = []
  wanted = f"{MARKER}={marker}".encode()
  for path in pathlib.Path("/proc").glob("[0-9]*"):
    try:
      if wanted in (path / "environ").read_bytes().split(b"\0"):
        found.append((path / "cmdline").read_text())
    except OSError:
      continue
  return found


def wait_until_gone(marker: str, secs: float) -> list[str]:
  deadline = time.monotonic() + secs
  while (found := marked(marker)) and time.monotonic() < deadline:
    time.sleep(0.05)
  return found


@pytest.mark.slow
class BatchTest(parameterized.TestCase):
  LARGE = """
said = [Response(f"good {i} " + "x" * 100_000, 9, "eos") for i in range(1000)]
with grading.Grader(
  {"hostile": {}}, workers=2, timeout_secs=10, budget_secs=100,
  table=f"{hostile.__module__}:TABLE") as grader:
  before_mb = resident_mb("VmRSS")
  for i, response in enumerate(said):
    grader.submit(i, QUESTION, response)
  assert all(r["hostile"].value == 1.0 for r in grader.collect().values())
  print(resident_mb("VmHWM") - before_mb)
"""

  def batch(self, workers, is_code=False, rows=256, counts=_COUNTS, **secs):
    marker = uuid.uuid4().hex
    secs = {"timeout_secs": 3.0, "budget_secs": 120.0} | secs
    process = start(
      f"grade_batch({workers}, {secs['timeout_secs']}, {secs['budget_secs']}, "
      f"{is_code}, {rows}, {counts})",
      marker,
    )
    out, _ = process.communicate(timeout=300)
    self.assertEqual(process.returncode, 0)
    self.assertEqual(marked(marker), [])
    got = json.loads(out)
    self.assertEqual(got["left"], [])
    print(
      f"\n{len(got['texts'])} rows, {workers} workers: {got['secs']:.1f} s, "
      f"trainer's peak +{got['peak_mb']:.1f} MB",
      file=sys.stderr,
    )
    return got

  def test_hostile_rewards(self):
    got = self.batch(2)
    self.assertLess(got["secs"], 120.0)
    self.assertLess(got["peak_mb"], 100.0)
    self.assertLen(got["rewards"], 256)
    for text, row in zip(got["texts"], got["rewards"]):
      verb = text.split()[0]
      value, _, status = row["hostile"]
      self.assertEqual(status, STATUS.get(verb, "ok"), (text, row))
      self.assertEqual(value, float(verb in ("good", "fork")), (text, row))
      if status == "ok":
        self.assertEqual(row["accomplice"], [len(text), "length", "ok"])

  def test_hostile_programs(self):
    if "code" not in VERIFIERS:
      self.skipTest("there is no verifier code")
    got = self.batch(2, is_code=True, timeout_secs=20.0, budget_secs=300.0)
    self.assertLess(got["secs"], 300.0)
    self.assertLess(got["peak_mb"], 100.0)
    for text, row in zip(got["texts"], got["rewards"]):
      verb = text.split()[0]
      value, _, status = row["accuracy"]
      self.assertEqual(status, "ok", (text, row))
      if verb != "fork":  # It may be stopped before it prints, or not.
        self.assertEqual(value, float(verb == "good"), (text, row))

  def test_100_mb_of_responses_are_not_copied(self):
    marker = uuid.uuid4().hex
    out, _ = start(self.LARGE, marker).communicate(timeout=120)
    self.assertLess(float(out), 40.0)
    self.assertEqual(marked(marker), [])

  def test_same_for_1_2_and_4_workers(self):
    counts = {"hang": 4, "memory": 3, "fork": 3, "kill": 5}
    one, two, four = (
      self.batch(n, rows=64, counts=counts)["rewards"] for n in (1, 2, 4)
    )
    self.assertEqual(one, two)
    self.assertEqual(one, four)

  def test_budget_ends_a_batch(self):
    counts = {"hang": 60}
    got = self.batch(2, rows=64, counts=counts, budget_secs=8.0)
    self.assertLess(got["secs"], 14.0)
    reasons = {row["hostile"][1] for row in got["rewards"]}
    self.assertContainsSubset(["not graded in the 8 s for all rows"], reasons)
    for text, row in zip(got["texts"], got["rewards"]):
      if text.startswith("hang"):
        self.assertEqual(row["hostile"][2], "timeout")


@pytest.mark.slow
class EndTest(parameterized.TestCase):
  CODE = """
grader = grading.Grader(
  {name: {} for name in TABLE}, workers=2, timeout_secs=60, budget_secs=200,
  table=f"{hostile.__module__}:TABLE")
for i, text in enumerate(["fork session", "hang sleep", "hang stop"] * 9):
  grader.submit(i, QUESTION, Response(text, 9, "eos"))
with grader:
  for _ in range(20):
    grader.poll()
    time.sleep(0.1)
  print(*keeper.below(os.getpid()), flush=True)
  grader.collect()
"""

  def begin(self):
    marker = uuid.uuid4().hex
    process = start(self.CODE, marker)
    self.addCleanup(process.stdout.close)
    pids = process.stdout.readline().split()
    self.assertGreaterEqual(len(pids), 4)  # Two keepers and two workers.
    self.assertGreaterEqual(len(marked(marker)), 5)
    return process, marker

  def test_nothing_lives_5_s_after_a_killed_trainer(self):
    process, marker = self.begin()
    process.kill()
    process.wait()
    self.assertEqual(wait_until_gone(marker, 5.0), [])

  def test_ctrl_c_ends_cleanly(self):
    process, marker = self.begin()
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    self.assertIn(process.wait(timeout=10), (1, -signal.SIGINT))
    self.assertLess(time.monotonic() - began, 5.0)
    self.assertEqual(marked(marker), [])


if __name__ == "__main__":
  absltest.main()
