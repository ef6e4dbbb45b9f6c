"""A job on a checkpoint that is damaged ends with one line that says where."""

import json
import pathlib
import shutil
import tempfile

import numpy as np
import safetensors.numpy
from absl.testing import absltest, parameterized

from configs import zero
from r1jax import config_check, jobs
from r1jax.models import hub, hub_source
from tests import small
from tests.data import hf_folder

NORM = "model.norm.weight"


def damage(folder, change):
  """Rewrites the file that holds the last norm; returns it."""
  index = json.loads((folder / hub_source.INDEX).read_text())["weight_map"]
  file = folder / index[NORM]
  tensors = safetensors.numpy.load_file(file)
  change(tensors)
  safetensors.numpy.save_file(tensors, file)
  index |= dict.fromkeys(tensors, file.name)
  (folder / hub_source.INDEX).write_text(json.dumps({"weight_map": index}))
  return file


def missing_shard(folder):
  file = damage(folder, lambda tensors: None)
  index = json.loads((folder / hub_source.INDEX).read_text())["weight_map"]
  file.unlink()
  return file, next(k for k, v in index.items() if v == file.name)


def truncated_shard(folder):
  file = damage(folder, lambda tensors: None)
  with safetensors.safe_open(file, "numpy") as header:
    last = list(header.offset_keys())[-1]
  file.write_bytes(file.read_bytes()[:-1])
  return file, last


def wrong_shape(folder):
  wrong = {NORM: np.zeros(3, np.float32)}
  return damage(folder, lambda tensors: tensors.update(wrong)), NORM


def left_over(folder):
  name = "model.layers.0.self_attn.k_proj.bias"
  more = {name: np.zeros(3, np.float32)}
  return damage(folder, lambda tensors: tensors.update(more)), name


def unknown_architecture(folder):
  config = json.loads((folder / "config.json").read_text())
  config["architectures"] = ["MambaForCausalLM"]
  (folder / "config.json").write_text(json.dumps(config))
  return folder, "MambaForCausalLM"


def template_that_fails(folder):
  failing = "{{ raise_exception('roles must alternate') }}"
  hf_folder.write(folder, "qwen", template=failing)
  return folder, "roles must alternate"


def small_embedding(folder):
  export(folder, 64)
  hf_folder.write(folder, "qwen")
  return folder, "64"


def export(folder, vocab_size):
  config = small.gqa(qkv_bias=False, qk_norm=False, vocab_size=vocab_size)
  shutil.rmtree(folder, ignore_errors=True)
  hub.export(folder, config, *small.weights(config), max_shard_bytes=20000)


class BadCheckpointTest(parameterized.TestCase):
  def run_job(self, folder):
    config = zero.get_config(f"smoke,hub={folder}").unlock()
    config.model.update(param_dtype="float32", compute_dtype="float32")
    # Questions that need no file.
    config.data = dict(name="countdown", split="train", test_frac=0.2)
    config.eval_data = []
    config.template = "chat"
    config_check.check(config)
    jobs.run(config, str(folder.parent / "run"))

  @parameterized.parameters(
    *(missing_shard, truncated_shard, wrong_shape, left_over),
    *(unknown_architecture, template_that_fails, small_embedding),
  )
  def test_one_line_names_file_and_tensor(self, harm):
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    folder = root / "model"
    export(folder, 300)
    hf_folder.write(folder, "qwen")
    named = harm(folder)
    with self.assertRaises(ValueError) as caught:
      self.run_job(folder)
    message = str(caught.exception)
    self.assertNotIn("\n", message)
    for part in named:
      self.assertIn(str(part), message)


if __name__ == "__main__":
  absltest.main()
