import json
import pathlib
import tempfile

import jax
import ml_dtypes
import numpy as np
import safetensors.numpy
from absl.testing import absltest, parameterized

from r1jax import any_model, checkpoint, experiment
from r1jax.models import store
from tests import small
from tests.data import hf_folder

CONFIG = small.gqa(qkv_bias=False, qk_norm=False, vocab_size=512)


def fields(config):
  return json.loads(json.dumps(config.__dict__))


class AnyModelTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.weights = small.weights(CONFIG)

  def workdir(self, **changes):
    """A finished run's, but for its checkpoints."""
    config = {
      "job": "grpo",
      "model": fields(CONFIG),
      "tokenizer": "bundled",
      "template": "miniature-think",
      "init": {"name": "random"},
      **changes,
    }
    hf_folder.dump(self.root / "run.json", {"config": config})
    store.save(self.root / "params.safetensors", CONFIG, *self.weights)
    return self.root

  def check(self, opened, weights=None):
    found = opened.params, opened.buffers
    jax.tree.map(np.testing.assert_array_equal, found, weights or self.weights)

  def test_what_a_run_exported(self):
    opened = any_model.load(self.workdir())
    self.check(opened)
    self.assertEqual(opened.config, CONFIG)
    self.assertEqual(opened.template, "miniature-think")
    self.assertEqual(any_model.read_tokenizer(opened).vocab_size, 512)
    self.assertIsNone(opened.base)

  def test_the_newest_checkpoint_goes_first(self):
    path = self.workdir()
    saver = checkpoint.Checkpointer(path / "checkpoints", keep=2)
    for round in (1, 2):
      params = jax.tree.map(lambda x, r=round: x + r, self.weights[0])
      saver.save(round, {"params": params, "buffers": {}}, {})
    saver.close()
    newer = jax.tree.map(lambda x: x + 2, self.weights[0])
    self.check(any_model.load(path), (newer, {}))
    self.check(any_model.load(path / "checkpoints"), (newer, {}))
    self.check(any_model.load(path / "params.safetensors"))

  def test_the_exported_file_knows_its_run(self):
    opened = any_model.load(self.workdir() / "params.safetensors")
    self.check(opened)
    self.assertEqual(opened.template, "miniature-think")
    self.assertEqual(opened.tokenizer, "bundled")

  def test_templates_by_kind(self):
    path = self.workdir(template={"reasoning": "chat", "general": "miniature"})
    self.assertEqual(any_model.load(path).template, "chat")

  def test_base_of_a_run(self):
    path = self.workdir(init={"name": "hub", "path": "somewhere"})
    self.assertEqual(any_model.load(path).base, "somewhere")

  def test_another_tokenizer(self):
    opened = any_model.load(self.workdir(), tokenizer="else")
    self.assertEqual(opened.tokenizer, "else")

  def test_another_dtype(self):
    opened = any_model.load(self.workdir(), dtype="bfloat16")
    self.assertEqual(opened.config.param_dtype, "bfloat16")
    embedding = opened.params["embedding"]
    self.assertEqual(embedding.dtype, "bfloat16")
    wanted = self.weights[0]["embedding"].astype("bfloat16")
    np.testing.assert_array_equal(embedding, wanted)
    norm = opened.params["final_norm"]["scale"]
    self.assertEqual(norm.dtype, "float32")  # Norms are never rounded.

  def test_the_bundled_weights(self):
    opened = any_model.load(experiment.BUNDLED)
    self.assertEqual(any_model.read_tokenizer(opened).vocab_size, 512)

  def test_dtype_that_most_numbers_are_stored_in(self):
    path = self.root / "a.safetensors"
    arrays = {
      "a": np.zeros((4, 4), ml_dtypes.bfloat16),
      "b": np.zeros(3, np.float32),
    }
    safetensors.numpy.save_file(arrays, path)
    source = any_model.hub_source.Safetensors([path])
    self.assertEqual(any_model._stored_dtype(source), "bfloat16")
    arrays["b"] = np.zeros(17, np.float32)
    safetensors.numpy.save_file(arrays, path)
    source = any_model.hub_source.Safetensors([path])
    self.assertEqual(any_model._stored_dtype(source), "float32")

  @parameterized.parameters("reward_model", "evaluate")
  def test_a_run_without_a_language_model(self, job):
    path = self.workdir(job=job)
    if job == "evaluate":
      hf_folder.dump(path / "run.json", {"config": {"job": job}})
    with self.assertRaisesRegex(ValueError, f"of job '{job}', which makes no"):
      any_model.load(path)

  def test_nothing_there(self):
    for name in ("", "nowhere", "nowhere.safetensors"):
      with self.assertRaisesRegex(ValueError, "holds no model. Name a workdir"):
        any_model.load(self.root / name)

  def test_safetensors_of_others(self):
    path = self.root / "model.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(3)}, path, {"format": "pt"})
    with self.assertRaisesRegex(ValueError, "says of no model that it belongs"):
      any_model.load(path)

  def test_no_tokenizer(self):
    store.save(self.root / "a.safetensors", CONFIG, *self.weights)
    opened = any_model.load(self.root / "a.safetensors")
    with self.assertRaisesRegex(ValueError, "which tokenizer .*--tokenizer"):
      any_model.read_tokenizer(opened)

  def test_a_tokenizer_of_more_ids_than_the_embedding(self):
    opened = any_model.load(self.workdir())
    opened = opened._replace(config=small.gqa())
    with self.assertRaisesRegex(ValueError, "bundled has 512 ids, but .* 32"):
      any_model.read_tokenizer(opened)


if __name__ == "__main__":
  absltest.main()
