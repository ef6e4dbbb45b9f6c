import itertools

from absl.testing import absltest, parameterized

from r1jax.data import countdown, split_by_content


class ExpressionsTest(parameterized.TestCase):
  def test_worked_example(self):
    expression = countdown.Expression(3, "+", 5, "-", 2)
    self.assertEqual(expression.text, "3 + 5 - 2")
    self.assertEqual(expression.first, 8)
    self.assertEqual(expression.value, 6)
    expression = countdown.Expression(3, "-", 5, "+", 2)
    self.assertEqual((expression.first, expression.value), (-2, 0))

  @parameterized.parameters(((1, 2, 3), 24), ((1, 1, 2), 12), ((4, 4, 4), 4))
  def test_each_once(self, numbers, count):
    found = countdown.expressions(numbers)
    self.assertLen(found, count)
    self.assertLen({e.text for e in found}, count)
    for e in found:
      self.assertSequenceEqual(sorted((e.a, e.b, e.c)), numbers)

  def test_values_agree_with_signed_sums(self):
    for numbers in ((1, 2, 4), (9, 9, 1), (3, 5, 8)):
      signed = {
        sum(s * n for s, n in zip(signs, numbers))
        for signs in itertools.product((1, -1), repeat=3)
        if max(signs) == 1  # The first number of an expression has no sign.
      }
      self.assertEqual(
        {e.value for e in countdown.expressions(numbers)}, signed
      )


class QuestionsTest(parameterized.TestCase):
  def test_the_whole_space(self):
    questions = countdown.all_questions()
    self.assertLen(questions, 955)
    self.assertLen({q.id for q in questions}, 955)
    self.assertLen({split_by_content.content(q) for q in questions}, 955)
    for q in questions:
      values = {
        e.value for e in countdown.expressions(tuple(q.answer["numbers"]))
      }
      self.assertIn(q.answer["target"], values)
      self.assertEqual(q.verifier, "countdown")

  def test_text(self):
    question = countdown.question((3, 5, 8), -6)
    self.assertEqual(question.question, "3 5 8 -> -6")
    self.assertEqual(question.id, "countdown:3,5,8:-6")

  def test_splits_are_disjoint_and_complete(self):
    train = countdown.questions(split="train")
    test = countdown.questions(split="test")
    self.assertLen(train, 758)
    self.assertCountEqual(train + test, countdown.all_questions())


if __name__ == "__main__":
  absltest.main()
