"""Memory and time of importing a checkpoint of 40 files and 1 GB.

Usage: python -m benchmarks.hub [--folder=DIR]

The checkpoint is a random Llama in a temporary folder; its import runs in a
fresh process, on one device. Memory is that process's peak resident set
(VmHWM) less its peak once jax has a device, over the checkpoint's bytes; it
counts what the CPU device holds, which is all of the checkpoint. Time is
that of `hub.load`, compilation with it, over that of `cat FILES >/dev/null`:
from disk, for which the files are dropped from the page cache before each,
and from the page cache, in which cat copies nothing. Each is the median of
five.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import flax.linen as nn
import jax
import numpy as np
import safetensors.numpy
from absl import app, flags

from r1jax import memory, policy
from r1jax.models import config as config_lib
from r1jax.models import families, hub, hub_source

_FOLDER = flags.DEFINE_string("folder", None, "Existing checkpoint, if any.")
_LOAD = flags.DEFINE_string("load", None, "Import this and print; internal.")
FILES = 40
_TRIES = 5


def main(_) -> None:
  """Prints the table, or imports and prints what it took."""
  if _LOAD.value:
    print(json.dumps(_import(_LOAD.value)))
    return
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(_FOLDER.value or temporary)
    if not _FOLDER.value:
      _make(folder)
    files = sorted(folder.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    found = {}
    for place in ("disk", "page cache"):
      cats, imports = [], []
      for _ in range(_TRIES):
        _settle(files, place)
        cats.append(_cat(files))
        _settle(files, place)
        imports.append(_import_apart(folder))
      secs = statistics.median(each["secs"] for each in imports)
      found[place] = statistics.median(cats), secs
      peak = max(each["bytes"] for each in imports)
  print(f"{len(files)} files, {size / 1e9:.3f} GB")
  print(f"peak memory over size: {peak / size:.2f}")
  for place, (cat, secs) in found.items():
    ratio = secs / cat
    print(f"{place}: cat {cat:.2f} s, import {secs:.2f} s, {ratio:.1f} times")


def _settle(files: list[pathlib.Path], place: str) -> None:
  """Drops the files from the page cache, or reads them into it."""
  for file in files:
    if place == "page cache":
      file.read_bytes()
      continue
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def _import_apart(folder: pathlib.Path) -> dict[str, float]:
  """What an import took, in a process of its own."""
  command = [sys.executable, "-m", "benchmarks.hub", f"--load={folder}"]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  return json.loads(done.stdout)


def _make(folder: pathlib.Path) -> None:
  """A Llama of 0.27e9 parameters in float32, a file a layer."""
  config = config_lib.from_dict(
    dict(
      vocab_size=8192,
      d_model=768,
      num_layers=FILES,
      num_dense_layers=FILES,
      num_heads=12,
      num_kv_heads=4,
      head_dim=64,
      d_ff=2048,
      attention="gqa",
    )
  )
  _, family = families.of_model(config)
  rng = np.random.default_rng(0)
  shards: list[dict[str, np.ndarray]] = [{} for _ in range(FILES)]
  for rule in family.rules(config):
    for name, index in rule.places():
      shard = shards[index[0] if index else 0]
      shard[name] = rng.standard_normal(rule.shape, np.float32)
  where = {}
  for number, tensors in enumerate(shards, 1):
    file = f"model-{number:05}-of-{FILES:05}.safetensors"
    safetensors.numpy.save_file(tensors, folder / file, {"format": "pt"})
    where |= dict.fromkeys(tensors, file)
  (folder / hub_source.INDEX).write_text(json.dumps({"weight_map": where}))
  hf = {"max_position_embeddings": 4096, **family.to_hf(config)}
  (folder / "config.json").write_text(json.dumps(hf))


def _cat(files: list[pathlib.Path]) -> float:
  start = time.monotonic()
  subprocess.run(["cat", *files], stdout=subprocess.DEVNULL, check=True)
  return time.monotonic() - start


def _import(folder: str) -> dict[str, float]:
  """Bytes above what jax takes, and seconds."""
  memory.keep_freed()  # As every job does.
  jax.block_until_ready(jax.numpy.zeros(1))
  before = _peak_bytes()
  model = config_lib.from_dict(hub.read_config(folder))
  init = policy.make(model, temperature=1.0).init
  abstract = nn.unbox(jax.eval_shape(init, jax.random.key(0)))
  start = time.monotonic()
  weights = hub.load(folder, *abstract)
  secs = time.monotonic() - start
  peak = _peak_bytes()
  del weights
  return {"bytes": peak - before, "secs": secs}


def _peak_bytes() -> int:
  """VmHWM of this process."""
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith("VmHWM"):
      return int(line.split()[1]) * 1024
  raise RuntimeError("/proc/self/status has no VmHWM.")


if __name__ == "__main__":
  app.run(main)
