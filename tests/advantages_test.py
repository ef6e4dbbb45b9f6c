import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from r1jax import advantages
from tests import oracle


@pytest.fixture(autouse=True)
def no_rank_promotion():
  """Only here: the setting is the whole process's."""
  with jax.numpy_rank_promotion("raise"):
    yield


GROUPED = ("group_normalized", "group_centered", "leave_one_out")


def random_rewards(Q=5, G=6):
  rng = np.random.default_rng(0)
  return np.asarray(rng.normal(size=(Q, G)), np.float32)


class AdvantagesTest(parameterized.TestCase):
  @parameterized.parameters(
    ("group_normalized", {}, [1.7320508, -0.5773503]),
    ("group_normalized", {"ddof": 1}, [1.5, -0.5]),
    ("leave_one_out", {}, [1.0, -1 / 3]),
    ("group_centered", {}, [0.75, -0.25]),
    ("batch_normalized", {}, [1.7320508, -0.5773503]),
  )
  def test_one_right_of_four(self, name, arguments, expected):
    rewards_QG = jnp.array([[1.0, 0.0, 0.0, 0.0]])
    got_QG = advantages.ADVANTAGES[name](rewards_QG, **arguments)
    expected_QG = [[expected[0], *[expected[1]] * 3]]
    # eps = 1e-6 beside a std of 0.43 moves the sixth digit.
    np.testing.assert_allclose(got_QG, expected_QG, rtol=4e-6)

  def test_batch_normalized_looks_across_questions(self):
    rewards_QG = jnp.array([[1.0, 1.0], [0.0, 0.0]])
    got_QG = advantages.batch_normalized(rewards_QG)
    np.testing.assert_allclose(got_QG, [[1, 1], [-1, -1]], rtol=4e-6)

  @parameterized.product(name=sorted(advantages.ADVANTAGES), Q=[1, 5], G=[2, 7])
  def test_agrees_with_loops(self, name, Q, G):
    rewards_QG = random_rewards(Q, G)
    got_QG = advantages.ADVANTAGES[name](rewards_QG)
    expected_QG = getattr(oracle, name)(rewards_QG)
    np.testing.assert_allclose(got_QG, expected_QG, rtol=1e-4, atol=1e-6)
    self.assertEqual(got_QG.dtype, jnp.float32)

  @parameterized.parameters(({"eps": 0.5},), ({"ddof": 1},))
  def test_group_normalized_arguments_agree_with_loops(self, arguments):
    rewards_QG = random_rewards()
    np.testing.assert_allclose(
      advantages.group_normalized(rewards_QG, **arguments),
      oracle.group_normalized(rewards_QG, **arguments),
      rtol=1e-5,
      atol=1e-6,
    )

  @parameterized.parameters(*sorted(advantages.ADVANTAGES))
  def test_shift_of_all_rewards_changes_nothing(self, name):
    rewards_QG = random_rewards().round(3)
    advantage = advantages.ADVANTAGES[name]
    np.testing.assert_allclose(
      advantage(rewards_QG + 8), advantage(rewards_QG), rtol=1e-4, atol=1e-5
    )

  @parameterized.parameters(*GROUPED)
  def test_groups_do_not_see_each_other(self, name):
    rewards_QG = random_rewards()
    advantage = advantages.ADVANTAGES[name]
    shift_Q1 = np.arange(5, dtype=np.float32)[:, None] * 4
    np.testing.assert_allclose(
      advantage(rewards_QG + shift_Q1),
      advantage(rewards_QG),
      rtol=1e-4,
      atol=1e-5,
    )

  @parameterized.parameters(*sorted(advantages.ADVANTAGES))
  def test_permutation_of_responses_permutes(self, name):
    rewards_QG = random_rewards()
    order = np.array([3, 1, 5, 0, 2, 4])
    advantage = advantages.ADVANTAGES[name]
    np.testing.assert_allclose(
      advantage(rewards_QG[:, order]),
      advantage(rewards_QG)[:, order],
      rtol=1e-5,
      atol=1e-6,
    )

  @parameterized.product(
    name=sorted(advantages.ADVANTAGES), value=[0.0, 0.1, 3.3, -1.7e4], G=[3, 16]
  )
  def test_equal_rewards_give_exactly_zero(self, name, value, G):
    # The mean of three 3.3 is off by 2e-7: over eps that would be 0.2.
    rewards_QG = np.full((2, G), value, np.float32)
    got_QG = advantages.ADVANTAGES[name](rewards_QG)
    np.testing.assert_array_equal(got_QG, np.zeros((2, G)))

  def test_normalized_is_centered_over_std(self):
    rewards_QG = random_rewards()
    got_QG = advantages.group_normalized(rewards_QG, eps=0.0)
    np.testing.assert_allclose(np.std(got_QG, axis=1), np.ones(5), rtol=1e-5)
    np.testing.assert_allclose(np.mean(got_QG, axis=1), np.zeros(5), atol=1e-6)

  def test_leave_one_out_is_centered_times_g_over_g_less_one(self):
    rewards_QG = random_rewards(G=4)
    np.testing.assert_allclose(
      advantages.leave_one_out(rewards_QG),
      advantages.group_centered(rewards_QG) * 4 / 3,
      rtol=1e-6,
    )

  @parameterized.parameters(*GROUPED)
  def test_group_of_one_is_refused(self, name):
    with self.assertRaisesRegex(
      ValueError, f"{name} got G=1.*config.samples_per_question to 2"
    ):
      advantages.ADVANTAGES[name](jnp.zeros((3, 1)))

  def test_batch_normalized_takes_groups_of_one(self):
    got_QG = advantages.batch_normalized(jnp.array([[1.0], [0.0]]))
    np.testing.assert_allclose(got_QG, [[1], [-1]], rtol=4e-6)
    with self.assertRaisesRegex(ValueError, "one response in all"):
      advantages.batch_normalized(jnp.zeros((1, 1)))

  def test_integer_rewards(self):
    got_QG = advantages.group_centered(jnp.array([[1, 0, 0, 0]]))
    np.testing.assert_allclose(got_QG, [[0.75, -0.25, -0.25, -0.25]])

  def test_has_signal(self):
    rewards_QG = jnp.array([[1.0, 1.0], [0.0, 1.0], [0.1, 0.1], [2.0, -2.0]])
    np.testing.assert_array_equal(
      advantages.has_signal_Q(rewards_QG), [False, True, False, True]
    )

  def test_has_signal_is_where_advantages_are_not_all_zero(self):
    rewards_QG = np.random.default_rng(1).integers(0, 2, (40, 3)) * 0.1
    got_Q = advantages.has_signal_Q(rewards_QG)
    advantages_QG = advantages.group_normalized(rewards_QG)
    np.testing.assert_array_equal(got_Q, np.any(advantages_QG != 0, axis=1))
    self.assertIn(False, got_Q)
