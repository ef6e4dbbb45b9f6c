import pathlib
import sys
import tempfile
from unittest import mock

import gguf
from absl.testing import absltest, parameterized

from r1jax.data import tokenizer
from tests.data import hf_folder


class HuggingFaceTest(parameterized.TestCase):
  def folder(self, family="qwen", **more):
    directory = self.enterContext(tempfile.TemporaryDirectory())
    return hf_folder.write(pathlib.Path(directory), family, **more)

  def load(self, family="qwen", **more):
    return tokenizer.load(self.folder(family, **more))

  @parameterized.parameters(
    ("qwen", None, "<|im_end|>", ["<|endoftext|>"], "<|im_end|>"),
    ("qwen-base", None, "<|endoftext|>", ["<|im_end|>"], "<|im_end|>"),
    (
      "deepseek",
      "<｜begin▁of▁sentence｜>",
      "<｜end▁of▁sentence｜>",
      [],
      "<｜end▁of▁sentence｜>",
    ),
    ("llama", "<|begin_of_text|>", "<|eot_id|>", ["<|eom_id|>"], "<|eot_id|>"),
  )
  def test_ids_of_a_family(self, family, bos, eos, stops, turn_end):
    t = self.load(family)
    self.assertEqual(None if t.bos_id is None else t.piece(t.bos_id), bos)
    self.assertEqual(t.piece(t.eos_id), eos)
    self.assertEqual([t.piece(i) for i in t.stop_ids], stops)
    self.assertEqual(t.piece(t.chat.end_id), turn_end)
    parts = hf_folder.FAMILIES[family]
    added = len(parts["special"]) + len(parts["added"])
    self.assertEqual(t.vocab_size, 256 + added)
    pad = parts["config"].get("pad_token", eos)
    self.assertEqual(t.piece(t.pad_id), pad)

  @parameterized.parameters(*hf_folder.FAMILIES)
  def test_text_stays_text(self, family):
    t = self.load(family)
    for text in (
      "",
      " a",
      "a  b \n",
      "你好 😀",
      "<|im_end|> <|eot_id|><|endoftext|><｜end▁of▁sentence｜>",
    ):
      ids = t.encode(text)
      self.assertEqual(t.decode(ids), text)
      self.assertNotIn(t.eos_id, ids)
      self.assertTrue(all(i < 256 for i in ids))

  @parameterized.parameters(*hf_folder.FAMILIES)
  def test_control_ids_are_dropped_and_thoughts_are_not(self, family):
    t = self.load(family)
    text = "<think>a</think> <answer>b</answer>"
    ids = t.encode(text)
    ends = [t.eos_id, *t.stop_ids, t.pad_id]
    bos = [] if t.bos_id is None else [t.bos_id]
    self.assertEqual(t.decode([*bos, *ids, *ends, t.vocab_size + 5]), text)

  def test_special_thoughts_are_decoded(self):
    t = self.load("llama")
    (id,) = t.chat.encode("<think>")
    self.assertEqual(t.decode([id, *t.encode("a")]), "<think>a")

  def test_control_ids_hold_what_the_template_writes(self):
    t = self.load("deepseek")
    names = {t.piece(i) for i in t.chat.control_ids}
    self.assertContainsSubset(
      {"<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"}, names
    )
    self.assertNotIn("<think>", names)

  def test_one_file_goes_for_all_in_its_folder(self):
    folder = self.folder()
    file = folder / "tokenizer.json"
    t = tokenizer.load(file)
    self.assertEqual(t.eos_id, tokenizer.load(folder).eos_id)
    self.assertEqual(tokenizer.path_of(folder), file)
    self.assertEqual(tokenizer.path_of(str(file)), file)

  def test_a_folder_of_sentencepiece(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    file = folder / "tokenizer.model"
    file.write_bytes(tokenizer.BUNDLED.read_bytes())
    self.assertEqual(tokenizer.path_of(folder), file)
    self.assertEqual(tokenizer.load(folder).vocab_size, 512)

  def test_no_chat_template(self):
    self.assertIsNone(self.load(template="").chat)

  def test_no_eos(self):
    with self.assertRaisesRegex(ValueError, "neither .* has an EOS. Add"):
      self.load(config={}, ends=None)

  def test_eos_of_the_generation_config_alone(self):
    t = self.load(config={}, template="")
    self.assertEqual(t.piece(t.eos_id), "<|im_end|>")
    self.assertEqual([t.piece(i) for i in t.stop_ids], ["<|endoftext|>"])

  @parameterized.parameters(
    ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    ("{% for %}", "TemplateSyntaxError"),
    ("{{ messages[9]['content'] + 1 }}", "UndefinedError"),
  )
  def test_a_template_that_fails(self, template, reason):
    message = f".*: the chat template fails: .*{reason}.*Mend chat_temp"
    with self.assertRaisesRegex(ValueError, message) as caught:
      self.load(template=template)
    self.assertNotIn("\n", str(caught.exception))

  @parameterized.parameters("tokenizer.json", "tokenizer_config.json")
  def test_a_broken_file(self, name):
    folder = self.folder()
    (folder / name).write_text("{no json")
    with self.assertRaisesRegex(ValueError, "holds no tokenizer: ") as caught:
      tokenizer.load(folder)
    self.assertIn(str(folder), str(caught.exception))
    self.assertNotIn("\n", str(caught.exception))

  def test_a_broken_generation_config(self):
    folder = self.folder()
    (folder / "generation_config.json").write_text("{no json")
    with self.assertRaisesRegex(ValueError, "generation_config.json is not"):
      tokenizer.load(folder)

  def test_an_empty_folder(self):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    with self.assertRaisesRegex(ValueError, "tokenizer.json is no file. Give"):
      tokenizer.load(folder)

  def test_without_transformers(self):
    folder = self.folder()
    with (
      mock.patch.dict(sys.modules, {"transformers": None}),
      self.assertRaisesRegex(ValueError, r"pip install 'r1jax\[hf\]'"),
    ):
      tokenizer.load(folder)


class GgufTest(parameterized.TestCase):
  def write(self, **fields):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    path = folder / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    alphabet = [chr(i) for i in range(33, 127)] + ["Ġ", "Ċ"]
    tokens = [*alphabet, "ab", "<|im_start|>", "<|im_end|>", "<think>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    types = [1] * (len(tokens) - 3) + [3, 3, 4]
    writer.add_token_types(types)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    if fields.get("chat", True):
      writer.add_chat_template(hf_folder.CHATML)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

  def test_tokenizer_of_the_metadata(self):
    path = self.write()
    t = tokenizer.load(path)
    self.assertEqual(tokenizer.path_of(path), path)
    self.assertIsNone(t.bos_id)
    self.assertEqual(t.piece(t.eos_id), "<|im_end|>")
    self.assertEqual(t.vocab_size, 100)
    ids = t.encode("ab <think>")
    self.assertEqual([t.piece(i) for i in ids], ["ab", "Ġ", "<think>"])
    self.assertEqual(t.chat.end_id, t.eos_id)

  def test_no_gguf(self):
    path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()), "a")
    path = path.with_suffix(".gguf")
    path.write_bytes(b"not a file of that kind")
    with self.assertRaisesRegex(ValueError, "a.gguf holds no tokenizer: "):
      tokenizer.load(path)


if __name__ == "__main__":
  absltest.main()
