import json
import math
import os
import signal
import subprocess
import sys
import time

from absl.testing import absltest

from r1jax.records import Question, Response, Reward
from r1jax.rewards import worker

QUESTION = Question(
  "q", "reach it", {"numbers": [3, 5, 8], "target": 6}, "countdown"
)
RESPONSE = Response("<think>a</think><answer>3-5+8</answer>", 9, "eos")


def prints(question, response):
  print('{"id": 0}', flush=True)
  os.write(1, b'{"id": 0}\n')
  subprocess.run(["sh", "-c", "echo noise; cat"], check=True)
  return Reward(1.0, "printed")


def sleeps(question, response):
  time.sleep(60)


# What the worker of these tests is told to grade with.
TABLE = {"prints": prints, "sleeps": sleeps}


def start(*flags: str) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-m", "r1jax.rewards.worker", *flags],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
  )


def line(message) -> bytes:
  return json.dumps(message).encode() + b"\n"


def row(id=3) -> bytes:
  return line({"id": id, "question": QUESTION, "response": RESPONSE})


class WorkerTest(absltest.TestCase):
  def test_answers_line_by_line(self):
    process = start()
    lines = line({"accuracy": {}, "format": {}}) + row(3) + row(4)
    out, errors = process.communicate(lines, timeout=30)
    replies = [json.loads(line) for line in out.splitlines()]
    self.assertEqual(replies[0], {"ready": True})
    self.assertEqual(replies[1::2], [{"began": True}] * 2)
    first, second = replies[2::2]
    self.assertEqual(first["id"], 3)
    self.assertEqual(first["rewards"]["accuracy"], [1.0, "gives 6", "ok"])
    self.assertEqual(first["rewards"]["format"], [1.0, "well formed", "ok"])
    self.assertGreater(first["secs"], 0.0)
    self.assertEqual(second, first | {"id": 4, "secs": second["secs"]})
    self.assertEqual(process.returncode, 0)
    self.assertEqual(errors, b"")

  def test_imports_no_jax_numpy_or_tensorflow(self):
    script = (
      "import sys, r1jax.rewards.worker, r1jax.rewards.table;"
      "print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    modules = subprocess.run(
      [sys.executable, "-c", script],
      env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
      capture_output=True,
      text=True,
      check=True,
    ).stdout.split()
    self.assertIn("r1jax", modules)
    for name in ("jax", "jaxlib", "flax", "numpy", "tensorflow", "torch"):
      self.assertNotIn(name, modules)

  def test_prints_do_not_reach_the_protocol(self):
    table = f"--table={__name__}:TABLE"
    for flags, errors_hold_it in (([table], True), ([table, "--quiet"], False)):
      process = start("--timeout-secs=5", *flags)
      process.stdin.write(line({"prints": {}}) + row(3))
      process.stdin.flush()  # Its `cat` must not wait for the next line.
      first = [json.loads(process.stdout.readline()) for _ in range(3)]
      out, errors = process.communicate(row(4), timeout=30)
      replies = first + [json.loads(line) for line in out.splitlines()]
      self.assertEqual([reply["id"] for reply in replies[2::2]], [3, 4])
      self.assertEqual(replies[2]["rewards"]["prints"][1], "printed")
      self.assertEqual(b"noise" in errors, errors_hold_it)

  def test_ignores_sigint_and_ends_with_its_input(self):
    process = start()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.stdin.write(line({"format": {}}) + row())
    process.stdin.flush()
    self.assertEqual(json.loads(process.stdout.readline()), {"began": True})
    self.assertEqual(json.loads(process.stdout.readline())["id"], 3)
    process.communicate(timeout=10)
    self.assertEqual(process.returncode, 0)

  def test_ends_itself_at_the_deadline_of_a_line(self):
    process = start(f"--table={__name__}:TABLE", "--timeout-secs=0.2")
    out, _ = process.communicate(line({"sleeps": {}}) + row(), timeout=10)
    self.assertEqual(process.returncode, -signal.SIGALRM)
    self.assertEndsWith(out, b'{"began": true}\n')


class GradeTest(absltest.TestCase):
  def grade(self, function, **arguments):
    rewards = worker.grade(
      {"it": function}, QUESTION, RESPONSE, {"it": arguments}
    )
    return rewards["it"]

  def test_passes_arguments(self):
    reward = self.grade(lambda q, r, *, x: Reward(x, r.text), x=3)
    self.assertEqual(reward, Reward(3.0, RESPONSE.text))

  def test_exception_is_a_failure(self):
    reward = self.grade(lambda q, r: 1 / 0)
    self.assertEqual(reward.value, 0.0)
    self.assertEqual(reward.status, "failed")
    self.assertEqual(reward.reason, "ZeroDivisionError: division by zero")

  def test_endless_recursion_is_a_failure(self):
    def recurse(q, r):
      return recurse(q, r)

    self.assertEqual(self.grade(recurse).status, "failed")

  def test_no_number_is_a_failure(self):
    for value in (math.nan, math.inf, None, "1"):
      reward = self.grade(lambda q, r, value=value: Reward(value, "so"))
      self.assertEqual((reward.value, reward.status), (0.0, "failed"))
    self.assertEqual(self.grade(lambda q, r: None).status, "failed")

  def test_unknown_status_is_a_failure(self):
    for status in ("OK", None, "x" * 100_000):
      reward = self.grade(lambda q, r, s=status: Reward(1.0, "so", s))
      self.assertEqual((reward.value, reward.status), (0.0, "failed"))

  def test_exits_are_failures(self):
    for kind in (SystemExit, KeyboardInterrupt, MemoryError):

      def leave(q, r, kind=kind):
        raise kind("why")

      reward = self.grade(leave)
      self.assertEqual(reward, Reward(0.0, f"{kind.__name__}: why", "failed"))

  def test_reason_is_utf_8(self):
    self.assertEqual(self.grade(lambda q, r: Reward(1, "\ud800é")).reason, "?é")

  def test_one_failure_spares_the_others(self):
    table = {"bad": lambda q, r: 1 / 0, "good": lambda q, r: Reward(1, "so")}
    rewards = worker.grade(table, QUESTION, RESPONSE, {"bad": {}, "good": {}})
    self.assertEqual(rewards["good"], Reward(1.0, "so"))
    self.assertEqual(rewards["bad"].status, "failed")

  def test_reason_is_one_short_line(self):
    reward = self.grade(lambda q, r: Reward(1, "a\nb\r\n" + "c" * 100_000))
    self.assertStartsWith(reward.reason, "a b c")
    self.assertLen(reward.reason, worker.MAX_REASON_CHARS)


if __name__ == "__main__":
  absltest.main()
