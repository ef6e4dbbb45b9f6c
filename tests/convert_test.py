import json
import pathlib
import tempfile

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from r1jax import any_model, chat, convert, experiment
from r1jax.data import templates, tokenizer
from r1jax.models import hub, hub_source, store
from tests import small
from tests.data import hf_folder
from tests.models import gguf_writer, parity, smollm2


def llama(**changes):
  return small.gqa(
    **{**dict(qkv_bias=False, qk_norm=False, vocab_size=512), **changes}
  )


def cast(weights, config):
  """The weights in the dtypes of a model; its norms stay float32."""

  def one(leaf, like):
    return leaf.astype(like.dtype)

  return jax.tree.map(one, weights, parity.abstract(config))


def files(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


class ConvertTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def folder(self, family="qwen", **changes):
    """A Hugging Face folder with weights and tokenizer."""
    config = llama(**changes)
    weights = cast(small.weights(config), config)
    made = hf_folder.write(self.root / "tokenizer", family)
    hub.export(self.root / "hf", config, *weights, tokenizer=made)
    generation = made / "generation_config.json"
    (self.root / "hf" / generation.name).write_bytes(generation.read_bytes())
    return self.root / "hf", weights

  @parameterized.parameters("float32", "bfloat16")
  def test_there_and_back_are_the_same_bytes(self, dtype):
    folder, weights = self.folder(param_dtype=dtype)
    ours, back = self.root / "ours.safetensors", self.root / "back"
    opened = convert.convert(folder, ours)
    self.assertEqual(opened.config.param_dtype, dtype)
    found = opened.params, opened.buffers
    jax.tree.map(np.testing.assert_array_equal, found, weights)
    convert.convert(ours, back)
    made, wanted = files(back), files(folder)
    self.assertEqual(made.keys(), wanted.keys())
    for name in wanted:
      if name.endswith("config.json"):
        made[name], wanted[name] = map(json.loads, (made[name], wanted[name]))
    ends = [256 + 2, 256]  # <|im_end|>, and the other that ends a response.
    self.assertEqual(made["generation_config.json"]["eos_token_id"], ends)
    for each in (made, wanted):  # They say which ids the tokenizer has.
      for key in ("eos_token_id", "pad_token_id"):
        each["config.json"].pop(key, None)
        each["generation_config.json"].pop(key, None)
    for name in wanted:
      self.assertTrue(made[name] == wanted[name], f"{name} differs")
    again = self.root / "again.safetensors"
    convert.convert(back, again)
    loaded = store.load(again, *weights)
    jax.tree.map(np.testing.assert_array_equal, loaded, weights)

  def test_the_bundled_tokenizer(self):
    path, config = self.root / "a.safetensors", llama()
    notes = {"tokenizer": "bundled", "template": "miniature-think"}
    store.save(path, config, *small.weights(config), notes)
    convert.convert(path, self.root / "hf")
    t = tokenizer.load()
    generation = json.loads(
      (self.root / "hf" / "generation_config.json").read_text()
    )
    self.assertEqual(generation["bos_token_id"], t.bos_id)
    self.assertEqual(generation["eos_token_id"], t.eos_id)
    opened = any_model.load(self.root / "hf")
    made = any_model.read_tokenizer(opened)
    self.assertEqual(made.encode("3 + 5"), t.encode("3 + 5"))

  def test_a_gguf_becomes_a_folder(self):
    folder, weights = self.folder()
    hf = json.loads((folder / "config.json").read_text())
    source = hub_source.open_source(folder)
    tensors = {name: source.read(name) for name in source.names()}
    path = gguf_writer.write(self.root / "a.gguf", "llama", hf, tensors)
    opened = convert.convert(
      path, self.root / "out", tokenizer=str(self.root / "tokenizer")
    )
    self.assertEqual(opened.base, str(path))
    found = hub.load(self.root / "out", *weights)
    jax.tree.map(np.testing.assert_array_equal, found, weights)
    made = files(self.root / "out")
    self.assertEqual(made["tokenizer.json"], files(folder)["tokenizer.json"])

  def test_dtype(self):
    folder, weights = self.folder()
    convert.convert(folder, self.root / "half", dtype="bfloat16")
    opened = any_model.load(self.root / "half")
    self.assertEqual(opened.config.param_dtype, "bfloat16")
    found = opened.params, opened.buffers
    wanted = cast(weights, llama(param_dtype="bfloat16"))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)

  @parameterized.parameters(
    ("out.gguf", {}, "would be a GGUF file, which is only read. Name a folder"),
    ("out.safetensors", {"fp8": True}, "--fp8 is of Hugging Face folders, .*"),
    ("hf", {}, "hf is there already. Name a new one."),
    ("out", {"tokenizer": "/nowhere"}, "tokenizer is '/nowhere', but"),
  )
  def test_what_cannot_be(self, name, arguments, message):
    folder, _ = self.folder()
    with self.assertRaisesRegex(ValueError, message) as caught:
      convert.convert(folder, self.root / name, **arguments)
    self.assertNotIn("\n", str(caught.exception))
    self.assertFalse((self.root / "out").exists())

  def test_a_file_is_not_overwritten(self):
    path = self.root / "a.safetensors"
    path.write_bytes(b"mine")
    with self.assertRaisesRegex(ValueError, "is there already"):
      convert.convert(experiment.BUNDLED, path)
    self.assertEqual(path.read_bytes(), b"mine")

  def test_command(self):
    folder, _ = self.folder()
    out = self.root / "out.safetensors"
    convert.main([str(folder), str(out), "--dtype=bfloat16"])
    self.assertEqual(store.notes(out)["model"]["param_dtype"], "bfloat16")
    with self.assertRaisesRegex(SystemExit, "^r1jax: .* holds no model"):
      convert.main([str(self.root / "nowhere"), str(self.root / "x")])


@pytest.mark.slow
class ServedTest(parameterized.TestCase):
  """What comes out is what transformers serves."""

  def test_a_gguf_file_answers_the_same_in_transformers(self):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    path = smollm2.gguf()
    out = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()), "hf")
    opened = convert.convert(path, out)
    t = any_model.read_tokenizer(opened)
    ask = [{"role": "user", "content": "Name three colours of the rainbow."}]
    prompt = templates.chat_ids(ask, t)
    stream = chat.make_stream(
      *opened[:3],
      t,
      temperature=0.0,
      top_p=1.0,
      max_prompt_tokens=64,
      max_tokens=32,
      seed=0,
    )
    ours = [id for chunk in stream(prompt, 0) for id in chunk]
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    ids = theirs.apply_chat_template(
      ask, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    self.assertEqual(ids, prompt)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    made = model.generate(
      torch.tensor([ids]), max_new_tokens=32, do_sample=False
    )
    self.assertEqual(made[0, len(ids) :].tolist(), ours)


if __name__ == "__main__":
  absltest.main()
