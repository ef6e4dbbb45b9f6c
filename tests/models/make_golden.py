"""Writes tests/models/golden, what transformers says of small models.

Usage, with the extra `parity`: python -m tests.models.make_golden [NAME ...]
"""

import shutil
import sys

import safetensors.numpy

from tests.models import parity


def main(names: list[str]) -> None:
  for name in names or parity.GOLDEN_MODELS:
    folder = parity.GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    model = parity.make(name)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    arrays = {
      f"logits{i}_TV": logits_TV
      for i, logits_TV in enumerate(parity.reference_logits(model))
    }
    arrays["greedy_T"] = parity.reference_greedy(model)
    safetensors.numpy.save_file(arrays, folder / "expected.safetensors")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name}: {size} bytes")


if __name__ == "__main__":
  main(sys.argv[1:])
