from absl.testing import absltest, parameterized

from r1jax.data import general, programs
from r1jax.records import Question
from tests import recheck

COUNTDOWN = Question("c", "2 3 5 = -4", None, "countdown")
PROGRAM = next(
  q for q in programs.all_questions() if q.id.endswith("larger of x and 5")
)
OPEN = general.all_questions()[0]


def problem(question, answer, thoughts="3 + 5 no"):
  response = f"<think>{thoughts}</think><answer>{answer}</answer>"
  record = {"question": question._asdict(), "response": response}
  return recheck.problem(record)


class ProblemTest(parameterized.TestCase):
  @parameterized.parameters(
    (COUNTDOWN, "3 - 5 - 2"),
    (COUNTDOWN, "-2 - 5 + 3"),
    (PROGRAM, "print(max(int(input()),5))"),
    (PROGRAM, "print(max(5,int(input())))"),
    (PROGRAM, "print(max(int(input()),+5))"),
    (OPEN, OPEN.answer["accept"]),
  )
  def test_right(self, question, answer):
    self.assertIsNone(problem(question, answer))

  @parameterized.parameters(
    (COUNTDOWN, "3 + 5 - 2", "does not make -4"),
    (COUNTDOWN, "1 - 5", "does not make -4"),
    (COUNTDOWN, "3 - 5 - 2 - 2", "does not make -4"),
    (COUNTDOWN, "3 - 5 -", "invalid syntax"),
    (COUNTDOWN, "f(3)", "."),
    (PROGRAM, "print(max(int(input()),6))", "is wrong for"),
    (PROGRAM, "print(97)", "is wrong for"),
    (PROGRAM, "max(int(input()),5)", "invalid syntax"),
    (PROGRAM, "print(open(5))", "."),
    (OPEN, "i do not know.", "is not"),
  )
  def test_wrong(self, question, answer, message):
    self.assertRegex(problem(question, answer), message)

  @parameterized.parameters("3 + 5 不", "3 + 5 нет")
  def test_another_script(self, thoughts):
    found = problem(COUNTDOWN, "3 - 5 - 2", thoughts)
    self.assertStartsWith(found, "another script")

  def test_no_tags(self):
    record = {"question": COUNTDOWN._asdict(), "response": "3 - 5 - 2"}
    self.assertStartsWith(recheck.problem(record), "not in its tags")


if __name__ == "__main__":
  absltest.main()
