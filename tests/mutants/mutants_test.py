"""Every known bug, put back, is caught by the test that names it."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import pytest
from absl.testing import absltest, parameterized

from tests.mutants import table

ROOT = pathlib.Path(__file__).resolve().parents[2]
COPIED = ("r1jax", "tests", "configs", "pyproject.toml")


def run(directory, tests):
  """(exit status, output) of tests in a copy of the repository.

  Exit status 1 of pytest means that a test ran and failed.
  """
  cases = sorted({test.rpartition("::")[0] for test in tests})
  methods = " or ".join(sorted({test.split("::")[2] for test in tests}))
  options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", ""]
  done = subprocess.run(
    [sys.executable, "-m", "pytest", *options, *cases, "-k", methods],
    cwd=directory,
    env=os.environ
    | {"PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1"},
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )
  return done.returncode, done.stdout + done.stderr


def copy_repository(directory):
  for name in COPIED:
    source, target = ROOT / name, pathlib.Path(directory, name)
    if source.is_dir():
      ignored = shutil.ignore_patterns("__pycache__")
      shutil.copytree(source, target, ignore=ignored)
    else:
      shutil.copy(source, target)


class TableTest(parameterized.TestCase):
  """The table fits the code as it stands."""

  @parameterized.parameters(*[(mutant,) for mutant in table.MUTANTS])
  def test_the_mutated_text_stands_once(self, mutant):
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    self.assertEqual(text.count(mutant.old), 1, mutant.name)
    self.assertNotEqual(mutant.old, mutant.new)

  @parameterized.parameters(*[(mutant,) for mutant in table.MUTANTS])
  def test_the_test_exists(self, mutant):
    file, case, method = mutant.test.split("::")
    text = (ROOT / file).read_text(encoding="utf-8")
    _, found, rest = text.partition(f"\nclass {case}(")
    self.assertTrue(found, mutant.test)
    body = rest.partition("\nclass ")[0]
    # Parameterized tests add their names to the method's.
    stems = re.findall(r"\n  def (test_\w+)\(", body)
    self.assertTrue(any(method.startswith(stem) for stem in stems), mutant.test)

  def test_names_differ(self):
    names = [mutant.name for mutant in table.MUTANTS]
    self.assertLen(set(names), len(names))


class MutantsTest(parameterized.TestCase):
  @parameterized.named_parameters(
    (mutant.name.replace(" ", "_"), mutant) for mutant in table.MUTANTS
  )
  @pytest.mark.slow
  def test_is_caught(self, mutant):
    directory = self.enterContext(tempfile.TemporaryDirectory())
    copy_repository(directory)
    path = pathlib.Path(directory, mutant.file)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    status, output = run(directory, [mutant.test])
    self.assertEqual(status, 1, f"{mutant.test} lets it pass:\n{output}")

  @pytest.mark.slow
  def test_without_a_mutant_the_tests_pass(self):
    directory = self.enterContext(tempfile.TemporaryDirectory())
    copy_repository(directory)
    status, output = run(directory, [m.test for m in table.MUTANTS])
    self.assertEqual(status, 0, output)


if __name__ == "__main__":
  absltest.main()
