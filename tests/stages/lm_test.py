import jax
import numpy as np
from absl.testing import absltest, parameterized

from r1jax import policy, weighting
from r1jax.stages import lm
from tests import small
from tests.stages import toy

DOCUMENTS = [
  [([0, 1], [2, 3, toy.EOS]), ([5], [4, toy.EOS]), ([0, 2, 1], [6, toy.EOS])],
  [([3, 1], [toy.EOS])],
]


def make(loss_on="all", model=toy.POLICY, put=lambda batch: batch, **changes):
  arguments = dict(
    weigh=weighting.token_mean, row_tokens=8, rows=2, balance_coef=0.0
  )
  return lm.make(
    model,
    DOCUMENTS.__getitem__,
    put,
    loss_on=loss_on,
    **(arguments | changes),
  )


def total(stage, round=0, params=None):
  """(loss, gradient) of a round, summed over its microbatches."""
  params = toy.table(0) if params is None else params
  (update,), _ = stage.collect(None, round)
  run = jax.value_and_grad(stage.loss_fn, has_aux=True)
  parts = [run(params, {}, batch) for batch in update]
  loss = sum(float(value) for (value, _), _ in parts)
  return loss, sum(np.asarray(g["table_VV"], np.float64) for _, g in parts)


def oracle(documents, first, weights):
  """(loss, gradient) in float64; `first` is the first token that counts."""
  all_VV = toy.log_softmax(toy.table(0))
  loss, grad_VV = 0.0, np.zeros((toy.V, toy.V))
  for (prompt, response), weight in zip(documents, weights):
    ids = [*prompt, *response]
    for i in range(first(prompt), len(ids)):
      x, y = ids[i - 1], ids[i]
      loss -= weight * all_VV[x, y]
      grad_VV[x] += weight * np.exp(all_VV[x])
      grad_VV[x, y] -= weight
  return loss, grad_VV


class LmTest(parameterized.TestCase):
  @parameterized.parameters((8, 2), (8, 1), (16, 1), (5, 3))
  def test_all_tokens_but_the_first_against_a_loop(self, row_tokens, rows):
    stage = make(row_tokens=row_tokens, rows=rows)
    loss, grad_VV = total(stage)
    want, want_VV = oracle(DOCUMENTS[0], lambda prompt: 1, [1 / 10] * 3)
    self.assertAlmostEqual(loss, want, places=5)
    np.testing.assert_allclose(grad_VV, want_VV, atol=1e-6)

  def test_responses_alone_against_a_loop(self):
    stage = make("response", weigh=weighting.sequence_mean)
    loss, grad_VV = total(stage)
    want, want_VV = oracle(DOCUMENTS[0], len, [1 / 9, 1 / 6, 1 / 6])
    self.assertAlmostEqual(loss, want, places=5)
    np.testing.assert_allclose(grad_VV, want_VV, atol=1e-6)

  @parameterized.parameters("all", "response")
  def test_the_eos_is_learned(self, loss_on):
    # Round 1 has a response of the EOS alone.
    _, grad_VV = total(make(loss_on), round=1)
    self.assertLess(grad_VV[1, toy.EOS], -0.1)

  def test_round_and_documents_are_counted(self):
    placed = []
    stage = make(put=lambda batch: placed.append(batch) or batch)
    updates, metrics = stage.collect(None, 0)
    self.assertEqual(
      metrics,
      {"data/tokens": 13, "data/loss_tokens": 10, "data/documents": 3},
    )
    self.assertLen(updates, 1)
    self.assertEqual(len(placed), len(updates[0]))
    _, metrics = stage.collect(None, 1)
    self.assertEqual(metrics["data/tokens"], 3)

  def test_the_loss_is_on_the_tokens_that_are_counted(self):
    _, metrics = make("response").collect(None, 0)
    self.assertEqual(metrics["data/loss_tokens"], 3 + 2 + 2)

  def test_a_sequence_left_out_has_no_mask_and_no_part_in_the_mean(self):
    sequences = [
      {
        "tokens_T": np.array(ids, np.int32),
        "mask_T": np.ones(len(ids), bool),
      }
      for ids in ([1, 2, 3], [4, 5])
    ]
    (batch,) = lm.pack_update(
      sequences,
      weighting.sequence_mean,
      row_tokens=8,
      rows=1,
      keep_B=np.array([True, False]),
    )
    np.testing.assert_array_equal(batch.mask_BT.sum(), 3)
    np.testing.assert_allclose(batch.weights_BT.sum(), 1.0, rtol=1e-6)
    self.assertFalse(batch.mask_BT[batch.tokens_BT == 4].any())


class MtpTest(parameterized.TestCase):
  """The loss of multi-token prediction."""

  def test_it_is_added_with_the_same_weights(self):
    def logprobs(params, buffers, batch):
      scores = toy.POLICY.logprobs(params, buffers, batch)
      further_BT = batch.mask_BT & (batch.positions_BT > 1)
      mtp_BT = np.where(further_BT, -0.5 * batch.tokens_BT, 0.0)
      return scores._replace(mtp_logprobs_BT=mtp_BT)

    model = toy.POLICY._replace(logprobs=logprobs)
    arguments = dict(loss_on="response", model=model, row_tokens=16)
    stage = make(**arguments, mtp_coef=0.3)
    plain = make(**arguments)
    ((batch,),), _ = stage.collect(None, 0)
    loss, aux = stage.loss_fn(toy.table(0), {}, batch)
    want, plain_aux = plain.loss_fn(toy.table(0), {}, batch)
    # Responses 2, 3, EOS; 4, EOS; 6, EOS, each but what is second of all.
    tokens = (2 + 3 + toy.EOS) + toy.EOS + (6 + toy.EOS)
    self.assertAlmostEqual(float(aux.sums["train/mtp_loss"]), tokens / 14, 5)
    self.assertAlmostEqual(float(loss - want), 0.3 * tokens / 14, places=5)
    self.assertAlmostEqual(float(aux.sums["train/loss"]), float(want), 5)
    self.assertNotIn("train/mtp_loss", plain_aux.sums)


class CommonSumsTest(parameterized.TestCase):
  """Sums of a model with experts."""

  def test_load_and_balance_do_not_depend_on_the_split(self):
    config = small.mla()
    model = policy.make(config, temperature=1.0, with_balance=True)
    weights = small.weights(config)
    outcomes = []
    for rows in (2, 1):
      stage = make("response", model=model, rows=rows, balance_coef=0.5)
      (update,), _ = stage.collect(None, 0)
      loss_fn = jax.jit(stage.loss_fn)
      parts = [loss_fn(*weights, batch) for batch in update]
      loss = sum(float(part) for part, _ in parts)
      sums = jax.tree.map(lambda *xs: sum(xs), *(aux.sums for _, aux in parts))
      balance = (loss - float(sums["train/loss"])) / 0.5
      outcomes.append((balance, sums["moe/load_LE"]))
    (one, one_LE), (two, two_LE) = outcomes
    self.assertAlmostEqual(one, two, places=4)
    np.testing.assert_array_equal(one_LE, two_LE)
    # 13 tokens of real documents, two experts each, none for padding.
    np.testing.assert_array_equal(one_LE.sum(axis=1), 26)
    # Each document's loss, alone and over all its tokens, counts by its
    # share of the 7 response tokens.
    score = jax.jit(model.logprobs)
    want = 0.0
    for prompt, response in DOCUMENTS[0]:
      row = small.rows([np.array([*prompt, *response])], (1,), 8)
      report = score(*weights, small.batch(*row)).report
      length = len(prompt) + len(response)
      mean = np.sum(report.balance_BT, axis=(0, 1))[:length].mean()
      want += mean * len(response) / 7
    self.assertAlmostEqual(one, want, places=4)

  def test_spread(self):
    weights_BT = np.array([[0.0, 0.0, 0.3, 0.3, 0.0, 0.4, 0.0]], np.float32)
    segments_BT = np.array([[1, 1, 1, 1, 2, 2, 0]])
    np.testing.assert_allclose(
      lm.spread(weights_BT, segments_BT),
      [[0.15, 0.15, 0.15, 0.15, 0.2, 0.2, 0.0]],
      rtol=1e-6,
    )


if __name__ == "__main__":
  absltest.main()
