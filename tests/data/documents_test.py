import json
import os
import tempfile

from absl.testing import absltest, parameterized

from r1jax import registry
from r1jax.data import documents
from r1jax.records import Question


def record(i, **changes):
  question = Question(f"q{i}", f"what {i}", i, "exact")
  fields = {
    "id": f"q{i}/0",
    "question": question._asdict(),
    "response": f"r{i}",
  }
  return fields | changes


class MiniatureTest(parameterized.TestCase):
  def test_a_function_of_the_index(self):
    choice = {"name": "miniature", "seed": 5, "guess": 1.0, "general_frac": 0.0}
    document = registry.make(documents.DOCUMENTS, choice, "config.data")
    self.assertEqual(document(10**9), document(10**9))
    self.assertNotEqual(document(0), document(1))

  def test_misspelt_argument(self):
    choice = {"name": "miniature", "gues": 1.0}
    with self.assertRaisesRegex(ValueError, "config.data.gues is unknown"):
      registry.make(documents.DOCUMENTS, choice, "config.data")


class ResponsesTest(parameterized.TestCase):
  def file(self, name, records):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as file:
      for each in records:
        file.write(json.dumps(each) + "\n")
    return path

  def read(self, n, **arguments):
    choice = {"name": "responses", **arguments}
    document = registry.make(documents.DOCUMENTS, choice, "config.data")
    return [document(i) for i in range(n)]

  def test_each_pass_takes_every_response_once_in_its_own_order(self):
    path = self.file("a", map(record, range(20)))
    read = self.read(60, path=path)
    passes = [[d.response for d in read[i : i + 20]] for i in (0, 20, 40)]
    for each in passes:
      self.assertCountEqual(each, [f"r{i}" for i in range(20)])
    self.assertNotEqual(passes[0], passes[1])
    self.assertEqual(read[0].question.question[:5], "what ")
    self.assertEqual(read, self.read(60, path=path))
    self.assertNotEqual(read, self.read(60, path=path, seed=1))

  def test_more_of_another_file(self):
    files = {
      "path": self.file("a", map(record, range(4))),
      "more_path": self.file("b", map(record, range(4, 7))),
      "more_repeats": 2,
    }
    self.assertEqual(documents.count_responses(**files), 10)
    wanted = [f"r{i}" for i in (*range(4), *range(4, 7), *range(4, 7))]
    read = [d.response for d in self.read(10, **files)]
    self.assertCountEqual(read, wanted)

  @parameterized.parameters(
    ("{", "line 1: "),
    ("[]", "line 1: "),
    ('{"id": 1, "question": {}, "response": "x"}', "line 1: "),
    ('{"id": 1, "response": "x"}', "line 1: KeyError"),
    (None, "holds no response. Give at least one."),
  )
  def test_bad_files(self, line, message):
    path = self.file("a", [])
    if line:
      with open(path, "w", encoding="utf-8") as file:
        file.write(line + "\n")
    with self.assertRaisesRegex(ValueError, f"{path}.*{message}"):
      documents.count_responses(path=path)


if __name__ == "__main__":
  absltest.main()
