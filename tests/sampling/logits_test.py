import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from r1jax.sampling import logits

LAST = 1 - 2.0**-24  # The largest uniform number below 1.
# Upper 1e-6 quantiles of chi-square, by degrees of freedom; the keys are
# fixed, so the tests either always pass or never do.
CHI_SQUARE = {1: 23.9, 4: 33.4, 5: 35.9}


def random_mass(B=6, V=300, seed=0):
  rng = np.random.default_rng(seed)
  return np.exp(rng.normal(0, 2, (B, V))).astype(np.float32)


def drawn(mass_V, count=20000, seed=0):
  """How often each token comes from `count` keys."""
  uniforms_B2 = jax.random.uniform(jax.random.key(seed), (count, 2))
  mass_BV = jnp.broadcast_to(
    jnp.asarray(mass_V, jnp.float32), (count, len(mass_V))
  )
  return np.bincount(logits.draw(mass_BV, uniforms_B2), minlength=len(mass_V))


def chi_square(counts_V, probs_V):
  expected_V = counts_V.sum() * probs_V
  return np.sum((counts_V - expected_V) ** 2 / expected_V)


class KeepTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 7, 300)
  def test_top_k_agrees_with_sorting(self, top_k):
    mass_BV = random_mass()
    kept_BV = logits.keep_top_k(jnp.asarray(mass_BV), top_k)
    for mass_V, kept_V in zip(mass_BV, np.asarray(kept_BV)):
      want = np.argsort(-mass_V)[:top_k]
      self.assertSameElements(np.nonzero(kept_V)[0], want)

  @parameterized.parameters(0.05, 0.5, 0.9, 0.999)
  def test_top_p_agrees_with_sorting(self, top_p):
    mass_BV = random_mass(seed=1)
    kept_BV = logits.keep_top_p(jnp.asarray(mass_BV), top_p)
    for mass_V, kept_V in zip(mass_BV, np.asarray(kept_BV)):
      order = np.argsort(-mass_V)
      share = np.cumsum(mass_V[order].astype(np.float64)) / mass_V.sum()
      count = 1 + np.sum(share < top_p)
      self.assertSameElements(np.nonzero(kept_V)[0], order[:count])

  @parameterized.parameters(
    (1, [1, 0, 0, 0, 0]),
    (2, [1, 1, 1, 0, 0]),
    (3, [1, 1, 1, 0, 0]),
    (4, [1, 1, 1, 1, 0]),
    (5, [1, 1, 1, 1, 1]),
    (9, [1, 1, 1, 1, 1]),
  )
  def test_top_k_keeps_ties(self, top_k, want):
    kept_BV = logits.keep_top_k(jnp.array([[0.5, 0.2, 0.2, 0.1, 0.0]]), top_k)
    np.testing.assert_array_equal(kept_BV[0], np.array(want, bool))

  @parameterized.parameters(
    (0.4, [1, 0, 0, 0]),
    (0.5, [1, 0, 0, 0]),
    (0.6, [1, 1, 1, 0]),
    (0.75, [1, 1, 1, 0]),
    (1.0, [1, 1, 1, 0]),
  )
  def test_top_p_keeps_ties(self, top_p, want):
    # Binary fractions, whose sums are exact.
    kept_BV = logits.keep_top_p(jnp.array([[0.5, 0.25, 0.25, 0.0]]), top_p)
    np.testing.assert_array_equal(kept_BV[0, :3], np.array(want[:3], bool))

  def test_top_p_does_not_need_mass_one(self):
    mass_BV = jnp.array([[4.0, 2.0, 1.0, 1.0]])
    kept_BV = logits.keep_top_p(mass_BV, 0.75)
    np.testing.assert_array_equal(kept_BV[0], [True, True, False, False])


class DrawTest(parameterized.TestCase):
  @parameterized.parameters(
    (0.0, 1),
    (0.2499, 1),
    (0.25, 3),
    (0.4999, 3),
    (0.5, 4),
    (LAST, 4),
  )
  def test_inverts_the_cumulated_mass(self, uniform, token):
    mass_BV = jnp.array([[0.0, 1.0, 0.0, 1.0, 2.0, 0.0]])
    # All mass is in one block, so the first number decides nothing.
    for first in (0.0, 0.5, LAST):
      got_B = logits.draw(mass_BV, jnp.array([[first, uniform]], jnp.float32))
      self.assertEqual(got_B.tolist(), [token])

  @parameterized.parameters(
    (0.0, 0.0, 255),
    (0.2499, LAST, 255),
    (0.25, 0.0, 256),
    (0.25, LAST, 299),
    (LAST, LAST, 299),
  )
  def test_first_number_picks_the_block(self, first, second, token):
    mass_V = np.zeros(300, np.float32)
    mass_V[[255, 256, 299]] = 1.0, 1.0, 2.0
    got_B = logits.draw(
      jnp.array([mass_V]), jnp.array([[first, second]], jnp.float32)
    )
    self.assertEqual(got_B.tolist(), [token])

  def test_token_without_mass_is_never_drawn(self):
    V = 517  # Three blocks, the last of 5 tokens.
    edges = np.array([0.0, 1e-7, 0.25, 0.5, 0.75, LAST], np.float32)
    uniforms_B2 = np.array([(a, b) for a in edges for b in edges])
    for seed in range(4):
      mass_V = random_mass(1, V, seed)[0]
      mass_V[np.random.default_rng(seed).random(V) < 0.9] = 0.0
      mass_V[[0, 255, 256, 512, 516]] = 0.0
      mass_BV = np.broadcast_to(mass_V, (len(uniforms_B2), V))
      tokens_B = np.asarray(logits.draw(mass_BV, uniforms_B2))
      self.assertTrue(np.all(tokens_B < V))
      self.assertTrue(np.all(mass_V[tokens_B] > 0))

  def test_only_token_is_drawn(self):
    mass_BV = np.eye(300, dtype=np.float32)[[0, 7, 255, 256, 299]]
    for pair in ((0.0, 0.0), (LAST, LAST)):
      uniforms_B2 = jnp.broadcast_to(jnp.array(pair, jnp.float32), (5, 2))
      got_B = logits.draw(jnp.asarray(mass_BV), uniforms_B2)
      self.assertEqual(got_B.tolist(), [0, 7, 255, 256, 299])

  def test_distribution(self):
    probs_V = np.array([0.4, 0.0, 0.3, 0.2, 0.05, 0.05])
    counts_V = drawn(probs_V)
    self.assertEqual(counts_V[1], 0)
    keep_V = probs_V > 0
    statistic = chi_square(counts_V[keep_V], probs_V[keep_V])
    self.assertLess(statistic, CHI_SQUARE[4])

  def test_distribution_over_blocks(self):
    mass_V = np.zeros(600, np.float32)
    mass_V[[3, 255, 256, 300, 512, 599]] = 3.0, 1.0, 2.0, 2.0, 1.0, 1.0
    counts_V = drawn(mass_V, count=4000)
    keep_V = mass_V > 0
    self.assertEqual(counts_V[keep_V].sum(), 4000)
    statistic = chi_square(counts_V[keep_V], mass_V[keep_V] / mass_V.sum())
    self.assertLess(statistic, CHI_SQUARE[5])


class SampleTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.logits_BV = np.log(random_mass(B=64, V=40))
    self.keys_B = jax.random.split(jax.random.key(5), 64)

  def sample(self, temperature=1.0, top_k=0, top_p=1.0):
    tokens_B, logprobs_B = logits.sample(
      self.keys_B,
      jnp.asarray(self.logits_BV),
      temperature=temperature,
      top_k=top_k,
      top_p=top_p,
    )
    return np.asarray(tokens_B), np.asarray(logprobs_B)

  def log_softmax(self, temperature, tokens_B):
    x_BV = self.logits_BV.astype(np.float64) / temperature
    lse_B = np.log(np.sum(np.exp(x_BV), axis=1))
    return x_BV[np.arange(64), tokens_B] - lse_B

  def test_top_k_one_is_greedy(self):
    greedy_B, _ = self.sample(temperature=0)
    np.testing.assert_array_equal(greedy_B, self.logits_BV.argmax(axis=1))
    np.testing.assert_array_equal(self.sample(top_k=1)[0], greedy_B)
    np.testing.assert_array_equal(self.sample(top_p=1e-6)[0], greedy_B)
    self.assertFalse(np.array_equal(self.sample()[0], greedy_B))

  @parameterized.parameters(
    dict(temperature=1.0),
    dict(temperature=0.6),
    dict(temperature=1.7, top_k=3),
    dict(temperature=0.6, top_p=0.5),
  )
  def test_logprob_is_untruncated_and_at_the_temperature(self, **arguments):
    tokens_B, logprobs_B = self.sample(**arguments)
    want_B = self.log_softmax(arguments["temperature"], tokens_B)
    np.testing.assert_allclose(logprobs_B, want_B, atol=2e-6)

  def test_greedy_logprob_is_at_temperature_one(self):
    tokens_B, logprobs_B = self.sample(temperature=0)
    np.testing.assert_allclose(
      logprobs_B, self.log_softmax(1.0, tokens_B), atol=2e-6
    )

  def test_truncation_narrows_the_draw(self):
    likely_BV = np.argsort(-self.logits_BV, axis=1)
    tokens_B, _ = self.sample(temperature=9.0, top_k=3)
    self.assertTrue(np.all(np.any(likely_BV[:, :3] == tokens_B[:, None], 1)))
    self.assertGreater(np.sum(tokens_B != likely_BV[:, 0]), 10)

  def test_top_p_is_of_what_top_k_left(self):
    # Of 0.4, 0.3, 0.2, 0.1 top-k 2 leaves 4/7 and 3/7; 0.5 needs one.
    self.logits_BV = np.log(np.tile([[0.4, 0.3, 0.2, 0.1]], (64, 1)))
    self.assertEqual(set(self.sample(top_k=2, top_p=0.5)[0]), {0})
    self.assertEqual(set(self.sample(top_p=0.5)[0]), {0, 1})

  def test_temperature_is_in_the_draw(self):
    row_V = np.log([0.5, 0.5 * 0.75, 0.5 * 0.25])
    self.keys_B = jax.random.split(jax.random.key(1), 4000)
    self.logits_BV = np.tile(row_V, (4000, 1)).astype(np.float32)
    tokens_B, _ = self.sample(temperature=0.5)
    probs_V = np.exp(2 * row_V) / np.exp(2 * row_V).sum()
    counts_V = np.bincount(tokens_B, minlength=3)
    merged = np.array([counts_V[0], counts_V[1:].sum()])
    want = np.array([probs_V[0], probs_V[1:].sum()])
    self.assertLess(chi_square(merged, want), CHI_SQUARE[1])

  def test_row_depends_on_its_own_key_and_logits_alone(self):
    tokens_B, _ = self.sample()
    self.logits_BV, self.keys_B = self.logits_BV[::-1], self.keys_B[::-1]
    np.testing.assert_array_equal(self.sample()[0], tokens_B[::-1])

  @parameterized.parameters(1e4, 1e-4)
  def test_any_scale_of_logits_is_finite(self, scale):
    self.logits_BV = (self.logits_BV * scale).astype(np.float32)
    tokens_B, logprobs_B = self.sample(top_k=5, top_p=0.9)
    self.assertTrue(np.all(np.isfinite(logprobs_B)))
    self.assertTrue(np.all(tokens_B < 40))


if __name__ == "__main__":
  absltest.main()
