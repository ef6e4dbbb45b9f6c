import json
import pathlib
import tempfile

import pyarrow
import pyarrow.parquet
from absl.testing import absltest, parameterized

from r1jax.data import sources
from r1jax.rewards import verifiers

DAPO = {
  "data_source": "math_dapo",
  "prompt": [
    {
      "content": "Solve the following math problem step by step. The last "
      "line of your response should be of the form Answer: $Answer (without "
      "quotes) where $Answer is the answer to the problem.\n\nHow much is "
      "$2+2$?\n\nGive a number.\n\nRemember to put your answer on its own "
      'line after "Answer:".',
      "role": "user",
    }
  ],
  "ability": "MATH",
  "reward_model": {"ground_truth": "4", "style": "rule-lighteval/MATH_v2"},
  "extra_info": {"index": "9a9b6eb4"},
}
GSM8K = {"question": "Two fives?", "answer": "5 * 2 = <<5*2=10>>10\n#### 1,010"}
MATH = {
  "problem": "Half of $a/b$?",
  "level": "Level 1",
  "solution": r"Not \boxed{1}, but $\boxed{\frac{a}{2b}}$.",
}
COUNTDOWN = {"nums": [44, 19, 35], "target": 98}


class FormatsTest(parameterized.TestCase):
  def read(self, rows, **arguments):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    choice = {"name": "jsonl", **arguments}
    path = folder / f"rows.{choice['name']}"
    if choice["name"] == "parquet":
      pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
      path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    choice["path"] = str(path)
    return sources.read(choice, "config.data", verifiers.check)

  @parameterized.product(
    [
      dict(format="gsm8k", row=GSM8K, asks="Two fives?", gold="1010"),
      dict(
        format="math", row=MATH, asks="Half of $a/b$?", gold=r"\frac{a}{2b}"
      ),
      dict(
        format="dapo",
        row=DAPO,
        asks="How much is $2+2$?\n\nGive a number.",
        gold="4",
      ),
      dict(
        format="countdown",
        row=COUNTDOWN,
        asks="Make 98 from the numbers 44, 19, 35. Use each number exactly "
        "once, with + - * / and parentheses. Answer with the expression alone.",
        gold={"numbers": [44, 19, 35], "target": 98},
      ),
    ],
    name=["jsonl", "parquet"],
  )
  def test_reads(self, name, format, row, asks, gold):
    (question,) = self.read([row], name=name, format=format)
    self.assertEqual((question.question, question.answer), (asks, gold))
    self.assertEqual(question.id, "rows:1")
    is_countdown = format == "countdown"
    self.assertEqual(question.verifier, "countdown" if is_countdown else "math")

  def test_fields_of_a_mirror(self):
    row = {"q": "Two fives?", "a": "#### -3", "n": 7}
    fields = {"question": "q", "answer": "a", "id": "n"}
    (question,) = self.read([row], format="gsm8k", fields=fields)
    self.assertEqual((question.id, question.answer), ("7", "-3"))

  def test_another_verifier(self):
    (question,) = self.read([GSM8K], format="gsm8k", verifier="exact")
    self.assertEqual(question.verifier, "exact")

  @parameterized.parameters(
    ("gsm8k", GSM8K | {"answer": "10"}, "answer '10' has no '#### NUMBER'"),
    ("gsm8k", GSM8K | {"answer": 10}, "answer is 10, no text"),
    ("gsm8k", {"question": "a"}, "has no 'answer'. It has: question"),
    ("math", MATH | {"solution": r"\boxed{1"}, r"has no \\boxed"),
    ("math", GSM8K, "has no 'problem'. It has: question, answer"),
    ("dapo", DAPO | {"prompt": "text"}, "prompt is 'text' and reward_model"),
    ("dapo", DAPO | {"reward_model": {"a": 1}}, "not messages and a ground"),
    ("countdown", COUNTDOWN | {"nums": "44"}, "nums is '44', not a list"),
  )
  def test_other_rows_are_named(self, format, row, message):
    good = {"gsm8k": GSM8K, "math": MATH, "dapo": DAPO, "countdown": COUNTDOWN}
    with self.assertRaisesRegex(
      ValueError, rf"rows.jsonl, line 2: .*{message}"
    ):
      self.read([good[format], row], format=format)

  @parameterized.parameters(
    ("gsm8k", GSM8K | {"answer": "#### "}, "'rows:1': answer is ''"),
    (
      "countdown",
      {"nums": [1, 1], "target": 9},
      r"target 9 cannot be reached with \[1, 1\]",
    ),
  )
  def test_golds_are_validated(self, format, row, message):
    with self.assertRaisesRegex(ValueError, message):
      self.read([row], format=format)

  def test_unknown_format(self):
    with self.assertRaisesRegex(ValueError, "format is 'gsm'. Known: .* gsm8k"):
      self.read([GSM8K], format="gsm")


if __name__ == "__main__":
  absltest.main()
