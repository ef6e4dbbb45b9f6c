import os
import pathlib
import subprocess
import sys
import tempfile

import pytest
from absl.testing import absltest, parameterized

from tests import runs

ZERO = "--config=configs/zero.py:smoke"
# Imports of a mistake's run are told from those of a job's.
WITHOUT_JAX = """
import runpy, sys
class Refuse:
  def find_spec(self, name, *_):
    if name in ("jax", "tensorflow", "torch"):
      print("imported", name, file=sys.stderr)
sys.meta_path.insert(0, Refuse())
sys.argv[0] = "r1jax.main"
runpy.run_module("r1jax.main", run_name="__main__")
"""


def run(*arguments, workdir, code=WITHOUT_JAX):
  """(exit status, stdout, stderr); imports of jax are told on stderr."""
  done = subprocess.run(
    [sys.executable, "-c", code, *arguments, f"--workdir={workdir}"],
    cwd=runs.ROOT,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  return done.returncode, done.stdout, done.stderr


class MistakeTest(parameterized.TestCase):
  """One line on stderr, exit status 1, no jax, nothing written."""

  @parameterized.parameters(
    ((), "flag --config=None: Flag --config must have a value"),
    (("--config=configs/zer.py",), "No such file or directory: .*zer.py"),
    (
      ("--config=configs/zero.py:smok",),
      "Config variant 'smok' is unknown. Known: smoke, bench-tiny,",
    ),
    (("--config=configs/zero.py:smoke,sed=1",), "config.sed is unknown"),
    ((ZERO, "--config.sed=1"), "config has no 'sed'. Did you mean \"seed\""),
    ((ZERO, "--config.kl.cof=1"), "config has no 'cof'. Did you mean \"coef\""),
    ((ZERO, "--config.seed=x"), "flag --config.seed=x: invalid literal"),
    ((ZERO, "--workdri=x"), "Unknown command line flag 'workdri'.*workdir"),
    ((ZERO, "smoke"), "Unknown argument 'smoke'. Flags begin with --."),
    ((ZERO, "--config.seed=-1"), "config.seed is -1, but must be an integer"),
    (
      (ZERO, "--config.samples_per_question=1"),
      "config.samples_per_question is 1, but config.advantage.name",
    ),
    (
      ("--config=configs/r1.py:smoke,zero.samples_per_question=1",),
      "Stage zero: config.samples_per_question is 1, but config.advantage",
    ),
    (
      (ZERO, "--config.max_response_tokens=7"),
      "config.max_response_tokens is 7, but the think and answer tags",
    ),
    (
      (ZERO, "--config.mesh.fsdp=5"),
      "config.rows_per_microbatch is 12, .* = 5 does not divide",
    ),
  )
  def test_ends_in_one_line(self, arguments, message):
    with tempfile.TemporaryDirectory() as directory:
      workdir = os.path.join(directory, "run")
      status, out, err = run(*arguments, workdir=workdir)
      self.assertRegex(err, rf"^r1jax: .*{message}")
      self.assertEqual(err.count("\n"), 1, err)
      self.assertEqual((status, out), (1, ""))
      self.assertFalse(os.path.exists(workdir))

  def test_the_imports_are_seen(self):
    with tempfile.TemporaryDirectory() as directory:
      path = pathlib.Path(directory, "file")
      path.write_text("")
      status, _, err = run(ZERO, workdir=path)
    self.assertIn("imported jax", err)
    self.assertEqual(status, 1)

  def test_no_write_permission(self):
    code = """
import os, sys
from absl import app
from configs import zero
from r1jax import jobs, main
if os.getuid() == 0:  # Who may write everywhere.
  os.setuid(65534)
sys.argv[0] = "r1jax.main"
app.run(main.main, flags_parser=main.parse)
"""
    with tempfile.TemporaryDirectory() as directory:
      os.chmod(directory, 0o555)
      workdir = os.path.join(directory, "run")
      status, _, err = run(ZERO, workdir=workdir, code=code)
    self.assertEqual(status, 1, err)
    self.assertRegex(err.splitlines()[-1], f"^r1jax: .*denied: '{workdir}'")
    self.assertNotIn("Traceback", err)

  def test_a_workdir_that_cannot_be(self):
    with tempfile.TemporaryDirectory() as directory:
      path = pathlib.Path(directory, "file")
      path.write_text("mine")
      status, _, err = run(ZERO, workdir=path)
      self.assertEqual(path.read_text(), "mine")
    self.assertEqual(status, 1)
    self.assertRegex(err.splitlines()[-1], f"^r1jax: .*{path}")
    self.assertNotIn("Traceback", err)


class RunTest(parameterized.TestCase):
  """The command as it is printed, from nothing to a finished run."""

  @pytest.mark.slow
  def test_runs_refuses_and_says_finished(self):
    directory = self.enterContext(tempfile.TemporaryDirectory())
    workdir = os.path.join(directory, "run")
    config = runs.config()

    def main(config):
      child = runs.start(config, workdir, directory)
      out, err = child.communicate(timeout=600)
      return child.returncode, out, err

    status, _, err = main(config)
    self.assertEqual(status, 0, err)
    self.assertRegex(err, r"round 3/3  loss .*reward|round 3/3  loss")
    status, _, err = main(config)
    self.assertEqual((status, err), (0, f"{workdir} is finished.\n"))
    status, out, err = main(runs.config(seed=1))
    self.assertEqual((status, out), (1, ""))
    self.assertRegex(err, f"^r1jax: {workdir} was made by another config: ")
    self.assertEqual(err.count("\n"), 1)

  @pytest.mark.slow
  def test_a_failing_run_ends_in_one_line(self):
    directory = self.enterContext(tempfile.TemporaryDirectory())
    config = runs.config(**{"optimizer.learning_rate": 1e38})
    child = runs.start(config, os.path.join(directory, "run"), directory)
    _, err = child.communicate(timeout=600)
    self.assertEqual(child.returncode, 1)
    self.assertRegex(err.splitlines()[-1], "^r1jax: Not finite in round 1")
    self.assertNotIn("Traceback", err)


if __name__ == "__main__":
  absltest.main()
