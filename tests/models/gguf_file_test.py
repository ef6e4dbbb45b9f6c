import functools
import json
import pathlib
import sys
import tempfile
import types
from unittest import mock

import gguf
import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from r1jax.models import gguf_file, hub, hub_source, layers
from r1jax.models.config import RopeScaling
from tests import small
from tests.models import gguf_writer, parity, smollm2

FAMILIES = {
  "llama": dict(qkv_bias=False, qk_norm=False),
  "qwen2": dict(qkv_bias=True, qk_norm=False, tie_embeddings=True),
  "qwen3": dict(qkv_bias=False, qk_norm=True),
}


@functools.lru_cache
def model(config):
  """(weights, config.json, tensors) of a random model."""
  weights = small.weights(config)
  with tempfile.TemporaryDirectory() as directory:
    folder = pathlib.Path(directory, "folder")
    hub.export(folder, config, *weights)
    hf = json.loads((folder / "config.json").read_text())
    source = hub_source.open_source(folder)
    return weights, hf, {n: source.read(n) for n in source.names()}


class FileTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def model(self, arch="llama", **changes):
    """(ModelConfig, weights, config.json, tensors) of a random model."""
    config = small.gqa(**FAMILIES[arch], **changes)
    return config, *model(config)

  def write(self, arch="llama", **more):
    _, _, hf, tensors = self.model(arch)
    path = self.root / "a.gguf"
    return gguf_writer.write(path, arch, hf, tensors, **more)


class GgufTest(FileTest):
  @parameterized.parameters(*FAMILIES)
  def test_gives_the_weights_it_was_written_from(self, arch):
    config, weights, hf, tensors = self.model(arch)
    path = gguf_writer.write(self.root / "a.gguf", arch, hf, tensors)
    hub.check(path, config, "config.model")
    loaded = hub.load(path, *parity.abstract(config))
    jax.tree.map(np.testing.assert_array_equal, loaded, weights)

  @parameterized.parameters(
    *(("F16", 1e-3), ("BF16", 1e-2), ("Q8_0", 1e-2)),
    *(("Q4_0", 0.15), ("Q4_1", 0.15), ("Q5_0", 0.08), ("Q5_1", 0.08)),
  )
  def test_types_that_lose_bits(self, kind, most):
    # `most`: half a step of the type, over the largest value of a block.
    _, _, hf, tensors = self.model(d_model=32, head_dim=32, d_ff=64)
    path = gguf_writer.write(
      self.root / "a.gguf", "llama", hf, tensors, kind=kind
    )
    source = gguf_file.Source(path)
    for name, value in tensors.items():
      self.assertEqual(source.shape(name), value.shape)
      found = source.read(name)
      self.assertEqual(found.dtype, source.dtype(name))
      bound = most * np.abs(value).max() if value.ndim == 2 else 0.0
      np.testing.assert_allclose(found, value, rtol=0, atol=bound, err_msg=name)

  def block(self, kind, data):
    """The values of one block of 256, as the file's reader gives them."""
    path = self.write(more={"x": np.ones(1, np.float32)})
    source = gguf_file.Source(path)
    tensor = types.SimpleNamespace(
      data=np.frombuffer(data, np.uint8)[None],
      shape=(256, 1),
      tensor_type=gguf.GGMLQuantizationType[kind],
    )
    with mock.patch.dict(source._tensors, {"x": tensor}):
      self.assertEqual(source.shape("x"), (1, 256))
      return source.read("x")[0]

  def test_q4_k_worked_by_hand(self):
    # d = 2, dmin = 1; the scales of eight groups of 32 all 1, the minima 3.
    head = np.array([2.0, 1.0], np.float16).tobytes()
    scales = bytes([1] * 4 + [3] * 4 + [0x31] * 4)
    nibbles = np.arange(128) % 16
    quants = (nibbles | (15 - nibbles) << 4).astype(np.uint8).tobytes()
    values = self.block("Q4_K", head + scales + quants)
    low, high = nibbles.reshape(4, 32), (15 - nibbles).reshape(4, 32)
    expected = np.stack([low, high], 1).ravel() * 2.0 - 3.0
    np.testing.assert_array_equal(values, expected)

  def test_q6_k_worked_by_hand(self):
    # d = 0.5, all scales -2; the two high bits are 2, which is 32 - 32.
    low = np.arange(128) % 16
    quants = (low | (15 - low) << 4).astype(np.uint8).tobytes()
    tail = bytes([0b10101010] * 64) + np.full(16, -2, np.int8).tobytes()
    head = np.array([0.5], np.float16).tobytes()
    values = self.block("Q6_K", quants + tail + head)
    halves = low.reshape(2, 64), (15 - low).reshape(2, 64)
    np.testing.assert_array_equal(values, -np.stack(halves, 1).ravel())

  def test_config_of_the_metadata(self):
    found = gguf_file.read_config(
      self.write("qwen2", fields={"rope.freq_base": 1e6})
    )
    self.assertEqual(found["architectures"], ["Qwen2ForCausalLM"])
    self.assertEqual(found["rope_theta"], 1e6)
    self.assertEqual(found["rms_norm_eps"], 1e-6)  # Of a float32.
    self.assertTrue(found["tie_word_embeddings"])

  def test_width_of_heads_where_the_file_does_not_say(self):
    fields = {"attention.key_length": None}
    path = self.write("qwen2", fields=fields)
    found = gguf_file.read_config(path)
    width = found["hidden_size"] // found["num_attention_heads"]
    self.assertEqual(found["head_dim"], width)

  @parameterized.parameters(8.0, 32.0)
  def test_llama3_scaling_is_read_off_its_divisors(self, factor):
    fields = dict(name="llama3", factor=factor, original_max_positions=8192)
    config, _, hf, tensors = self.model(rope_theta=5e5, rope_scaling=fields)
    scaling = RopeScaling(**fields)
    plain = layers.rope_frequencies(config.head_dim, 5e5, None)
    scaled = layers.rope_frequencies(config.head_dim, 5e5, scaling)
    divisors = np.asarray(plain) / np.asarray(scaled)
    self.assertGreater(divisors.max(), divisors.min())
    more = {"rope_freqs.weight": divisors}
    fields = {"rope.freq_base": 5e5}
    path = gguf_writer.write(
      self.root / "a.gguf", "llama", hf, tensors, more=more, fields=fields
    )
    hub.check(path, config, "config.model")
    self.assertNotIn("rope_freqs.weight", gguf_file.Source(path).names())
    more = {"rope_freqs.weight": divisors[::-1]}
    path = gguf_writer.write(
      self.root / "b.gguf", "llama", hf, tensors, more=more, fields=fields
    )
    with self.assertRaisesRegex(ValueError, "b.gguf: rope_freqs.weight is not"):
      gguf_file.read_config(path)

  @parameterized.parameters(
    ("yarn", "yarn"), ("none", None), ("linear", "refused")
  )
  def test_other_scalings(self, kind, expected):
    fields = {
      "rope.scaling.type": kind,
      "rope.scaling.factor": 4.0,
      "rope.scaling.original_context_length": 32,
    }
    path = self.write(fields=fields)
    if expected == "refused":
      with self.assertRaisesRegex(ValueError, "rope_type is 'linear'"):
        hub.read_config(path)
      return
    found = hub.read_config(path)["rope_scaling"]
    self.assertEqual(found and found["name"], expected)
    if found:
      self.assertEqual(found["original_max_positions"], 32)
      self.assertEqual(found["factor"], 4.0)


class BadInputTest(FileTest):
  def check(self, path, message):
    with self.assertRaisesRegex(ValueError, message) as caught:
      gguf_file.Source(path)
    self.assertNotIn("\n", str(caught.exception))
    self.assertIn(str(path), str(caught.exception))

  def test_unsupported_type(self):
    more = {"x": np.zeros((1, 256), np.float32)}
    path = self.write(more=more, kind_of_more="TQ1_0")
    self.check(path, r"a.gguf: x is of type TQ1_0. Known: F32, ")

  def test_unknown_architecture(self):
    _, _, hf, tensors = self.model()
    path = gguf_writer.write(self.root / "a.gguf", "mamba", hf, tensors)
    self.check(path, "architecture is 'mamba'. Known: llama, qwen2, qwen3. Cho")

  def test_missing_field(self):
    self.check(
      self.write(fields={"block_count": None}), "has no llama.block_count."
    )

  def test_experts(self):
    self.check(self.write(fields={"expert_count": 8}), "expert_count is 8; on")

  def test_a_tensor_left_over(self):
    path = self.write(more={"blk.0.odd.weight": np.ones(3, np.float32)})
    config = small.gqa(**FAMILIES["llama"])
    with self.assertRaisesRegex(ValueError, "blk.0.odd.weight is left over"):
      hub.load(path, *parity.abstract(config))

  def test_no_gguf(self):
    path = self.root / "a.gguf"
    self.check(path, "cannot be read as GGUF: .*No such file")
    path.write_bytes(b"PK not a GGUF file, but long enough to be one")
    self.check(path, "cannot be read as GGUF: .*Fetch the file again")

  @parameterized.parameters(20, 600, -100)
  def test_truncated(self, keep):
    path = self.write()
    path.write_bytes(path.read_bytes()[:keep])
    self.check(path, "cannot be read as GGUF: .*Fetch the file again")

  def test_without_the_package(self):
    path = self.write()
    gguf_file._read.cache_clear()
    with (
      mock.patch.dict(sys.modules, {"gguf": None}),
      self.assertRaisesRegex(ValueError, r"pip install 'r1jax\[hf\]'"),
    ):
      gguf_file.read_config(path)


@pytest.mark.slow
class SmolTest(parameterized.TestCase):
  def test_equals_what_transformers_reads(self):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers import modeling_gguf_pytorch_utils as reference

    path = smollm2.gguf()
    hf = gguf_file.read_config(path)
    with torch.device("meta"):
      model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**hf))
    theirs = reference.load_gguf_checkpoint(
      str(path), return_tensors=True, model_to_load=model
    )["tensors"]
    source = gguf_file.Source(path)
    self.assertCountEqual(source.names(), theirs)
    for name in source.names():
      np.testing.assert_array_equal(
        source.read(name), theirs[name].numpy(), err_msg=name
      )


if __name__ == "__main__":
  absltest.main()
