import gc
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from r1jax import checkpoint, tree

# Orbax leaves the coroutines of a failed read to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)


class State(NamedTuple):
  params: dict[str, Any]
  moments: Any
  update: jax.Array
  ref_params: Any = None


def make_state(seed: int, width: int = 64) -> State:
  key = jax.random.key(seed)
  kernel = jax.random.normal(key, (8, width))
  return State(
    {"mlp": {"kernel": kernel, "half": kernel.astype(jnp.bfloat16)}},
    (kernel * 0.5, jnp.zeros((), jnp.int32)),
    jnp.asarray(seed, jnp.int32),
  )


def write_three(directory: pathlib.Path) -> None:
  saver = checkpoint.Checkpointer(directory, keep=3)
  for round in (1, 2, 3):
    saver.save(round, make_state(round), {"seen": round})
  saver.close()


FILES = (
  "_CHECKPOINT_METADATA",
  "info/metadata",
  "state/_METADATA",
  "state/_sharding",
  "state/manifest.ocdbt",
  "state/array_metadatas/process_0",
  "state/d/*",
  "state/ocdbt.process_0/manifest.ocdbt",
  "state/ocdbt.process_0/d/*",
)


class CheckpointTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.addCleanup(gc.collect)
    self.directory = pathlib.Path(
      self.enterContext(tempfile.TemporaryDirectory()), "saved"
    )

  def assert_state(self, got: State, want: State):
    self.assertEqual(jax.tree.structure(got), jax.tree.structure(want))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
      self.assertEqual(a.dtype, b.dtype)
      np.testing.assert_array_equal(a, b)

  def test_restores_the_newest_bit_for_bit_with_none_in_place(self):
    write_three(self.directory)
    saver = checkpoint.Checkpointer(self.directory, keep=3)
    self.assertEqual(saver.latest(), 3)
    state, info = saver.restore(make_state(0))
    self.assertEqual(info, {"seen": 3})
    self.assertIsInstance(state, State)
    self.assertIsNone(state.ref_params)
    self.assert_state(state, make_state(3))

  def test_empty_directory_gives_none(self):
    saver = checkpoint.Checkpointer(self.directory, keep=1)
    self.assertIsNone(saver.latest())
    self.assertIsNone(saver.restore(make_state(0)))

  def test_a_round_is_saved_once_and_rounds_may_go_back(self):
    write_three(self.directory)
    saver = checkpoint.Checkpointer(self.directory, keep=9)
    saver.save(3, make_state(3), {"seen": 3})
    saver.save(3, make_state(3), {"seen": 3})
    saver.save(0, make_state(0), {"seen": 0})
    saver.close()
    rounds = [p.name for p in self.directory.iterdir() if p.name.isdigit()]
    self.assertCountEqual(rounds, ["0", "1", "2", "3"])

  def test_info_survives_json(self):
    saver = checkpoint.Checkpointer(self.directory, keep=1)
    info = {"pair": (1, 2), 10: "ten", 9: "中文", "pi": 3.141592653589793}
    saver.save(1, make_state(1), info)
    saver.wait()
    _, got = saver.restore(make_state(0))
    want = {"pair": [1, 2], "10": "ten", "9": "中文", "pi": info["pi"]}
    self.assertEqual(got, want)

  def test_keeps_the_last_n(self):
    saver = checkpoint.Checkpointer(self.directory, keep=2)
    for round in range(5):
      saver.save(round, make_state(round), {})
    saver.close()
    kept = [p.name for p in self.directory.iterdir() if p.name.isdigit()]
    self.assertCountEqual(kept, ["3", "4"])

  def test_buffers_may_be_donated_right_after_save(self):
    saver = checkpoint.Checkpointer(self.directory, keep=1)
    spoil = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    x = jnp.arange(1 << 20, dtype=jnp.float32)
    want = np.array(x)
    saver.save(1, {"x": x}, {})
    for _ in range(3):
      x = spoil(x)
    saver.wait()
    state, _ = saver.restore({"x": jax.ShapeDtypeStruct(x.shape, x.dtype)})
    np.testing.assert_array_equal(state["x"], want)

  @parameterized.product(
    file=FILES, damage=("empty", "half", "gone", "flip", "zero")
  )
  def test_a_damaged_file_is_harmless_or_falls_back(self, file, damage):
    write_three(self.directory)
    paths = list((self.directory / "3").glob(file))
    self.assertNotEmpty(paths)
    for path in paths:
      content = bytearray(path.read_bytes())
      half = len(content) // 2
      if damage == "gone":
        path.unlink()
        continue
      if damage == "flip":
        content[half] ^= 16
      elif damage == "zero":
        content = bytearray(len(content))
      path.write_bytes(content[: {"empty": 0, "half": half}.get(damage)])
    saver = checkpoint.Checkpointer(self.directory, keep=3)
    with self.assertLogs("r1jax.checkpoint") as logs:
      checkpoint._log.warning("so that there is one")
      state, info = saver.restore(make_state(0))
    self.assertIn(info["seen"], (2, 3))
    self.assert_state(state, make_state(info["seen"]))
    if file in ("info/metadata", "state/d/*"):  # What nothing can replace.
      self.assertEqual(info["seen"], 2)
    if info["seen"] == 2:
      self.assertLen(logs.output, 2)
      self.assertNotIn("\n", logs.records[1].getMessage())
      self.assertIn(str(self.directory / "3"), logs.output[1])
      self.assertTrue((self.directory / "damaged" / "3").exists())
      saver.save(3, make_state(3), {"seen": 3})  # The round comes again.
      saver.wait()
      self.assertEqual(saver.restore(make_state(0))[1], {"seen": 3})
    else:
      self.assertLen(logs.output, 1)
    saver.close()

  def test_tampered_info_is_noticed(self):
    write_three(self.directory)
    path = self.directory / "3" / "info" / "metadata"
    text = path.read_text().replace('"seen": 3', '"seen": 7')
    self.assertIn('"seen": 7', text)
    path.write_text(text)
    saver = checkpoint.Checkpointer(self.directory, keep=3)
    with self.assertLogs("r1jax.checkpoint") as logs:
      self.assertEqual(saver.restore(make_state(0))[1], {"seen": 2})
    self.assertIn("the info file was changed", logs.output[0])

  def test_swapped_checkpoints_are_noticed(self):
    write_three(self.directory)
    shutil.rmtree(self.directory / "3")
    shutil.copytree(self.directory / "1", self.directory / "3")
    saver = checkpoint.Checkpointer(self.directory, keep=3)
    self.assertEqual(saver.restore(make_state(0))[1], {"seen": 2})

  def test_state_of_another_checkpoint_is_noticed_by_its_bits(self):
    write_three(self.directory)
    shutil.rmtree(self.directory / "3" / "state")
    shutil.copytree(
      self.directory / "1" / "state", self.directory / "3" / "state"
    )
    saver = checkpoint.Checkpointer(self.directory, keep=3)
    with self.assertLogs("r1jax.checkpoint") as logs:
      self.assertEqual(saver.restore(make_state(0))[1], {"seen": 2})
    self.assertIn("the bits of params.mlp", logs.output[0])

  def test_an_empty_folder_of_a_round_falls_back(self):
    write_three(self.directory)
    (self.directory / "9").mkdir()
    saver = checkpoint.Checkpointer(self.directory, keep=3)
    self.assertEqual(saver.restore(make_state(0))[1], {"seen": 3})

  def test_all_damaged_names_the_directory(self):
    write_three(self.directory)
    for path in self.directory.glob("*/state/d/*"):
      path.write_bytes(b"")
    saver = checkpoint.Checkpointer(self.directory, keep=3)
    with self.assertRaisesRegex(
      checkpoint.CheckpointError, f"{self.directory}.*delete the directory"
    ):
      saver.restore(make_state(0))

  @parameterized.parameters(
    (make_state(0, width=32), r"\[8,64\].*\[8,32\]"),
    (make_state(0)._replace(ref_params={"a": jnp.zeros(3)}), "ref_params"),
    (make_state(0)._replace(moments=None), "moments"),
  )
  def test_another_config_is_an_error_and_loses_nothing(self, state, name):
    write_three(self.directory)
    saver = checkpoint.Checkpointer(self.directory, keep=3)
    with self.assertRaisesRegex(ValueError, f"{name}.*another --workdir"):
      saver.restore(state)
    self.assertEqual(saver.restore(make_state(0))[1], {"seen": 3})

  @parameterized.parameters(".", "..")
  def test_weights_of_another_run(self, up):
    directory = self.directory.parent / "checkpoints"
    saver = checkpoint.Checkpointer(directory, keep=3)
    for round in (1, 2):
      saver.save(round, make_state(round), {"seen": round})
    saver.wait()
    under_way = directory / "3.orbax-checkpoint-tmp"
    under_way.mkdir()
    before = sorted(directory.rglob("*"))
    params, moments = make_state(0).params, {"0": make_state(0).moments[0]}
    got = checkpoint.restore_weights(directory / up, params, {})
    self.assert_state(got[0], make_state(2).params)
    self.assertEqual(got[1], {})
    self.assertEqual(sorted(directory.rglob("*")), before)
    with self.assertRaisesRegex(ValueError, "no buffers.0, this config has"):
      checkpoint.restore_weights(directory, params, moments)
    for path in directory.glob("2/state/d/*"):
      path.write_bytes(b"")
    with self.assertRaisesRegex(checkpoint.CheckpointError, "2 cannot be read"):
      checkpoint.restore_weights(directory, params, {})

  def test_no_weights_there(self):
    for path in (self.directory, self.directory.parent):
      with self.assertRaisesRegex(
        checkpoint.CheckpointError, f"No checkpoint in {path}"
      ):
        checkpoint.restore_weights(path, make_state(0).params, {})
    self.assertFalse(self.directory.exists())

  def test_file_in_place_of_the_directory(self):
    self.directory.write_text("not a directory")
    with self.assertRaisesRegex(
      checkpoint.CheckpointError, f"Cannot write.*{self.directory}"
    ):
      checkpoint.Checkpointer(self.directory, keep=1)


def run_python(code: str, *args: str, **env: str) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-c", textwrap.dedent(code), *args],
    env={**os.environ, "JAX_PLATFORMS": "cpu", **env},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


class OtherProcessTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(
      self.enterContext(tempfile.TemporaryDirectory()), "saved"
    )

  def test_restores_onto_eight_devices_from_one(self):
    write_three(self.directory)
    child = run_python(
      """
      import sys, jax, jax.numpy as jnp
      from jax.sharding import NamedSharding, PartitionSpec as P
      from r1jax import checkpoint, tree
      from tests.checkpoint_test import make_state
      assert jax.device_count() == 8
      mesh = jax.make_mesh((4, 2), ("a", "b"))
      def abstract(x):
        spec = P("a", "b") if x.ndim == 2 else P()
        return jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=NamedSharding(mesh, spec))
      saver = checkpoint.Checkpointer(sys.argv[1], keep=4)
      state, info = saver.restore(jax.tree.map(abstract, make_state(0)))
      assert len(state.params["mlp"]["kernel"].sharding.device_set) == 8
      assert tree.digest(state) == tree.digest(make_state(3))
      saver.save(4, state, {"seen": 4})
      saver.close()
      print("done")
      """,
      str(self.directory),
      XLA_FLAGS="--xla_force_host_platform_device_count=8",
    )
    out, err = child.communicate(timeout=120)
    self.assertEqual(out, "done\n", err)
    saver = checkpoint.Checkpointer(self.directory, keep=4)
    state, info = saver.restore(make_state(0))  # And back onto one.
    self.assertEqual(info, {"seen": 4})
    self.assertEqual(tree.digest(state), tree.digest(make_state(3)))

  def test_kill_in_the_middle_of_a_save(self):
    child = run_python(
      """
      import sys, jax.numpy as jnp
      from r1jax import checkpoint
      saver = checkpoint.Checkpointer(sys.argv[1], keep=2)
      for round in range(1, 10_000):
        state = {f"x{i}": jnp.full(1 << 18, round) for i in range(16)}
        saver.save(round, state, {"seen": round})
        print(round, flush=True)
      """,
      str(self.directory),
    )
    for _ in range(3):
      child.stdout.readline()
    deadline = time.monotonic() + 60
    while not any("tmp" in p.name for p in self.directory.iterdir()):
      self.assertLess(time.monotonic(), deadline, "no save was caught")
    child.send_signal(signal.SIGKILL)
    child.communicate()
    unfinished = [p for p in self.directory.iterdir() if "tmp" in p.name]
    saver = checkpoint.Checkpointer(self.directory, keep=2)
    abstract = {
      f"x{i}": jax.ShapeDtypeStruct((1 << 18,), jnp.int32) for i in range(16)
    }
    state, info = saver.restore(abstract)
    self.assertNotEmpty(unfinished)
    for leaf in state.values():
      np.testing.assert_array_equal(leaf, info["seen"])
    left = [p.name for p in self.directory.iterdir() if not p.name.isdigit()]
    self.assertEmpty(left)
    saver.save(info["seen"] + 1, state, {"seen": info["seen"] + 1})
    saver.close()

  def test_no_write_permission(self):
    self.directory.mkdir(mode=0o555)
    self.directory.parent.chmod(0o755)
    child = run_python(
      """
      import os, sys
      from r1jax import checkpoint
      if os.getuid() == 0:  # Who may write everywhere.
        os.setuid(65534)
      try:
        checkpoint.Checkpointer(sys.argv[1], keep=1)
      except checkpoint.CheckpointError as error:
        print(error)
      """,
      str(self.directory),
    )
    out, err = child.communicate(timeout=120)
    self.assertRegex(
      out, rf"^Cannot write a checkpoint in {self.directory}.*Permission", err
    )
    self.assertEqual(out.count("\n"), 1)

  def test_full_disk_is_one_line_and_keeps_the_last_good_checkpoint(self):
    self.directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs"]
    done = subprocess.run(
      [*mount, str(self.directory)], capture_output=True, check=False
    )
    if done.returncode != 0:
      self.skipTest("may not mount a small file system")
    self.addCleanup(subprocess.run, ["umount", "-l", str(self.directory)])
    child = run_python(
      """
      import sys, jax
      from absl import logging
      from r1jax import checkpoint
      logging.set_verbosity(logging.INFO)
      saver = checkpoint.Checkpointer(sys.argv[1], keep=1)
      for round, size in ((1, 1 << 16), (2, 1 << 22)):
        x = jax.random.normal(jax.random.key(round), (size,))
        saver.save(round, {"x": x}, {"seen": round})
        try:
          saver.wait()
        except checkpoint.CheckpointError as error:
          print(error)
      """,
      str(self.directory),
    )
    out, err = child.communicate(timeout=120)
    self.assertRegex(
      out,
      f"^Cannot write a checkpoint in {self.directory} .[0-9] MiB free there.:"
      ".*No space left on device.*Checkpoints written before are whole",
    )
    self.assertEqual(out.count("\n"), 1)
    self.assertEqual(err, "")
    saver = checkpoint.Checkpointer(self.directory, keep=1)
    want = {"x": jax.random.normal(jax.random.key(1), (1 << 16,))}
    state, info = saver.restore(want)
    self.assertEqual(info, {"seen": 1})
    np.testing.assert_array_equal(state["x"], want["x"])


if __name__ == "__main__":
  absltest.main()
