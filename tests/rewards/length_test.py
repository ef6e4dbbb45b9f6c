from absl.testing import absltest, parameterized

from r1jax.records import Question, Response
from r1jax.rewards import length

QUESTION = Question("q", "?", None, "none")


class OverlongTest(parameterized.TestCase):
  @parameterized.parameters(
    (1, 0.0),
    (16_384, 0.0),
    (17_408, -0.25),
    (18_432, -0.5),  # DAPO's own numbers.
    (20_480, -1.0),
    (20_481, -1.0),
    (10**9, -1.0),
  )
  def test_value(self, tokens, value):
    reward = length.overlong(
      QUESTION,
      Response("short text", tokens, "eos"),
      max_tokens=20_480,
      cache_tokens=4096,
    )
    self.assertEqual(reward.value, value)
    self.assertEqual(str(reward.value), str(value))  # No -0.0.

  @parameterized.parameters((0, 8), (-1, 8), (9, 8))
  def test_contradictory_limits(self, cache_tokens, max_tokens):
    with self.assertRaisesRegex(ValueError, f"cache_tokens={cache_tokens}"):
      length.overlong(
        QUESTION,
        Response("", 1, "eos"),
        max_tokens=max_tokens,
        cache_tokens=cache_tokens,
      )


class RepetitionTest(parameterized.TestCase):
  @parameterized.parameters(
    ("a b c d", 2, 0.0),
    ("a b a b a", 2, -0.5),  # ab ba ab ba: 2 of 4 came before.
    ("a a a a", 1, -0.75),
    ("a a a a", 4, 0.0),
    ("a a a", 4, 0.0),
    ("", 1, 0.0),
  )
  def test_value(self, text, ngram_words, value):
    reward = length.repetition(
      QUESTION, Response(text, 9, "eos"), ngram_words=ngram_words
    )
    self.assertEqual(reward.value, value)
    self.assertEqual(str(reward.value), str(value))

  def test_needs_a_word(self):
    with self.assertRaisesRegex(ValueError, "ngram_words=0"):
      length.repetition(QUESTION, Response("a", 1, "eos"), ngram_words=0)


if __name__ == "__main__":
  absltest.main()
