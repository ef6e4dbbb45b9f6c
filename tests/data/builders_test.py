import subprocess
import sys
import tempfile

from absl.testing import absltest, parameterized

from r1jax.data import builders, countdown, general, programs, sources

QUESTIONS = {
  "countdown": countdown.questions,
  "general": general.questions,
  "programs": programs.questions,
}
PROGRAM = """
import sys
import tempfile
from r1jax.data import builders
rows = builders.rows("r1_miniature/general", "test", sys.argv[1])
print(len(rows), rows[len(rows) - 1]["verifier"].decode())
print([m for m in ("jax", "tensorflow", "torch") if m in sys.modules])
"""


class BuildersTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.data_dir = cls.enterClassContext(tempfile.TemporaryDirectory())

  @parameterized.product(name=list(QUESTIONS), split=["train", "test"])
  def test_gives_the_questions_themselves(self, name, split):
    read = sources.tfds(
      lambda q: None,
      dataset=f"r1_miniature/{name}",
      split=split,
      data_dir=self.data_dir,
      json_fields=builders.JSON_FIELDS,
    )
    self.assertCountEqual(read, QUESTIONS[name](split=split))

  def test_the_order_on_disk_is_fixed(self):
    first, second = (
      list(builders.rows("r1_miniature/general", "train", data_dir))
      for data_dir in (
        self.data_dir,
        self.enterContext(tempfile.TemporaryDirectory()),
      )
    )
    self.assertEqual(first, second)

  def test_needs_no_tensorflow(self):
    done = subprocess.run(
      [
        sys.executable,
        "-c",
        PROGRAM,
        self.enterContext(tempfile.TemporaryDirectory()),
      ],
      capture_output=True,
      text=True,
    )
    expected = len(general.questions(split="test"))
    self.assertEqual(
      done.stdout.splitlines()[-2:], [f"{expected} none", "[]"], done.stderr
    )

  @parameterized.parameters(
    ("no_such_set", "train", "dataset is 'no_such_set', which TFDS cannot"),
    ("r1_miniature/nope", "train", "dataset is 'r1_miniature/nope'"),
    (
      "r1_miniature/general",
      "dev",
      "split is 'dev', which .* Known .*: train, test",
    ),
    ("r1_miniature/general", "test[:0]", r"split is 'test\[:0\]', which"),
  )
  def test_bad_names(self, dataset, split, message):
    with self.assertRaisesRegex(ValueError, message):
      sources.tfds(
        lambda q: None, dataset=dataset, split=split, data_dir=self.data_dir
      )


if __name__ == "__main__":
  absltest.main()
