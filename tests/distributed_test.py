"""Runs of several processes: what each is told, and that they are one run."""

import functools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax._src.clusters import cloud_tpu_cluster

from r1jax import config_check, distributed, peers, run_card, training
from tests import runs

WORK = tempfile.TemporaryDirectory(prefix="r1jax-processes-")
RERUN = "Run the same command again, which resumes."
SLURM = {
  "SLURM_JOB_ID": "1",
  "SLURM_STEP_NODELIST": "node[07-10]",
  "SLURM_NTASKS": "4",
  "SLURM_PROCID": "2",
  "SLURM_LOCALID": "0",
  "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
}
OPEN_MPI = {
  "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
  "OMPI_COMM_WORLD_SIZE": "16",
  "OMPI_COMM_WORLD_RANK": "9",
  "OMPI_COMM_WORLD_LOCAL_RANK": "1",
  "OMPI_COMM_WORLD_LOCAL_SIZE": "8",
}
GKE = {
  "TPU_WORKER_HOSTNAMES": "localhost,h1,h2,h3",
  "TPU_WORKER_ID": "3",
  "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
  "MEGASCALE_NUM_SLICES": "2",
  "MEGASCALE_SLICE_ID": "1",
}


class MemberTest(parameterized.TestCase):
  def member(self, environment, *flags):
    flags = flags or (None, None, None)
    with mock.patch.dict(os.environ, environment, clear=True):
      return distributed.member(*flags, 60.0, os.environ)

  def test_alone(self):
    self.assertIsNone(self.member({}))
    self.assertIsNone(self.member({}, "h:1", 1, 0))
    self.assertIsNone(self.member(SLURM | {"SLURM_NTASKS": "1"}))

  def test_flags_go_before_the_environment(self):
    self.assertEqual(
      self.member(SLURM, "h:1", 2, 1), peers.Member("h:1", 2, 1, None, 60.0)
    )

  @parameterized.parameters(
    (("h:1", None, None), "Give all three, or none"),
    ((None, 2, 0), "Give all three, or none"),
    (("h:1", 2, 2), "--process_id is 2 and --num_processes 2, but .* 0 to 1"),
    (("h:1", 2, -1), "--process_id is -1"),
    (("h", 2, 1), "--coordinator is 'h', but must be HOST:PORT"),
  )
  def test_bad_flags(self, flags, message):
    with self.assertRaisesRegex(ValueError, message):
      self.member({}, *flags)

  def test_slurm(self):
    found = self.member(SLURM | {"JAX_COORDINATOR_PORT": "5"})
    self.assertEqual(found, peers.Member("node07:5", 4, 2, None, 60.0))
    several = {"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_LOCALID": "3"}
    self.assertEqual(self.member(SLURM | several).devices, (3,))

  def test_open_mpi(self):
    found = self.member(OPEN_MPI)
    self.assertRegex(found.coordinator, r"^10\.96\.0\.1:\d+$")
    self.assertEqual(found[1:4], (16, 9, (1,)))

  def test_tpu_slices_on_gke(self):
    name = "running_in_cloud_tpu_vm"
    with mock.patch.object(cloud_tpu_cluster, name, True):
      found = self.member(GKE)
    self.assertRegex(found.coordinator, r"^localhost:\d+$")
    self.assertEqual(found[1:4], (8, 7, None))


class AloneTest(parameterized.TestCase):
  """In a run of one process nothing changes."""

  def test_shares_nothing(self):
    self.assertTrue(distributed.is_first())
    self.assertTrue(all(map(distributed.is_mine, range(3))))
    self.assertEqual(distributed.gathered({"a": 1}), [{"a": 1}])
    self.assertEqual(distributed.agreed(lambda: 3), 3)
    self.assertTrue(distributed.any_process(True))
    self.assertFalse(distributed.any_process(False))
    distributed.note_round(1)
    with distributed.joined(None, {}, "nowhere"):
      pass
    self.assertFalse(os.path.exists("nowhere"))

  def test_errors_go_on(self):
    with self.assertRaisesRegex(OSError, "x"), distributed.told():
      raise OSError("x")

  @parameterized.parameters((1, 24), (16, 6), (100, 1))
  def test_blocks(self, max_bytes, wanted):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 1, 4)
    for leaf in (array, jax.numpy.asarray(array)):
      found = list(distributed.blocks(leaf, max_bytes))
      self.assertLen(found, min(wanted, 6))
      data = b"".join(block.tobytes() for block in found)
      self.assertEqual(data, array.tobytes())

  @parameterized.parameters(
    (ValueError("UNKNOWN: Gloo AllGather failed: closed"), "UNKNOWN.*", True),
    (jax.errors.JaxRuntimeError("INTERNAL: x"), "JaxRuntimeError: INT.*", True),
    (ValueError("config.x is 1.\nMend it."), "config.x is 1. Mend it.", False),
    (OSError(28, "No space"), r"\[Errno 28\] No space", False),
    (KeyboardInterrupt(), "KeyboardInterrupt", False),
    (TypeError("bad"), "TypeError: bad", False),
  )
  def test_what_the_others_are_told(self, error, line, by_another):
    watch = mock.Mock()
    with mock.patch.object(distributed, "_watch", watch), distributed.told():
      raise error
    told = watch.fail.call_args
    self.assertRegex(told.args[0], f"^{line}$")
    self.assertEqual(told.kwargs, {"by_another": by_another})


def config(**changes):
  """A run of six rounds on eight devices."""
  made = runs.config(
    rounds=6,
    checkpoint_every_rounds=2,
    rows_per_microbatch=8,
    sampling__prefill_rows=8,
    mesh=dict(data=2, fsdp=4, expert=1, tensor=1),
    reference_refresh_rounds=0,
    **{"kl.coef": 0.0, "optimizer.learning_rate": 0.01, **changes},
  )
  config_check.check(made)
  return made


def config_file(**changes):
  path = pathlib.Path(WORK.name, f"config{len(os.listdir(WORK.name))}.py")
  path.write_text(
    "import json\nfrom ml_collections import ConfigDict\n"
    "def get_config():\n"
    f"  return ConfigDict(json.loads({config(**changes).to_json()!r})).lock()\n"
  )
  return f"--config={path}"


def environment():
  settings = {k.upper(): str(v) for k, v in runs._CACHE_SETTINGS.items()}
  # Less to compile, by a third; the bits of all runs change alike.
  settings["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
  return os.environ | settings | {"R1JAX_PYTHON": sys.executable}


def launch(processes, devices, workdir):
  """launch/multihost_local.sh, started."""
  return subprocess.Popen(
    [
      *("launch/multihost_local.sh", str(processes), f"--devices={devices}"),
      *("--", config_file(), f"--workdir={workdir}"),
    ],
    cwd=runs.ROOT,
    env=environment(),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


@functools.cache
def finished(processes, devices):
  """The workdir of a run that nothing stops."""
  workdir = os.path.join(WORK.name, f"{processes}x{devices}")
  child = launch(processes, devices, workdir)
  _, err = child.communicate(timeout=600)
  assert child.returncode == 0, err
  return workdir


def process_of(launcher, index):
  """The pid of a process that a launcher has started."""
  for path in pathlib.Path("/proc").glob("[0-9]*"):
    try:
      words = (path / "cmdline").read_bytes().split(b"\0")
      parent = re.search(r"\nPPid:\t(\d+)", (path / "status").read_text())[1]
    except (OSError, TypeError):  # It has ended meanwhile.
      continue
    if f"--process_id={index}".encode() in words and int(parent) == launcher:
      return int(path.name)
  raise AssertionError("no such process")


def rollouts(workdir):
  return [
    {k: v for k, v in row.items() if k not in ("advantage", "weights")}
    for row in runs.rows(workdir, "rollouts.jsonl")
  ]


class RunTest(parameterized.TestCase):
  """Whole jobs through launch/multihost_local.sh."""

  @pytest.mark.slow
  def test_killed_and_started_again_is_the_unbroken_run(self):
    workdir = os.path.join(WORK.name, "killed")
    child = launch(2, 4, workdir)
    log = pathlib.Path(workdir, "metrics.jsonl")
    deadline = time.monotonic() + 300
    while not log.exists() or log.read_text().count("\n") < 3:
      self.assertIsNone(child.poll(), "the run ended first")
      self.assertLess(time.monotonic(), deadline)
      time.sleep(0.02)
    os.kill(process_of(child.pid, 1), signal.SIGKILL)
    start = time.monotonic()
    _, err = child.communicate(timeout=120)
    self.assertLess(time.monotonic() - start, 60)
    self.assertNotEqual(child.returncode, 0)
    self.assertRegex(
      err.splitlines()[-1],
      r"^\[0\] r1jax: process 1 \(.+\) ended without a word; the last round it "
      rf"finished is [2-5]\. {RERUN}$",
    )
    self.assertNotIn("Traceback", err)
    child = launch(2, 4, workdir)
    _, err = child.communicate(timeout=300)
    self.assertEqual(child.returncode, 0, err)
    self.assertIn("[0] Resuming", err)
    # Of four processes: the same sums, in the same order.
    other = finished(4, 2)
    digests, wanted = (
      run_card.read(each)["final_digests"] for each in (workdir, other)
    )
    self.assertEqual(digests, wanted)
    for name in ("metrics.jsonl", "rollouts.jsonl"):
      self.assertEqual(runs.rows(workdir, name), runs.rows(other, name))
    exports = [
      pathlib.Path(each, training.EXPORT).read_bytes()
      for each in (workdir, other)
    ]
    self.assertEqual(*exports)

  @pytest.mark.slow
  def test_one_process_of_eight_devices_but_for_the_order_of_sums(self):
    # XLA adds the devices of one process one after another, Gloo around a
    # ring, so that the last bits differ. The tokens do not.
    one, four = finished(1, 8), finished(4, 2)
    self.assertEqual(rollouts(one), rollouts(four))
    for a, b in zip(runs.rows(one), runs.rows(four), strict=True):
      self.assertEqual(a.keys(), b.keys())
      for name in a:
        np.testing.assert_allclose(
          a[name], b[name], rtol=1e-5, atol=1e-5, err_msg=name
        )


# What a process does that is no job: it counts rounds.
COUNTS = """
import sys, time
from r1jax import distributed, interrupt, peers
address, count, index, workdir = sys.argv[1:5]
this = peers.Member(address, int(count), int(index), None, float(sys.argv[5]))
with distributed.joined(this, {"seed": sys.argv[6]}, workdir):
  with interrupt.watch() as stopped:
    for round in range(int(sys.argv[7])):
      distributed.note_round(round)
      print(round, flush=True)
      time.sleep(0.1)
      if sys.argv[8] == f"{index}:{round}":
        raise ValueError("no more room.")
      if stopped():
        break
  print(distributed.gathered(index), distributed.agreed(lambda: index))
"""


class ProcessTest(parameterized.TestCase):
  """Processes that run no job: each starts in seconds."""

  def setUp(self):
    super().setUp()
    self.workdir = self.enter_context(tempfile.TemporaryDirectory())
    self.address = f"localhost:{self.port()}"

  def port(self):
    import socket

    with socket.create_server(("", 0)) as free:
      return free.getsockname()[1]

  def start(
    self, index, *, count=2, secs=60, seed=0, rounds=5, fails="", root=runs.ROOT
  ):
    words = [self.address, count, index, self.workdir, secs, seed, rounds]
    child = subprocess.Popen(
      [sys.executable, "-c", COUNTS, *map(str, words), fails],
      cwd=root,
      env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": ""},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    self.addCleanup(child.communicate)
    self.addCleanup(child.kill)
    return child

  def ends(self, *children):
    """(exit status, last line of stdout, stderr) of each."""
    found = []
    for child in children:
      out, err = child.communicate(timeout=100)
      lines = [x for x in out.splitlines() if "Gloo" not in x]
      found.append((child.returncode, lines[-1] if lines else "", err))
    return found

  @pytest.mark.slow
  def test_share(self):
    two = [self.start(0, rounds=1), self.start(1, rounds=1)]
    last = "['0', '1'] 0"
    self.assertEqual(self.ends(*two), [(0, last, ""), (0, last, "")])
    self.assertEqual(os.listdir(self.workdir), [])

  @pytest.mark.slow
  def test_the_first_is_killed(self):
    two = [self.start(0, rounds=1000), self.start(1, rounds=1000)]
    while "3" not in two[0].stdout.readline():
      self.assertIsNone(two[0].poll())
    two[0].kill()
    status, _, err = self.ends(two[1])[0]
    self.assertEqual(status, 1)
    self.assertRegex(
      err,
      r"^r1jax: process 0 \(.+\) ended without a word; the last round it "
      rf"finished is \d+\. {RERUN}\n$",
    )

  @pytest.mark.slow
  def test_one_is_frozen(self):
    two = [self.start(i, rounds=1000, secs=5) for i in (0, 1)]
    while "3" not in two[0].stdout.readline():
      self.assertIsNone(two[0].poll())
    two[1].send_signal(signal.SIGSTOP)
    status, _, err = self.ends(two[0])[0]
    self.assertEqual(status, 1)
    self.assertRegex(
      err,
      r"^r1jax: process 1 \(.+\) is not heard of for \d s; the last round it "
      rf"finished is \d+\. {RERUN}\n$",
    )

  @pytest.mark.slow
  def test_a_signal_to_one_stops_all_after_one_round(self):
    two = [self.start(i, rounds=1000) for i in (0, 1)]
    while "3" not in two[0].stdout.readline():
      self.assertIsNone(two[0].poll())
    two[1].terminate()
    ends = self.ends(*two)
    self.assertEqual([end[:2] for end in ends], [(0, "['0', '1'] 0")] * 2)
    self.assertEqual(ends[0][2], "")

  @pytest.mark.slow
  def test_one_fails(self):
    two = [self.start(0, rounds=9, fails="0:2"), self.start(1, rounds=9)]
    ends = self.ends(*two)
    self.assertEqual([status for status, _, _ in ends], [1, 1])
    self.assertEqual(ends[0][2], "r1jax: no more room.\n")
    self.assertRegex(
      ends[1][2], r"^r1jax: process 0 \(.+\) failed: no more room.\n$"
    )

  @pytest.mark.slow
  def test_configs_and_code_that_differ(self):
    other = pathlib.Path(self.workdir, "other")
    for folder in ("r1jax", "configs"):
      shutil.copytree(runs.ROOT / folder, other / folder)
    with open(other / "r1jax/kl.py", "a") as file:
      file.write("# Another.\n")
    for changes, line in (
      (dict(seed=1), 'config.seed is "1" there and "0" in process 0'),
      (dict(root=other), "r1jax/kl.py is .* there and .* in process 0"),
    ):
      two = [self.start(0), self.start(1, **changes)]
      for status, out, err in self.ends(*two):
        self.assertEqual((status, out), (1, ""))
        self.assertRegex(err.splitlines()[-1], f"process 1 .* differs.*{line}")
        self.assertNotIn("JAX", err)


if __name__ == "__main__":
  absltest.main()
