import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from r1jax import kl
from tests import oracle


@pytest.fixture(autouse=True)
def no_rank_promotion():
  """Only here: the setting is the whole process's."""
  with jax.numpy_rank_promotion("raise"):
    yield


# A vocabulary of three tokens: the policy, the reference, and a sampler that
# is neither.
LOGITS_V = np.array([0.3, -0.4, 0.9], np.float32)
POLICY_V = np.exp(LOGITS_V) / np.exp(LOGITS_V).sum()
REF_V = np.array([0.5, 0.2, 0.3], np.float32)
SAMPLER_V = np.array([0.25, 0.35, 0.4], np.float32)
ALL_1V = np.ones((1, 3), bool)
GARBAGE = (np.nan, np.inf, -np.inf, 1e30, -1e30)


def expected_penalty(logits_V, name, sampler_V, importance_weighted):
  """E over tokens drawn from sampler_V of the penalty; differentiable."""
  logprobs_1V = jax.nn.log_softmax(logits_V)[None]
  old_1V = None if sampler_V is None else jnp.log(sampler_V)[None]
  kl_1V = kl.penalty(
    name,
    logprobs_1V,
    jnp.log(REF_V)[None],
    old_1V,
    ALL_1V,
    importance_weighted=importance_weighted,
  )
  chance_V = POLICY_V if sampler_V is None else sampler_V
  return jnp.sum(chance_V * kl_1V[0])


def penalty_gradient(name, sampler_V, importance_weighted):
  return jax.grad(expected_penalty)(
    jnp.asarray(LOGITS_V), name, sampler_V, importance_weighted
  )


class ValueTest(parameterized.TestCase):
  @parameterized.parameters(
    ("k1", -0.6931472), ("k2", 0.2402265), ("k3", 0.3068528)
  )
  def test_reference_twice_as_likely(self, name, expected):
    got_11 = kl.KL[name](jnp.log(jnp.array([[2.0]])))
    np.testing.assert_allclose(got_11, [[expected]], rtol=1e-6)

  @parameterized.parameters(("k1", 1.0), ("k2", -0.6931472), ("k3", -1.0))
  def test_gradient_weight_where_reference_is_twice_as_likely(
    self, name, expected
  ):
    logprobs_11 = jnp.array([[-1.0]])
    got_11 = jax.grad(
      lambda x_11: kl.penalty(
        name,
        x_11,
        logprobs_11 + jnp.log(2.0),
        None,
        np.array([[True]]),
        importance_weighted=False,
      ).sum()
    )(logprobs_11)
    np.testing.assert_allclose(got_11, [[expected]], rtol=1e-6)

  @parameterized.parameters("k1", "k3")
  def test_k1_and_k3_have_no_bias(self, name):
    got = expected_penalty(LOGITS_V, name, None, False)
    np.testing.assert_allclose(got, oracle.kl(POLICY_V, REF_V), rtol=1e-5)

  @parameterized.parameters(
    # Two unit normals that far apart. Schulman (2020), the tables there.
    ("k1", 0.1, 0.005, 1.0, 20.0),
    ("k2", 0.1, 0.005, 1.002, 1.42),
    ("k3", 0.1, 0.005, 1.0, 1.42),
    ("k1", 1.0, 0.5, 1.0, 2.0),
    ("k2", 1.0, 0.5, 1.25, 1.73),
    ("k3", 1.0, 0.5, 1.0, 1.7),
  )
  def test_bias_and_deviation_on_two_normals(
    self, name, shift, true, bias, deviation
  ):
    x_T = np.linspace(-9.0, 9.0, 20001)
    chance_T = np.exp(-(x_T**2) / 2) * (x_T[1] - x_T[0]) / np.sqrt(2 * np.pi)
    log_ratio_T = x_T * shift - shift**2 / 2  # log q / p
    got_T = np.asarray(
      kl.KL[name](jnp.asarray(log_ratio_T, jnp.float32)), np.float64
    )
    mean = np.sum(chance_T * got_T)
    std = np.sqrt(np.sum(chance_T * (got_T - mean) ** 2))
    self.assertAlmostEqual(mean / true, bias, delta=1e-3)
    # The tables have two or three digits.
    self.assertAlmostEqual(std / true / deviation, 1.0, delta=0.01)

  @parameterized.parameters("k2", "k3")
  def test_k2_and_k3_are_never_negative(self, name):
    log_ratio_1T = np.linspace(-3, 3, 101, dtype=np.float32)[None]
    self.assertGreaterEqual(float(kl.KL[name](log_ratio_1T).min()), 0.0)

  def test_k3_keeps_its_digits_near_the_reference(self):
    # e^l rounded at 1 would be off by a tenth; e^l - 1 is, by 2e-4, an ulp.
    got_11 = kl.k3(jnp.array([[1e-3]]))
    np.testing.assert_allclose(got_11, [[5.001667e-7]], rtol=1e-3)

  @parameterized.parameters("k1", "k3")
  def test_importance_weight_mends_the_value_off_policy(self, name):
    got = expected_penalty(LOGITS_V, name, SAMPLER_V, True)
    np.testing.assert_allclose(got, oracle.kl(POLICY_V, REF_V), rtol=1e-5)
    plain = expected_penalty(LOGITS_V, name, SAMPLER_V, False)
    self.assertGreater(abs(float(plain) / oracle.kl(POLICY_V, REF_V) - 1), 0.1)


class GradientTest(parameterized.TestCase):
  """Against the enumerated divergence; all in expectation over the sampler."""

  def setUp(self):
    super().setUp()
    self.right_V = oracle.kl_gradient(POLICY_V, REF_V)
    self.forward_V = oracle.forward_kl_gradient(POLICY_V, REF_V)

  def assert_wrong(self, got_V):
    error = np.abs(got_V - self.right_V).max() / np.abs(self.right_V).max()
    self.assertGreater(error, 0.05)  # Right ones agree to 1e-6.

  def test_oracle_agrees_with_differentiation(self):
    def divergence(logits_V):
      logprobs_V = jax.nn.log_softmax(logits_V)
      return jnp.sum(jnp.exp(logprobs_V) * (logprobs_V - jnp.log(REF_V)))

    got_V = jax.grad(divergence)(jnp.asarray(LOGITS_V))
    np.testing.assert_allclose(got_V, self.right_V, atol=1e-6)

  def test_k1_in_the_loss_has_none(self):
    got_V = penalty_gradient("k1", None, False)
    np.testing.assert_allclose(got_V, np.zeros(3), atol=1e-6)

  def test_k2_in_the_loss_is_right(self):
    got_V = penalty_gradient("k2", None, False)
    np.testing.assert_allclose(got_V, self.right_V, atol=1e-6)

  def test_k3_in_the_loss_is_the_forward_divergences(self):
    got_V = penalty_gradient("k3", None, False)
    np.testing.assert_allclose(got_V, self.forward_V, atol=1e-6)
    self.assert_wrong(got_V)

  @parameterized.product(
    name=["k1", "k2", "k3"], off_policy=[False, True], jit=[False, True]
  )
  def test_importance_weighted_is_right_on_and_off_policy(
    self, name, off_policy, jit
  ):
    def compute():
      sampler_V = SAMPLER_V if off_policy else None
      return penalty_gradient(name, sampler_V, True)

    got_V = (jax.jit(compute) if jit else compute)()
    np.testing.assert_allclose(got_V, self.right_V, atol=1e-6)

  @parameterized.parameters("k1", "k2", "k3")
  def test_plain_estimators_are_wrong_off_policy(self, name):
    self.assert_wrong(penalty_gradient(name, SAMPLER_V, False))

  def test_k2_with_an_undetached_ratio_is_wrong(self):
    def undetached(logits_V):
      logprobs_V = jax.nn.log_softmax(logits_V)
      ratio_V = jnp.exp(logprobs_V - jnp.log(SAMPLER_V))
      return jnp.sum(SAMPLER_V * ratio_V * kl.k2(jnp.log(REF_V) - logprobs_V))

    self.assert_wrong(jax.grad(undetached)(jnp.asarray(LOGITS_V)))

  @parameterized.parameters(("k1", True), ("k2", False), ("k3", False))
  def test_only_k1_is_right_in_the_reward(self, name, right):
    def expected_cost(logits_V):
      logprobs_1V = jax.nn.log_softmax(logits_V)[None]
      cost_1V = kl.in_reward(name, logprobs_1V, jnp.log(REF_V)[None], ALL_1V)
      return jnp.sum(POLICY_V * cost_1V[0] * logprobs_1V[0])

    got_V = jax.grad(expected_cost)(jnp.asarray(LOGITS_V))
    if right:
      np.testing.assert_allclose(got_V, self.right_V, atol=1e-6)
    else:
      self.assert_wrong(got_V)

  def test_in_reward_has_the_value_and_no_gradient(self):
    logprobs_1V = jnp.log(POLICY_V)[None]
    ref_1V = jnp.log(REF_V)[None]
    np.testing.assert_allclose(
      kl.in_reward("k1", logprobs_1V, ref_1V, ALL_1V), logprobs_1V - ref_1V
    )
    got_1V = jax.grad(
      lambda x_1V: kl.in_reward("k1", x_1V, ref_1V, ALL_1V).sum()
    )(logprobs_1V)
    np.testing.assert_array_equal(got_1V, np.zeros((1, 3)))

  @parameterized.product(name=["k2", "k3"], importance_weighted=[False, True])
  def test_policy_equal_to_reference(self, name, importance_weighted):
    logprobs_1V = jnp.log(POLICY_V)[None]

    def total(x_1V):
      return kl.penalty(
        name,
        x_1V,
        logprobs_1V,
        None,
        ALL_1V,
        importance_weighted=importance_weighted,
      ).sum()

    value, got_1V = jax.value_and_grad(total)(logprobs_1V)
    self.assertEqual(value, 0.0)
    np.testing.assert_array_equal(got_1V, np.zeros((1, 3)))

  @parameterized.product(
    name=["k1", "k2", "k3"],
    importance_weighted=[False, True],
    on_policy=[False, True],
    garbage=GARBAGE,
  )
  def test_garbage_outside_of_the_mask_reaches_nothing(
    self, name, importance_weighted, on_policy, garbage
  ):
    mask_1T = np.array([[True, False, True, False]])

    def compute(fill):
      logprobs_1T = jnp.array([[-1.0, fill, -2.0, fill]])
      ref_1T = jnp.array([[-1.5, fill, -1.0, -1.0]])
      old_1T = None if on_policy else jnp.array([[-1.2, fill, -1.9, -fill]])

      def penalty(x_1T):
        kl_1T = kl.penalty(
          name,
          x_1T,
          ref_1T,
          old_1T,
          mask_1T,
          importance_weighted=importance_weighted,
        )
        return kl_1T.sum(), kl_1T

      return jax.grad(penalty, has_aux=True)(logprobs_1T)

    got_1T, kl_1T = compute(garbage)
    clean_1T, clean_kl_1T = compute(0.0)
    np.testing.assert_array_equal(got_1T, clean_1T)
    np.testing.assert_array_equal(kl_1T, clean_kl_1T)
    np.testing.assert_array_equal(kl_1T[~mask_1T], [0.0, 0.0])
    np.testing.assert_array_equal(got_1T[~mask_1T], [0.0, 0.0])

  def test_unknown_name(self):
    with self.assertRaisesRegex(
      ValueError, "config.kl.name is 'k4'. Known: k1"
    ):
      kl.in_reward("k4", jnp.zeros((1, 1)), jnp.zeros((1, 1)), ALL_1V)
