import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from r1jax import divergences, policy
from tests import small

LENGTHS = (6, 5, 9)
SEQUENCES = [small.tokens(n, seed=10 + n) for n in LENGTHS]
PACKED = small.rows(SEQUENCES, (2, 1, 0), 12)
SINGLE = small.rows(SEQUENCES, (1, 1, 1), 12)


@functools.lru_cache
def scores(kind, temperature=1.0, **changes):
  """Jitted batch -> Scores of the kind's fixed weights."""
  config = small.CONFIGS[kind](**changes)
  model = policy.make(config, temperature=temperature)
  return jax.jit(functools.partial(model.logprobs, *small.weights(config)))


def row_logits(kind):
  """Logits of each sequence alone, float64."""
  config = small.CONFIGS[kind]()
  tokens_BT, _, _ = SINGLE
  logits_BTV = small.logits(config)(*small.weights(config), tokens_BT)
  return np.asarray(logits_BTV, np.float64)


def log_softmax(x_XV):
  x_XV = x_XV - x_XV.max(axis=-1, keepdims=True)
  return x_XV - np.log(np.sum(np.exp(x_XV), axis=-1, keepdims=True))


def places(rows):
  """(row, column) of every token of each sequence."""
  _, segments_BT, _ = rows
  for b, row in enumerate(segments_BT):
    for segment in range(1, row.max() + 1):
      yield [(b, t) for t in np.nonzero(row == segment)[0]]


class LogprobsTest(parameterized.TestCase):
  @parameterized.parameters(("gqa", 1.0), ("gqa", 0.6), ("mla", 1.0))
  def test_shifted_log_softmax_at_the_temperature(self, kind, temperature):
    got = scores(kind, temperature)(small.batch(*PACKED))
    logits_BTV = row_logits(kind) / temperature
    for i, tokens in enumerate(places(PACKED)):
      logprobs_TV = log_softmax(logits_BTV[i])
      for t, place in enumerate(tokens):
        if t == 0:
          self.assertEqual(got.logprobs_BT[place], 0.0)
          self.assertEqual(got.entropy_BT[place], 0.0)
          continue
        before_V = logprobs_TV[t - 1]
        self.assertAlmostEqual(
          float(got.logprobs_BT[place]), before_V[SEQUENCES[i][t]], delta=2e-5
        )
        entropy = -np.sum(np.exp(before_V) * before_V)
        self.assertAlmostEqual(
          float(got.entropy_BT[place]), entropy, delta=2e-5
        )

  @parameterized.parameters("gqa", "mla")
  def test_packed_equals_unpacked(self, kind):
    packed = scores(kind)(small.batch(*PACKED)).logprobs_BT
    single = scores(kind)(small.batch(*SINGLE)).logprobs_BT
    for left, right in zip(places(PACKED), places(SINGLE)):
      for a, b in zip(left, right):
        self.assertAlmostEqual(float(packed[a]), float(single[b]), delta=2e-5)

  @parameterized.parameters("gqa", "mla")
  def test_padding_content_changes_no_logprob(self, kind):
    first, second = (
      scores(kind)(
        small.batch(*small.rows(SEQUENCES, (2, 1, 0), 12, seed=seed))
      )
      for seed in (1, 2)
    )
    np.testing.assert_allclose(first.logprobs_BT, second.logprobs_BT, atol=1e-5)
    self.assertGreater(np.abs(first.logprobs_BT).max(), 1.0)

  def test_only_masked_tokens_are_scored(self):
    run = scores("gqa")
    whole = run(small.batch(*PACKED))
    _, segments_BT, _ = PACKED
    # None in the first row, some out of order in the second.
    mask_BT = np.zeros(segments_BT.shape, bool)
    mask_BT[1, [2, 3, 7]] = True
    part = run(small.batch(*PACKED, mask_BT))
    for got, want in zip(part[:2], whole[:2]):
      np.testing.assert_allclose(got, np.where(mask_BT, want, 0.0), atol=1e-6)
    self.assertEqual(np.sum(part.logprobs_BT != 0), 3)

  @parameterized.parameters(1, 3 * small.VOCAB * 8)
  def test_chunks_of_tokens_change_nothing(self, elements):
    rng = np.random.default_rng(0)
    _, segments_BT, positions_BT = PACKED
    # Different counts a row, so a chunk may be full in one row alone.
    mask_BT = (positions_BT > 0) & (rng.random(segments_BT.shape) < 0.5)
    mask_BT[1, 1:9] = True
    batch = small.batch(*PACKED, mask_BT)
    want = scores("gqa")(batch)
    with mock.patch.object(policy, "_HEAD_ELEMENTS", elements):
      config = small.gqa()
      model = policy.make(config, temperature=1.0)
      got = jax.jit(model.logprobs)(*small.weights(config), batch)
    for got_BT, want_BT in zip(got[:2], want[:2]):
      np.testing.assert_allclose(got_BT, want_BT, atol=1e-6)

  def test_temperature_zero_scores_at_one(self):
    got = scores("gqa", 0.0)(small.batch(*PACKED))
    want = scores("gqa", 1.0)(small.batch(*PACKED))
    np.testing.assert_array_equal(got.logprobs_BT, want.logprobs_BT)


class ComparisonTest(parameterized.TestCase):
  """A student against a wider teacher."""

  teacher = small.gqa(d_model=24, num_layers=1, num_dense_layers=1)

  def compare(self, divergence, temperature, elements):
    """(Scores, divergence_BT), gradients by (params, teacher)."""
    student, teacher = small.gqa(), self.teacher
    compare = policy.make_comparison(
      student, teacher, divergence, temperature=temperature
    )
    batch = small.batch(*PACKED)

    def total(params, theirs):
      scores, divergence_BT = compare(
        params, small.weights(student)[1], batch._replace(teacher=theirs)
      )
      return jnp.sum(divergence_BT), (scores, divergence_BT)

    grad = jax.grad(total, argnums=(0, 1), has_aux=True)
    with mock.patch.object(policy, "_HEAD_ELEMENTS", elements):
      grads, out = jax.jit(grad)(
        small.weights(student)[0], small.weights(teacher)
      )
    return out, grads

  def test_against_each_sequence_alone(self):
    temperature = 0.5
    (got, divergence_BT), (ours, theirs) = self.compare(
      divergences.reverse_kl, temperature, 3 * small.VOCAB * 8
    )
    student_BTV = log_softmax(row_logits("gqa") / temperature)
    logits_BTV = small.logits(self.teacher)(
      *small.weights(self.teacher), SINGLE[0]
    )
    teacher_BTV = log_softmax(np.float64(logits_BTV) / temperature)
    want_BT = np.sum(np.exp(student_BTV) * (student_BTV - teacher_BTV), axis=-1)
    for i, tokens in enumerate(places(PACKED)):
      self.assertEqual(divergence_BT[tokens[0]], 0.0)
      for t, place in enumerate(tokens[1:], start=1):
        self.assertAlmostEqual(
          float(divergence_BT[place]),
          temperature**2 * want_BT[i, t - 1],
          delta=2e-5,
        )
    self.assertEqual(np.sum(divergence_BT != 0), np.sum(LENGTHS) - 3)
    want = scores("gqa")(small.batch(*PACKED))
    for got_BT, want_BT in zip(got[:2], want[:2]):
      np.testing.assert_allclose(got_BT, want_BT, atol=1e-5)
    self.assertTrue(all(jnp.any(g != 0) for g in jax.tree.leaves(ours)))
    self.assertFalse(any(jnp.any(g != 0) for g in jax.tree.leaves(theirs)))


class GradientTest(parameterized.TestCase):
  """Of scales @ (sum of log-probs, sum of entropies), in a small model."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    config = small.gqa(num_layers=1, num_dense_layers=1)
    cls.params, buffers = small.weights(config)
    model = policy.make(config, temperature=0.7)

    def total(params, batch, scales):
      got = model.logprobs(params, buffers, batch)
      pair = jnp.array([jnp.sum(got.logprobs_BT), jnp.sum(got.entropy_BT)])
      return scales @ pair

    cls.total = staticmethod(jax.jit(jax.value_and_grad(total)))

  def gradient(self, params, batch, logprob=0.0, entropy=0.0):
    return self.total(params, batch, jnp.array([logprob, entropy]))

  def test_batch_without_any_masked_token_has_none(self):
    batch = small.batch(*PACKED, np.zeros(PACKED[0].shape, bool))
    value, grads = self.gradient(self.params, batch, logprob=1.0)
    self.assertEqual(value, 0.0)
    for leaf in jax.tree.leaves(grads):
      np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))

  def test_entropy_has_none(self):
    batch = small.batch(*PACKED)
    value, grads = self.gradient(self.params, batch, entropy=1.0)
    self.assertGreater(value, 1.0)
    for leaf in jax.tree.leaves(grads):
      np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))

  def test_logprobs_change_as_fast_as_it_says(self):
    batch = small.batch(*PACKED)
    _, grads = self.gradient(self.params, batch, logprob=1.0)
    squares = sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grads))

    def at(step):
      moved = jax.tree.map(lambda p, g: p + step * g, self.params, grads)
      return float(self.gradient(moved, batch, logprob=1.0)[0])

    step = 1e-3 / squares**0.5
    slope = (at(step) - at(-step)) / (2 * step)
    # Central difference in float32: rounding of sums near 100 over 2e-3.
    np.testing.assert_allclose(slope, squares, rtol=1e-2)


class ReportTest(parameterized.TestCase):
  def test_recorded_experts_are_replayed(self):
    batch = small.batch(*PACKED)
    live = scores("mla")(batch).report
    experts_BTLP = np.array(live.experts_BTP).transpose(1, 2, 0, 3)
    config = small.mla()
    model = policy.make(config, temperature=1.0, with_balance=True)
    run = jax.jit(functools.partial(model.logprobs, *small.weights(config)))
    got = run(batch._replace(experts_BTLP=experts_BTLP))
    self.assertFalse(np.any(got.report.differs_BT))
    np.testing.assert_allclose(
      got.logprobs_BT, scores("mla")(batch).logprobs_BT, atol=1e-5
    )
    _, segments_BT, _ = PACKED
    self.assertTrue(np.all(got.report.balance_BT[:, segments_BT != 0] > 0.1))
    self.assertFalse(np.any(live.balance_BT))  # Nobody asked for it.
    experts_BTLP[0, 1, 0] = (experts_BTLP[0, 1, 0] + 1) % 8
    got = run(batch._replace(experts_BTLP=experts_BTLP)).report
    np.testing.assert_array_equal(
      got.experts_BTP[0, 0, 1], experts_BTLP[0, 1, 0]
    )
    self.assertTrue(got.differs_BT[0, 0, 1])


class InitTest(parameterized.TestCase):
  def test_every_parameter_has_logical_axes(self):
    for config in (small.gqa(), small.mla()):
      params, _ = jax.eval_shape(
        policy.make(config, temperature=1.0).init, jax.random.key(0)
      )
      for leaf in jax.tree.leaves(
        params, is_leaf=lambda x: hasattr(x, "names")
      ):
        self.assertLen(leaf.names, leaf.value.ndim)
        self.assertNotIn(None, leaf.names)


if __name__ == "__main__":
  absltest.main()
