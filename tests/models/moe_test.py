import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from r1jax.models import moe
from r1jax.models.attention import Context, packed_mask
from tests import small

ROUTERS = {
  "v3": dict(),
  "v2": dict(
    router_score="softmax",
    router_normalize=False,
    router_scale=16.0,
    router_bias=False,
    router_topk_groups=1,
  ),
  "one group": dict(router_groups=1, router_topk_groups=1),
  "flat softmax": dict(
    router_score="softmax", router_groups=1, router_topk_groups=1
  ),
}


def logits_and_bias(X=40, E=8, seed=0):
  rng = np.random.default_rng(seed)
  return (
    rng.normal(0, 2, (X, E)).astype(np.float32),
    rng.normal(0, 0.5, E).astype(np.float32),
  )


def loop(logits_E, bias_E, c):
  """(experts, gates) of one token, float64; V3 eqs. 12-16."""
  x_E = [float(x) for x in logits_E]
  if c.router_score == "sigmoid":
    scores_E = [1 / (1 + np.exp(-x)) for x in x_E]
  else:
    scores_E = [np.exp(x) / sum(np.exp(y) for y in x_E) for x in x_E]
  biased_E = [s + float(b) for s, b in zip(scores_E, bias_E)]
  size = len(x_E) // c.router_groups
  best = 2 if c.router_score == "sigmoid" else 1
  ranks = []
  for group in range(c.router_groups):
    inside = sorted(biased_E[group * size : (group + 1) * size], reverse=True)
    ranks.append(sum(inside[:best]))
  kept = np.argsort(ranks)[::-1][: c.router_topk_groups]
  allowed = [e for e in range(len(x_E)) if e // size in kept]
  allowed.sort(key=lambda e: -biased_E[e])
  experts = allowed[: c.experts_per_token]
  total = sum(scores_E[e] for e in experts) if c.router_normalize else 1.0
  return experts, [c.router_scale * scores_E[e] / total for e in experts]


@functools.lru_cache
def apply(config, with_balance):
  """Jitted apply of the MoE layer."""
  return jax.jit(moe.MoE(config, with_balance, "dense").apply)


def route(logits_XE, bias_E, replay_XP, config):
  """moe.route, jitted."""
  return jax.jit(moe.route, static_argnums=3)(
    logits_XE, bias_E, replay_XP, config
  )


def layer(with_balance=False, **changes):
  """(the MoE layer's apply, the variables) of the second MoE layer."""
  c = small.mla(**changes)
  params, buffers = small.weights(c)
  variables = {"params": params["moe_layers"]["moe"]}
  if buffers:
    variables["buffers"] = buffers["moe_layers"]["moe"]
  variables = jax.tree.map(lambda a: a[1], variables)
  return apply(c, with_balance), variables


def context(segments_BT):
  segments_BT = jnp.asarray(segments_BT)
  positions_BT = jnp.zeros_like(segments_BT)
  return Context(positions_BT, packed_mask(segments_BT), segments_BT)


class RouteTest(parameterized.TestCase):
  @parameterized.parameters(*ROUTERS)
  def test_agrees_with_a_loop(self, name):
    c = small.mla(**ROUTERS[name])
    logits_XE, bias_E = logits_and_bias()
    bias_E = bias_E if c.router_bias else np.zeros_like(bias_E)
    routing, differs_X = route(logits_XE, bias_E, None, c)
    for x, logits_E in enumerate(logits_XE):
      experts, gates = loop(logits_E, bias_E, c)
      self.assertEqual(routing.experts_XP[x].tolist(), experts)
      np.testing.assert_allclose(routing.gates_XP[x], gates, rtol=2e-5)
    self.assertFalse(np.any(differs_X))

  def test_left_out_groups_lose_to_negative_scores(self):
    # All kept scores are below 0; filling the others with 0 would win.
    c = small.mla(experts_per_token=3)
    bias_E = jnp.full(8, -5.0)
    logits_XE = jnp.array([[3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0]])
    routing, _ = route(logits_XE, bias_E, None, c)
    self.assertEqual(routing.experts_XP[0].tolist(), [0, 1, 2])

  def test_bias_selects_and_never_weighs(self):
    c = small.mla(router_groups=1, router_topk_groups=1)
    logits_XE = jnp.array([[2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0]])
    bias_E = jnp.zeros(8).at[7].set(2.0)
    routing, _ = route(logits_XE, bias_E, None, c)
    self.assertEqual(routing.experts_XP[0].tolist(), [7, 0])
    scores = 1 / (1 + np.exp(-np.array([-5.0, 2.0])))
    np.testing.assert_allclose(
      routing.gates_XP[0], 2.5 * scores / scores.sum(), rtol=1e-5
    )

  def test_bias_has_no_gradient_and_logits_have(self):
    c = small.mla()
    logits_XE, bias_E = logits_and_bias()

    def total(logits_XE, bias_E):
      gates_XP = route(logits_XE, bias_E, None, c)[0].gates_XP
      return jnp.sum(gates_XP**2)

    grads = jax.jit(jax.grad(total, (0, 1)))(logits_XE, bias_E)
    self.assertGreater(np.abs(grads[0]).max(), 0.01)
    np.testing.assert_array_equal(grads[1], np.zeros(8))


class ReplayTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.c = small.mla()
    self.logits_XE, self.bias_E = logits_and_bias(X=4)
    live, _ = route(self.logits_XE, self.bias_E, None, self.c)
    self.live_XP = np.asarray(live.experts_XP)

  def route(self, replay_XP):
    return route(self.logits_XE, self.bias_E, jnp.array(replay_XP), self.c)

  def test_replayed_set_is_used_with_live_scores(self):
    replay_XP = np.array([[0, 1], [2, 3], [4, 5], [6, 7]])
    routing, _ = self.route(replay_XP)
    np.testing.assert_array_equal(routing.experts_XP, replay_XP)
    scores_XE = 1 / (1 + np.exp(-self.logits_XE.astype(np.float64)))
    picked_XP = np.take_along_axis(scores_XE, replay_XP, axis=1)
    want_XP = 2.5 * picked_XP / picked_XP.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(routing.gates_XP, want_XP, rtol=1e-5)

  def test_minus_one_is_live(self):
    replay_XP = np.array([[0, 1], [-1, -1], [4, 5], [-1, -1]])
    routing, differs_X = self.route(replay_XP)
    np.testing.assert_array_equal(
      np.asarray(routing.experts_XP)[[1, 3]], self.live_XP[[1, 3]]
    )
    self.assertFalse(np.any(np.asarray(differs_X)[[1, 3]]))

  def test_differs_compares_sets(self):
    replay_XP = self.live_XP[:, ::-1].copy()
    self.assertFalse(np.any(self.route(replay_XP)[1]))
    replay_XP[2, 0] = next(e for e in range(8) if e not in replay_XP[2])
    np.testing.assert_array_equal(
      self.route(replay_XP)[1], [False, False, True, False]
    )

  def test_router_keeps_its_gradient(self):
    replay_XP = jnp.array([[0, 1], [2, 3], [4, 5], [6, 7]])

    def first_gates(logits_XE):
      routing, _ = route(logits_XE, self.bias_E, replay_XP, self.c)
      return jnp.sum(routing.gates_XP[:, 0])

    grad_XE = np.asarray(jax.jit(jax.grad(first_gates))(self.logits_XE))
    inside_XP = np.take_along_axis(grad_XE, np.asarray(replay_XP), axis=1)
    self.assertGreater(np.abs(inside_XP).min(), 0)
    np.testing.assert_allclose(
      np.abs(grad_XE).sum(), np.abs(inside_XP).sum(), rtol=1e-6
    )


class ExpertsTest(parameterized.TestCase):
  def arguments(self, crowded, X=70):
    c = small.mla()
    logits_XE, bias_E = logits_and_bias(X)
    routing, _ = route(logits_XE, bias_E, None, c)
    if crowded:
      routing = routing._replace(
        experts_XP=jnp.broadcast_to(jnp.array([5, 2]), (X, 2))
      )
    rng = np.random.default_rng(3)

    def draw(*shape):
      return rng.normal(0, 0.3, shape).astype(np.float32)

    kernels = draw(8, 16, 6), draw(8, 16, 6), draw(8, 6, 16)
    return draw(X, 16), routing, kernels

  @parameterized.parameters(False, True)
  def test_dense_agrees_with_a_loop(self, crowded):
    x_XD, routing, kernels = self.arguments(crowded, X=9)
    got_XD = moe.dense_experts(x_XD, routing, *kernels)
    for x, got_D in enumerate(got_XD):
      want_D = np.zeros(16)
      for e, gate in zip(routing.experts_XP[x], routing.gates_XP[x]):
        g, u, d = (np.float64(k[e]) for k in kernels)
        inner_F = x_XD[x] @ g
        inner_F = inner_F / (1 + np.exp(-inner_F)) * (x_XD[x] @ u)
        want_D += float(gate) * (inner_F @ d)
      np.testing.assert_allclose(got_D, want_D, atol=2e-5)

  @parameterized.product(impl=["blocked", "ragged"], crowded=[False, True])
  def test_forms_agree_in_value_and_gradient(self, impl, crowded):
    x_XD, routing, kernels = self.arguments(crowded)

    def run(impl):
      def total(x_XD, gates_XP, kernels):
        y_XD = moe.EXPERTS[impl](
          x_XD, routing._replace(gates_XP=gates_XP), *kernels
        )
        return jnp.sum(jnp.sin(y_XD)), y_XD

      run = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))
      return run(x_XD, routing.gates_XP, kernels)

    got, want = run(impl), run("dense")
    self.assertGreater(np.abs(want[1]).max(), 0.1)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, want
    )

  @parameterized.parameters(*moe.EXPERTS)
  def test_output_does_not_depend_on_the_neighbours(self, impl):
    x_XD, routing, kernels = self.arguments(crowded=False)
    run = jax.jit(moe.EXPERTS[impl])
    first_XD = run(x_XD, routing, *kernels)
    # The others all crowd onto the first token's experts.
    routing = routing._replace(
      experts_XP=jnp.broadcast_to(
        routing.experts_XP[:1], routing.experts_XP.shape
      )
    )
    x_XD = np.concatenate([x_XD[:1], 3 * x_XD[1:][::-1]])
    second_XD = run(x_XD, routing, *kernels)
    np.testing.assert_allclose(first_XD[0], second_XD[0], atol=1e-6)


class LayerTest(parameterized.TestCase):
  SEGMENTS_BT = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]], np.int32)

  def x_BTD(self):
    rng = np.random.default_rng(4)
    return rng.normal(size=(2, 6, 16)).astype(np.float32)

  def test_shared_expert_is_added_ungated(self):
    module, variables = layer()
    y_BTD, _ = module(variables, self.x_BTD(), context(self.SEGMENTS_BT), None)
    bare, _ = layer(num_shared_experts=0)
    rest = dict(variables["params"])
    shared = rest.pop("shared")
    routed_BTD, _ = bare(
      {**variables, "params": rest},
      self.x_BTD(),
      context(self.SEGMENTS_BT),
      None,
    )
    g, u, d = (np.asarray(shared[k]["kernel"]) for k in ("gate", "up", "down"))
    inner_BTF = self.x_BTD() @ g
    inner_BTF = inner_BTF / (1 + np.exp(-inner_BTF)) * (self.x_BTD() @ u)
    np.testing.assert_allclose(y_BTD - routed_BTD, inner_BTF @ d, atol=2e-5)

  def test_load_ignores_padding(self):
    module, variables = layer()
    _, report = module(variables, self.x_BTD(), context(self.SEGMENTS_BT), None)
    want_E = np.zeros(8)
    for b, t in zip(*np.nonzero(self.SEGMENTS_BT)):
      for e in report.experts_BTP[b, t]:
        want_E[e] += 1
    np.testing.assert_array_equal(report.load_E, want_E)
    self.assertEqual(report.load_E.sum(), 2 * 11)

  def test_replayed_experts_are_reported(self):
    module, variables = layer()
    replay_BTP = np.broadcast_to(np.array([6, 1], np.int32), (2, 6, 2)).copy()
    replay_BTP[0, 2] = -1
    _, report = module(
      variables, self.x_BTD(), context(self.SEGMENTS_BT), replay_BTP
    )
    _, live = module(variables, self.x_BTD(), context(self.SEGMENTS_BT), None)
    replay_BTP[0, 2] = live.experts_BTP[0, 2]
    np.testing.assert_array_equal(report.experts_BTP, replay_BTP)
    for b, t in np.ndindex(2, 6):
      self.assertEqual(
        bool(report.differs_BT[b, t]),
        set(replay_BTP[b, t].tolist()) != set(live.experts_BTP[b, t].tolist()),
      )

  @parameterized.parameters("v3", "v2")
  def test_balance_is_each_sequences_loss(self, name):
    module, variables = layer(with_balance=True, **ROUTERS[name])
    _, report = module(variables, self.x_BTD(), context(self.SEGMENTS_BT), None)
    logits = self.x_BTD() @ np.asarray(variables["params"]["router"])
    scores_BTE = np.exp(logits - logits.max(axis=-1, keepdims=True))
    if name == "v3":
      scores_BTE = 1 / (1 + np.exp(-logits))
    for b, segment in ((0, 1), (0, 2), (1, 1)):
      inside_T = self.SEGMENTS_BT[b] == segment
      n = inside_T.sum()
      want = 0.0  # V3, eqs. 17-20, with alpha 1.
      for e in range(8):
        picks = np.any(np.asarray(report.experts_BTP)[b] == e, axis=-1)
        f = 8 / (2 * n) * np.sum(picks[inside_T])
        s_TE = scores_BTE[b][inside_T]
        want += f * np.mean(s_TE[:, e] / s_TE.sum(axis=1))
      got = np.mean(np.asarray(report.balance_BT)[b][inside_T])
      np.testing.assert_allclose(got, want, rtol=1e-5)

  def test_balance_is_zero_unless_asked_for(self):
    module, variables = layer()
    _, report = module(variables, self.x_BTD(), context(self.SEGMENTS_BT), None)
    self.assertFalse(np.any(report.balance_BT))

  def test_balance_gradient_unloads_the_crowded_expert(self):
    c = small.mla(experts_per_token=1, router_groups=1, router_topk_groups=1)
    logits_XE = jnp.zeros((6, 8)).at[:, 3].set(0.1)

    def total(logits_XE):
      routing, _ = route(logits_XE, jnp.zeros(8), None, c)
      return jnp.sum(moe.balance(routing, jnp.ones((1, 6), jnp.int32), c))

    grad_XE = jax.jit(jax.grad(total))(logits_XE)
    self.assertTrue(np.all(grad_XE[:, 3] > 0.1))
    self.assertTrue(np.all(jnp.delete(grad_XE, 3, axis=1) <= 0))


class UpdateBiasTest(parameterized.TestCase):
  def test_moves_towards_the_mean_load(self):
    bias_LE = jnp.array([[0.5, 0.0, -0.5, 0.0], [0.0, 0.0, 0.0, 0.0]])
    load_LE = jnp.array([[9.0, 1.0, 6.0, 4.0], [5.0, 5.0, 5.0, 5.0]])
    got_LE = moe.update_bias(bias_LE, load_LE, 0.125)
    np.testing.assert_array_equal(
      got_LE, [[0.375, 0.125, -0.625, 0.125], [0.0, 0.0, 0.0, 0.0]]
    )

  def test_repeated_updates_balance_a_skewed_router(self):
    c = small.mla()
    logits_XE, _ = logits_and_bias(X=400)
    logits_XE = logits_XE * 0.3 + np.linspace(-1, 1, 8, dtype=np.float32)

    @jax.jit
    def load(bias_E):
      experts_XP = route(logits_XE, bias_E, None, c)[0].experts_XP
      return jnp.bincount(experts_XP.reshape(-1), length=8)

    bias_LE = jnp.zeros((1, 8))
    first_E = load(bias_LE[0])
    for _ in range(200):
      bias_LE = moe.update_bias(bias_LE, load(bias_LE[0])[None], 0.005)
    last_E = load(bias_LE[0])
    self.assertGreater(first_E.max() / first_E.mean(), 2.5)
    self.assertLess(last_E.max() / last_E.mean(), 1.2)


if __name__ == "__main__":
  absltest.main()
