import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from r1jax import policy
from r1jax.models import block, moe, mtp, transformer
from r1jax.models.attention import Context, packed_mask
from tests import small

CONFIG = small.mla(num_mtp_layers=1, num_layers=2, moe_impl="dense")
ROW = 13  # Tokens.
SEQUENCES = [small.tokens(7, seed=1), small.tokens(4, seed=2)]
PACKED = small.rows(SEQUENCES, (2,), ROW)


def rms_norm(x, scale):
  x = np.asarray(x, np.float64)
  return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale


def oracle(config, params, buffers, ids):
  """logits_TV of one sequence for tokens 2, 3, ..., from the equations."""
  plain = {k: v for k, v in params.items() if k != mtp.NAME}
  row = small.rows([ids], (1,), ROW)
  hidden_TD = small.forward(config)(plain, buffers, *row).hidden_BTD[0]
  p = params[mtp.NAME]
  embedded_TD = np.asarray(params["embedding"])[row[0][0]]
  # h'_i = M [norm(Emb(t_(i+1))); norm(h_i)], i from 0.
  x_TD = np.concatenate(
    [
      rms_norm(embedded_TD[1:], p["embedding_norm"]["scale"]),
      rms_norm(hidden_TD[:-1], p["hidden_norm"]["scale"]),
    ],
    axis=-1,
  ) @ np.asarray(p["join"]["kernel"], np.float64)
  variables = {"params": p["block"]}
  if buffers:
    variables["buffers"] = buffers[mtp.NAME]["block"]
  out_BTD = one_block(config)(variables, x_TD[None].astype(np.float32))
  out_TD = rms_norm(out_BTD[0, : len(ids) - 1], p["final_norm"]["scale"])
  head_DV = params.get("head", params["embedding"].T)
  return out_TD @ np.asarray(head_DV, np.float64)


@functools.lru_cache
def one_block(config):
  """Jitted (variables, x_BTD) -> x_BTD of a block on whole rows."""
  layer = block.Block(config, config.num_moe_layers > 0, False, False, "dense")

  def run(variables, x_BTD):
    ones_BT = jnp.ones(x_BTD.shape[:2], jnp.int32)
    positions_BT = jnp.cumsum(ones_BT, axis=1) - 1
    context = Context(positions_BT, packed_mask(ones_BT), ones_BT)
    return layer.apply(variables, x_BTD, (None, None), context)[0]

  return jax.jit(run)


def log_softmax(logits_TV):
  return logits_TV - np.logaddexp.reduce(logits_TV, axis=-1, keepdims=True)


@functools.lru_cache
def scorer(config, with_mtp):
  """Jitted (params, buffers, batch) -> Scores."""
  model = policy.make(
    config, temperature=1.0, with_balance=True, with_mtp=with_mtp
  )
  return jax.jit(model.logprobs)


def score(config, batch, with_mtp=True):
  return scorer(config, with_mtp)(*small.weights(config), batch)


class MtpTest(parameterized.TestCase):
  def agrees(self, config):
    scores = score(config, small.batch(*PACKED))
    want_T = np.zeros(ROW)
    start = 0
    for ids in SEQUENCES:
      table_TV = log_softmax(oracle(config, *small.weights(config), ids))
      for t in range(2, len(ids)):
        want_T[start + t] = table_TV[t - 2, ids[t]]
      start += len(ids)
    self.assertGreater(np.abs(want_T).max(), 1.0)
    np.testing.assert_allclose(scores.mtp_logprobs_BT[0], want_T, atol=2e-4)

  def test_packed_rows_agree_with_the_equations(self):
    self.agrees(CONFIG)

  @parameterized.parameters(
    small.mla(num_mtp_layers=1, tie_embeddings=False, remat="full"),
    small.gqa(num_mtp_layers=1),
  )
  @pytest.mark.slow
  def test_other_models_agree_with_the_equations(self, config):
    self.agrees(config)

  def test_halves_of_the_projection_are_not_interchangeable(self):
    params, buffers = small.weights(CONFIG)
    kernel = params[mtp.NAME]["join"]["kernel"]
    join = {"kernel": jnp.roll(kernel, 16, axis=0)}
    swapped = params | {mtp.NAME: params[mtp.NAME] | {"join": join}}
    one, other = (
      oracle(CONFIG, p, buffers, SEQUENCES[0]) for p in (params, swapped)
    )
    self.assertGreater(np.abs(one - other).max(), 0.1)

  @pytest.mark.slow
  def test_nothing_else_changes_where_it_is_run(self):
    batch = small.batch(*PACKED)
    with_it, without = (score(CONFIG, batch, x) for x in (True, False))
    np.testing.assert_allclose(
      with_it.logprobs_BT, without.logprobs_BT, atol=1e-6
    )
    self.assertIsNone(without.mtp_logprobs_BT)
    self.assertEqual(without.report.load_E.shape, (1, 8))
    np.testing.assert_array_equal(
      with_it.report.load_E[:1], without.report.load_E
    )

  def test_load_is_of_the_tokens_that_take_part(self):
    load_LE = score(CONFIG, small.batch(*PACKED)).report.load_E
    # Two experts each of 11 tokens, but for the first of each sequence.
    np.testing.assert_array_equal(load_LE.sum(axis=1), [2 * 11, 2 * 9])

  def test_no_other_sequence_is_seen(self):
    def run(ids):
      row = small.rows([ids, SEQUENCES[1]], (2,), ROW)
      scores = score(CONFIG, small.batch(*row))
      return scores.mtp_logprobs_BT[0], scores.report.balance_BT[-1, 0]

    for one, other in zip(run(SEQUENCES[0]), run(SEQUENCES[0][::-1])):
      self.assertGreater(np.abs(one[:7] - other[:7]).max(), 1e-3)
      np.testing.assert_allclose(one[7:], other[7:], atol=1e-5)

  @pytest.mark.slow
  def test_has_a_gradient_where_it_is_scored_and_only_there(self):
    batch = small.batch(*PACKED)
    params, buffers = small.weights(CONFIG)

    def grads(with_mtp):
      def loss(params):
        scores = scorer(CONFIG, with_mtp)(params, buffers, batch)
        found = scores.mtp_logprobs_BT if with_mtp else scores.logprobs_BT
        return jnp.sum(found)

      return jax.jit(jax.grad(loss))(params)

    for leaf in jax.tree.leaves(grads(False)[mtp.NAME]):
      np.testing.assert_array_equal(leaf, 0)
    # Into the main model too, through the hidden states it reads.
    with_it = grads(True)
    for name in (mtp.NAME, "moe_layers", "embedding", "final_norm"):
      largest = jax.tree.map(lambda a: np.abs(a).max(), with_it[name])
      self.assertGreater(max(jax.tree.leaves(largest)), 1e-3, name)

  def test_parameters(self):
    params, buffers = small.weights(CONFIG)
    self.assertSameElements(
      params[mtp.NAME],
      ["embedding_norm", "hidden_norm", "join", "block", "final_norm"],
    )
    self.assertIn("moe", params[mtp.NAME]["block"])
    bias_E = buffers[mtp.NAME]["block"]["moe"]["router_bias"]
    self.assertEqual(bias_E.shape, (8,))
    unstacked = transformer.unstack(params)
    self.assertIs(unstacked[mtp.NAME], params[mtp.NAME])

  def test_block_of_a_dense_model_has_no_experts(self):
    config = small.gqa(num_mtp_layers=1)
    model = policy.make(config, temperature=1.0)
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    self.assertIn("mlp", params[mtp.NAME]["block"])


class UpdateBuffersTest(parameterized.TestCase):
  def test_each_router_moves_by_its_own_load(self):
    _, buffers = small.weights(CONFIG)
    load_LE = np.arange(16.0).reshape(2, 8) % 5
    moved = moe.update_buffers(buffers, jnp.asarray(load_LE), 0.5)
    layers_LE = buffers["moe_layers"]["moe"]["router_bias"]
    np.testing.assert_allclose(
      moved["moe_layers"]["moe"]["router_bias"],
      moe.update_bias(layers_LE, load_LE[:1], 0.5),
    )
    bias_E = buffers[mtp.NAME]["block"]["moe"]["router_bias"]
    want_E = bias_E + 0.5 * np.sign(load_LE[1].mean() - load_LE[1])
    np.testing.assert_allclose(
      moved[mtp.NAME]["block"]["moe"]["router_bias"], want_E, rtol=1e-6
    )

  def test_mtps_router_stays_where_it_is_not_run(self):
    _, buffers = small.weights(CONFIG)
    moved = moe.update_buffers(buffers, jnp.arange(8.0)[None], 0.5)
    self.assertIs(
      moved[mtp.NAME]["block"]["moe"]["router_bias"],
      buffers[mtp.NAME]["block"]["moe"]["router_bias"],
    )


if __name__ == "__main__":
  absltest.main()
