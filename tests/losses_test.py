import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from r1jax import losses
from tests import oracle


@pytest.fixture(autouse=True)
def no_rank_promotion():
  """Only here: the setting is the whole process's."""
  with jax.numpy_rank_promotion("raise"):
    yield


# Clips that the random rows below meet on both sides.
ARGUMENTS = {
  "clipped_surrogate": {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 1.5},
  "gspo": {"clip_low": 0.05, "clip_high": 0.08},
  "cispo": {"clip_high": 0.3},
  "cross_entropy": {},
}
RATIO_LOSSES = ("clipped_surrogate", "gspo", "cispo")
FACTORS = {
  "token_truncate": {"cap": 1.2},
  "token_mask": {"low": 0.7, "high": 1.2},
  "sequence_truncate": {"cap": 1.1},
  "sequence_mask": {"low": 0.5, "high": 1.5},
}
GARBAGE = (np.nan, np.inf, -np.inf, 1e30, -1e30)


def packed_rows(garbage=None):
  """Three rows: two sequences with prompts and padding, one full, one empty."""
  rng = np.random.default_rng(0)
  segments_BT = np.array(
    [
      [1, 1, 1, 1, 2, 2, 2, 2, 2, 0],
      [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
      [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ],
    np.int32,
  )
  mask_BT = segments_BT > 0
  mask_BT[0, :1] = mask_BT[0, 4:6] = mask_BT[1, :3] = False
  logprobs_BT = -rng.exponential(size=(3, 10))
  old_BT = logprobs_BT + rng.normal(scale=0.4, size=(3, 10))
  by_segment = np.array([[0.0, 1.2, -0.7], [0.0, -1.5, 0.0], [0.0, 0.0, 0.0]])
  advantages_BT = np.take_along_axis(by_segment, segments_BT, axis=1)
  arrays = [logprobs_BT, old_BT, advantages_BT]
  if garbage is not None:
    arrays = [np.where(mask_BT, values_BT, garbage) for values_BT in arrays]
  arrays = [np.asarray(values_BT, np.float32) for values_BT in arrays]
  return (*arrays, mask_BT, segments_BT)


def gradient(name, weights_BT, rows, **arguments):
  def total(logprobs_BT):
    loss_BT, _ = losses.LOSSES[name](logprobs_BT, *rows[1:], **arguments)
    return jnp.sum(jnp.where(rows[3], weights_BT * loss_BT, 0.0))

  return jax.grad(total)(jnp.asarray(rows[0]))


def one_token(ratio, advantage):
  logprobs_BT = jnp.array([[-1.0]])
  old_BT = logprobs_BT - jnp.log(jnp.float32(ratio))
  mask_BT = jnp.array([[True]])
  return (
    logprobs_BT,
    old_BT,
    jnp.array([[advantage]]),
    mask_BT,
    jnp.array([[1]]),
  )


class LossesTest(parameterized.TestCase):
  @parameterized.parameters(
    # ratio, advantage, low, high, dual -> loss, gradient, clipped
    (1.1, 2.0, 0.2, 0.2, None, -2.2, -2.2, 0),
    (1.5, 2.0, 0.2, 0.2, None, -2.4, 0.0, 1),
    (1.5, 2.0, 0.2, 0.28, None, -2.56, 0.0, 1),
    (0.5, 2.0, 0.2, 0.2, None, -1.0, -1.0, 0),
    (0.5, -2.0, 0.2, 0.2, None, 1.6, 0.0, 1),
    (0.5, -2.0, 0.6, 0.2, None, 1.0, 1.0, 0),
    (1.5, -2.0, 0.2, 0.2, None, 3.0, 3.0, 0),
    (5.0, -2.0, 0.2, 0.2, 3.0, 6.0, 0.0, 1),
    (5.0, 2.0, 0.2, 0.2, 3.0, -2.4, 0.0, 1),
    (2.0, -2.0, 0.2, 0.2, 3.0, 4.0, 4.0, 0),
    # R1's clip of 10: the interval is [-9, 11], its lower end never met.
    (10.5, 1.0, 10.0, 10.0, None, -10.5, -10.5, 0),
    (12.0, 1.0, 10.0, 10.0, None, -11.0, 0.0, 1),
    (12.0, -1.0, 10.0, 10.0, None, 12.0, 12.0, 0),
    (0.001, -1.0, 10.0, 10.0, None, 0.001, 0.001, 0),
    # Nothing to clip without an advantage.
    (1.5, 0.0, 0.2, 0.2, None, 0.0, 0.0, 0),
  )
  def test_clipped_surrogate_worked_example(
    self, ratio, advantage, low, high, dual, loss, slope, clipped
  ):
    arguments = {"clip_low": low, "clip_high": high, "dual_clip": dual}
    rows = one_token(ratio, advantage)
    loss_11, stats = losses.clipped_surrogate(*rows, **arguments)
    np.testing.assert_allclose(loss_11, [[loss]], rtol=1e-6)
    self.assertEqual(stats["clipped_BT"], clipped)
    np.testing.assert_allclose(stats["ratio_BT"], [[ratio]], rtol=1e-6)
    slope_11 = gradient("clipped_surrogate", 1.0, rows, **arguments)
    np.testing.assert_allclose(slope_11, [[slope]], rtol=1e-6)

  @parameterized.parameters(
    # ratio, advantage, high, low -> weight on advantage * log pi, clipped
    (1.5, 2.0, 5.0, None, 1.5, 0),
    (5.5, 2.0, 5.0, None, 5.5, 0),  # The cap is 1 + 5.
    (7.0, 2.0, 5.0, None, 6.0, 1),
    (7.0, -2.0, 5.0, None, 6.0, 1),
    (0.1, 2.0, 5.0, None, 0.1, 0),
    (0.1, 2.0, 5.0, 0.2, 0.8, 1),
  )
  def test_cispo_worked_example(
    self, ratio, advantage, high, low, weight, clipped
  ):
    arguments = {"clip_high": high, "clip_low": low}
    rows = one_token(ratio, advantage)
    loss_11, stats = losses.cispo(*rows, **arguments)
    np.testing.assert_allclose(loss_11, [[weight * advantage]], rtol=1e-6)
    self.assertEqual(stats["clipped_BT"], clipped)
    slope_11 = gradient("cispo", 1.0, rows, **arguments)
    np.testing.assert_allclose(slope_11, [[-weight * advantage]], rtol=1e-6)

  @parameterized.product(name=list(ARGUMENTS), garbage=[None, *GARBAGE])
  def test_agrees_with_loops(self, name, garbage):
    rows = packed_rows(garbage)
    loss_BT, _ = losses.LOSSES[name](*rows, **ARGUMENTS[name])
    expected_BT = getattr(oracle, name)(*rows, **ARGUMENTS[name])
    np.testing.assert_allclose(loss_BT, expected_BT, rtol=1e-5, atol=1e-6)

  @parameterized.product(
    name=["clipped_surrogate", "gspo", "cross_entropy"], garbage=[0.0, *GARBAGE]
  )
  def test_gradient_agrees_with_differences_of_loops(self, name, garbage):
    rows = packed_rows(garbage)
    weights_BT = np.random.default_rng(1).random((3, 10)).astype(np.float32)
    got_BT = gradient(name, weights_BT, rows, **ARGUMENTS[name])
    step = 1e-6
    expected_BT = np.zeros((3, 10))
    for b, t in np.argwhere(rows[3]):
      ends = []
      for sign in (1, -1):
        moved_BT = rows[0].astype(np.float64)
        moved_BT[b, t] += sign * step
        loss_BT = getattr(oracle, name)(moved_BT, *rows[1:], **ARGUMENTS[name])
        ends.append(np.sum(weights_BT * loss_BT))
      expected_BT[b, t] = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(got_BT, expected_BT, rtol=1e-5, atol=1e-6)

  @parameterized.parameters(0.0, *GARBAGE)
  def test_cispo_gradient_is_capped_ratio_times_advantage(self, garbage):
    rows = packed_rows(garbage)
    got_BT = gradient("cispo", 1.0, rows, clip_high=0.3)
    expected_BT = np.zeros((3, 10))
    for b, t in np.argwhere(rows[3]):
      ratio = np.exp(float(rows[0][b, t]) - float(rows[1][b, t]))
      expected_BT[b, t] = -min(ratio, 1.3) * rows[2][b, t]
    np.testing.assert_allclose(got_BT, expected_BT, rtol=1e-5)

  def test_random_rows_meet_every_branch(self):
    for name in RATIO_LOSSES:
      rows = packed_rows()
      _, stats = losses.LOSSES[name](*rows, **ARGUMENTS[name])
      clipped_BT = np.asarray(stats["clipped_BT"])[rows[3]]
      self.assertIn(0.0, clipped_BT, name)
      self.assertIn(1.0, clipped_BT, name)

  @parameterized.product(name=RATIO_LOSSES, garbage=GARBAGE)
  def test_statistics_are_neutral_outside_of_the_mask(self, name, garbage):
    rows = packed_rows(garbage)
    _, stats = losses.LOSSES[name](*rows, **ARGUMENTS[name])
    np.testing.assert_array_equal(stats["ratio_BT"][~rows[3]], 1.0)
    np.testing.assert_array_equal(stats["clipped_BT"][~rows[3]], 0.0)
    self.assertEqual(stats["clipped_BT"].dtype, jnp.float32)

  @parameterized.product(name=RATIO_LOSSES, garbage=[0.0, *GARBAGE])
  def test_on_policy_is_the_plain_policy_gradient(self, name, garbage):
    logprobs_BT, _, *rest = packed_rows(garbage)
    rows = (logprobs_BT, None, *rest)
    loss_BT, stats = jax.jit(
      lambda *rows: losses.LOSSES[name](
        rows[0], None, *rows[1:], **ARGUMENTS[name]
      )
    )(logprobs_BT, *rest)
    np.testing.assert_array_equal(stats["ratio_BT"], np.ones((3, 10)))
    np.testing.assert_array_equal(stats["clipped_BT"], np.zeros((3, 10)))
    self.assertTrue(np.isfinite(loss_BT).all())
    got_BT = gradient(name, 1.0, rows, **ARGUMENTS[name])
    expected_BT = np.where(rest[1], -rest[0], 0.0)
    np.testing.assert_allclose(got_BT, expected_BT, rtol=1e-6)

  @parameterized.parameters(*RATIO_LOSSES)
  def test_no_gradient_through_old_logprobs_or_statistics(self, name):
    rows = packed_rows()

    def compute(logprobs_BT, old_BT):
      loss_BT, stats = losses.LOSSES[name](
        logprobs_BT, old_BT, *rows[2:], **ARGUMENTS[name]
      )
      return jnp.sum(loss_BT), jnp.sum(stats["ratio_BT"])

    of_loss, of_ratio = jax.jacrev(compute, argnums=(0, 1))(*rows[:2])
    for slope_BT in (of_loss[1], *of_ratio):
      np.testing.assert_array_equal(slope_BT, np.zeros((3, 10)))

  @parameterized.product(name=list(ARGUMENTS), garbage=[None, np.inf, -np.inf])
  def test_no_nan_is_made_on_the_way(self, name, garbage):
    with jax.debug_nans(True):  # Raises FloatingPointError where one is made.
      slope_BT = gradient(name, 1.0, packed_rows(garbage), **ARGUMENTS[name])
    self.assertTrue(np.all(np.isfinite(slope_BT)))

  @parameterized.parameters(*RATIO_LOSSES)
  def test_shift_of_both_logprobs_leaves_the_ratio(self, name):
    logprobs_BT, old_BT, *rest = packed_rows()
    shifted = (logprobs_BT - 2, old_BT - 2, *rest)
    _, stats = losses.LOSSES[name](
      logprobs_BT, old_BT, *rest, **ARGUMENTS[name]
    )
    _, again = losses.LOSSES[name](*shifted, **ARGUMENTS[name])
    np.testing.assert_allclose(again["ratio_BT"], stats["ratio_BT"], rtol=1e-5)

  def test_dual_clip_of_infinity_is_none(self):
    rows = packed_rows()
    arguments = {"clip_low": 0.2, "clip_high": 0.28}
    for compute in (
      losses.clipped_surrogate,
      lambda *rows, **kw: gradient("clipped_surrogate", 1.0, rows, **kw),
    ):
      jax.tree.map(
        np.testing.assert_array_equal,
        compute(*rows, **arguments, dual_clip=np.inf),
        compute(*rows, **arguments, dual_clip=None),
      )

  def test_gspo_at_length_one_is_the_clipped_surrogate(self):
    logprobs_BT, old_BT, advantages_BT, _, _ = packed_rows()
    segments_BT = np.tile(np.arange(1, 11, dtype=np.int32), (3, 1))
    mask_BT = np.ones((3, 10), bool)
    rows = (logprobs_BT, old_BT, advantages_BT, mask_BT, segments_BT)
    arguments = {"clip_low": 0.2, "clip_high": 0.28}
    jax.tree.map(
      np.testing.assert_array_equal,
      losses.gspo(*rows, **arguments),
      losses.clipped_surrogate(*rows, **arguments),
    )
    np.testing.assert_array_equal(
      gradient("gspo", 1.0, rows, **arguments),
      gradient("clipped_surrogate", 1.0, rows, **arguments),
    )

  def test_gspo_with_sequence_mean_is_the_papers_objective(self):
    ratios = np.array([[1.2, 0.9, 1.0, 1.3, 1.1]])
    logprobs_BT = np.full((1, 5), -1.0, np.float32)
    old_BT = (logprobs_BT - np.log(ratios)).astype(np.float32)
    advantages_BT = np.array([[2.0, 2.0, -1.0, -1.0, -1.0]], np.float32)
    segments_BT = np.array([[1, 1, 2, 2, 2]], np.int32)
    rows = (logprobs_BT, old_BT, advantages_BT, segments_BT > 0, segments_BT)
    weights_BT = np.array([[1 / 4, 1 / 4, 1 / 6, 1 / 6, 1 / 6]], np.float32)
    arguments = {"clip_low": 0.5, "clip_high": 0.5}
    loss_BT, _ = losses.gspo(*rows, **arguments)
    s1 = (1.2 * 0.9) ** (1 / 2)
    s2 = (1.0 * 1.3 * 1.1) ** (1 / 3)
    self.assertAlmostEqual(
      float(np.sum(weights_BT * loss_BT)), -(2 * s1 - s2) / 2, places=6
    )
    # Each token gets s_i / |y_i|, over 2 sequences.
    expected_BT = [[-2 * s1 / 4] * 2 + [s2 / 6] * 3]
    got_BT = gradient("gspo", weights_BT, rows, **arguments)
    np.testing.assert_allclose(got_BT, expected_BT, rtol=1e-5)

  @parameterized.parameters(*ARGUMENTS)
  def test_permutation_of_rows_permutes(self, name):
    rows = packed_rows()
    order = np.array([2, 0, 1])
    loss_BT, _ = losses.LOSSES[name](*rows, **ARGUMENTS[name])
    moved = [values_BT[order] for values_BT in rows]
    moved_BT, _ = losses.LOSSES[name](*moved, **ARGUMENTS[name])
    np.testing.assert_array_equal(moved_BT, loss_BT[order])

  def test_cross_entropy_needs_logprobs_and_mask_alone(self):
    logprobs_BT = jnp.array([[-0.5, -2.0, jnp.nan]])
    mask_BT = jnp.array([[True, True, False]])
    loss_BT, stats = losses.cross_entropy(
      logprobs_BT, None, None, mask_BT, None
    )
    np.testing.assert_array_equal(loss_BT, [[0.5, 2.0, 0.0]])
    self.assertEqual(stats, {})
    with self.assertRaises(AssertionError):
      losses.cross_entropy(
        logprobs_BT, None, None, jnp.array([[1, 2, 0]]), None
      )

  @parameterized.parameters(
    (
      "clipped_surrogate",
      {"clip_low": -0.1, "clip_high": 0.2},
      "clip_low is -",
    ),
    ("clipped_surrogate", {"clip_low": 0.1, "clip_high": -0.2}, "clip_high"),
    (
      "clipped_surrogate",
      {"clip_low": 0.1, "clip_high": 0.2, "dual_clip": 1.0},
      "config.loss.dual_clip is 1.0",
    ),
    ("gspo", {"clip_low": 0.1, "clip_high": -0.2}, "clip_high is -0.2"),
    ("cispo", {"clip_high": -0.2}, "clip_high is -0.2"),
    ("cispo", {"clip_high": 0.2, "clip_low": -1}, "clip_low is -1"),
  )
  def test_bad_clips_are_refused(self, name, arguments, message):
    with self.assertRaisesRegex(ValueError, message):
      losses.LOSSES[name](*packed_rows(), **arguments)

  @parameterized.parameters("integer_mask", "low_precision", "shape")
  def test_wrong_arrays_are_refused(self, wrong):
    rows = list(packed_rows())
    if wrong == "integer_mask":
      rows[3] = rows[4]
    elif wrong == "low_precision":
      rows[0] = jnp.asarray(rows[0], jnp.bfloat16)
    else:
      rows[1] = rows[1][:1]
    with self.assertRaises(AssertionError):
      losses.clipped_surrogate(*rows, clip_low=0.2, clip_high=0.2)


class ImportanceTest(parameterized.TestCase):
  @parameterized.parameters(
    ("token_truncate", {"cap": 2.0}, [1.0, 0.4, 2.0, 1.5, 0.0]),
    ("token_mask", {"low": 0.5, "high": 2.0}, [1.0, 0.0, 0.0, 1.5, 0.0]),
    ("sequence_truncate", {"cap": 2.0}, [0.4, 0.4, 2.0, 2.0, 0.0]),
    ("sequence_mask", {"low": 0.3, "high": 2.0}, [0.4, 0.4, 0.0, 0.0, 0.0]),
  )
  def test_worked_example(self, name, arguments, expected_T):
    ratios_BT = np.array([[1.0, 0.4, 3.0, 1.5, 9.0]])
    old_BT = jnp.full((1, 5), -1.0)
    sampler_BT = old_BT - jnp.log(jnp.asarray(ratios_BT, jnp.float32))
    segments_BT = jnp.array([[1, 1, 2, 2, 0]])
    got_BT = losses.IMPORTANCE[name](
      old_BT, sampler_BT, segments_BT > 0, segments_BT, **arguments
    )
    np.testing.assert_allclose(got_BT, [expected_T], rtol=1e-6)

  @parameterized.product(name=list(FACTORS), garbage=[None, *GARBAGE])
  def test_agrees_with_loops(self, name, garbage):
    old_BT, sampler_BT, _, mask_BT, segments_BT = packed_rows(garbage)
    arrays = (old_BT, sampler_BT, mask_BT, segments_BT)
    got_BT = losses.IMPORTANCE[name](*arrays, **FACTORS[name])
    expected_BT = getattr(oracle, name)(*arrays, **FACTORS[name])
    np.testing.assert_allclose(got_BT, expected_BT, rtol=1e-5, atol=1e-7)

  @parameterized.parameters(*FACTORS)
  def test_no_gradient(self, name):
    old_BT, sampler_BT, _, mask_BT, segments_BT = packed_rows()
    got = jax.grad(
      lambda *pair: jnp.sum(
        losses.IMPORTANCE[name](*pair, mask_BT, segments_BT, **FACTORS[name])
      ),
      argnums=(0, 1),
    )(jnp.asarray(old_BT), jnp.asarray(sampler_BT))
    np.testing.assert_array_equal(got, np.zeros((2, 3, 10)))

  @parameterized.parameters(*FACTORS)
  def test_equal_policies_have_factor_one(self, name):
    old_BT, _, _, mask_BT, segments_BT = packed_rows()
    got_BT = losses.IMPORTANCE[name](
      old_BT, old_BT, mask_BT, segments_BT, **FACTORS[name]
    )
    np.testing.assert_array_equal(got_BT, mask_BT.astype(np.float32))

  @parameterized.parameters(
    ("sequence_truncate", {"cap": 2.0}, 2.0),
    ("sequence_mask", {"low": 0.0, "high": 2.0}, 0.0),
  )
  def test_product_beyond_float32_is_capped_or_masked(
    self, name, arguments, expected
  ):
    old_BT = jnp.zeros((1, 200))
    segments_BT = jnp.ones((1, 200), jnp.int32)
    got_BT = losses.IMPORTANCE[name](
      old_BT, old_BT - 1.0, segments_BT > 0, segments_BT, **arguments
    )
    np.testing.assert_array_equal(got_BT, np.full((1, 200), expected))

  def test_off_policy_mask(self):
    # Mean log pi_old / pi: 0.6 with A < 0; 0.4 with A < 0; 0.6 with A > 0.
    gap_BT = jnp.array([[0.9, 0.3, 0.4, 0.4, 0.6, jnp.nan]])
    logprobs_BT = jnp.full((1, 6), -1.0)
    advantages_BT = jnp.array([[-1.0, -1.0, -1.0, -1.0, 1.0, jnp.nan]])
    segments_BT = jnp.array([[1, 1, 2, 2, 3, 0]])
    got_BT = losses.off_policy_mask(
      logprobs_BT,
      logprobs_BT + gap_BT,
      advantages_BT,
      segments_BT > 0,
      segments_BT,
      max_log_ratio=0.5,
    )
    np.testing.assert_array_equal(got_BT, [[0.0, 0.0, 1.0, 1.0, 1.0, 0.0]])
