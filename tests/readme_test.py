"""The README's commands run."""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

import pytest
from absl.testing import absltest

from tests.models import smollm2

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# A training run of the README is cut to this much.
SHORT = ",rounds=2,eval_every_rounds=0,optimizer.schedule.warmup_updates=1"


def commands(heading: str) -> list[str]:
  """The commands of a section, without what installs."""
  section = re.search(rf"^## {heading}\n(.*?)^## ", README, re.S | re.M)[1]
  lines = re.findall(r"^    (python .*)$", section, re.M)
  assert lines, heading
  return lines


@pytest.mark.slow
class BringYourModelTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    (self.root / "models").mkdir()
    (self.root / "models/smollm2-135m").symlink_to(smollm2.folder())
    (self.root / "model.gguf").symlink_to(smollm2.gguf())
    for name in ("configs", "r1jax"):
      (self.root / name).symlink_to(ROOT / name)

  def test_every_command(self):
    for command in commands("Bring your model"):
      words = shlex.split(command)
      if "r1jax.main" in words:
        words[-1] += SHORT
      done = subprocess.run(
        [sys.executable, *words[1:]],
        input="What is 2 + 3?\n",
        capture_output=True,
        text=True,
        cwd=self.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=600,
      )
      self.assertEqual(done.returncode, 0, f"{command}: {done.stderr}")
      if "r1jax.chat" in words:
        self.assertNotEqual(done.stdout.strip(), "", command)
    made = {path.name for path in (self.root / "models").iterdir()}
    self.assertEqual(made, {"smollm2-135m", "smollm2-sums", "mine", "r1-tiny"})


if __name__ == "__main__":
  absltest.main()
