import builtins
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

import pytest
from absl.testing import absltest, parameterized

from r1jax import grading, grading_worker
from r1jax.records import Question, Response, Reward
from r1jax.rewards import keeper

MEM_MB = 256
LEAKED = []
QUESTION = Question(
  "q", "reach it", {"numbers": [3, 5, 8], "target": 6}, "countdown"
)


def obeys(question, response, *, scale=1.0):
  """Does what the response says."""
  match response.text.split():
    case ["sleep", secs]:
      time.sleep(float(secs))
    case ["spin"]:  # Inside C, where no handler of Python's runs.
      re.match(r"(a+)+$", "a" * 60 + "b")
    case ["exit"]:
      os._exit(0)
    case ["kill"]:
      os.kill(os.getpid(), signal.SIGKILL)
    case ["deaf"]:
      signal.signal(signal.SIGALRM, signal.SIG_IGN)
      time.sleep(60)
    case ["stop"]:
      os.kill(os.getpid(), signal.SIGSTOP)
    case ["raise"]:
      raise KeyError("as told")
    case ["leave", name]:
      raise getattr(builtins, name)
    case ["memory"]:
      held = []
      while True:
        held.append(bytearray(1 << 24))
    case ["leak"]:
      LEAKED.append(bytearray(b"x" * (MEM_MB << 18)))
      LEAKED.append(bytearray(b"x" * (1 << 24)))
    case ["fds"]:
      os.closerange(0, 100)
    case ["garbage", text]:
      for fd in range(3, 20):
        with contextlib.suppress(OSError):
          os.write(fd, text.encode() + b"\n")
    case ["flood"]:
      for fd in range(3, 20):
        with contextlib.suppress(OSError):
          os.write(fd, b"x" * (2 << 20))
    case ["once", path]:  # Killed from outside, the first time.
      if not os.path.exists(path):
        pathlib.Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    case ["stray", path]:
      child = subprocess.Popen(["sleep", "61"], start_new_session=True)
      pathlib.Path(path).write_text(str(child.pid))
    case ["orphan"]:  # It holds the worker's pipes; no keeper ends it.
      if os.fork():
        os.kill(os.getppid(), signal.SIGKILL)
      time.sleep(60)
    case ["mess"]:
      signal.signal(signal.SIGALRM, signal.SIG_IGN)
    case ["print"]:
      os.write(1, b"x" * 300_000)
      os.write(2, b"x" * 300_000)
    case ["child", path]:
      child = subprocess.Popen(["sleep", "61"])
      pathlib.Path(path).write_text(str(child.pid))
      time.sleep(60)
  return Reward(scale * len(response.text), response.text)


TABLE = {"obeys": obeys, "steady": lambda q, r: Reward(1.0, "steady")}


def start(
  workers: int = 2, timeout_secs: float = 10.0, budget_secs=60.0, **rewards
):
  return grading.Grader(
    rewards or {"obeys": {}},
    workers=workers,
    timeout_secs=timeout_secs,
    budget_secs=budget_secs,
    worker_mem_mb=MEM_MB,
    table=f"{__name__}:TABLE",
  )


def real(rewards, workers=2, timeout_secs=10.0, budget_secs=60.0, mem_mb=1024):
  return grading.Grader(
    rewards,
    workers=workers,
    timeout_secs=timeout_secs,
    budget_secs=budget_secs,
    worker_mem_mb=mem_mb,
  )


def graded(grader, texts) -> list[Reward]:
  for i, text in enumerate(texts):
    grader.submit(i, QUESTION, Response(text, 9, "eos"))
  rows = grader.collect()
  return [rows[i]["obeys"] for i in range(len(texts))]


def is_running(pid: int) -> bool:
  with contextlib.suppress(FileNotFoundError):
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] != "Z"
  return False


def wait_until_gone(pids, secs: float = 10.0) -> bool:
  deadline = time.monotonic() + secs
  while any(map(is_running, pids)):
    if time.monotonic() > deadline:
      return False
    time.sleep(0.02)
  return True


class GraderTest(parameterized.TestCase):
  def test_real_rewards_in_order_of_submission(self):
    rewards = {"accuracy": {}, "format": {}}
    with real(rewards) as grader:
      for key in ("b", ("a", 1), 7):
        text = f"<think>{key}</think><answer>3-5+8</answer>"
        grader.submit(key, QUESTION, Response(text, 9, "eos"))
      rows = grader.collect()
    self.assertEqual(list(rows), ["b", ("a", 1), 7])
    for row in rows.values():
      self.assertEqual(row["accuracy"], Reward(1.0, "gives 6"))
      self.assertEqual(row["format"], Reward(1.0, "well formed"))

  def test_starts_lazily_and_keeps_workers_over_rounds(self):
    with start(workers=2) as grader:
      self.assertEqual(grader.pids(), [])
      self.assertEqual(grader.collect(), {})
      graded(grader, ["a"] * 30)
      pids = grader.pids()
      self.assertLen(pids, 2)
      graded(grader, ["b"] * 30)
      self.assertEqual(grader.pids(), pids)

  def test_no_process_is_left_after_close(self):
    grader = start(workers=3)
    graded(grader, ["a"] * 30)
    grader.submit("open", QUESTION, Response("sleep 60", 9, "eos"))
    pids = grader.pids()
    self.assertLen(pids, 3)
    began = time.monotonic()
    grader.close()
    self.assertLess(time.monotonic() - began, 5.0)
    self.assertTrue(wait_until_gone(pids, secs=0.0))
    self.assertEqual(grader.poll(), 0)
    grader.close()  # Again, without harm.

  @parameterized.parameters("sleep 60", "spin", "deaf", "stop")
  @mock.patch.object(grading_worker, "GRACE_SECS", 0.5)
  def test_hang_costs_one_row(self, command):
    # The other rows wait behind it in the one worker, and are then graded.
    with start(workers=1, timeout_secs=0.5) as grader:
      texts = ["a"] * 5 + [command] + ["b"] * 20
      rewards = graded(grader, texts)
    self.assertEqual(
      rewards[5], Reward(0.0, "took longer than 0.5 s", "timeout")
    )
    del rewards[5], texts[5]
    self.assertEqual([reward.reason for reward in rewards], texts)
    self.assertEqual({reward.status for reward in rewards}, {"ok"})

  def test_what_a_late_worker_started_is_killed(self):
    with (
      tempfile.NamedTemporaryFile("r") as file,
      start(workers=1, timeout_secs=0.5) as grader,
    ):
      rewards = graded(grader, [f"child {file.name}"])
      self.assertEqual(rewards[0].status, "timeout")
      self.assertTrue(wait_until_gone([int(file.read())]))

  @parameterized.parameters(
    ("exit", "worker exited with status 0"),
    ("kill", "worker was killed by SIGKILL, 2 times"),
  )
  def test_death_costs_one_row(self, command, reason):
    with start(workers=1) as grader:
      rewards = graded(grader, ["a", command, "b", command, command, "c"])
    self.assertEqual(rewards[1], Reward(0.0, reason, "failed"))
    self.assertEqual(
      [reward.status for reward in rewards],
      ["ok", "failed", "ok", "failed", "failed", "ok"],
    )

  def test_signal_from_outside_is_forgiven_once(self):
    with (
      tempfile.TemporaryDirectory() as folder,
      start(workers=1) as grader,
    ):
      text = f"once {folder}/file"
      rewards = graded(grader, ["a", text, "b"])
    self.assertEqual([reward.reason for reward in rewards], ["a", text, "b"])
    self.assertEqual({reward.status for reward in rewards}, {"ok"})

  @parameterized.parameters(
    ("memory", "MemoryError:"),
    ("leave SystemExit", "SystemExit:"),
    ("leave KeyboardInterrupt", "KeyboardInterrupt:"),
    ("leave RecursionError", "RecursionError:"),
    ("fds", "worker exited with status 1"),
    ("garbage 1", "worker sent no valid reply"),
    ("garbage {", "worker sent no valid reply"),
    ('garbage {"id":1,"secs":1.0,"rewards":{}}', "worker sent no valid reply"),
    ("flood", "worker sent no valid reply"),
  )
  def test_what_costs_its_own_row(self, command, reason):
    texts = ["a", command, "b"]
    with start(workers=1) as grader:
      rewards = graded(grader, texts)
    self.assertEqual([reward.reason for reward in rewards], ["a", reason, "b"])
    self.assertEqual(
      [(reward.value, reward.status) for reward in rewards],
      [(1.0, "ok"), (0.0, "failed"), (1.0, "ok")],
    )

  def test_memory_is_given_back_by_the_worker_that_stays(self):
    with start(workers=1) as grader:
      graded(grader, ["a"])
      pids = grader.pids()
      self.assertEqual(graded(grader, ["memory"] * 3)[2].status, "failed")
      self.assertEqual(grader.pids(), pids)

  def test_worker_that_grew_is_replaced(self):
    with start(workers=1) as grader:
      graded(grader, ["a"])
      pids = grader.pids()
      texts = ["b", "leak", "c", "d"]
      rewards = graded(grader, texts)
      self.assertEqual([reward.reason for reward in rewards], texts)
      self.assertEqual({reward.status for reward in rewards}, {"ok"})
      self.assertNotEqual(grader.pids(), pids)

  def test_what_a_row_started_ends_with_it(self):
    with (
      tempfile.NamedTemporaryFile("r") as file,
      start(workers=1) as grader,
    ):
      self.assertEqual(graded(grader, [f"stray {file.name}"])[0].status, "ok")
      self.assertFalse(is_running(int(file.read())))
      self.assertLen(grader.pids(), 1)

  @mock.patch.object(grading_worker, "GRACE_SECS", 0.1)
  @mock.patch.object(grading_worker, "_STOP_SECS", 0.1)
  def test_orphan_of_a_killed_keeper_holds_nothing_up(self):
    with start(workers=1, timeout_secs=0.4) as grader:
      graded(grader, ["a"])
      session = grader.pids()[0]
      rewards = graded(grader, ["orphan", "b"])
      self.assertEqual([r.status for r in rewards], ["timeout", "ok"])
      self.assertFalse(any(map(is_running, keeper.in_session(session))))

  def test_row_cannot_disarm_the_deadline_of_the_next(self):
    with start(workers=1, timeout_secs=0.3) as grader:
      graded(grader, ["mess"])
      began = time.monotonic()
      self.assertEqual(graded(grader, ["sleep 60"])[0].status, "timeout")
      self.assertLess(time.monotonic() - began, grading_worker.GRACE_SECS)

  def test_budget_ends_what_is_open(self):
    with start(workers=1, timeout_secs=0.5, budget_secs=0.8) as grader:
      graded(grader, ["a"])
      for i in range(20):
        text = "b" if i < 3 else "sleep 60"
        grader.submit(i, QUESTION, Response(text, 9, "eos"))
      began = time.monotonic()
      rows = [row["obeys"] for row in grader.collect().values()]
      self.assertLess(time.monotonic() - began, 4.0)
      self.assertEqual([row.reason for row in rows[:3]], ["b"] * 3)
      self.assertEqual(
        rows[19],
        Reward(0.0, "not graded in the 0.8 s for all rows", "timeout"),
      )
      self.assertEqual({row.status for row in rows[3:]}, {"timeout"})
      self.assertEqual(grader.poll(), 0)
      self.assertEqual(graded(grader, ["c"])[0].reason, "c")

  def test_rows_are_kept_not_copied(self):
    with start(workers=1) as grader:
      response = Response("x" * 100_000, 9, "eos")
      for i in range(200):
        grader.submit(i, QUESTION, response)
      self.assertIs(grader._queue[-1].response, response)
      (each,) = grader._workers
      self.assertLess(len(each._outgoing), 40 * 100_000)
      self.assertLen(grader.collect(), 200)

  def test_seconds_of_each_row(self):
    with start(workers=1, timeout_secs=0.5) as grader:
      for text in ("a", "sleep 0.2", "sleep 60"):
        grader.submit(text, QUESTION, Response(text, 9, "eos"))
      _, secs = grader.collect_timed()
    self.assertBetween(secs["a"], 0.0, 0.15)
    self.assertBetween(secs["sleep 0.2"], 0.2, 0.45)
    self.assertEqual(secs["sleep 60"], 0.5)

  def test_idle_worker_is_not_on_the_clock(self):
    with start(workers=1, timeout_secs=0.2) as grader:
      graded(grader, ["a"])
      pids = grader.pids()
      time.sleep(0.5)
      self.assertEqual(graded(grader, ["b"])[0].reason, "b")
      self.assertEqual(grader.pids(), pids)

  def test_idle_worker_that_dies_is_replaced(self):
    with start(workers=1) as grader:
      graded(grader, ["a"])
      (pid,) = grader.pids()
      os.kill(pid, signal.SIGKILL)
      self.assertTrue(wait_until_gone([pid]))
      self.assertEqual(graded(grader, ["b"])[0].reason, "b")
      self.assertNotEqual(grader.pids(), [pid])

  def test_exception_costs_one_reward(self):
    with start(obeys={}, steady={}) as grader:
      grader.submit(0, QUESTION, Response("raise", 9, "eos"))
      row = grader.collect()[0]
    self.assertEqual(row["obeys"], Reward(0.0, "KeyError: 'as told'", "failed"))
    self.assertEqual(row["steady"], Reward(1.0, "steady"))

  def test_death_fails_all_rewards_of_the_row(self):
    with start(steady={}, obeys={}) as grader:
      grader.submit(0, QUESTION, Response("exit", 9, "eos"))
      row = grader.collect()[0]
    self.assertEqual(row["steady"], row["obeys"])
    self.assertEqual(row["steady"].status, "failed")

  @pytest.mark.slow
  def test_same_for_any_number_of_workers(self):
    texts = [f"row {i}" for i in range(60)]
    for i in (3, 4, 29, 58):
      texts[i] = "exit"
    for i in (5, 40):
      texts[i] = "sleep 60"
    texts[20] = "raise"
    texts[21] = "print"
    results = []
    for workers in (1, 2, 3):
      with start(workers=workers, timeout_secs=0.5) as grader:
        results.append(graded(grader, texts))
    self.assertEqual(results[0], results[1])
    self.assertEqual(results[0], results[2])
    for i, reward in enumerate(results[0]):
      if texts[i].startswith("row") or texts[i] == "print":
        self.assertEqual(reward.reason, texts[i])

  def test_long_rows_never_block(self):
    # Far more than the pipes hold, both of the rows and of what is printed.
    texts = ["x" * 100_000 + str(i) for i in range(40)] + ["print"] * 10
    with start(workers=2) as grader:
      rewards = graded(grader, texts)
    self.assertEqual(
      [reward.value for reward in rewards], [len(text) for text in texts]
    )

  def test_goes_on_between_polls(self):
    with start(workers=1) as grader:
      graded(grader, ["a"])
      for i in range(4):
        grader.submit(i, QUESTION, Response("sleep 0.1", 9, "eos"))
      time.sleep(0.8)  # The sampler is at work.
      began = time.monotonic()
      self.assertEqual(grader.poll(), 0)
      self.assertLess(time.monotonic() - began, 0.1)

  @pytest.mark.slow
  def test_deadline_holds_however_rarely_it_is_polled(self):
    with start(workers=1, timeout_secs=0.4) as grader:
      graded(grader, ["a"])
      grader.submit(0, QUESTION, Response("sleep 0.8", 9, "eos"))
      time.sleep(1.5)
      self.assertEqual(grader.collect()[0]["obeys"].status, "timeout")
      # Each row alone counts, not how long the rows before it took.
      for i in range(8):
        grader.submit(i, QUESTION, Response("sleep 0.15", 9, "eos"))
      time.sleep(0.7)
      rows = grader.collect()
      self.assertEqual({row["obeys"].status for row in rows.values()}, {"ok"})

  @mock.patch.object(grading_worker, "GRACE_SECS", 0.1)
  def test_many_rows_in_time_are_not_late_together(self):
    with start(workers=1, timeout_secs=0.4) as grader:
      rewards = graded(grader, ["sleep 0.2"] * 6)
    self.assertEqual({reward.status for reward in rewards}, {"ok"})

  @mock.patch.object(grading_worker, "GRACE_SECS", 0.1)
  def test_row_that_was_long_under_way_is_not_late(self):
    with start(workers=1, timeout_secs=0.2) as grader:
      graded(grader, ["a"])
      pids = grader.pids()
      text = "x" * 300_000  # More than the pipe holds until the next poll.
      grader.submit(0, QUESTION, Response(text, 9, "eos"))
      time.sleep(0.5)
      self.assertEqual(grader.collect()[0]["obeys"].value, len(text))
      self.assertEqual(grader.pids(), pids)

  def test_start_up_is_not_on_the_clock(self):
    with start(workers=1, timeout_secs=0.1) as grader:
      self.assertEqual(graded(grader, ["a"])[0].status, "ok")

  def test_speed(self):
    rewards = {"accuracy": {}, "format": {}, "language": {}}
    text = "<think>3 + 5 = 8</think><answer>3 - 5 + 8</answer>"
    with real(rewards) as grader:
      for i in range(2):
        grader.submit(i, QUESTION, Response(text, 9, "eos"))
      grader.collect()
      began = time.perf_counter()
      for i in range(256):
        grader.submit(i, QUESTION, Response(text, 9, "eos"))
      rows = grader.collect()
      secs = time.perf_counter() - began
    self.assertLen(rows, 256)
    self.assertLess(secs, 0.3)  # About 0.01 on an idle machine.

  def test_double_key_is_refused(self):
    with start() as grader:
      grader.submit("k", QUESTION, Response("a", 9, "eos"))
      with self.assertRaisesRegex(ValueError, "'k' was submitted twice"):
        grader.submit("k", QUESTION, Response("b", 9, "eos"))
      self.assertEqual(grader.collect()["k"]["obeys"].reason, "a")
      grader.submit("k", QUESTION, Response("b", 9, "eos"))
      self.assertEqual(grader.collect()["k"]["obeys"].reason, "b")

  def test_workers_that_cannot_start_stop_the_run(self):
    grader = start(workers=1)
    grader._command[-3] = "--table=no_such_module:TABLE"
    with grader, self.assertRaisesRegex(RuntimeError, "no_such_module"):
      graded(grader, ["a"])


class ParentTest(absltest.TestCase):
  SCRIPT = """
import sys, time
from {module} import start, QUESTION, Response
grader = start(workers=3, timeout_secs=1.5)
for i in range(30):
  grader.submit(i, QUESTION, Response("a", 9, "eos"))
grader.collect()
grader.submit("hang", QUESTION, Response("spin", 9, "eos"))
print(*grader.pids(), flush=True)
time.sleep(60)
"""

  def start_parent(self) -> tuple[subprocess.Popen, list[int]]:
    parent = subprocess.Popen(
      [sys.executable, "-c", self.SCRIPT.format(module=__name__)],
      env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      start_new_session=True,
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    self.assertLen(pids, 3)
    self.assertTrue(all(map(is_running, pids)))
    return parent, pids

  def test_nothing_outlives_a_killed_parent(self):
    parent, pids = self.start_parent()
    parent.kill()
    parent.communicate()
    self.assertTrue(wait_until_gone(pids))

  def test_nothing_outlives_ctrl_c(self):
    parent, pids = self.start_parent()
    os.killpg(parent.pid, signal.SIGINT)
    parent.communicate(timeout=10)
    self.assertTrue(wait_until_gone(pids))


class ArgumentsTest(parameterized.TestCase):
  @parameterized.parameters(
    ({}, "config.rewards is empty"),
    ({"acuracy": {}}, "'acuracy'.*mean accuracy"),
    ({"format": {"weight": 1}}, "config.rewards.format.weight is unknown"),
    ({"overlong": {"max_tokens": 9}}, "overlong.cache_tokens is missing"),
  )
  def test_rewards(self, rewards, message):
    with self.assertRaisesRegex(ValueError, message):
      real(rewards)

  @parameterized.parameters(
    ("workers", 0),
    ("timeout_secs", 0),
    ("timeout_secs", float("nan")),
    ("timeout_secs", float("inf")),
    ("budget_secs", 9.9),
    ("mem_mb", 63),
  )
  def test_numbers(self, name, value):
    with self.assertRaisesRegex(ValueError, f"{name} is {value}. Set it to"):
      real({"format": {}}, **{name: value})


class SumsTest(absltest.TestCase):
  def test_weighted_sum(self):
    rewards = {"a": Reward(1.0, ""), "b": Reward(-0.5, "")}
    self.assertEqual(grading.weighted_sum(rewards, {"a": 2.0, "b": 0.5}), 1.75)
    with self.assertRaises(KeyError):
      grading.weighted_sum(rewards, {"a": 2.0})

  def test_counts_responses(self):
    ok, failed = Reward(1.0, ""), Reward(0.0, "", "failed")
    late = Reward(0.0, "", "timeout")
    rows = [{"a": ok}, {"a": failed, "b": failed}, {"a": late, "b": ok}]
    self.assertEqual(
      grading.counts(rows),
      {"grade/failed_count": 1, "grade/timeout_count": 1},
    )
    self.assertEqual(
      grading.counts([]), {"grade/failed_count": 0, "grade/timeout_count": 0}
    )


if __name__ == "__main__":
  absltest.main()
