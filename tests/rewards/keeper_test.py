import os
import pathlib
import signal
import subprocess
import sys
import time

from absl.testing import absltest, parameterized

from r1jax.rewards import keeper

_SCRIPT = """
import os, pathlib, signal, subprocess, sys, tempfile, time
from r1jax.rewards import keeper

def work():
  hidden = subprocess.Popen(["sleep", "61"], start_new_session=True)
  if not os.fork():
    print(os.getpid(), hidden.pid, tempfile.mkdtemp(), os.getppid(), flush=True)
    time.sleep(61)
  {end}

keeper.run(work)
"""


def start(end: str) -> tuple[subprocess.Popen, list[int], pathlib.Path, int]:
  """A keeper, what its worker started, a folder there, and the worker."""
  process = subprocess.Popen(
    [sys.executable, "-c", _SCRIPT.format(end=end)],
    env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  forked, hidden, folder, worker = process.stdout.readline().split()
  return process, [int(forked), int(hidden)], pathlib.Path(folder), int(worker)


class KeeperTest(parameterized.TestCase):
  def check_gone(self, process, pids, folder, worker):
    for pid in (*pids, worker):
      self.assertFalse(keeper.is_alive(pid))
    self.assertFalse(folder.exists())
    self.assertFalse(folder.parent.exists())
    self.assertStartsWith(folder.parent.name, "r1jax-grader-")
    process.stdout.close()

  @parameterized.parameters(
    ("sys.exit(0)", 0),
    ("os._exit(7)", 7),
    ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
    (
      "signal.setitimer(signal.ITIMER_REAL, .1); time.sleep(9)",
      -signal.SIGALRM,
    ),
    ("os.killpg(0, signal.SIGKILL)", -signal.SIGKILL),
  )
  def test_ends_as_the_worker_and_leaves_nothing(self, end, code):
    process, *rest = start(f"time.sleep(0.2); {end}")
    self.assertEqual(process.wait(20), code)
    self.check_gone(process, *rest)

  def test_told_to_end(self):
    process, *rest = start("os.kill(os.getpid(), signal.SIGSTOP)")
    process.terminate()
    self.assertEqual(process.wait(20), -signal.SIGKILL)
    self.check_gone(process, *rest)

  def test_ctrl_c_is_for_others(self):
    process, pids, *rest = start("time.sleep(0.5)")
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.2)
    self.assertTrue(all(map(keeper.is_alive, pids)))
    self.assertEqual(process.wait(20), 0)
    self.check_gone(process, pids, *rest)

  def test_worker_does_not_outlive_a_killed_keeper(self):
    process, pids, folder, worker = start("time.sleep(60)")
    self.assertTrue(keeper.is_alive(worker))
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while keeper.is_alive(worker) and time.monotonic() < deadline:
      time.sleep(0.01)
    self.assertFalse(keeper.is_alive(worker))
    process.stdout.close()
    for pid in pids:  # No one was left to end these.
      os.kill(pid, signal.SIGKILL)
    folder.rmdir()
    folder.parent.rmdir()

  def test_sessions(self):
    process, pids, folder, worker = start("time.sleep(60)")
    self.assertCountEqual(
      keeper.in_session(process.pid), [process.pid, worker, pids[0]]
    )
    self.assertContainsSubset([worker, *pids], keeper.below(process.pid))
    process.terminate()
    process.wait(20)
    self.check_gone(process, pids, folder, worker)

  def test_strays_are_a_workers_matter(self):
    child = subprocess.Popen(["sleep", "61"])
    keeper.kill_strays()  # There is no keeper here.
    self.assertTrue(keeper.is_alive(child.pid))
    child.kill()
    child.wait()
    self.assertFalse(keeper.is_alive(child.pid))


if __name__ == "__main__":
  absltest.main()
