"""The launch scripts and setup.py, with stand-ins for what is slow."""

import ast
import os
import pathlib
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

import setuptools
import yaml
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


SCRIPTS = ("multihost_local.sh", "tpu_pod.sh", "gke.sh", "slurm.sbatch")
FLAGS = ("--config=x.py:smoke", "--workdir=/a b/$HOME")


def dry(script, *arguments):
  """(exit status, commands it would run, stderr)."""
  done = subprocess.run(
    [ROOT / "launch" / script, *arguments],
    env={"PATH": os.environ["PATH"]},
    capture_output=True,
    text=True,
    check=False,
  )
  commands = done.stdout
  if done.returncode == 0 and "--help" not in arguments:
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
  return done.returncode, commands, done.stderr


class ScriptTest(parameterized.TestCase):
  """What the scripts that start several hosts would run."""

  def test_shellcheck_has_nothing_to_say(self):
    shellcheck = pathlib.Path(sys.executable).with_name("shellcheck")
    scripts = [f"launch/{name}" for name in os.listdir(ROOT / "launch")]
    self.assertLen(scripts, 7)
    done = subprocess.run(
      [shellcheck, "-x", *scripts, ".ci/run"],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
    )
    self.assertEqual((done.returncode, done.stdout), (0, ""))

  @parameterized.parameters(*SCRIPTS)
  def test_helps(self, script):
    self.assertTrue(os.access(ROOT / "launch" / script, os.X_OK))
    lines = (ROOT / "launch" / script).read_text().splitlines()
    self.assertIn("set -euo pipefail", lines)
    status, text, _ = dry(script, "--help")
    self.assertEqual(status, 0)
    self.assertStartsWith(text, "Usage: ")
    self.assertIn("--dry-run", text)

  @parameterized.parameters(
    ("multihost_local.sh", ("0",), "N is '0', but must be 1 or more"),
    ("multihost_local.sh", (), "N is '', but must be 1 or more"),
    ("multihost_local.sh", ("2", "--devices=x"), "--devices is 'x'"),
    ("multihost_local.sh", ("2", "--config=x"), "come after --"),
    ("tpu_pod.sh", (), "Name a step"),
    ("tpu_pod.sh", ("create", "--type=v5p-8"), "--zone is missing"),
    ("tpu_pod.sh", ("create", "--zone=z", "--type=v1-8"), "Give --version"),
    ("tpu_pod.sh", ("run", "--zone=z"), "run wants flags of r1jax.main"),
    ("gke.sh", ("print", "--", "--config=x"), "--image is missing"),
    ("gke.sh", ("delete", "--name=A b"), "--name is 'A b', but must be"),
    ("gke.sh", ("apply", "tail"), "apply and tail are two steps"),
    ("slurm.sbatch", ("--dry-run",), "flags of r1jax.main are missing"),
  )
  def test_mistakes_get_one_line(self, script, arguments, message):
    status, out, err = dry(script, *arguments)
    self.assertEqual((status, out), (1, ""))
    self.assertStartsWith(err, f"{script}: ")
    self.assertIn(message, err)
    self.assertEndsWith(err, " See --help.\n")
    self.assertEqual(err.count("\n"), 1, err)

  def test_processes_of_one_machine(self):
    status, commands, _ = dry(
      "multihost_local.sh", "2", "--devices=4", "--dry-run", "--", *FLAGS
    )
    self.assertEqual(status, 0)
    self.assertLen(commands, 2)
    for index, command in enumerate(commands):
      self.assertEqual(
        command[1:3],
        [
          "JAX_PLATFORMS=cpu",
          "XLA_FLAGS=--xla_force_host_platform_device_count=4",
        ],
      )
      self.assertEqual(command[5:9], ["-m", "r1jax.main", *FLAGS])
      self.assertEqual(command[-1], f"--process_id={index}")
    _, commands, _ = dry("multihost_local.sh", "1", "--dry-run", "--", *FLAGS)
    self.assertEqual(commands[0][:2], ["env", ".venv/bin/python"])

  def test_tpu_pod(self):
    status, commands, err = dry(
      "tpu_pod.sh",
      *("create", "install", "run", "tail", "delete"),
      *("--type=v5p-128", "--zone=us-east5-a", "--project=p", "--spot"),
      *("--dry-run", "--", *FLAGS),
    )
    self.assertEqual(status, 0, err)
    create, describe, archive, copy, install, run, tail, delete = commands
    for command in commands:
      if command is not archive:
        self.assertEqual(command[:3], ["gcloud", "compute", "tpus"])
        self.assertContainsSubset(
          ["--zone=us-east5-a", "--project=p"], command, command
        )
    self.assertContainsSubset(
      [
        "--accelerator-type=v5p-128",
        "--runtime-version=v2-alpha-tpuv5",
        "--node-id=r1jax",
        "--spot",
      ],
      create,
    )
    self.assertEqual(describe[4:6], ["describe", "r1jax"])
    self.assertEqual(archive[-2], f"--output={copy[5]}")
    for command in (copy, install, run):
      self.assertIn("--worker=all", command)
    self.assertIn("--worker=0", tail)
    # The host's shell takes the flags apart again.
    words = shlex.split(run[-1].partition("=")[2])
    self.assertContainsSubset(["r1jax.main", *FLAGS], words)
    self.assertEqual(delete[4:6], ["delete", "r1jax"])

  def test_slices_of_tpu_pods(self):
    _, commands, _ = dry(
      *("tpu_pod.sh", "create", "run", "--type=v6e-16", "--zone=z"),
      *("--slices=2", "--dry-run", "--", *FLAGS),
    )
    self.assertContainsSubset(["--node-count=2"], commands[0])
    self.assertEqual([c[5] for c in commands[2:]], ["r1jax-0", "r1jax-1"])

  def test_gke(self):
    done = subprocess.run(
      [
        ROOT / "launch/gke.sh",
        *("--image=i", "--accelerator=tpu-v5p-slice", "--topology=4x4x8"),
        *("--slices=2", "--claim=shared", "--", *FLAGS, '--config.x="q"\\'),
      ],
      capture_output=True,
      text=True,
      check=True,
    )
    found = yaml.safe_load(done.stdout)
    self.assertEqual(found["kind"], "JobSet")
    (job,) = found["spec"]["replicatedJobs"]
    self.assertEqual(job["replicas"], 2)
    spec = job["template"]["spec"]
    self.assertEqual((spec["parallelism"], spec["completions"]), (32, 32))
    pod = spec["template"]["spec"]
    self.assertEqual(
      pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"], "4x4x8"
    )
    (container,) = pod["containers"]
    self.assertEqual(container["command"][3], "r1jax.main")
    self.assertEqual(container["command"][5:], [*FLAGS, '--config.x="q"\\'])
    self.assertEqual(container["volumeMounts"][0]["mountPath"], "/shared")
    self.assertEqual(container["resources"]["limits"]["google.com/tpu"], 4)

  def test_slurm(self):
    status, commands, _ = dry("slurm.sbatch", "--dry-run", *FLAGS)
    self.assertEqual(status, 0)
    self.assertEqual(commands[0][0], "srun")
    self.assertEqual(commands[0][-2:], [*FLAGS])


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
