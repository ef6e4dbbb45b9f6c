import io
import pathlib
import tempfile

import sentencepiece
from absl.testing import absltest, parameterized

from r1jax.data import miniature, tokenizer


class BundledTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.tokenizer = tokenizer.load()

  def pieces(self, text):
    return [self.tokenizer.piece(i) for i in self.tokenizer.encode(text)]

  def test_ids(self):
    t = self.tokenizer
    self.assertEqual(t.vocab_size, 512)
    self.assertLen({t.pad_id, t.bos_id, t.eos_id, tokenizer.UNK_ID}, 4)
    self.assertEqual(t.piece(t.vocab_size - 1), t.piece(511))

  @parameterized.parameters(
    *tokenizer.TAGS, "0", "7", "10", "42", "99", "-", " + ", " - ", " = "
  )
  def test_one_piece_whatever_stands_around(self, symbol):
    for before, after in (
      ("", ""),
      ("x", "y"),
      ("猜", "对"),
      (">", "<"),
      ("(", ")"),
    ):
      pieces = self.pieces(before + symbol + after)
      self.assertIn(symbol.replace(" ", "▁"), pieces)
      alone = len(self.pieces(before)) + len(self.pieces(after))
      self.assertLessEqual(len(pieces), alone + 1)

  def test_minus_stands_apart(self):
    self.assertEqual(self.pieces("-12"), ["-", "12"])
    self.assertEqual(self.pieces("4 - 12"), ["4", "▁-▁", "12"])

  def test_an_attempt_takes_ten_tokens(self):
    self.assertLen(self.pieces("3 + 5 = 8 - 2 = 6 no\n"), 10)
    self.assertLen(self.pieces("3 - 5 = -2 - 9 = -11 不\n"), 10)
    self.assertLen(self.pieces("3 + 5 = 8 + 9 = 17 对"), 10)

  @parameterized.parameters(
    "",
    " ",
    " a",
    "a  b ",
    "\n\n x\n",
    "\ttab\r\n",
    "x\x00y",
    "héllo 你好 😀",
    "</s><s><pad><unk>",
    "３ ½ e\u0301 é ﬁ",
    "100 -3",
    "A conversation between User and Assistant.",
  )
  def test_round_trip(self, text):
    ids = self.tokenizer.encode(text)
    self.assertEqual(self.tokenizer.decode(ids), text)
    self.assertNoCommonElements(
      ids,
      [
        self.tokenizer.pad_id,
        self.tokenizer.bos_id,
        self.tokenizer.eos_id,
        tokenizer.UNK_ID,
      ],
    )

  def test_round_trip_of_the_miniature(self):
    for index in range(500):
      document = miniature.document(index)
      for text in (document.question.question, document.response):
        ids = self.tokenizer.encode(text)
        self.assertEqual(self.tokenizer.decode(ids), text)
        self.assertLess(max(ids), self.tokenizer.vocab_size)

  def test_control_ids_and_broken_bytes_decode(self):
    t = self.tokenizer
    ids = t.encode("ok")
    self.assertEqual(t.decode([t.bos_id, *ids, t.eos_id, t.pad_id]), "ok")
    self.assertEqual(t.decode([t.eos_id]), "")
    self.assertEqual(t.decode([]), "")
    half = t.encode("你")[:1]
    self.assertEqual(t.decode([*ids, *half]), "ok\ufffd")


class TrainTest(parameterized.TestCase):
  def test_training_again_gives_the_bundled_bytes(self):
    path = (
      pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
      / "tokenizer.model"
    )
    tokenizer.train(tokenizer.miniature_lines(), path)
    self.assertEqual(
      path.read_bytes(),
      tokenizer.BUNDLED.read_bytes(),
      "The corpus or sentencepiece changed. If that is meant, run\n"
      "  python -m r1jax.data.tokenizer --output=r1jax/assets/tokenizer.model"
      "\nand train the bundled base again.",
    )

  def test_no_text(self):
    with self.assertRaisesRegex(ValueError, "got no text"):
      tokenizer.train(["", ""], "/nowhere")

  def test_vocabulary_too_small(self):
    with self.assertRaisesRegex(ValueError, "failed with vocab_size=300"):
      tokenizer.train(["some text"], "/nowhere", 300)


class LoadTest(parameterized.TestCase):
  def test_no_file(self):
    with self.assertRaisesRegex(ValueError, "'/nowhere/x', but .* is no file"):
      tokenizer.load("/nowhere/x")

  def test_no_model(self):
    path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()), "x")
    path.write_text("not a model")
    with self.assertRaisesRegex(ValueError, "no sentencepiece model"):
      tokenizer.load(path)

  def test_no_padding(self):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(["some text"]),
      model_writer=model,
      vocab_size=20,
      hard_vocab_limit=False,
      minloglevel=2,
    )
    path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()), "x")
    path.write_bytes(model.getvalue())
    with self.assertRaisesRegex(ValueError, "has bos 1, eos 2, pad -1. All"):
      tokenizer.load(path)


if __name__ == "__main__":
  absltest.main()
