import io
import random
import re
from unittest import mock

from absl.testing import absltest, parameterized

from r1jax.data import programs


def run(program: str, given: str) -> str:
  """Output of one of our own programs; never of a model's."""
  printed = io.StringIO()
  with (
    mock.patch("sys.stdin", io.StringIO(given)),
    mock.patch("sys.stdout", printed),
  ):
    exec(program, {})
  return printed.getvalue()


class QuestionsTest(parameterized.TestCase):
  def test_the_whole_space(self):
    questions = programs.all_questions()
    self.assertLen(questions, 176)
    self.assertLen({q.id for q in questions}, 176)
    for split in ("train", "test"):
      self.assertNotEmpty(programs.questions(split=split))

  def test_golds_solve_their_tests(self):
    for q in programs.all_questions():
      self.assertRegex(q.answer["program"], r"^[a-z0-9()+*%,-]+$")
      self.assertEqual(q.verifier, "code")
      for test in q.answer["tests"]:
        self.assertEqual(run(q.answer["program"], test["in"]), test["out"])

  def test_worked_example(self):
    (q,) = [q for q in programs.all_questions() if "larger of x and 5" in q.id]
    self.assertEqual(q.question, "program: larger of x and 5")
    self.assertEqual(q.answer["program"], "print(max(int(input()),5))")
    self.assertIn({"in": "97\n", "out": "97\n"}, q.answer["tests"])
    self.assertIn({"in": "-1\n", "out": "5\n"}, q.answer["tests"])

  def test_tests_tell_all_questions_apart(self):
    outputs = {
      tuple(test["out"] for test in q.answer["tests"])
      for q in programs.all_questions()
    }
    self.assertLen(outputs, 176)


class ResponseTest(parameterized.TestCase):
  def test_share_of_right_programs(self):
    rng = random.Random(0)
    question = programs.all_questions()[0]
    rights = 0
    for _ in range(2000):
      thoughts, program, right = programs.response(question, rng, right=0.3)
      self.assertEqual(thoughts, "x plus 2")
      self.assertEqual(program == question.answer["program"], right)
      self.assertIsNotNone(re.fullmatch(r"print\(.*\)", program))
      rights += right
    self.assertAlmostEqual(rights / 2000, 0.3, delta=0.04)  # Four sigma.


if __name__ == "__main__":
  absltest.main()
