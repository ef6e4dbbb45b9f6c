from absl.testing import absltest, parameterized

from r1jax.data import countdown, few_shot, general, programs
from r1jax.records import Question, Response
from r1jax.rewards import accuracy, format

HOW_TOS = general.questions("train", kind="how-to", verifier="helpful")


class WorkedTest(parameterized.TestCase):
  @parameterized.parameters(
    (countdown.questions(split="train")[::40],),
    (programs.questions(split="train")[::40],),
    (general.questions("train", verifier="helpful"),),
  )
  def test_solves_the_question(self, questions):
    for question in questions:
      response = Response(few_shot.worked(question), 9, "eos")
      self.assertEqual(accuracy.accuracy(question, response).value, 1.0)
      self.assertEqual(format.format_reward(question, response).value, 1.0)

  def test_a_question_of_a_file(self):
    question = Question("q", "1 + 1?", 2, "exact", meta={"thoughts": "sum"})
    self.assertEqual(
      few_shot.worked(question), "<think>sum</think><answer>2</answer>"
    )

  @parameterized.parameters(
    (Question("q7", "?", 2, "exact"),),
    (Question("q7", "?", None, "none", meta={"thoughts": "x"}),),
    (Question("q7", "?", {"tests": []}, "code", meta={"thoughts": "x"}),),
  )
  def test_no_solution(self, question):
    with self.assertRaisesRegex(ValueError, "'q7' has no solution to show"):
      few_shot.worked(question)


class WithExamplesTest(parameterized.TestCase):
  def test_worked_example(self):
    pool = [q for q in HOW_TOS if q.question == "how do i paint a bike?"]
    got = few_shot.with_examples(HOW_TOS[0], pool, 1, 0)
    self.assertEqual(
      got.question,
      "how do i paint a bike?\n<think>paint a bike</think>"
      "<answer>take a brush and paint the bike.</answer>\n"
      + HOW_TOS[0].question,
    )
    self.assertEqual(got._replace(question=HOW_TOS[0].question), HOW_TOS[0])

  def test_no_shots_is_the_question(self):
    self.assertEqual(few_shot.with_examples(HOW_TOS[0], [], 0, 0), HOW_TOS[0])

  def test_never_the_question_itself_and_none_twice(self):
    pool = HOW_TOS[:4]
    for question in pool:
      lines = few_shot.with_examples(question, pool, 3, 0).question.split("\n")
      others = {q.question for q in pool} - {question.question}
      self.assertEqual(set(lines[:-1:2]), others)
      self.assertEqual(lines[-1], question.question)

  def test_depends_on_seed_and_question_alone(self):
    texts = [
      few_shot.with_examples(q, HOW_TOS, 2, seed).question
      for q in HOW_TOS[:2]
      for seed in (0, 0, 1)
    ]
    self.assertEqual(texts[0], texts[1])
    self.assertLen({text.rsplit("\n", 1)[0] for text in texts}, 4)

  def test_too_few(self):
    with self.assertRaisesRegex(
      ValueError, "shots is 2, but there are 1 other"
    ):
      few_shot.with_examples(HOW_TOS[0], HOW_TOS[:2], 2, 0)


if __name__ == "__main__":
  absltest.main()
