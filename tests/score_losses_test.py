import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from r1jax import score_losses
from tests import oracle

MASK = np.array([[True, False, True, True], [False, True, True, False]])


def arrays(seed=0):
  """Scores, rivals' scores, targets, with NaN outside of the mask."""
  rng = np.random.default_rng(seed)
  values = rng.normal(0, 3, (3, 2, 4)).astype(np.float32)
  values[:, ~MASK] = np.nan
  return values


CASES = {
  "pairwise": {},
  "pairwise_with_margin": {"margin_coef": 0.5},
  "pointwise": {},
}


def call(case, *args):
  name = case.split("_")[0]
  return score_losses.LOSSES[name](*args, MASK, **CASES[case])


class ScoreLossesTest(parameterized.TestCase):
  def test_worked_example(self):
    one = [jnp.array([[x]]) for x in (2.0, 0.5, 1.0)]
    mask = np.ones((1, 1), bool)
    # log(1 + exp(-1.5)), log(1 + exp(-1)), log(1 + exp(-2)).
    for loss, want in (
      (score_losses.pairwise(*one, mask), 0.201413),
      (score_losses.pairwise(*one, mask, margin_coef=0.5), 0.313262),
      (score_losses.pointwise(*one, mask), 0.126928),
    ):
      np.testing.assert_allclose(loss, [[want]], rtol=1e-5)

  @parameterized.parameters(*CASES)
  def test_value_and_gradient_against_a_loop(self, case):
    scores_BT, rivals_BT, targets_BT = arrays()
    want_BT, own_BT, other_BT = getattr(oracle, case.split("_")[0])(
      scores_BT, rivals_BT, targets_BT, MASK, **CASES[case]
    )
    np.testing.assert_allclose(
      call(case, scores_BT, rivals_BT, targets_BT), want_BT, rtol=1e-5
    )

    def total(*scores):
      return jnp.sum(call(case, *scores, targets_BT))

    grads = jax.grad(total, argnums=(0, 1))(scores_BT, rivals_BT)
    np.testing.assert_allclose(grads[0], own_BT, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(grads[1], other_BT, rtol=1e-5, atol=1e-7)

  @parameterized.parameters("pairwise", "pairwise_with_margin")
  def test_both_members_of_a_pair_have_one_loss(self, case):
    scores_BT, rivals_BT, targets_BT = arrays()
    np.testing.assert_allclose(
      call(case, scores_BT, rivals_BT, targets_BT),
      call(case, rivals_BT, scores_BT, -targets_BT),
      rtol=1e-6,
    )

  @parameterized.parameters("pairwise", "pairwise_with_margin")
  def test_a_constant_on_all_scores_changes_nothing(self, case):
    scores_BT, rivals_BT, targets_BT = arrays()
    np.testing.assert_allclose(
      call(case, scores_BT + 8, rivals_BT + 8, targets_BT),
      call(case, scores_BT, rivals_BT, targets_BT),
      rtol=1e-5,
      atol=1e-6,
    )

  def test_far_scores_stay_finite(self):
    one = np.ones((1, 1), np.float32)
    mask = np.ones((1, 1), bool)
    for sign, want in ((1, 0.0), (-1, 1e4)):
      loss, grad = jax.value_and_grad(
        lambda r: jnp.sum(score_losses.pointwise(r, 0 * one, one, mask))
      )(sign * 1e4 * one)
      np.testing.assert_allclose(loss, want)
      np.testing.assert_allclose(grad, [[0.0 if sign > 0 else -1.0]])

  def test_a_negative_margin_is_refused(self):
    with self.assertRaisesRegex(ValueError, "config.loss.margin_coef is -1"):
      score_losses.pairwise(*arrays(), MASK, margin_coef=-1)


if __name__ == "__main__":
  absltest.main()
