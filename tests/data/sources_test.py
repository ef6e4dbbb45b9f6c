import json
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import pyarrow
import pyarrow.parquet
from absl.testing import absltest, parameterized

from r1jax import registry
from r1jax.data import builders, sources
from r1jax.records import Question
from r1jax.rewards import verifiers

ROW = {"id": "a", "question": "1 + 1?", "answer": 2, "verifier": "exact"}


def accept(question):
  del question


def question(i, text=None) -> Question:
  return Question(f"q{i}", text or f"question {i}", i, "exact")


class FileTest(parameterized.TestCase):
  def write(self, *lines, name="data.jsonl"):
    path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / name
    path.write_bytes(
      b"".join(
        (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n"
        for line in lines
      )
    )
    return str(path)

  def write_parquet(self, rows):
    path = (
      pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
      / "data.parquet"
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)

  def test_all_fields(self):
    row = {**ROW, "language": "zh", "meta": {"level": 3}, "other": 1}
    (q,) = sources.jsonl(accept, path=self.write(row))
    self.assertEqual(q, Question("a", "1 + 1?", 2, "exact", "zh", {"level": 3}))

  @parameterized.parameters("jsonl", "parquet")
  def test_mapping_and_defaults(self, kind):
    rows = [
      {"problem": "问 1", "solution": "7"},
      {"problem": "2", "solution": "8"},
    ]
    path = self.write(*rows) if kind == "jsonl" else self.write_parquet(rows)
    choice = {
      "name": kind,
      "path": path,
      "fields": {"question": "problem", "answer": "solution"},
      "verifier": "math",
    }
    read = registry.make(sources.SOURCES, choice, "config.data")(accept)
    self.assertLen(read, 2)
    self.assertEqual(read[0], Question("data:1", "问 1", "7", "math"))
    self.assertEqual(read[1].id, "data:2")

  @parameterized.named_parameters(
    ("no_json", b'{"id": ', r"data.jsonl, line 2: no JSON \(Expecting value"),
    ("no_utf8", b'{"id": "\xff"}', "data.jsonl, line 2: no UTF-8"),
    ("blank_line", b"", "data.jsonl, line 2: no JSON"),
    ("no_object", b"[1]", r"data.jsonl, line 2: is \[1\], not an object"),
    (
      "no_answer",
      {"question": "b"},
      "line 2: has no 'answer'. It has: question",
    ),
    ("null", {**ROW, "answer": None}, "line 2: has no 'answer'"),
    ("number", {**ROW, "question": 3}, "line 2: question is 3. It must be a"),
    ("blank", {**ROW, "question": " "}, "line 2: question is ' '"),
    ("id", {**ROW, "id": ["b"]}, r"line 2: id is \['b'\]"),
    ("language", {**ROW, "language": 1}, "line 2: language is 1"),
    ("meta", {**ROW, "meta": [1]}, r"line 2: meta is \[1\], not an object"),
    (
      "verifier",
      {"question": "b", "answer": 1},
      "line 2: verifier is None. It must be a text",
    ),
    ("twice", ROW, "data.jsonl: id 'a' stands twice"),
  )
  def test_malformed_line(self, line, message):
    with self.assertRaisesRegex(ValueError, message):
      sources.jsonl(accept, path=self.write(ROW, line))

  def test_no_answer_where_there_is_nothing_to_verify(self):
    row = {"question": "tell me a story", "verifier": "none"}
    (q,) = sources.jsonl(accept, path=self.write(row))
    self.assertIsNone(q.answer)

  def test_number_as_id(self):
    (q,) = sources.jsonl(accept, path=self.write({**ROW, "id": 17}))
    self.assertEqual(q.id, "17")

  def test_unknown_mapping(self):
    with self.assertRaisesRegex(ValueError, "fields.qestion is unknown. Known"):
      sources.jsonl(accept, path=self.write(ROW), fields={"qestion": "problem"})

  @parameterized.parameters(sources.jsonl, sources.parquet)
  def test_no_file(self, source):
    with self.assertRaisesRegex(ValueError, "path is '/nowhere', which is no"):
      source(accept, path="/nowhere")

  def test_empty(self):
    with self.assertRaisesRegex(ValueError, "data.jsonl holds no question"):
      sources.jsonl(accept, path=self.write())
    path = self.write_parquet([])
    with self.assertRaisesRegex(ValueError, "data.parquet holds no question"):
      sources.parquet(accept, path=path)

  def test_parquet_row(self):
    path = self.write_parquet([ROW, {**ROW, "id": "b", "question": None}])
    with self.assertRaisesRegex(ValueError, "row 2: has no 'question'"):
      sources.parquet(accept, path=path)

  def test_json_only_where_asked(self):
    row = {**ROW, "answer": "1e5", "meta": '{"level": 3}'}
    path = self.write_parquet([row])
    (q,) = sources.parquet(accept, path=path, json_fields=["meta"])
    self.assertEqual((q.answer, q.meta), ("1e5", {"level": 3}))
    with self.assertRaisesRegex(ValueError, "row 1: question of .* '1 \\+ 1"):
      sources.parquet(accept, path=path, json_fields=["question"])
    with self.assertRaisesRegex(ValueError, "row 1: nope of .* is None, no"):
      sources.parquet(accept, path=path, json_fields=["nope"])

  def test_no_parquet(self):
    with self.assertRaisesRegex(ValueError, "data.jsonl: no Parquet"):
      sources.parquet(accept, path=self.write(ROW))


class CheckGoldTest(parameterized.TestCase):
  @parameterized.parameters("countdown", "general", "programs")
  def test_every_question_of_the_miniature_is_shown(self, name):
    shown = []
    choice = {"name": name, "split": "test", "test_frac": 0.3}
    make = registry.make(sources.SOURCES, choice, "config.data")
    self.assertEqual(make(shown.append), shown)
    self.assertNotEmpty(shown)

  def test_general_prompts_of_a_kind(self):
    choice = {
      "name": "general",
      "split": "test",
      "prompt_set": "safety",
      "kind": "how-to",
      "verifier": "helpful",
    }
    make = registry.make(sources.SOURCES, choice, "config.data")
    questions = make(verifiers.check)
    self.assertLen(questions, 10)
    self.assertEqual({q.answer["prompt_set"] for q in questions}, {"safety"})

  def test_bad_golds_are_refused_by_id(self):
    def check(q):
      if q.answer > 1:
        raise ValueError(f"gold {q.answer} is bad")

    with self.assertRaisesRegex(
      ValueError,
      "set: 8 of 10 questions are refused, .*: 'q2': gold 2 is bad, 'q3': .*"
      "'q6': gold 6 is bad and 3 more",
    ):
      sources.checked([question(i) for i in range(10)], check, "set")

  def test_another_error_is_not_hidden(self):
    def check(q):
      raise KeyError(q.id)

    with self.assertRaises(KeyError):
      sources.checked([question(0)], check, "set")

  def test_unknown_split(self):
    with self.assertRaisesRegex(
      ValueError, "split is 'dev'. Known: train, test"
    ):
      sources.countdown(accept, split="dev")


class ReadTest(FileTest):
  def read(self, *lines, **choice):
    path = self.write(*lines)
    choice = {"name": "jsonl", "path": path, **choice}
    return sources.read(choice, "config.data", verifiers.check)

  def test_the_arguments_of_every_source(self):
    lines = [{**ROW, "id": i, "question": f"{i // 2} + 1?"} for i in range(6)]
    questions = self.read(
      *lines,
      instruction="Think first.",
      answer_format="boxed",
      distinct=True,
      limit=2,
    )
    self.assertEqual([q.id for q in questions], ["0", "2"])
    self.assertEqual(questions[1].question, "1 + 1?\nThink first.")
    self.assertEqual(questions[1].meta, {"answer_format": "boxed"})

  def test_what_is_cut_is_not_checked(self):
    bad = {**ROW, "id": "b", "answer": None, "verifier": "none"}
    self.assertLen(self.read(ROW, bad, limit=1), 1)
    with self.assertRaisesRegex(ValueError, "config.data: .*'c': answer is ''"):
      self.read({**ROW, "id": "c", "answer": ""}, ROW, limit=1)

  @parameterized.parameters(
    (dict(limit="2"), "config.data.limit is '2', but must be an integer"),
    (dict(limit=-1), "config.data.limit is -1, but must be an integer of 0"),
    (dict(limit=True), "config.data.limit is True, but must be an integer"),
    (dict(distinct=1), "config.data.distinct is 1, but must be True or False"),
    (
      dict(answer_format="box"),
      "config.data.answer_format is 'box', but must be one",
    ),
    (dict(answer_format=None), "config.data.answer_format is None"),
    (dict(fmt="math"), "config.data.fmt is unknown. Known: path"),
  )
  def test_bad_arguments(self, change, message):
    with self.assertRaisesRegex(ValueError, message):
      self.read(ROW, **change)

  def test_parts_of_a_mixture_have_them_too(self):
    part = dict(name="jsonl", path=self.write(ROW), instruction="Go.")
    choice = dict(name="mixture", parts=[part], limit=1)
    (question,) = sources.read(choice, "config.data", verifiers.check)
    self.assertEqual(question.question, "1 + 1?\nGo.")

  def test_tfds_by_its_short_name(self):
    with mock.patch.object(
      builders, "rows", return_value=[{**ROW, "id": b"a"}]
    ) as rows:
      choice = {"name": "tfds:some/set:1.0.0", "split": "test"}
      (question,) = sources.read(choice, "config.data", verifiers.check)
    rows.assert_called_once_with("some/set:1.0.0", "test", None)
    self.assertEqual(question.id, "a")


class DisjointTest(parameterized.TestCase):
  @parameterized.parameters("countdown", "general", "programs")
  def test_the_miniature_is_disjoint(self, name):
    source = sources.SOURCES[name]
    sources.check_disjoint(
      source(accept, split="train"), source(accept, split="test")
    )

  def test_shared_content_is_listed(self):
    train = [question(i) for i in range(5)]
    test = [question(7), question(8, "Question  3")]
    with self.assertRaisesRegex(
      ValueError, r"1 of 2 test questions are in train: 'q8' \(train 'q3'\)"
    ):
      sources.check_disjoint(train, test)


class OrderTest(parameterized.TestCase):
  def test_each_pass_is_a_permutation_of_its_own(self):
    items = list(range(10))
    ordered = sources.order(items, seed=3)
    passes = [sources.batch(ordered, i, 10) for i in range(3)]
    for one in passes:
      self.assertCountEqual(one, items)
    self.assertLen({tuple(one) for one in passes}, 3)
    self.assertNotIn(items, passes)

  def test_is_a_function_of_seed_and_round(self):
    items = [question(i) for i in range(23)]
    rounds = [sources.batch(sources.order(items, 1), r, 4) for r in range(40)]
    again = sources.order(items, 1)
    for r in reversed(range(40)):
      self.assertEqual(sources.batch(again, r, 4), rounds[r])
    other = sources.batch(sources.order(items, 2), 0, 23)
    self.assertNotEqual(other, sources.batch(again, 0, 23))

  def test_rounds_do_not_depend_on_each_other(self):
    ordered = sources.order(list(range(100)), 0)
    flat = [ordered[i] for i in range(32)]
    self.assertEqual(sources.batch(ordered, 3, 8), flat[24:32])

  def test_order_is_pinned(self):
    # A change here breaks resuming runs of an older version.
    self.assertEqual(
      sources.batch(sources.order(range(8), 0), 0, 8), [1, 2, 4, 5, 3, 7, 0, 6]
    )


class ImportTest(parameterized.TestCase):
  def test_importing_data_brings_no_jax_and_no_tensorflow(self):
    program = (
      "import importlib, pkgutil, sys, r1jax.data as d\n"
      "for m in pkgutil.iter_modules(d.__path__):\n"
      "  importlib.import_module('r1jax.data.' + m.name)\n"
      "print([m for m in ('jax', 'tensorflow', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
      [sys.executable, "-c", program], capture_output=True, text=True
    )
    self.assertEqual(done.stdout.strip(), "[]", done.stderr)


if __name__ == "__main__":
  absltest.main()
