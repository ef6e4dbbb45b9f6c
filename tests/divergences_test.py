import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from r1jax import divergences, registry

V = 5
CHOICES = (
  dict(name="forward_kl"),
  dict(name="reverse_kl"),
  dict(name="jensen_shannon", beta=0.5),
  dict(name="jensen_shannon", beta=0.1),
)


def make(choice):
  return registry.make(divergences.DIVERGENCES, choice, "config.divergence")


def logits(seed, *shape, scale=2.0):
  rng = np.random.default_rng(seed)
  return (scale * rng.normal(size=(*shape, V))).astype(np.float32)


def probabilities(logits_V):
  """Of one distribution, in float64."""
  shifted = [float(z) - float(max(logits_V)) for z in logits_V]
  total = sum(math.exp(z) for z in shifted)
  return [math.exp(z) / total for z in shifted]


def oracle(choice, student_V, teacher_V):
  """The divergence of two distributions, term by term."""
  q_V, p_V = probabilities(student_V), probabilities(teacher_V)

  def kl(left_V, right_V):
    return sum(a * math.log(a / b) for a, b in zip(left_V, right_V))

  if choice["name"] == "forward_kl":
    return kl(p_V, q_V)
  if choice["name"] == "reverse_kl":
    return kl(q_V, p_V)
  beta = choice["beta"]
  m_V = [beta * p + (1 - beta) * q for p, q in zip(p_V, q_V)]
  return beta * kl(p_V, m_V) + (1 - beta) * kl(q_V, m_V)


def of_logits(choice, student_V, teacher_V):
  return make(choice)(
    jax.nn.log_softmax(student_V), jax.nn.log_softmax(teacher_V)
  )


class DivergencesTest(parameterized.TestCase):
  def test_worked_example(self):
    # q = (1/2, 1/2), p = (1/4, 3/4).
    student_V, teacher_V = np.log([[0.5, 0.5], [0.25, 0.75]])
    got = divergences.forward_kl(student_V, teacher_V)
    want = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    self.assertAlmostEqual(float(got), want, places=6)
    got = divergences.reverse_kl(student_V, teacher_V)
    want = 0.5 * math.log(2.0) + 0.5 * math.log(2 / 3)
    self.assertAlmostEqual(float(got), want, places=6)

  @parameterized.parameters(*CHOICES)
  def test_value_against_a_loop(self, **choice):
    student_BTV, teacher_BTV = logits(0, 2, 3), logits(1, 2, 3)
    got_BT = of_logits(choice, student_BTV, teacher_BTV)
    for place in np.ndindex(2, 3):
      want = oracle(choice, student_BTV[place], teacher_BTV[place])
      self.assertAlmostEqual(float(got_BT[place]), want, places=5)

  @parameterized.parameters(*CHOICES)
  def test_gradient_against_differences_of_the_loop(self, **choice):
    student_V, teacher_V = logits(2), logits(3)
    got_V = jax.grad(lambda z_V: of_logits(choice, z_V, teacher_V))(
      jnp.asarray(student_V)
    )
    step = 1e-5
    for v in range(V):
      up_V, down_V = student_V.astype(np.float64), student_V.astype(np.float64)
      up_V[v] += step
      down_V[v] -= step
      slope = oracle(choice, up_V, teacher_V) - oracle(
        choice, down_V, teacher_V
      )
      self.assertAlmostEqual(float(got_V[v]), slope / (2 * step), places=4)

  def test_gradient_of_forward_kl_is_the_difference(self):
    student_V, teacher_V = logits(4), logits(5)
    got_V = jax.grad(lambda z_V: of_logits(CHOICES[0], z_V, teacher_V))(
      jnp.asarray(student_V)
    )
    want_V = jax.nn.softmax(student_V) - jax.nn.softmax(teacher_V)
    np.testing.assert_allclose(got_V, want_V, atol=1e-6)

  @parameterized.parameters(*CHOICES)
  def test_none_of_the_gradient_is_the_teachers(self, **choice):
    got_V = jax.grad(lambda z_V: of_logits(choice, logits(6), z_V))(
      jnp.asarray(logits(7))
    )
    np.testing.assert_array_equal(got_V, np.zeros(V))

  @parameterized.parameters(*CHOICES)
  def test_equal_distributions_are_at_the_least(self, **choice):
    student_V = logits(8)
    # A constant added to logits changes nothing.
    value, grad_V = jax.value_and_grad(
      lambda z_V: of_logits(choice, z_V, student_V + 3.0)
    )(jnp.asarray(student_V))
    self.assertAlmostEqual(float(value), 0.0, places=6)
    np.testing.assert_allclose(grad_V, np.zeros(V), atol=1e-6)

  @parameterized.parameters(*CHOICES)
  def test_finite_where_the_two_are_far_apart(self, **choice):
    student_V = np.array([60.0, 0.0, 0.0, 0.0, -60.0], np.float32)
    value, grad_V = jax.value_and_grad(
      lambda z_V: of_logits(choice, z_V, -student_V)
    )(jnp.asarray(student_V))
    self.assertTrue(np.isfinite(value))
    self.assertTrue(np.all(np.isfinite(grad_V)))
    if choice == CHOICES[2]:  # Its upper bound.
      self.assertAlmostEqual(float(value), math.log(2.0), places=5)

  @parameterized.parameters((0.001, 0), (0.999, 1))
  def test_jensen_shannon_comes_to_the_others(self, beta, other):
    choice = dict(name="jensen_shannon", beta=beta)
    got = of_logits(choice, logits(9, scale=1), logits(10, scale=1))
    got /= min(beta, 1 - beta)
    want = of_logits(CHOICES[other], logits(9, scale=1), logits(10, scale=1))
    np.testing.assert_allclose(got, want, rtol=0.02)

  @parameterized.parameters(0.0, 1.0)
  def test_beta_at_an_end_is_refused(self, beta):
    with self.assertRaisesRegex(
      ValueError, f"config.divergence.beta is {beta}. Set it above 0"
    ):
      of_logits(dict(name="jensen_shannon", beta=beta), logits(0), logits(1))


if __name__ == "__main__":
  absltest.main()
