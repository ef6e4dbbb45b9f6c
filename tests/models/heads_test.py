import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from r1jax import experiment, policy, preference, sharding
from r1jax.models import heads
from tests import small


def drawn(config, seed=0):
  """(params, buffers) of a reward model on the small weights' decoder."""
  params, buffers = small.weights(config)
  rng = np.random.default_rng(seed)
  head_D = jnp.asarray(rng.standard_normal(config.d_model, np.float32))
  return heads.from_policy(params, buffers, head_D)


def scores(config, params, buffers, rows):
  model = preference.make(config)
  return jax.jit(model.scores)(params, buffers, *rows)[0]


class RewardModelTest(parameterized.TestCase):
  @parameterized.parameters(*small.CONFIGS)
  def test_scores_are_the_policys_hidden_states_times_the_head(self, name):
    config = small.CONFIGS[name]()
    params, buffers = drawn(config)
    rows = small.rows([small.tokens(5), small.tokens(4, seed=1)], (2,), 12)
    out = small.forward(config)(*small.weights(config), *rows)
    hidden_BTD = np.asarray(out.hidden_BTD, np.float64)
    head_D = np.asarray(params[heads.HEAD], np.float64)
    want_BT = [
      [sum(h * w for h, w in zip(x_D, head_D)) for x_D in hidden_BTD[0]]
    ]
    got_BT = scores(config, params, buffers, rows)
    self.assertEqual(got_BT.dtype, jnp.float32)
    np.testing.assert_allclose(got_BT, want_BT, rtol=1e-4, atol=1e-4)

  def test_scores_are_float32_of_a_bfloat16_decoder(self):
    config = small.gqa(compute_dtype="bfloat16", param_dtype="bfloat16")
    params, _ = jax.eval_shape(preference.make(config).init, jax.random.key(0))
    self.assertEqual(params[heads.HEAD].value.dtype, jnp.float32)
    rows = small.rows([small.tokens(5)], (1,), 8)
    got_BT = scores(config, *drawn(config), rows)
    self.assertEqual(got_BT.dtype, jnp.float32)
    # No value of bfloat16 has so many bits; a score rounded to it would.
    rounded_BT = got_BT.astype(jnp.bfloat16).astype(jnp.float32)
    self.assertGreater(float(jnp.max(jnp.abs(got_BT - rounded_BT))), 0.0)

  @parameterized.parameters(*small.CONFIGS)
  def test_a_policys_weights_fit_but_for_its_head(self, name):
    config = small.CONFIGS[name]()
    mesh = sharding.make_mesh(dict(data=1, fsdp=1, expert=1, tensor=1))
    model = preference.make(config)
    abstract = experiment.abstract_weights(model, mesh)
    made = drawn(config)
    self.assertEqual(
      jax.tree.map(lambda x: (x.shape, x.dtype), made),
      jax.tree.map(lambda x: (x.shape, x.dtype), abstract),
    )
    self.assertNotIn("head", made[0][heads.DECODER])

  def test_a_fresh_head_scores_near_zero(self):
    config = small.gqa(d_model=64)
    params, _ = jax.jit(preference.make(config).init)(jax.random.key(0))
    self.assertEqual(params[heads.HEAD].names, ("embed",))
    head_D = np.asarray(params[heads.HEAD].value)
    # Hidden states are of size sqrt(64): scores of size 1/8.
    self.assertBetween(np.std(head_D), 0.7 / 64, 1.3 / 64)

  def test_the_policy_declares_no_other_parameters(self):
    config = small.mla()
    made, _ = jax.eval_shape(preference.make(config).init, jax.random.key(0))
    policys, _ = jax.eval_shape(
      policy.make(config, temperature=1.0).init, jax.random.key(0)
    )
    self.assertEqual(
      jax.tree.structure(made[heads.DECODER]), jax.tree.structure(policys)
    )


if __name__ == "__main__":
  absltest.main()
