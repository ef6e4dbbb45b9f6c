import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from r1jax import advantages, losses, weighting
from r1jax.stages import grpo
from tests.stages import toy

REWARDS = [[0.0, 1.0, 1.0, 3.0], [5.0, 5.0, 6.0, 9.0], [0.0, 2.0, 0.0, 0.0]]
QUESTIONS, SAMPLES = 3, 4
OLD, REF, NEW = toy.table(0), toy.table(1), toy.table(2)
KL = dict(name="k3", coef=0.0, where="loss", importance_weighted=False)


def settings(**changes):
  fields = dict(
    seed=0,
    questions=QUESTIONS,
    samples=SAMPLES,
    updates=1,
    row_tokens=24,
    rows=2,
    loss=functools.partial(
      losses.clipped_surrogate, clip_low=0.2, clip_high=0.2
    ),
    advantage=advantages.group_centered,
    weigh=weighting.sequence_mean,
    importance=None,
    kl=KL,
    max_waves=1,
    filter_truncated=False,
    routing_replay=False,
    balance_coef=0.0,
  )
  return grpo.Settings(**fields | changes)


def state(reference=REF):
  return types.SimpleNamespace(
    params=OLD, buffers={}, reference=(reference, {})
  )


def collect(round=0, rewards=REWARDS, finish_reasons=None, **changes):
  """(stage, updates, metrics, rows written) of a round by hand."""
  written = []
  stage = grpo.make(
    toy.POLICY,
    toy.roll(rewards, finish_reasons),
    toy.questions,
    written.extend,
    lambda batch: batch,
    settings(**changes),
  )
  updates, metrics = stage.collect(state(), round)
  return stage, updates, metrics, written


def sequences(updates):
  """{(tokens): fields by name} of every sequence of every update."""
  found = []
  for update in updates:
    for batch in update:
      for b in range(batch.tokens_BT.shape[0]):
        for segment in range(1, batch.segments_BT[b].max() + 1):
          here = batch.segments_BT[b] == segment
          found.append(
            {
              name: np.asarray(values[b][here])
              for name, values in batch._asdict().items()
              if values is not None
            }
          )
  return found


def wanted_rows(rewards=REWARDS, finish_reasons=None, questions=QUESTIONS):
  roll = toy.roll(rewards, finish_reasons)
  return roll(OLD, {}, None, toy.questions(0, questions), SAMPLES).rows


def by_tokens(found):
  """Sequences by their ids; the prompt's first id names the question."""
  return {tuple(s["tokens_BT"].tolist()): s for s in found}


def total_gradient(stage, updates, params):
  """(loss, gradient, auxes) of all microbatches of all updates."""
  loss, auxes = 0.0, []
  grad_VV = np.zeros((toy.V, toy.V))
  for update in updates:
    for batch in update:
      (part, aux), grads = jax.value_and_grad(stage.loss_fn, has_aux=True)(
        params, {}, batch
      )
      loss += float(part)
      auxes.append(aux)
      grad_VV += np.asarray(grads["table_VV"], np.float64)
  return loss, grad_VV, auxes


def oracle(params, rows, advantages_B, *, kl_coef=0.0, old=OLD, keep=None):
  """(loss, gradient) of GRPO in float64, response by response.

  DeepSeek-R1 (arXiv:2501.12948), eqs. 1 and 2, with a clip of 0.2.
  """
  new_VV, old_VV, ref_VV = (toy.log_softmax(p) for p in (params, old, REF))
  keep = [True] * len(rows) if keep is None else keep
  loss, grad_VV = 0.0, np.zeros((toy.V, toy.V))
  for row, advantage, kept in zip(rows, advantages_B, keep):
    if not kept:
      continue
    ids = [*row.prompt, *row.sample.tokens_T.tolist()]
    for i in range(len(row.prompt), len(ids)):  # The EOS is one of them.
      x, y = ids[i - 1], ids[i]
      weight = 1 / sum(keep) / len(row.sample.tokens_T)
      ratio = np.exp(new_VV[x, y] - old_VV[x, y])
      clipped = np.clip(ratio, 0.8, 1.2)
      loss -= weight * min(ratio * advantage, clipped * advantage)
      slope = 0.0
      if ratio * advantage <= clipped * advantage:
        slope = -advantage * ratio
      log_ratio = ref_VV[x, y] - new_VV[x, y]
      loss += weight * kl_coef * (np.exp(log_ratio) - 1 - log_ratio)
      slope += kl_coef * (1 - np.exp(log_ratio))
      grad_VV[x] -= weight * slope * np.exp(new_VV[x])
      grad_VV[x, y] += weight * slope
  return loss, grad_VV


def centered():
  rewards_QG = np.array(REWARDS)
  return (rewards_QG - rewards_QG.mean(axis=1, keepdims=True)).reshape(-1)


class CollectTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 4)
  def test_advantages_are_those_of_the_whole_group(self, updates):
    _, made, _, _ = collect(updates=updates)
    self.assertLen(made, updates)
    found = by_tokens(sequences(made))
    rows = wanted_rows()
    self.assertLen(found, len(rows))
    for row, advantage in zip(rows, centered()):
      ids = (*row.prompt, *row.sample.tokens_T.tolist())
      np.testing.assert_array_equal(
        found[ids]["advantages_BT"], np.full(len(ids), advantage, np.float32)
      )

  def test_written_rows_have_their_advantages(self):
    _, _, _, written = collect(round=0, updates=2)
    self.assertEqual(
      [(r["question"], r["sample"]) for r in written],
      [(f"q{q}", g) for q in range(QUESTIONS) for g in range(SAMPLES)],
    )
    np.testing.assert_allclose([r["advantage"] for r in written], centered())
    self.assertLen({r["weights"] for r in written}, 1)

  def test_the_mask_is_the_response_with_its_eos(self):
    _, updates, _, _ = collect()
    for found in sequences(updates):
      ids, mask = found["tokens_BT"], found["mask_BT"]
      np.testing.assert_array_equal(mask, np.arange(len(ids)) >= 2)
      self.assertEqual(ids[-1], toy.EOS)
      self.assertGreater(found["weights_BT"][-1], 0)

  def test_the_policy_at_hand_samples_with_the_key_of_the_round(self):
    calls = []

    def roll(params, buffers, key, *rest):
      calls.append((params, jax.random.key_data(key).tolist()))
      return toy.roll(REWARDS * 9)(params, buffers, key, *rest)

    stage = grpo.make(
      toy.POLICY,
      roll,
      toy.questions,
      lambda rows: None,
      lambda batch: batch,
      settings(kl=KL | {"coef": 0.1}),
    )
    for params in (OLD, NEW):
      for round in range(2):
        now = state()
        now.params = params
        stage.collect(now, round)
    self.assertIs(calls[0][0], OLD)
    self.assertIs(calls[2][0], NEW)
    self.assertEqual(calls[0][1], calls[2][1])
    self.assertNotEqual(calls[0][1], calls[1][1])

  def test_every_round_has_its_own_questions(self):
    rewards = [[0.0, 1.0, 0.0, 0.0]] * 9
    _, _, _, first = collect(0, rewards)
    _, _, _, third = collect(2, rewards)
    self.assertEqual({r["question"] for r in first}, {"q0", "q1", "q2"})
    self.assertEqual({r["question"] for r in third}, {"q6", "q7", "q8"})
    self.assertEqual({r["round"] for r in third}, {2})

  def test_the_split_is_random_and_a_function_of_the_round(self):
    def order(round):
      _, updates, _, _ = collect(round, REWARDS * 2, updates=2)
      return [
        sorted(s["tokens_BT"].tolist() for s in sequences([u])) for u in updates
      ]

    self.assertEqual(order(0), order(0))
    prompts = [ids[0] for ids in order(0)[0]]
    self.assertLen(set(prompts), QUESTIONS)  # Not question by question.

  def test_truncated_responses_are_left_out(self):
    cut = {(0, 0): "length", (1, 2): "repetition"}
    _, updates, metrics, _ = collect(finish_reasons=cut, filter_truncated=True)
    found = by_tokens(sequences(updates))
    rows = wanted_rows(finish_reasons=cut)
    lengths = [
      len(row.sample.tokens_T)
      for row in rows
      if row.sample.finish_reason != "length"
    ]
    self.assertEqual(metrics["data/loss_tokens"], sum(lengths))
    for row in rows:
      sequence = found[(*row.prompt, *row.sample.tokens_T.tolist())]
      weights = sequence["weights_BT"][2:]
      if row.sample.finish_reason == "length":
        self.assertFalse(sequence["mask_BT"].any())
        np.testing.assert_array_equal(weights, 0.0)
      else:  # The mean is one over the others.
        np.testing.assert_allclose(
          weights, 1 / (len(rows) - 1) / len(weights), rtol=1e-6
        )
    _, updates, metrics, _ = collect(finish_reasons=cut, updates=2)
    lengths = [len(row.sample.tokens_T) for row in rows]
    self.assertEqual(metrics["data/loss_tokens"], sum(lengths))
    _, updates, _, _ = collect(finish_reasons=cut)
    total = sum(s["weights_BT"].sum() for s in sequences(updates))
    self.assertAlmostEqual(float(total), 1.0, places=5)

  def test_routing_is_replayed_by_the_policy_but_not_by_the_reference(self):
    seen = []

    def logprobs(params, buffers, batch):
      seen.append((params is REF, batch.experts_BTLP is not None))
      return toy.logprobs(params, buffers, batch)

    policy = toy.POLICY._replace(logprobs=logprobs)
    stage = grpo.make(
      policy,
      toy.roll(REWARDS),
      toy.questions,
      lambda rows: None,
      lambda batch: batch,
      settings(routing_replay=True, updates=2, kl=KL | {"coef": 0.1}),
    )
    with jax.disable_jit():
      updates, _ = stage.collect(state(), 0)
    self.assertEqual(set(seen), {(False, True), (True, False)})
    for batch in updates[0]:
      for b, t in np.argwhere(batch.segments_BT == 0):
        np.testing.assert_array_equal(batch.experts_BTLP[b, t], -1)
    for found in sequences(updates):
      np.testing.assert_array_equal(
        found["experts_BTLP"],
        np.broadcast_to(found["tokens_BT"][0], found["experts_BTLP"].shape),
      )


class DynamicSamplingTest(parameterized.TestCase):
  def test_waves_until_enough_groups_differ(self):
    rewards = [[1.0] * 4, *REWARDS[:2], [0.0] * 4, REWARDS[2], *REWARDS]
    _, _, metrics, written = collect(0, rewards, max_waves=3)
    kept = list(dict.fromkeys(r["question"] for r in written))
    self.assertEqual(kept, ["q1", "q2", "q4"])
    self.assertEqual(metrics["rollout/waves"], 2)
    self.assertEqual(metrics["rollout/zero_variance_frac"], 0.0)
    # The metrics are of all that was sampled.
    seen = [r for group in rewards[:6] for r in group]
    self.assertAlmostEqual(metrics["rollout/reward_mean"], np.mean(seen))

  def test_groups_set_aside_fill_the_round(self):
    rewards = [[1.0] * 4, REWARDS[0], *[[0.0] * 4] * 4]
    _, updates, metrics, written = collect(0, rewards, max_waves=2)
    kept = list(dict.fromkeys(r["question"] for r in written))
    self.assertEqual(kept, ["q1", "q0", "q2"])
    self.assertEqual(metrics["rollout/waves"], 2)
    self.assertAlmostEqual(metrics["rollout/zero_variance_frac"], 2 / 3)
    self.assertLen(sequences(updates), QUESTIONS * SAMPLES)

  def test_no_round_sees_the_questions_of_another(self):
    rewards = [[0.0, 1.0, 0.0, 0.0]] * 30
    _, _, _, written = collect(1, rewards, max_waves=3)
    self.assertEqual(
      list(dict.fromkeys(r["question"] for r in written)), ["q9", "q10", "q11"]
    )

  def test_one_wave_keeps_every_group(self):
    rewards = [[1.0] * 4, *REWARDS]
    _, _, metrics, written = collect(0, rewards)
    self.assertEqual(written[0]["question"], "q0")
    self.assertEqual(metrics["rollout/waves"], 1)


class LossTest(parameterized.TestCase):
  @parameterized.product(
    shape=[(24, 2), (40, 4), (8, 1)], kl_coef=[0.0, 0.3], updates=[1, 2]
  )
  def test_loss_and_gradient_against_a_loop(self, shape, kl_coef, updates):
    row_tokens, rows = shape
    stage, made, _, _ = collect(
      updates=updates,
      row_tokens=row_tokens,
      rows=rows,
      kl=KL | {"coef": kl_coef},
    )
    # With one update the old policy is the policy at hand.
    params, old = (OLD, OLD) if updates == 1 else (NEW, OLD)
    loss, grad_VV, auxes = total_gradient(stage, made, params)
    want_loss, want_VV = 0.0, 0.0
    rows_B, advantages_B = wanted_rows(), centered()
    for part in grpo._split(len(rows_B), 0, settings(updates=updates)):
      some = [rows_B[i] for i in part]
      x, grad = oracle(
        params, some, advantages_B[part], kl_coef=kl_coef, old=old
      )
      want_loss, want_VV = want_loss + x, want_VV + grad
    self.assertAlmostEqual(loss, want_loss, places=5)
    np.testing.assert_allclose(grad_VV, want_VV, atol=2e-6)
    self.assertGreater(np.abs(want_VV[:, toy.EOS]).max(), 1e-3)
    if updates == 2:
      self.assertGreater(sum(a.sums["train/clip_frac"] for a in auxes), 0.1)

  def test_the_kl_term_has_the_gradient_of_its_value(self):
    stage, updates, _, _ = collect(kl=KL | {"coef": 0.5})
    plain, same, _, _ = collect(kl=KL)
    _, with_VV, _ = total_gradient(stage, updates, NEW)
    _, without_VV, _ = total_gradient(plain, same, NEW)
    kl_VV = with_VV - without_VV
    zeros = np.zeros(QUESTIONS * SAMPLES)
    _, want_VV = oracle(NEW, wanted_rows(), zeros, kl_coef=0.5, old=NEW)
    self.assertGreater(np.abs(want_VV).max(), 1e-2)
    np.testing.assert_allclose(kl_VV, want_VV, atol=2e-6)

  def test_at_the_reference_the_kl_and_its_gradient_are_zero(self):
    stage, updates, _, _ = collect(
      kl=KL | {"coef": 1.0}, advantage=jnp.zeros_like
    )
    loss, grad_VV, auxes = total_gradient(stage, updates, REF)
    self.assertEqual(sum(float(a.sums["train/kl"]) for a in auxes), 0.0)
    self.assertEqual(loss, 0.0)
    np.testing.assert_array_equal(grad_VV, 0.0)

  def test_prompt_tokens_carry_no_loss(self):
    stage, updates, _, _ = collect(kl=KL | {"coef": 0.5})
    batch = updates[0][0]
    outside_BT = ~np.asarray(batch.mask_BT)
    spoilt = batch._replace(
      advantages_BT=np.where(outside_BT, np.nan, batch.advantages_BT),
      ref_logprobs_BT=np.where(outside_BT, np.nan, batch.ref_logprobs_BT),
      sampler_logprobs_BT=np.where(
        outside_BT, np.nan, batch.sampler_logprobs_BT
      ),
    )
    want = total_gradient(stage, [[batch]], NEW)
    got = total_gradient(stage, [[spoilt]], NEW)
    self.assertEqual(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])

  def test_ratio_is_one_exactly_with_one_update(self):
    stage, updates, _, _ = collect()
    self.assertIsNone(updates[0][0].old_logprobs_BT)
    _, _, auxes = total_gradient(stage, updates, OLD)
    for aux in auxes:
      self.assertEqual(aux.maxima["train/ratio_max"], 1.0)

  def test_ratio_is_nearly_one_at_the_first_of_several_updates(self):
    stage, updates, _, _ = collect(updates=2)
    for update in updates:
      _, _, auxes = total_gradient(stage, [update], OLD)
      for aux in auxes:
        self.assertAlmostEqual(
          float(aux.maxima["train/ratio_max"]), 1.0, delta=1e-6
        )
    _, _, auxes = total_gradient(stage, updates, NEW)
    self.assertGreater(auxes[0].maxima["train/ratio_max"], 1.5)

  def test_importance_multiplies_the_loss_but_not_the_kl(self):
    truncate = functools.partial(losses.token_truncate, cap=1.5)
    stage, updates, _, _ = collect(importance=truncate, kl=KL | {"coef": 0.5})
    halved = [
      [
        b._replace(sampler_logprobs_BT=b.sampler_logprobs_BT + jnp.log(2.0))
        for b in update
      ]
      for update in updates
    ]
    _, got_VV, auxes = total_gradient(stage, halved, NEW)
    rows, advantages_B = wanted_rows(), centered()
    _, policy_VV = oracle(NEW, rows, 0.5 * advantages_B)
    _, kl_VV = oracle(NEW, rows, 0.0 * advantages_B, kl_coef=0.5)
    np.testing.assert_allclose(got_VV, policy_VV + kl_VV, atol=2e-6)
    gap = sum(float(a.sums["train/logprob_gap_mean"]) for a in auxes)
    self.assertAlmostEqual(gap, float(np.log(2.0)), places=5)

  @parameterized.parameters("k1", "k3")
  def test_kl_in_the_reward(self, name):
    kl = KL | {"name": name, "coef": 0.25, "where": "reward"}
    _, updates, metrics, written = collect(kl=kl)
    old_VV, ref_VV = toy.log_softmax(OLD), toy.log_softmax(REF)
    kl_B = []
    for row in wanted_rows():
      ids = [row.prompt[-1], *row.sample.tokens_T.tolist()]
      ratios = [ref_VV[x, y] - old_VV[x, y] for x, y in itertools.pairwise(ids)]
      terms = {"k1": lambda l: -l, "k3": lambda l: np.exp(l) - 1 - l}
      kl_B.append(sum(terms[name](l) for l in ratios))
    rewards_QG = np.array(REWARDS) - 0.25 * np.reshape(kl_B, (QUESTIONS, -1))
    want_QG = rewards_QG - rewards_QG.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(
      [r["advantage"] for r in written], want_QG.reshape(-1), atol=1e-5
    )
    self.assertAlmostEqual(metrics["train/kl_in_reward"], np.mean(kl_B), 5)
    # The loss has none, and the rows' rewards stay the graders'.
    self.assertIsNone(updates[0][0].ref_logprobs_BT)
    self.assertEqual(
      [r["reward"] for r in written], np.reshape(REWARDS, -1).tolist()
    )


if __name__ == "__main__":
  absltest.main()
