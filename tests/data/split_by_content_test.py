from absl.testing import absltest, parameterized

from r1jax.data import split_by_content
from r1jax.records import Question


def countdown(id, numbers, target, text="?") -> Question:
  gold = {"numbers": numbers, "target": target}
  return Question(id, text, gold, "countdown")


class ContentTest(parameterized.TestCase):
  def test_countdown_is_told_by_numbers_and_target(self):
    content = split_by_content.content
    first = content(countdown("a", [3, 5, 8], 6, "3 5 8 -> 6"))
    self.assertEqual(
      first, content(countdown("b", [8, 3, 5], 6, "make 6 of 8, 3 and 5"))
    )
    self.assertNotEqual(first, content(countdown("a", [3, 5, 8], 0)))
    self.assertNotEqual(first, content(countdown("a", [3, 5, 5], 6)))

  def test_text_is_told_but_for_case_and_blanks(self):
    def content(text, answer=None):
      return split_by_content.content(Question("q", text, answer, "none"))

    self.assertEqual(content("Where is  snow?\n"), content("where is snow?"))
    self.assertEqual(content("a", answer=1), content("a", answer=2))
    self.assertNotEqual(content("where is snow?"), content("where is salt?"))


class SplitOfTest(parameterized.TestCase):
  def test_a_split_never_changes(self):
    # Another hash would move test questions into a trained base's corpus.
    questions = [countdown("q", [1, 2, 3], target) for target in range(30)]
    is_test = "".join(
      str(int(split_by_content.split_of(q) == "test")) for q in questions
    )
    self.assertEqual(is_test, "001110001000100100100011001000")

  def test_order_of_numbers_and_id_play_no_part(self):
    for target in range(30):
      self.assertEqual(
        split_by_content.split_of(countdown("a", [1, 2, 3], target)),
        split_by_content.split_of(countdown("b", [3, 1, 2], target, "else")),
      )

  @parameterized.parameters((0.0, 0), (0.2, 218), (0.5, 494), (1.0, 1000))
  def test_fraction(self, test_frac, expected):
    questions = [Question("q", f"q{i}", None, "none") for i in range(1000)]
    test = split_by_content.select(questions, "test", test_frac=test_frac)
    train = split_by_content.select(questions, "train", test_frac=test_frac)
    self.assertLen(test, expected)
    self.assertCountEqual(test + train, questions)

  def test_unknown_split(self):
    with self.assertRaisesRegex(ValueError, "'dev'. Known: train, test"):
      split_by_content.select([], "dev")


if __name__ == "__main__":
  absltest.main()
