"""Weights from one format to another.

  python -m r1jax.convert SRC DST [--fp8] [--dtype=bfloat16]

SRC is a workdir, a params.safetensors, a Hugging Face folder or a GGUF
file. DST is a Hugging Face folder, which transformers, vLLM and SGLang
read, or FILE.safetensors of r1jax. There and back gives the same bits.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from r1jax import any_model, tree
from r1jax.data import tokenizer as tokenizer_lib
from r1jax.data import tokenizer_hf
from r1jax.models import config as config_lib
from r1jax.models import hub, store


def convert(
  source: str | os.PathLike,
  destination: str | os.PathLike,
  *,
  fp8: bool = False,
  dtype: str | None = None,
  tokenizer: str = "",
) -> any_model.Opened:
  """Writes the model of `source` as `destination`; returns it.

  Args:
    source, destination: As above.
    fp8: Whether a folder has DeepSeek's blocks of float8.
    dtype: Of the parameters; None keeps what the source has.
    tokenizer: Goes before the one that the source knows of.

  Raises:
    ValueError: If the source cannot be read, the destination is there, or
      a folder cannot express the model.
  """
  destination = pathlib.Path(destination)
  is_file = destination.suffix == ".safetensors"
  if is_file and fp8:
    raise ValueError(
      f"--fp8 is of Hugging Face folders, {destination} is a file. Name a "
      "folder, or leave out --fp8."
    )
  if destination.suffix == ".gguf":
    raise ValueError(
      f"{destination} would be a GGUF file, which is only read. Name a folder; "
      "llama.cpp's convert_hf_to_gguf.py makes a GGUF of it."
    )
  if destination.is_file() or (
    destination.is_dir() and any(destination.iterdir())
  ):
    raise ValueError(f"{destination} is there already. Name a new one.")
  opened = any_model.load(source, dtype=dtype, tokenizer=tokenizer)
  if is_file:
    kept = ("tokenizer", "template", "base")
    notes = {k: getattr(opened, k) for k in kept if getattr(opened, k)}
    store.save(destination, opened.config, opened.params, opened.buffers, notes)
    return opened
  hub.export(
    destination,
    opened.config,
    opened.params,
    opened.buffers,
    fp8=fp8,
    base=opened.base,
    **_of_tokenizer(opened),
  )
  if opened.tokenizer and opened.tokenizer.endswith(".gguf"):
    tokenizer_hf.save(pathlib.Path(opened.tokenizer), destination)
  return opened


def _of_tokenizer(opened: any_model.Opened) -> dict:
  """`tokenizer` and `token_ids` of `hub.export`."""
  if opened.tokenizer is None:
    return {}
  tokenizer = any_model.read_tokenizer(opened)
  ends = [tokenizer.eos_id, *tokenizer.stop_ids]
  ids = {
    "bos_token_id": tokenizer.bos_id,
    "eos_token_id": ends if len(ends) > 1 else ends[0],
    "pad_token_id": tokenizer.pad_id,
  }
  ids = {name: id for name, id in ids.items() if id is not None}
  file = tokenizer_lib.path_of(opened.tokenizer)
  folder = None if file.suffix == ".gguf" else file.parent
  return {"tokenizer": folder, "token_ids": ids}


def main(arguments: Sequence[str]) -> None:
  """Converts what the command line names."""
  parser = argparse.ArgumentParser(
    prog="python -m r1jax.convert",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("source", metavar="SRC")
  parser.add_argument("destination", metavar="DST")
  parser.add_argument("--fp8", action="store_true")
  parser.add_argument("--dtype", choices=config_lib.DTYPES)
  parser.add_argument("--tokenizer", default="")
  parsed = vars(parser.parse_args(arguments))
  try:
    opened = convert(**parsed)
  except (ValueError, OSError) as error:
    sys.exit(f"r1jax: {error}")
  count = tree.count(opened.params)
  dtype = opened.config.param_dtype
  print(f"{parsed['destination']}: {count:,} parameters, {dtype}")


if __name__ == "__main__":
  main(sys.argv[1:])
