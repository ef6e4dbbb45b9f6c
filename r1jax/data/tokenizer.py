"""Text to token ids and back: sentencepiece, or a Hugging Face tokenizer.

The bundled sentencepiece model, which normalises nothing, is made by

    python -m r1jax.data.tokenizer --output=r1jax/assets/tokenizer.model

which writes the same bytes each time.
"""

import argparse
import io
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import sentencepiece

from r1jax.data import general, miniature, programs, tokenizer_hf

BUNDLED = pathlib.Path(__file__).parents[1] / "assets" / "tokenizer.model"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
# Always one piece, whatever stands around; the longest match counts.
SYMBOLS = (
  *TAGS,
  *map(str, range(100)),
  "\n",
  "-",
  *(f" {operator} " for operator in ("+", "-", "=", "->")),
  " = -",
  *(f" {words['no']}\n" for words in miniature.WORDS.values()),
  *(f" {words['yes']}" for words in miniature.WORDS.values()),
  *(words["guess"] for words in miniature.WORDS.values()),
)
PAD_ID, UNK_ID, BOS_ID, EOS_ID = range(4)


class Tokenizer(NamedTuple):
  """What the rest of r1jax knows of a tokenizer.

  Attributes:
    encode: Text to ids; adds no BOS and no EOS, and of the bundled model
      no text is unknown.
    decode: Ids to text; control ids are dropped, broken UTF-8 is
      replaced.
    piece: Id to its piece, for reports.
    bos_id: Begins every prompt; None if the family has none.
    eos_id: Ends every finished document.
    pad_id: Fills rows; means nothing.
    vocab_size: Ids are below it.
    stop_ids: More ids that end a sampled response.
    chat: How the family writes a conversation; None if it does not say.
  """

  encode: Callable[[str], list[int]]
  decode: Callable[[Sequence[int]], str]
  piece: Callable[[int], str]
  bos_id: int | None
  eos_id: int
  pad_id: int
  vocab_size: int
  stop_ids: tuple[int, ...] = ()
  chat: tokenizer_hf.Chat | None = None


def train(
  lines: Iterable[str], path: str | pathlib.Path, vocab_size: int = 512
) -> None:
  """Writes a sentencepiece model trained on lines of text.

  Raises:
    ValueError: If there is no text or the vocabulary size does not suit.
  """
  lines = list(lines)
  if not any(lines):
    raise ValueError("tokenizer.train got no text. Give at least one line.")
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      model_writer=model,
      model_type="bpe",
      vocab_size=vocab_size,
      character_coverage=1.0,
      byte_fallback=True,
      normalization_rule_name="identity",
      add_dummy_prefix=False,
      remove_extra_whitespaces=False,
      split_by_whitespace=False,
      split_digits=True,
      user_defined_symbols=[s.replace(" ", "▁") for s in SYMBOLS],
      pad_id=PAD_ID,
      unk_id=UNK_ID,
      bos_id=BOS_ID,
      eos_id=EOS_ID,
      num_threads=1,
      minloglevel=2,
    )
  except RuntimeError as error:
    raise ValueError(
      f"tokenizer.train failed with vocab_size={vocab_size}: {error}"
    ) from error
  pathlib.Path(path).write_bytes(model.getvalue())


def path_of(path: str | pathlib.Path) -> pathlib.Path:
  """The file of a tokenizer, which its digest is of.

  Args:
    path: "bundled", for the miniature's; a file; or a folder, whose
      tokenizer.json goes before its tokenizer.model.
  """
  if path == "bundled":
    return BUNDLED
  path = pathlib.Path(path)
  if not path.is_dir():
    return path
  model = path / "tokenizer.model"
  file = path / tokenizer_hf.FILE
  return model if model.is_file() and not file.is_file() else file


def load(path: str | pathlib.Path = "bundled") -> Tokenizer:
  """The tokenizer in a file or folder, or the bundled one.

  Args:
    path: As of `path_of`: sentencepiece's .model, Hugging Face's
      tokenizer.json with the files beside it, or a GGUF.

  Raises:
    ValueError: If the file is missing, holds no tokenizer, or lacks BOS,
      EOS or padding where the kind needs them.
  """
  file = path_of(path)
  if not file.is_file():
    raise ValueError(
      f"tokenizer is {str(path)!r}, but {file} is no file. Give 'bundled', a "
      "sentencepiece model, or a folder with tokenizer.json."
    )
  if file.suffix == ".gguf":
    return Tokenizer(**tokenizer_hf.load(file))
  if file.name == tokenizer_hf.FILE:
    return Tokenizer(**tokenizer_hf.load(file.parent))
  return _sentencepiece(file)


def _sentencepiece(file: pathlib.Path) -> Tokenizer:
  processor = sentencepiece.SentencePieceProcessor()
  try:
    processor.LoadFromSerializedProto(file.read_bytes())
  except RuntimeError as error:
    raise ValueError(f"{file} is no sentencepiece model: {error}") from error
  bos_id, eos_id = processor.bos_id(), processor.eos_id()
  pad_id = processor.pad_id()
  if min(bos_id, eos_id, pad_id) < 0:
    raise ValueError(
      f"{file} has bos {bos_id}, eos {eos_id}, pad {pad_id}. "
      "All three must be 0 or more; train it with them."
    )

  def decode(ids: Sequence[int]) -> str:
    return processor.Decode([int(i) for i in ids])

  return Tokenizer(
    encode=processor.EncodeAsIds,
    decode=decode,
    piece=processor.IdToPiece,
    bos_id=bos_id,
    eos_id=eos_id,
    pad_id=pad_id,
    vocab_size=processor.GetPieceSize(),
  )


def miniature_lines(*, documents: int = 4000) -> list[str]:
  """Text of the miniature: every question but countdown's, and responses."""
  questions = [*general.all_questions(), *programs.all_questions()]
  lines = [q.question for q in questions]
  for index in range(documents):
    document = miniature.document(
      index, seed=0, general_frac=0.4, programs_frac=0.3
    )
    lines += [document.question.question, document.response]
  return lines


def main() -> None:
  """Trains the bundled tokenizer."""
  parser = argparse.ArgumentParser(description=main.__doc__)
  parser.add_argument("--output", default=str(BUNDLED))
  parser.add_argument("--vocab_size", type=int, default=512)
  arguments = parser.parse_args()
  train(miniature_lines(), arguments.output, arguments.vocab_size)
  print(f"{arguments.output}: {load(arguments.output).vocab_size} pieces")


if __name__ == "__main__":
  main()
