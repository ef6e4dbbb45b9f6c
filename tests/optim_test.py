import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from r1jax import optim


def config(**changes):
  return {
    "name": "adamw",
    "learning_rate": 0.01,
    "b1": 0.9,
    "b2": 0.95,
    "eps": 1e-8,
    "weight_decay": 0.0,
    "clip_norm": 1.0,
    "schedule": {"name": "constant", "warmup_updates": 0},
    **changes,
  }


def adamw_loop(params, gradients, rates, *, b1, b2, eps, decay, clip):
  """AdamW in float64; names with norm, bias or scale are not decayed."""
  params = {k: np.asarray(v, np.float64) for k, v in params.items()}
  m = {k: np.zeros_like(v) for k, v in params.items()}
  v = {k: np.zeros_like(v) for k, v in params.items()}
  for t, (gradient, rate) in enumerate(zip(gradients, rates), 1):
    g = {k: np.asarray(x, np.float64) for k, x in gradient.items()}
    norm = math.sqrt(sum(float((x * x).sum()) for x in g.values()))
    if clip and norm > clip:
      g = {k: x * clip / norm for k, x in g.items()}
    for k in params:
      m[k] = b1 * m[k] + (1 - b1) * g[k]
      v[k] = b2 * v[k] + (1 - b2) * g[k] ** 2
      step = m[k] / (1 - b1**t) / (np.sqrt(v[k] / (1 - b2**t)) + eps)
      kept = any(word in k for word in ("norm", "bias", "scale"))
      params[k] -= rate * (step + (0 if kept else decay) * params[k])
  return params


class OptimTest(parameterized.TestCase):
  @parameterized.product(
    decay=(0.0, 0.3),
    clip=(None, 0, 1.0, 100.0),
    schedule=("constant", "cosine"),
  )
  def test_adamw_against_a_loop(self, decay, clip, schedule):
    rng = np.random.default_rng(0)
    shapes = {
      "kernel": (3, 4),
      "attention_norm": (2, 4),
      "q_bias": (2, 4),
      "scale": (4,),
      "embed": (5,),
    }

    def draw():
      return {
        k: rng.normal(size=shape).astype(np.float32)
        for k, shape in shapes.items()
      }

    params, gradients = draw(), [draw() for _ in range(5)]
    tx, rate = optim.make(
      config(
        weight_decay=decay,
        clip_norm=clip,
        schedule={"name": schedule, "warmup_updates": 2},
      ),
      total_updates=5,
    )
    got, state = params, tx.init(params)
    for gradient in gradients:
      steps, state = tx.update(gradient, state, got)
      got = optax.apply_updates(got, steps)
    want = adamw_loop(
      params,
      gradients,
      [float(rate(u)) for u in range(5)],
      b1=0.9,
      b2=0.95,
      eps=1e-8,
      decay=decay,
      clip=clip,
    )
    for k in shapes:  # Five float32 steps of about 0.01 on values near 1.
      np.testing.assert_allclose(got[k], want[k], rtol=0, atol=5e-7)

  def test_stacked_norms_are_known_by_name(self):
    params = {
      "layers": {
        "attention_norm": {"w": jnp.ones((6, 4))},
        "mlp": {"kernel": jnp.ones((6, 4, 4)), "Bias": jnp.ones((6, 4))},
      },
      "embed": jnp.ones((7, 4)),
    }
    self.assertEqual(
      optim.decayed(params),
      {
        "layers": {
          "attention_norm": {"w": False},
          "mlp": {"kernel": True, "Bias": False},
        },
        "embed": True,
      },
    )

  @parameterized.parameters(0.0, 0.9)
  def test_sgd_worked_example(self, momentum):
    tx, _ = optim.make(
      {
        "name": "sgd",
        "momentum": momentum,
        "learning_rate": 0.5,
        "clip_norm": 0,
        "schedule": {"name": "constant"},
      },
      total_updates=2,
    )
    w = jnp.array(1.0)
    state = tx.init(w)
    for _ in range(2):
      step, state = tx.update(jnp.array(1.0), state, w)
      w = optax.apply_updates(w, step)
    want = {0.0: 0.0, 0.9: 1 - 0.5 - 0.5 * 1.9}[momentum]
    np.testing.assert_allclose(w, want, atol=1e-6)

  @parameterized.parameters(
    ("constant", {}, [1, 1, 1, 1, 1, 1]),
    ("constant", {"warmup_updates": 4}, [0.25, 0.5, 0.75, 1, 1, 1]),
    ("linear", {}, [1, 0.8, 0.6, 0.4, 0.2, 0]),
    (
      "linear",
      {"warmup_updates": 2, "final_fraction": 0.1},
      [0.5, 1, 1, 0.7, 0.4, 0.1],
    ),
    (
      "cosine",
      {"warmup_updates": 1, "final_fraction": 0.2},
      [1, 1, 0.6 + 0.4 * math.sqrt(0.5), 0.6, 0.6 - 0.4 * math.sqrt(0.5), 0.2],
    ),
  )
  def test_schedules_worked_by_hand(self, name, arguments, want):
    _, rate = optim.make(
      config(learning_rate=2.0, schedule={"name": name, **arguments}), 6
    )
    got = [float(rate(u)) for u in range(6)]
    np.testing.assert_allclose(got, 2 * np.array(want), rtol=1e-6, atol=1e-7)
    self.assertEqual(optim.first_and_last(rate, 6), (got[0], got[-1]))

  def test_schedule_counts_updates_inside_jit(self):
    tx, rate = optim.make(
      {
        "name": "sgd",
        "learning_rate": 1.0,
        "clip_norm": None,
        "schedule": {"name": "linear"},
      },
      4,
    )
    update = jax.jit(tx.update)
    state = tx.init(jnp.zeros(()))
    for u in range(4):
      step, state = update(jnp.ones(()), state, jnp.zeros(()))
      np.testing.assert_allclose(step, -rate(u), rtol=1e-6)

  @parameterized.parameters("", "float32", "bfloat16")
  def test_moments_are_of_their_dtype(self, dtype):
    tx, _ = optim.make(config(moment_dtype=dtype, clip_norm=None), 4)
    narrow = {"kernel": jnp.full((3,), 0.7, jnp.bfloat16)}
    gradient = {"kernel": jnp.bfloat16([0.3, -0.01, 2.0])}
    step, state = tx.update(gradient, tx.init(narrow), narrow)
    found = {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim}
    self.assertEqual(found, {jnp.dtype(dtype or "bfloat16")})
    if dtype == "float32":  # The step of parameters that are wide.
      wide = jax.tree.map(jnp.float32, (gradient, narrow))
      plain, _ = optim.make(config(clip_norm=None), 4)
      want, _ = plain.update(wide[0], plain.init(wide[1]), wide[1])
      np.testing.assert_array_equal(step["kernel"], want["kernel"])
    self.assertEqual(
      optax.apply_updates(narrow, step)["kernel"].dtype, jnp.bfloat16
    )

  @parameterized.parameters(
    ({"name": "adamv"}, "config.optimizer.name is 'adamv'.*adamw"),
    (
      {"moment_dtype": "float8"},
      "config.optimizer.moment_dtype is 'float8'.*float32, bfloat16",
    ),
    ({"beta1": 0.9}, "config.optimizer.beta1 is unknown"),
    ({"schedule": {"name": "cosin"}}, "config.optimizer.schedule.name"),
    ({"schedule": {"name": "linear", "warm": 1}}, "schedule.warm is unknown"),
    (
      {"schedule": {"name": "cosine", "warmup_updates": 10}},
      "warmup_updates is 10, but the run has 10 updates",
    ),
  )
  def test_bad_choices(self, changes, message):
    with self.assertRaisesRegex(ValueError, message):
      optim.make(config(**changes), 10)


if __name__ == "__main__":
  absltest.main()
