import time

import numpy as np
from absl.testing import absltest, parameterized

from r1jax.records import Question, Response, Reward
from r1jax.rewards import length

QUESTION = Question("q", "?", None, "none")


def overlong(tokens, finish_reason="eos", max_tokens=20_480, cache_tokens=4096):
  return length.overlong(
    QUESTION,
    Response("short text", tokens, finish_reason),
    max_tokens=max_tokens,
    cache_tokens=cache_tokens,
  )


def repetition(ids, ngram_tokens, finish_reason="eos"):
  response = Response("text", len(ids), finish_reason, ids=ids)
  return length.repetition(QUESTION, response, ngram_tokens=ngram_tokens)


def group_length(tokens, accuracies, finish_reasons=None):
  finish_reasons = finish_reasons or ["eos"] * len(tokens)
  return length.group_length(
    [Response("", n, why) for n, why in zip(tokens, finish_reasons)],
    [{"accuracy": Reward(a, "by hand")} for a in accuracies],
  )


class OverlongTest(parameterized.TestCase):
  @parameterized.parameters(
    (1, 0.0),
    (16_384, 0.0),
    (16_385, -1 / 4096),
    (17_408, -0.25),
    (18_432, -0.5),  # DAPO's own numbers.
    (20_479, -4095 / 4096),
    (20_480, -1.0),
    (20_481, -1.0),
    (10**9, -1.0),
  )
  def test_value(self, tokens, value):
    for finish_reason in ("eos", "length", "repetition"):
      reward = overlong(tokens, finish_reason)
      self.assertEqual(reward.value, value)
      self.assertEqual(str(reward.value), str(value))  # No -0.0.

  def test_all_of_it_may_be_cache(self):
    values = [overlong(n, max_tokens=4, cache_tokens=4).value for n in range(6)]
    self.assertEqual(values, [0.0, -0.25, -0.5, -0.75, -1.0, -1.0])

  def test_reason(self):
    self.assertEqual(overlong(7).reason, "7 tokens, 16384 are free")
    self.assertEqual(
      overlong(7, "length").reason, "cut off after 7 tokens, 16384 are free"
    )

  @parameterized.parameters((0, 8), (-1, 8), (9, 8))
  def test_contradictory_limits(self, cache_tokens, max_tokens):
    with self.assertRaisesRegex(ValueError, f"cache_tokens={cache_tokens}"):
      overlong(1, max_tokens=max_tokens, cache_tokens=cache_tokens)


class RepetitionTest(parameterized.TestCase):
  @parameterized.parameters(
    ([1, 2, 3, 4], 2, 0.0),
    ([1, 2, 1, 2, 1], 2, -0.5),  # 12 21 12 21: 2 of 4 came before.
    ([7, 7, 7, 7], 1, -0.75),
    ([7, 7, 7, 7], 4, 0.0),
    ([7, 7, 7], 4, 0.0),
    ([], 1, 0.0),
  )
  def test_value(self, ids, ngram_tokens, value):
    reward = repetition(ids, ngram_tokens)
    self.assertEqual(reward.value, value)
    self.assertEqual(str(reward.value), str(value))

  def test_tokens_count_and_not_words(self):
    # One word without blanks, and yet the same again.
    response = Response("abababab", 4, "eos", ids=[5, 5, 5, 5])
    reward = length.repetition(QUESTION, response, ngram_tokens=2)
    self.assertAlmostEqual(reward.value, -2 / 3)
    self.assertEqual(reward.reason, "2 of 3 2-grams came before")

  def test_stopped_for_repetition(self):
    reward = repetition([1, 2, 3, 4], 2, "repetition")
    self.assertEqual(reward.value, -1.0)
    self.assertEqual(repetition([1, 2, 3, 4], 2, "length").value, 0.0)

  def test_needs_a_token(self):
    with self.assertRaisesRegex(ValueError, "ngram_tokens=0"):
      repetition([1], 0)

  @parameterized.parameters(([],), ([1, 2],))
  def test_needs_the_ids(self, ids):
    response = Response("a b c", 3, "eos", ids=ids)
    with self.assertRaisesRegex(ValueError, f"{len(ids)} ids of a .* of 3"):
      length.repetition(QUESTION, response, ngram_tokens=1)

  def test_long_responses_are_quick(self):
    ids = list(range(1000)) * 66
    start = time.perf_counter()
    reward = repetition(ids, 20)
    self.assertLess(time.perf_counter() - start, 2.0)
    self.assertAlmostEqual(reward.value, 1000 / (66_000 - 19) - 1)


class GroupLengthTest(parameterized.TestCase):
  def test_worked_example(self):
    rewards = group_length([100, 150, 200, 300], [1.0, 0.0, 1.0, 0.0])
    # lambda is .5, .25, 0, -.5; wrong ones get no more than 0.
    np.testing.assert_allclose(
      [r.value for r in rewards], [0.5, 0.0, 0.0, -0.5], atol=1e-12
    )
    self.assertEqual(rewards[0].reason, "right, 100 tokens of 100 to 300")
    self.assertEqual(rewards[3].reason, "wrong, 300 tokens of 100 to 300")

  @parameterized.parameters(([9], [1.0]), ([5, 5, 5], [1.0, 0.0, 0.5]))
  def test_equal_lengths_get_nothing(self, tokens, accuracies):
    rewards = group_length(tokens, accuracies)
    self.assertEqual([r.value for r in rewards], [0.0] * len(tokens))

  def test_against_a_loop(self):
    rng = np.random.default_rng(0)
    for _ in range(50):
      tokens = rng.integers(1, 99, 8).tolist()
      accuracies = rng.integers(0, 2, 8).astype(float).tolist()
      values = [r.value for r in group_length(tokens, accuracies)]
      for n, accuracy, value in zip(tokens, accuracies, values):
        want = 0.5 - (n - min(tokens)) / (max(tokens) - min(tokens))
        if not accuracy and want > 0:
          want = 0.0
        self.assertAlmostEqual(value, want)

  def test_order_and_scale_do_not_matter(self):
    tokens, accuracies = [3, 9, 5, 7], [1.0, 1.0, 0.0, 0.0]
    values = [r.value for r in group_length(tokens, accuracies)]
    back = group_length(tokens[::-1], accuracies[::-1])
    self.assertEqual([r.value for r in back][::-1], values)
    scaled = group_length([10 * n + 4 for n in tokens], accuracies)
    np.testing.assert_allclose([r.value for r in scaled], values)

  def test_partly_right_is_wrong(self):
    short, _ = group_length([1, 3], [0.99, 1.0])
    self.assertEqual(short.value, 0.0)

  def test_needs_accuracy(self):
    with self.assertRaisesRegex(ValueError, "Add accuracy"):
      length.group_length(
        [Response("", 1, "eos")], [{"format": Reward(1.0, "by hand")}]
      )


if __name__ == "__main__":
  absltest.main()
