import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from absl.testing import absltest, parameterized

from r1jax import tree
from r1jax.models import fp8, hub, hub_source
from tests import small
from tests.models import parity

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SHARD_BYTES = 4000


def llama(**changes):
  """A model that is written as a Llama."""
  return small.gqa(qkv_bias=False, qk_norm=False, **changes)


def weights_of(config):
  """Random weights in the dtypes of the model."""

  def cast(leaf, like):
    return jax.numpy.asarray(leaf, like.dtype)

  return jax.tree.map(cast, small.weights(config), parity.abstract(config))


def read(folder):
  """(config.json, tensors) of a folder in several files."""
  source = hub_source.Safetensors(sorted(folder.glob("model-*.safetensors")))
  tensors = {name: source.read(name) for name in source.names()}
  return json.loads((folder / "config.json").read_text()), tensors


def bits(weights):
  """Name of each leaf to its dtype and bytes."""
  found = zip(tree.names(weights), jax.tree.leaves(weights))
  return {k: (v.dtype, np.asarray(v).tobytes()) for k, v in found}


class FolderTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folder = self.root / "model"

  def export(self, config=None, **arguments):
    config = config or llama()
    arguments = {"max_shard_bytes": SHARD_BYTES, **arguments}
    hub.export(self.folder, config, *weights_of(config), **arguments)
    return config

  def load(self, config=None):
    return hub.load(self.folder, *parity.abstract(config or llama()))


class RoundTripTest(FolderTest):
  @parameterized.named_parameters(
    ("llama", llama()),
    ("qwen2", small.gqa(qk_norm=False, tie_embeddings=True)),
    ("qwen3 in bfloat16", small.gqa(qkv_bias=False, param_dtype="bfloat16")),
  )
  def test_import_gives_the_bits_that_were_exported(self, config):
    self.export(config)
    fields = hub.read_config(self.folder)
    dtypes = {"param_dtype": config.param_dtype}
    self.assertEqual(
      dataclasses.replace(small.config_lib.from_dict(fields), **dtypes), config
    )
    want, got = weights_of(config), self.load(config)
    self.assertEqual(bits(got), bits(want))

  def test_other_dtypes_are_cast(self):
    config = self.export()
    other = dataclasses.replace(config, param_dtype="bfloat16")
    params, _ = self.load(other)
    want = np.asarray(weights_of(config)[0]["embedding"])
    self.assertEqual(params["embedding"].dtype, jax.numpy.bfloat16)
    np.testing.assert_array_equal(
      params["embedding"], want.astype(ml_dtypes.bfloat16)
    )

  def test_files_index_and_configs(self):
    base = self.root / "base"
    base.mkdir()
    said = dict(
      architectures=["MistralForCausalLM"],
      max_position_embeddings=777,
      rope_parameters=dict(rope_theta=3.0),
      eos_token_id=[2, 5],
      bos_token_id=1,
    )
    (base / "config.json").write_text(json.dumps(said))
    settings = dict(eos_token_id=[2, 5], top_p=0.9)
    (base / "generation_config.json").write_text(json.dumps(settings))
    (base / "tokenizer.json").write_text("{}")
    self.export(base=base, token_ids=dict(eos_token_id=7))
    index = json.loads((self.folder / hub_source.INDEX).read_text())
    hf, tensors = read(self.folder)
    self.assertEqual(set(index["weight_map"]), set(tensors))
    size = sum(value.nbytes for value in tensors.values())
    self.assertEqual(index["metadata"]["total_size"], size)
    files = sorted(self.folder.glob("model-*"))
    self.assertGreater(len(files), 3)
    self.assertEndsWith(
      files[0].name, f"model-00001-of-{len(files):05}.safetensors"
    )
    for file in files:
      held = safetensors.numpy.load_file(file)
      total = sum(value.nbytes for value in held.values())
      self.assertTrue(total <= SHARD_BYTES or len(held) == 1)
    self.assertEqual(hf["architectures"], ["MistralForCausalLM"])
    self.assertEqual(hf["max_position_embeddings"], 777)
    self.assertEqual((hf["bos_token_id"], hf["eos_token_id"]), (1, 7))
    self.assertNotIn("rope_parameters", hf)
    generation = json.loads(
      (self.folder / "generation_config.json").read_text()
    )
    self.assertEqual(generation, dict(eos_token_id=7, top_p=0.9))
    self.assertEqual((self.folder / "tokenizer.json").read_text(), "{}")

  def test_one_file_has_no_index(self):
    self.export(max_shard_bytes=1 << 30)
    names = {file.name for file in self.folder.glob("model*")}
    self.assertEqual(names, {"model.safetensors"})
    self.assertEqual(bits(self.load()), bits(weights_of(llama())))

  def test_fp8_weights_are_read_through_their_scales(self):
    config = self.export(fp8=True)
    hf, tensors = read(self.folder)
    self.assertEqual(hf["quantization_config"], fp8.QUANTIZATION)
    name = "model.layers.1.mlp.gate_proj.weight"
    self.assertEqual(tensors[name].dtype, fp8.FLOAT8)
    self.assertEqual(tensors["model.embed_tokens.weight"].dtype, np.float32)
    want = fp8.dequantize(tensors[name], tensors[name + fp8.SCALE])
    params, _ = self.load(config)
    got = params["dense_layers"]["mlp"]["gate"]["kernel"][1]
    np.testing.assert_array_equal(got, want.T)

  def test_no_folder_is_written_over(self):
    self.export()
    with self.assertRaisesRegex(ValueError, "is there already. Name a new"):
      self.export()


class MemoryTest(FolderTest):
  @parameterized.parameters("float32", "bfloat16")
  def test_the_host_holds_two_tensors_at_most(self, dtype):
    # One file, so that reading a file whole would show.
    wide = llama(d_model=64, d_ff=8192, vocab_size=64)
    config = self.export(wide, max_shard_bytes=1 << 30)
    config = dataclasses.replace(config, param_dtype=dtype)
    self.load(config)  # Compiles, and imports what is imported late.
    largest = 64 * 8192 * 4
    tracemalloc.start()
    try:
      self.load(config)
      _, peak = tracemalloc.get_traced_memory()
    finally:
      tracemalloc.stop()
    self.assertLess(peak, 2 * largest + 200_000)


@pytest.mark.slow
class MeshTest(parameterized.TestCase):
  def test_eight_devices_hold_and_give_back_the_same(self):
    done = subprocess.run(
      [sys.executable, "-m", "tests.models.hub_mesh"],
      cwd=ROOT,
      env={
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
      },
      capture_output=True,
      text=True,
      timeout=300,
      check=False,
    )
    self.assertEqual(done.returncode, 0, done.stderr[-3000:])
    *models, experts = map(json.loads, done.stdout.splitlines())
    self.assertLen(models, 4)
    for found in models:
      for field in ("placed", "split", "same", "exported"):
        self.assertTrue(found[field], found)
      self.assertFalse(found["moves"], found)
    self.assertFalse(experts["moves"])


class BadInputTest(FolderTest):
  def break_file(self, name, change):
    """Rewrites the file of a tensor with the change made to its tensors."""
    index = self.folder / hub_source.INDEX
    where = json.loads(index.read_text())["weight_map"]
    file = self.folder / where[name]
    tensors = safetensors.numpy.load_file(file)
    change(tensors)
    safetensors.numpy.save_file(tensors, file)
    for each in tensors:
      where[each] = file.name
    where = {k: v for k, v in where.items() if v != file.name or k in tensors}
    index.write_text(json.dumps({"weight_map": where}))
    return file

  def expect(self, *parts):
    with self.assertRaises(ValueError) as caught:
      self.load()
    message = str(caught.exception)
    self.assertNotIn("\n", message)
    for part in parts:
      self.assertIn(str(part), message)

  def test_a_missing_shard(self):
    self.export()
    file = sorted(self.folder.glob("model-*"))[1]
    file.unlink()
    where = json.loads((self.folder / hub_source.INDEX).read_text())
    names = [k for k, v in where["weight_map"].items() if v == file.name]
    self.expect(file, "is missing", names[0])

  def test_a_truncated_shard(self):
    self.export()
    file = sorted(self.folder.glob("model-*"))[1]
    whole = shutil.copy(file, self.folder / "whole")
    file.write_bytes(file.read_bytes()[:-1])
    with safetensors.safe_open(whole, "numpy") as header:
      last = list(header.offset_keys())[-1]
    self.expect(file, "cannot be read", f"ends inside of {last}. Fetch the")
    file.write_bytes(file.read_bytes()[:20])  # Inside of its header.
    self.expect(file, "cannot be read", "Fetch the file again")

  def test_a_tensor_that_its_file_lacks(self):
    self.export()
    index = self.folder / hub_source.INDEX
    where = json.loads(index.read_text())["weight_map"]
    name = "model.norm.weight"
    file = next(v for v in where.values() if v != where[name])
    index.write_text(json.dumps({"weight_map": where | {name: file}}))
    self.expect(self.folder / file, f"has no {name}")

  def test_a_missing_tensor(self):
    self.export()
    name = "model.layers.1.self_attn.k_proj.weight"
    self.break_file(name, lambda tensors: tensors.pop(name))
    self.expect(self.folder, f"has no tensor {name}")

  def test_a_tensor_left_over(self):
    self.export()
    name = "model.layers.1.self_attn.k_proj.bias"
    change = {name: np.zeros(3, np.float32)}
    near = "model.layers.1.self_attn.k_proj.weight"
    file = self.break_file(near, lambda tensors: tensors.update(change))
    self.expect(file, f"{name} is left over")

  def test_rotary_tables_hold_nothing(self):
    self.export()
    change = {
      "model.layers.1.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32)
    }
    self.break_file("model.norm.weight", lambda tensors: tensors.update(change))
    self.assertEqual(bits(self.load()), bits(weights_of(llama())))

  def test_a_wrong_shape(self):
    self.export()
    name = "model.layers.0.mlp.up_proj.weight"
    change = {name: np.zeros((16, 24), np.float32)}
    file = self.break_file(name, lambda tensors: tensors.update(change))
    self.expect(file, name, "[16, 24]", "[24, 16]")

  def test_an_unknown_type(self):
    self.export()
    name = "model.norm.weight"
    change = {name: np.zeros(16, np.uint8)}
    file = self.break_file(name, lambda tensors: tensors.update(change))
    self.expect(file, f"{name} is of type U8. Known: F64")

  def test_a_tied_head_that_is_another(self):
    config = self.export(llama(tie_embeddings=True))
    embedding = np.asarray(weights_of(config)[0]["embedding"])
    head = {"lm_head.weight": embedding.copy()}
    file = self.break_file("model.norm.weight", lambda t: t.update(head))
    got = hub.load(self.folder, *parity.abstract(config))
    self.assertEqual(bits(got), bits(weights_of(config)))
    head["lm_head.weight"][3, 4] += 1
    self.break_file("model.norm.weight", lambda t: t.update(head))
    message = f"{file}: lm_head.weight differs from model.embed_tokens.weight"
    with self.assertRaisesRegex(ValueError, message):
      hub.load(self.folder, *parity.abstract(config))

  def test_weights_of_another_model(self):
    self.export(llama(d_ff=32))
    self.expect(self.folder, "mlp.down.kernel", "[2, 32, 16]", "[2, 24, 16]")

  @parameterized.parameters(
    (None, "cannot be read: No such file or directory"),
    ("{", "is not JSON"),
    ("[1]", "is list, not an object"),
    ('{"architectures": ["Foo"]}', "architectures is ['Foo']. Known: "),
  )
  def test_a_bad_config_json(self, text, message):
    self.export()
    (self.folder / "config.json").unlink()
    if text is not None:
      (self.folder / "config.json").write_text(text)
    self.expect(self.folder, "config.json", message)

  def test_no_weights(self):
    self.export()
    for file in self.folder.glob("model*"):
      file.unlink()
    self.expect(self.folder, "has neither model.safetensors nor")

  def test_a_gap_between_what_the_file_had_and_has(self):
    self.export(max_shard_bytes=1 << 30)
    source = hub_source.open_source(self.folder)
    file = self.folder / hub_source.SINGLE
    file.write_bytes(file.read_bytes()[:-1])
    with self.assertRaisesRegex(ValueError, f"{file} ends inside of"):
      source.read(source.names()[-1])


if __name__ == "__main__":
  absltest.main()
