from absl.testing import absltest, parameterized

from r1jax.records import Question
from r1jax.rewards import extract, verify_math, verify_words


def _verdict(verify, gold, text):
  question = Question("q", "", gold, "choice")
  return verify(question, extract.Answer(text, True))


class ChoiceTest(parameterized.TestCase):
  @parameterized.parameters(
    "B", "b", "(B)", "[B]", "B.", "B)", "$B$", "**B**", "B. 5", "(B) red",
    "(b) red", "B: b or c", "B. Vitamin C.", "B) the blue one", r"\text{B}",
    r"\textbf{(B)}\ 5", "Option B", "option: B", "The answer is B",
    "The correct answer is (B).", r"so it is \boxed{B}", "B - red",
    r"\boxed{The answer is B}", r"\boxed{The correct option is (B) red}",
    "The correct choice is B.",
  )  # fmt: skip
  def test_right(self, text):
    for verify in (verify_words.verify_choice, verify_math.verify):
      reward = _verdict(verify, "B", text)
      self.assertEqual(reward.value, 1.0, reward.reason)

  @parameterized.parameters(
    "C", "A. B", "A and B", "AB", "B or C", "B, C", "BCD", "B C D", "B/C",
    "B|C", "B+C", "B\nC", "(A)(B)", "B (C)", "B = C", "B - C", "B, not C",
    "B, or maybe C", "B ∨ C", "B. or C.", "B. [C]", "B. **C**",
    "B. red; C. blue", "B) yes C) no", "B. red C. blue", r"B \text{ or } C",
    r"\boxed{The answer is B or C}", r"\boxed{The answer is not B}",
    "The correct option is C", "Both", "not B", "B A", "A or B",
    "all of A, B", "Because", "b red", "I", "?", "B" + " red" * 1_000,
  )  # fmt: skip
  def test_wrong(self, text):
    for verify in (verify_words.verify_choice, verify_math.verify):
      reward = _verdict(verify, "B", text)
      self.assertEqual(reward.value, 0.0, reward.reason)
      self.assertNotIn("\n", reward.reason)
      self.assertLess(len(reward.reason), 200)

  def test_article_is_no_option(self):
    reward = _verdict(verify_words.verify_choice, "A", "A rather long text")
    self.assertEqual(reward.value, 0.0)
    reward = _verdict(verify_words.verify_choice, "A", "A) rather long text")
    self.assertEqual(reward.value, 1.0)

  @parameterized.parameters(*"ABCDEFGH")
  def test_each_letter_is_right_for_itself_alone(self, gold):
    for letter in "ABCDEFGH":
      reward = _verdict(verify_words.verify_choice, gold, f"({letter})")
      self.assertEqual(reward.value, float(letter == gold))

  @parameterized.parameters("I", "b", "(B)", "AB", "", None, 2)
  def test_malformed_golds(self, gold):
    with self.assertRaisesRegex(ValueError, "one letter, A to H"):
      _verdict(verify_words.verify_choice, gold, "B")

  @parameterized.parameters("(B)", r"\text{B}", r"\textbf{(B)}", "B.", "$B$")
  def test_golds_of_the_verifier_math(self, gold):
    self.assertEqual(_verdict(verify_math.verify, gold, "B").value, 1.0)
    self.assertEqual(_verdict(verify_math.verify, gold, "(b)").value, 1.0)
    self.assertEqual(_verdict(verify_math.verify, gold, "B or C").value, 0.0)


class LogicTest(parameterized.TestCase):
  @parameterized.parameters(
    ("knight", "Knight."),
    ("Alice is a knight", "alice  is a\nknight"),
    ("a, b", "a,b"),
    ("[1, 2]", "[ 1,2 ]"),
    ("red", r"so it is \boxed{red}"),
    ("x: 1, y: 2", "y: 2, x: 1"),
    ("x=1; y=2", "y = 2; x = 1"),
    ("True", "true"),
    (True, "True"),
    (7, "7"),
    ("don't", "don’t"),
  )
  def test_right(self, gold, text):
    reward = _verdict(verify_words.verify_logic, gold, text)
    self.assertEqual(reward.value, 1.0, reward.reason)

  @parameterized.parameters(
    ("knight", "knave"),
    ("knight", "knight or knave"),
    ("a, b", "b, a"),
    ("x: 1, y: 2", "x: 2, y: 1"),
    ("x: 1, y: 2", "x: 1"),
    ("x: 1, y: 2", "x: 1, y: 2, z: 3"),
    ("x: 1, y: 2", "x: 1, y: 2, y: 3"),
    ("1", "10"),
    ("-1", "1"),
    ("ab", "a b"),
    ("True", "False"),
  )
  def test_wrong(self, gold, text):
    reward = _verdict(verify_words.verify_logic, gold, text)
    self.assertEqual(reward.value, 0.0, reward.reason)
    self.assertNotIn("\n", reward.reason)

  @parameterized.parameters((None,), ("",), (" ",), ("...",), ([1],))
  def test_malformed_golds(self, gold):
    with self.assertRaisesRegex(ValueError, "not blank"):
      _verdict(verify_words.verify_logic, gold, "a")


if __name__ == "__main__":
  absltest.main()
