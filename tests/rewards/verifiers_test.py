from absl.testing import absltest, parameterized

from r1jax.records import Question
from r1jax.rewards import extract, verifiers


class ExactTest(parameterized.TestCase):
  @parameterized.parameters(
    ("a b", "a b", 1.0),
    ("a b", " a \n\t b ", 1.0),
    (" a\n b", "a b", 1.0),
    ("a b", "ab", 0.0),
    ("a b", "A b", 0.0),
    ("a b", "a b c", 0.0),
    (7, "7", 1.0),
    (7, "7.0", 0.0),
    (-7, " -7 ", 1.0),
    ("ü", "u\u0308", 0.0),
  )
  def test_verify(self, gold, answer, value):
    question = Question("q", "", gold, "exact")
    verifiers.check(question)
    reward = verifiers.VERIFIERS["exact"].verify(
      question, extract.Answer(answer, True)
    )
    self.assertEqual(reward.value, value)

  def test_reason_is_short(self):
    question = Question("q", "", "a" * 1000, "exact")
    answer = extract.Answer("b" * 100_000, True)
    reward = verifiers.verify_exact(question, answer)
    self.assertEqual(reward.value, 0.0)
    self.assertLess(len(reward.reason), 300)

  @parameterized.parameters(
    (None,), ("",), (" \n\u200b",), (1.5,), (True,), (["a"],), ({"a": 1},)
  )
  def test_bad_gold(self, gold):
    with self.assertRaisesRegex(ValueError, "'q7'.*answer.*exact"):
      verifiers.check(Question("q7", "", gold, "exact"))
    with self.assertRaises(ValueError):
      verifiers.verify_exact(Question("q7", "", gold, "exact"), "")


class TableTest(absltest.TestCase):
  def test_none_accepts_every_gold_and_no_answer(self):
    question = Question("q", "", None, "none")
    verifiers.check(question)
    reward = verifiers.VERIFIERS["none"].verify(
      question, extract.Answer("anything", True)
    )
    self.assertEqual((reward.value, reward.reason), (0.0, "nothing to verify"))

  def test_countdown_is_checked(self):
    gold = {"numbers": [3, 5, 8], "target": 6}
    verifiers.check(Question("q", "", gold, "countdown"))
    with self.assertRaisesRegex(ValueError, "question 'q': .*reached"):
      verifiers.check(Question("q", "", gold | {"target": 5000}, "countdown"))

  def test_unknown_verifier_is_named(self):
    with self.assertRaisesRegex(ValueError, "'q'.*'exat'.*mean exact"):
      verifiers.check(Question("q", "", "a", "exat"))


if __name__ == "__main__":
  absltest.main()
