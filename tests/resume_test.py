"""A run that was broken and started again equals the unbroken run."""

import contextlib
import functools
import os
import pathlib
import signal
import tempfile
import time
from unittest import mock

import pytest
from absl.testing import absltest, parameterized

from r1jax import (
  checkpoint,
  config_check,
  evaluate,
  jobs,
  run_card,
  train,
  training,
)
from r1jax.models import store
from tests import runs

LOGS = ("metrics.jsonl", "rollouts.jsonl", "eval.jsonl")
WORK = tempfile.TemporaryDirectory(prefix="r1jax-resume-")


class Broken(Exception):
  """Ends a run where a kill would."""


def small_config(**changes):
  """Two updates a round, a reference that is refreshed, evaluations."""
  config = runs.config(
    rounds=4,
    updates_per_round=2,
    reference_refresh_rounds=2,
    checkpoint_every_rounds=2,
    eval_every_rounds=3,
    **{"optimizer.learning_rate": 0.01, **changes},
  )
  config_check.check(config)
  return config


@functools.cache
def unbroken():
  """Outcome of the run that nothing stops."""
  workdir = os.path.join(WORK.name, "unbroken")
  jobs.run(small_config(), workdir)
  return outcome(workdir)


def outcome(workdir):
  """All that a run leaves behind and that should not depend on luck."""
  return {
    "digests": run_card.read(workdir).get("final_digests"),
    "export": pathlib.Path(workdir, training.EXPORT).read_bytes(),
    **{name: runs.rows(workdir, name) for name in LOGS},
  }


@contextlib.contextmanager
def failing(owner, name, call):
  """Makes the function raise Broken instead of its call-th call."""
  calls = []
  whole = getattr(owner, name)

  def fails(*args, **kwargs):
    calls.append(None)
    if len(calls) == call + 1:
      raise Broken
    return whole(*args, **kwargs)

  with mock.patch.object(owner, name, fails):
    yield


class ResumeTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = self.enterContext(tempfile.TemporaryDirectory())

  def assert_unbroken(self, workdir):
    got, want = outcome(workdir), unbroken()
    self.assertIsNotNone(want["digests"])
    for name in want:
      self.assertEqual(got[name], want[name], name)

  @parameterized.named_parameters(
    ("before_round_zero_is_saved", train, "run_update", 1),
    ("between_two_updates", train, "run_update", 5),
    ("before_the_export", store, "save", 0),
  )
  def test_broken(self, owner, name, call):
    self.check_broken(owner, name, call)

  @parameterized.named_parameters(
    ("while_collecting", train, "_round", 3),
    ("while_evaluating", evaluate, "score", 1),
    ("while_saving", checkpoint.Checkpointer, "save", 1),
    ("before_the_last_line_of_the_card", train, "digests", 0),
  )
  @pytest.mark.slow
  def test_broken_elsewhere(self, owner, name, call):
    self.check_broken(owner, name, call)

  def check_broken(self, owner, name, call):
    with failing(owner, name, call), self.assertRaises(Broken):
      jobs.run(small_config(), self.workdir)
    jobs.run(small_config(), self.workdir)
    self.assert_unbroken(self.workdir)

  @pytest.mark.slow
  def test_broken_twice_with_torn_logs(self):
    for call in (3, 2):
      with failing(train, "run_update", call), self.assertRaises(Broken):
        jobs.run(small_config(), self.workdir)
      for name in LOGS:
        with open(os.path.join(self.workdir, name), "a") as file:
          file.write('{"round": ')
    jobs.run(small_config(), self.workdir)
    self.assert_unbroken(self.workdir)

  def test_a_damaged_checkpoint_falls_back_and_says_so(self):
    with failing(train, "digests", 0), self.assertRaises(Broken):
      jobs.run(small_config(), self.workdir)
    (data,) = pathlib.Path(self.workdir, "checkpoints/3/state/d").iterdir()
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 16
    data.write_bytes(content)
    with self.assertLogs("r1jax.checkpoint") as logs:
      jobs.run(small_config(), self.workdir)
    self.assertIn("trying the one before it", logs.output[0])
    self.assert_unbroken(self.workdir)

  def test_sigterm_ends_the_run_after_its_round(self):
    self.check_signal(signal.SIGTERM)

  @pytest.mark.slow
  def test_sigint_ends_the_run_after_its_round(self):
    self.check_signal(signal.SIGINT)

  def check_signal(self, number):
    collect = train._round
    handler = signal.getsignal(number)

    def with_signal(*args):
      if args[4] == 2:
        os.kill(os.getpid(), number)
      return collect(*args)

    with mock.patch.object(train, "_round", with_signal):
      jobs.run(small_config(), self.workdir)
    self.assertLen(runs.rows(self.workdir), 4)  # Round -1 and three more.
    saved = os.listdir(os.path.join(self.workdir, "checkpoints"))
    self.assertIn("2", saved)
    self.assertNotIn("final_digests", run_card.read(self.workdir))
    self.assertEqual(signal.getsignal(number), handler)
    jobs.run(small_config(), self.workdir)
    self.assert_unbroken(self.workdir)

  def test_a_finished_run_says_so_and_changes_nothing(self):
    unbroken()
    workdir = os.path.join(WORK.name, "unbroken")
    before = {p: p.stat().st_mtime_ns for p in pathlib.Path(workdir).rglob("*")}
    with (
      mock.patch.object(train, "run") as run,
      self.assertLogs() as logs,
    ):
      jobs.run(small_config(), workdir)
    run.assert_not_called()
    self.assertIn("is finished.", logs.output[-1])
    after = {p: p.stat().st_mtime_ns for p in pathlib.Path(workdir).rglob("*")}
    self.assertEqual(after, before)

  def test_other_seeds_give_other_runs(self):
    jobs.run(small_config(seed=1), self.workdir)
    for name, value in outcome(self.workdir).items():
      self.assertNotEqual(value, unbroken()[name], name)


class KilledTest(parameterized.TestCase):
  """The same with processes and kill -9."""

  def setUp(self):
    super().setUp()
    self.directory = self.enterContext(tempfile.TemporaryDirectory())
    self.workdir = os.path.join(self.directory, "run")

  def start(self):
    return runs.start(small_config(), self.workdir, self.directory)

  def wait_for(self, child, what):
    deadline = time.monotonic() + 300
    while not what():
      self.assertIsNone(child.poll(), "the run ended first")
      self.assertLess(time.monotonic(), deadline)

  def finish(self):
    child = self.start()
    _, err = child.communicate(timeout=300)
    self.assertEqual(child.returncode, 0, err)
    got, want = outcome(self.workdir), unbroken()
    for name in want:
      self.assertEqual(got[name], want[name], name)

  def logged(self, name):
    path = pathlib.Path(self.workdir, name)
    return path.read_text().count("\n") if path.exists() else 0

  @pytest.mark.slow
  def test_killed_in_the_middle_of_a_round(self):
    for rows in (8, 24):  # Before anything is saved, and after.
      child = self.start()
      # Its rollouts are logged before its updates are made.
      while self.logged("rollouts.jsonl") < rows:
        self.assertIsNone(child.poll(), "the run ended first")
      child.send_signal(signal.SIGKILL)
      child.communicate()
      self.assertEqual(child.returncode, -signal.SIGKILL)
    self.finish()

  @pytest.mark.slow
  def test_killed_while_a_checkpoint_is_written(self):
    checkpoints = pathlib.Path(self.workdir, "checkpoints")
    child = self.start()
    self.wait_for(
      child,
      lambda: checkpoints.exists() and list(checkpoints.glob("*tmp*")),
    )
    child.send_signal(signal.SIGKILL)
    child.communicate()
    self.assertNotEmpty(list(checkpoints.glob("*tmp*")))
    self.finish()

  @pytest.mark.slow
  def test_terminated(self):
    child = self.start()
    self.wait_for(child, lambda: self.logged("metrics.jsonl") >= 2)
    child.terminate()
    _, err = child.communicate(timeout=300)
    self.assertEqual(child.returncode, 0, err)
    self.assertIn("Stopped by a signal", err)
    self.finish()
    child = self.start()
    _, err = child.communicate(timeout=300)
    self.assertEqual(child.returncode, 0, err)
    self.assertIn("is finished.", err)


if __name__ == "__main__":
  absltest.main()
