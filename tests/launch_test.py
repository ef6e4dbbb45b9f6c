"""The launch scripts and setup.py, with stand-ins for what is slow."""

import ast
import os
import pathlib
import runpy
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

import setuptools
from absl.testing import absltest, parameterized

import r1jax

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = ("bash", "env", "dirname", "cmp", "cp", "rm", "mkdir", "chmod", "cat")

# Logs what it was called with; `-m venv DIR` puts a copy of itself there.
PYTHON = """#!/usr/bin/env bash
printf '%s|' "$PWD" "$@" >>"$LOG"
echo >>"$LOG"
if [[ "$1 $2" == "-m venv" ]]; then
  mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
fi
"""
OLD_PYTHON = "#!/usr/bin/env bash\nexit 1\n"


class LaunchTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.home = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.repo = self.home / "a clone"
    shutil.copytree(ROOT / "launch", self.repo / "launch")
    shutil.copy(ROOT / "setup.py", self.repo)
    self.bin = self.home / "bin"
    self.bin.mkdir()
    for tool in TOOLS:
      (self.bin / tool).symlink_to(shutil.which(tool))
    self.log = self.home / "log"

  def add_program(self, name: str, text: str):
    (self.bin / name).write_text(text)
    (self.bin / name).chmod(0o755)

  def launch(self, script: str, *args: str) -> subprocess.CompletedProcess:
    self.log.write_text("")
    return subprocess.run(
      [self.repo / "launch" / script, *args],
      cwd=self.home,
      env={"PATH": str(self.bin), "LOG": str(self.log)},
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      check=False,
    )

  def calls(self) -> list[list[str]]:
    lines = self.log.read_text().splitlines()
    return [line.rstrip("|").split("|") for line in lines]

  def test_a_machine_without_python_gets_one_line(self):
    for script in ("local.sh", "test.sh"):
      done = self.launch(script)
      self.assertEqual(done.returncode, 1)
      self.assertEqual(
        done.stderr,
        "r1jax needs Python 3.11 or newer, and none was found on PATH.\n",
      )

  def test_an_old_python_is_passed_over(self):
    self.add_program("python3.13", OLD_PYTHON)
    self.add_program("python3", OLD_PYTHON)
    self.assertEqual(self.launch("local.sh").returncode, 1)
    self.assertFalse((self.repo / ".venv").exists())
    self.add_program("python3.12", PYTHON)
    self.assertEqual(self.launch("local.sh").returncode, 0)

  def test_installs_once_and_again_when_setup_changes(self):
    self.add_program("python3", PYTHON)
    done = self.launch("local.sh", "--config=a b.py:smoke", "--workdir=x")
    self.assertEqual(done.returncode, 0, done.stderr)
    _, venv, install, run = self.calls()
    self.assertEqual(venv[1:3], ["-m", "venv"])
    self.assertEqual(install[1:4], ["-m", "pip", "install"])
    self.assertEqual(install[-1], str(self.repo))
    self.assertEqual(run[:3], [str(self.repo), "-m", "r1jax.main"])
    self.assertEqual(run[3:], ["--config=a b.py:smoke", "--workdir=x"])
    self.launch("local.sh")
    self.assertLen(self.calls(), 1)
    self.launch("test.sh", "-m", "slow")
    install, run = self.calls()
    self.assertEqual(install[-1], f"{self.repo}[test]")
    self.assertEqual(run[1:], ["-m", "pytest", "-m", "slow"])
    with open(self.repo / "setup.py", "a") as file:
      file.write("# Another dependency.\n")
    for script, count in (("test.sh", 2), ("test.sh", 1), ("local.sh", 1)):
      self.launch(script)
      self.assertLen(self.calls(), count, script)

  def test_a_failed_install_is_not_taken_for_done(self):
    self.add_program("python3", PYTHON + '[[ "$2" != pip ]] || exit 7\n')
    for _ in range(2):
      self.assertEqual(self.launch("local.sh").returncode, 7)
      self.assertEqual(self.calls()[-1][1:3], ["-m", "pip"])

  def test_a_python_without_venv_is_told_and_leaves_nothing(self):
    self.add_program("python3", PYTHON + '[[ "$2" != venv ]] || exit 1\n')
    done = self.launch("local.sh")
    self.assertEqual(done.returncode, 1)
    self.assertIn("install python3-venv or uv", done.stderr)
    self.assertFalse((self.repo / ".venv").exists())

  def test_uv_is_used_when_present(self):
    self.add_program("python3", PYTHON)
    self.add_program(
      "uv",
      PYTHON
      + 'if [[ "$1" == venv ]]; then\n  mkdir -p "${@: -1}/bin"\n'
      + f'  cp "{self.bin}/python3" "${{@: -1}}/bin/python"\nfi\n',
    )
    done = self.launch("local.sh")
    self.assertEqual(done.returncode, 0, done.stderr)
    venv, install, run = self.calls()
    self.assertEqual(venv[1], "venv")
    self.assertEqual(install[1:3], ["pip", "install"])
    self.assertEqual(run[1:], ["-m", "r1jax.main"])


class SetupTest(parameterized.TestCase):
  def test_an_old_python_gets_one_line(self):
    with (
      mock.patch.object(sys, "version_info", (3, 10, 4, "final", 0)),
      self.assertRaises(SystemExit) as caught,
    ):
      runpy.run_path(str(ROOT / "setup.py"))
    self.assertRegex(
      caught.exception.code, r"^r1jax needs Python 3.11 or newer, this is 3.10."
    )

  def test_an_old_python_can_read_it(self):
    text = (ROOT / "setup.py").read_text(encoding="ascii")
    tree = ast.parse(text, feature_version=(3, 4))
    for node in ast.walk(tree):
      self.assertNotIsInstance(node, ast.JoinedStr)
      if isinstance(node, ast.FunctionDef):
        self.assertIsNone(node.returns)

  def test_names_every_package_and_asset(self):
    cwd = os.getcwd()
    self.addCleanup(os.chdir, cwd)
    os.chdir(ROOT)
    with mock.patch.object(setuptools, "setup") as setup:
      runpy.run_path("setup.py")
    given = setup.call_args.kwargs
    self.assertEqual(given["version"], r1jax.__version__)
    folders = {
      ".".join(path.parent.relative_to(ROOT).parts)
      for path in (ROOT / "r1jax").rglob("*.py")
    }
    self.assertCountEqual(given["packages"], folders)
    self.assertEqual(given["package_data"], {"r1jax": ["assets/*"]})
    for script in ("launch/local.sh", "launch/test.sh", ".ci/run"):
      self.assertTrue(os.access(ROOT / script, os.X_OK), script)


if __name__ == "__main__":
  absltest.main()
