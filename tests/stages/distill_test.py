import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from r1jax import divergences, weighting
from r1jax.stages import distill
from tests.stages import toy

STUDENT, TEACHER = toy.table(0), toy.table(1)
DOCUMENTS = [
  [([0, 1], [2, 3, toy.EOS]), ([5], [4, toy.EOS]), ([0, 2, 1], [6, toy.EOS])],
  [([3, 1], [toy.EOS])],
]
QUESTIONS, SAMPLES = 3, 2
REWARDS = [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
SETTINGS = distill.Settings(
  seed=0,
  questions=QUESTIONS,
  samples=SAMPLES,
  row_tokens=16,
  rows=2,
  weigh=weighting.token_mean,
)


def comparison(divergence):
  """`policy.make_comparison` of two tables."""

  def compare(params, buffers, batch):
    before_BT = jnp.pad(batch.tokens_BT[:, :-1], ((0, 0), (1, 0)))
    student_BTV, teacher_BTV = (
      jax.nn.log_softmax(tables["table_VV"][before_BT])
      for tables in (params, batch.teacher[0])
    )
    divergence_BT = divergence(student_BTV, teacher_BTV)
    scores = toy.logprobs(params, buffers, batch)
    return scores, jnp.where(batch.mask_BT, divergence_BT, 0.0)

  return compare


def exact(name):
  return distill.exact_loss(comparison(divergences.DIVERGENCES[name]), 0.0)


def total(stage, round=0):
  """(loss, gradient, metrics of collect, auxes) of a round."""
  state = toy_state()
  (update,), metrics = stage.collect(state, round)
  run = jax.value_and_grad(stage.loss_fn, has_aux=True)
  parts = [run(state.params, {}, batch) for batch in update]
  loss = sum(float(value) for (value, _), _ in parts)
  grad_VV = sum(np.asarray(g["table_VV"], np.float64) for _, g in parts)
  return loss, grad_VV, metrics, [aux for (_, aux), _ in parts]


def toy_state():
  from r1jax import train

  return train.TrainState(STUDENT, {}, None, None, None)


def oracle(name, documents, weights):
  """(loss, gradient) in float64, token by token.

  The gradient of KL(p || q) by the logits of q is q - p; that of KL(q || p)
  is q (log q/p - KL).
  """
  student_VV, teacher_VV = toy.log_softmax(STUDENT), toy.log_softmax(TEACHER)
  loss, grad_VV = 0.0, np.zeros((toy.V, toy.V))
  for (prompt, response), weight in zip(documents, weights, strict=True):
    ids = [*prompt, *response]
    for i in range(len(prompt), len(ids)):
      x = ids[i - 1]
      lq_V, lp_V = student_VV[x], teacher_VV[x]
      q_V, p_V = np.exp(lq_V), np.exp(lp_V)
      if name == "forward_kl":
        loss += weight * sum(p_V * (lp_V - lq_V))
        grad_VV[x] += weight * (q_V - p_V)
      else:
        value = sum(q_V * (lq_V - lp_V))
        loss += weight * value
        grad_VV[x] += weight * q_V * (lq_V - lp_V - value)
  return loss, grad_VV


class MakeTest(parameterized.TestCase):
  """On the teacher's responses."""

  @parameterized.product(
    name=["forward_kl", "reverse_kl"], shape=[(8, 2), (8, 1), (16, 1)]
  )
  def test_loss_and_gradient_against_a_loop(self, name, shape):
    row_tokens, rows = shape
    stage = distill.make(
      exact(name),
      (TEACHER, {}),
      DOCUMENTS.__getitem__,
      lambda batch: batch,
      weigh=weighting.sequence_mean,
      row_tokens=row_tokens,
      rows=rows,
    )
    loss, grad_VV, metrics, auxes = total(stage)
    want, want_VV = oracle(name, DOCUMENTS[0], [1 / 9, 1 / 6, 1 / 6])
    self.assertAlmostEqual(loss, want, places=5)
    np.testing.assert_allclose(grad_VV, want_VV, atol=1e-6)
    self.assertEqual(metrics["data/loss_tokens"], 7)
    shown = sum(float(aux.sums["train/divergence"]) for aux in auxes)
    mean, _ = oracle(name, DOCUMENTS[0], [1 / 7] * 3)  # Over tokens.
    self.assertAlmostEqual(shown, mean, places=5)

  def test_the_teacher_is_no_copy(self):
    stage = distill.make(
      exact("forward_kl"),
      (TEACHER, {}),
      DOCUMENTS.__getitem__,
      lambda batch: batch,
      weigh=weighting.token_mean,
      row_tokens=8,
      rows=1,
    )
    (update,), _ = stage.collect(None, 0)
    self.assertGreater(len(update), 1)
    for batch in update:
      self.assertIs(batch.teacher[0]["table_VV"], TEACHER["table_VV"])


class OnPolicyTest(parameterized.TestCase):
  """On what the student sampled."""

  def stage(self, loss_fn, prepare):
    self.written = []
    return distill.make_on_policy(
      loss_fn,
      prepare,
      toy.roll([[0.0] * SAMPLES] * QUESTIONS + REWARDS),
      toy.questions,
      self.written.extend,
      SETTINGS,
    )

  def sampled(self):
    """(prompt, response) of round 1's rows."""
    roll = toy.roll([[0.0] * SAMPLES] * QUESTIONS + REWARDS)
    asked = toy.questions(QUESTIONS, QUESTIONS)
    rows = roll(STUDENT, {}, None, asked, SAMPLES).rows
    return [(row.prompt, row.sample.tokens_T.tolist()) for row in rows]

  @parameterized.parameters("forward_kl", "reverse_kl")
  def test_exact_loss_and_gradient_against_a_loop(self, name):
    prepare = distill.with_teacher((TEACHER, {}), lambda batch: batch)
    stage = self.stage(exact(name), prepare)
    loss, grad_VV, metrics, _ = total(stage, round=1)
    documents = self.sampled()
    tokens = sum(len(response) for _, response in documents)
    weights = [1 / tokens] * len(documents)
    want, want_VV = oracle(name, documents, weights)
    self.assertAlmostEqual(loss, want, places=5)
    np.testing.assert_allclose(grad_VV, want_VV, atol=1e-6)
    self.assertEqual(metrics["data/loss_tokens"], tokens)
    self.assertAlmostEqual(metrics["rollout/accuracy_mean"], 0.5)

  def test_the_rows_are_written(self):
    prepare = distill.with_teacher((TEACHER, {}), lambda batch: batch)
    total(self.stage(exact("reverse_kl"), prepare), round=1)
    self.assertEqual(
      [(row["question"], row["sample"]) for row in self.written],
      [(f"q{q}", g) for q in range(3, 6) for g in range(SAMPLES)],
    )
    self.assertEqual(
      [row["reward"] for row in self.written], [1, 0, 0, 0, 1, 1]
    )

  def test_sampled_loss_and_gradient_against_a_loop(self):
    prepare = distill.with_scores(
      toy.POLICY, (TEACHER, {}), lambda batch: batch
    )
    stage = self.stage(distill.sampled_loss(toy.POLICY, 0.0), prepare)
    _, grad_VV, _, auxes = total(stage, round=1)
    student_VV, teacher_VV = toy.log_softmax(STUDENT), toy.log_softmax(TEACHER)
    documents = self.sampled()
    tokens = sum(len(response) for _, response in documents)
    shown, want_VV = 0.0, np.zeros((toy.V, toy.V))
    for prompt, response in documents:
      ids = [*prompt, *response]
      for i in range(len(prompt), len(ids)):
        x, y = ids[i - 1], ids[i]
        ratio = (student_VV[x, y] - teacher_VV[x, y]) / tokens
        shown += ratio
        want_VV[x] -= ratio * np.exp(student_VV[x])
        want_VV[x, y] += ratio
    np.testing.assert_allclose(grad_VV, want_VV, atol=1e-6)
    got = sum(float(aux.sums["train/divergence"]) for aux in auxes)
    self.assertAlmostEqual(got, shown, places=5)

  def test_sampled_gradient_is_the_exact_ones_on_average(self):
    # Every response of one token, by its probability: the batch's weights.
    student_VV = toy.log_softmax(STUDENT)
    prompt = 2
    prepare = distill.with_scores(
      toy.POLICY, (TEACHER, {}), lambda batch: batch
    )
    loss_fn = distill.sampled_loss(toy.POLICY, 0.0)
    got_VV = np.zeros((toy.V, toy.V))
    for y in range(toy.V):
      (batch,) = distill.lm.pack_update(
        [distill.lm.sequence([prompt], [y])],
        weighting.token_mean,
        row_tokens=2,
        rows=1,
      )
      grads, _ = jax.grad(loss_fn, has_aux=True)(STUDENT, {}, prepare(batch))
      got_VV += np.exp(student_VV[prompt, y]) * np.asarray(grads["table_VV"])
    _, want_VV = oracle("reverse_kl", [([prompt], [0])], [1.0])
    np.testing.assert_allclose(got_VV, want_VV, atol=1e-6)


if __name__ == "__main__":
  absltest.main()
