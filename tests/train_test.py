import os
import signal
import tempfile
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from r1jax import checkpoint, metrics, sharding, train, tree
from r1jax.types import Aux, Stage

MESH = sharding.make_mesh(dict(data=1, fsdp=1, expert=1, tensor=1))
LOAD_LE = np.array([[4.0, 1.0, 1.0], [2.0, 2.0, 2.0]], np.float32)


class Pull(NamedTuple):
  """A microbatch: where x is pulled to, and how much."""

  target: jax.Array
  weight: jax.Array
  mask_BT: np.ndarray = np.array([[True, True, False]])


def put(values):
  return jax.device_put(values, sharding.replicated(MESH))


def loss_fn(params, buffers, batch):
  """Half the squared distance to the batch, weighted."""
  del buffers
  squares = jnp.sum((params["x"] - batch.target) ** 2)
  loss = batch.weight * 0.5 * squares
  sums = {"train/loss": loss, "train/weight": batch.weight}
  return loss, Aux(sums, {"train/most_max": batch.target})


def loss_with_load(params, buffers, batch):
  loss, aux = loss_fn(params, buffers, batch)
  load_LE = jnp.asarray(LOAD_LE) / 2
  return loss, aux._replace(sums=aux.sums | {"moe/load_LE": load_LE})


def batches(*pairs):
  return [Pull(jnp.float32(t), jnp.float32(w)) for t, w in pairs]


def make_state(optimizer, with_reference=False):
  params = put({"x": jnp.array([1.0, 2.0])})
  buffers = put({"layers": {"router_bias": jnp.zeros((2, 3))}})
  return train.initial_state(params, buffers, optimizer, with_reference)


def loop(**changes):
  fields = dict(
    rounds=3,
    bias_rate=0.0,
    reference_refresh_rounds=0,
    checkpoint_every_rounds=1,
    eval_every_rounds=0,
    evaluate=lambda state, round: {},
  )
  return train.Loop(**fields | changes)


class UpdateTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.optimizer = optax.sgd(0.5)

  def test_worked_example(self):
    stage = Stage(None, loss_fn)
    update = train.make_update(stage, self.optimizer, 0.0)
    state, out = train.run_update(
      update, make_state(self.optimizer), batches((0.0, 1.0))
    )
    # x - 0.5 (x - 0)
    np.testing.assert_allclose(state.params["x"], [0.5, 1.0])
    self.assertAlmostEqual(out.sums["train/loss"], 2.5)
    self.assertAlmostEqual(out.sums["train/grad_norm"], 5**0.5, places=6)
    self.assertEqual(state.updates, 1)

  def test_microbatches_add_up_to_one(self):
    stage = Stage(None, loss_fn)
    update = train.make_update(stage, self.optimizer, 0.0)
    one, _ = train.run_update(
      update, make_state(self.optimizer), batches((3.0, 1.0))
    )
    four, out = train.run_update(
      update, make_state(self.optimizer), batches(*[(3.0, 0.25)] * 4)
    )
    np.testing.assert_allclose(one.params["x"], four.params["x"], rtol=1e-6)
    self.assertEqual(out.sums["train/weight"], 1.0)
    self.assertEqual(four.updates, 1)

  def test_sums_add_and_maxima_do_not(self):
    parts = [
      Aux({"a": np.float32(i)}, {"b": np.float32(-i)}) for i in range(1, 4)
    ]
    self.assertEqual(train.add_aux(parts), Aux({"a": 6.0}, {"b": -1.0}))

  def test_a_round_is_the_mean_of_its_updates_but_for_maxima(self):
    parts = [Aux({"a": 1.0}, {"b": 5.0}), Aux({"a": 3.0}, {"b": 2.0})]
    self.assertEqual(train.over_updates(parts), {"a": 2.0, "b": 5.0})
    self.assertEqual(train.over_updates([]), {})

  def test_the_router_bias_moves_against_the_load(self):
    stage = Stage(None, loss_with_load)
    update = train.make_update(stage, self.optimizer, 0.25)
    state, out = train.run_update(
      update, make_state(self.optimizer), batches((0.0, 0.5), (0.0, 0.5))
    )
    np.testing.assert_array_equal(
      state.buffers["layers"]["router_bias"],
      [[-0.25, 0.25, 0.25], [0.0, 0.0, 0.0]],
    )
    self.assertEqual(out.sums["moe/load_max_over_mean"], 2.0)
    self.assertNotIn("moe/load_LE", out.sums)

  def test_rate_zero_leaves_the_router_bias(self):
    update = train.make_update(Stage(None, loss_with_load), self.optimizer, 0.0)
    state, _ = train.run_update(
      update, make_state(self.optimizer), batches((0.0, 1.0))
    )
    self.assertFalse(np.any(state.buffers["layers"]["router_bias"]))

  def test_frozen_parameters_keep_their_bits_under_weight_decay(self):
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    still = {"scale": jnp.array([-0.0, 1.0]), "kernel": jnp.array([[-3.0]])}
    params = put({"x": jnp.array([1.0, 2.0]), "still": still})

    def run(frozen):
      state = train.initial_state(params, {}, optimizer, False)
      state = jax.tree.map(jnp.copy, state)
      stage = Stage(None, loss_fn)
      update = train.make_update(stage, optimizer, 0.0, None, frozen)
      return train.run_update(update, state, batches((3.0, 1.0)))[0].params

    kept, decayed = run(("still",)), run(())
    self.assertEqual(tree.digest(kept["still"]), tree.digest(still))
    self.assertNotEqual(tree.digest(decayed["still"]), tree.digest(still))
    np.testing.assert_array_equal(kept["x"], decayed["x"])
    self.assertGreater(float(kept["x"][0]), 1.0)

  @parameterized.parameters(np.nan, np.inf)
  def test_nothing_is_applied_that_is_not_finite(self, bad):
    update = train.make_update(Stage(None, loss_fn), self.optimizer, 0.0)
    state = make_state(self.optimizer)
    before = tree.digest(state)
    with self.assertRaisesRegex(train.NotFinite, "loss (nan|inf)"):
      train.run_update(update, state, batches((0.0, 1.0), (bad, 1.0)))
    self.assertEqual(tree.digest(state), before)


class RunTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = self.enterContext(tempfile.TemporaryDirectory())
    self.optimizer = optax.adam(0.1)
    self.checkpointer = checkpoint.Checkpointer(
      os.path.join(self.workdir, "checkpoints"), keep=9
    )
    self.addCleanup(self.checkpointer.close)
    self.seen = []

  def run_rounds(self, collect, first_round=0, state=None, **changes):
    stage = Stage(collect, loss_fn)
    writer = metrics.MetricWriter(self.workdir, first_round)
    self.addCleanup(writer.close)
    config = loop(**changes)
    return train.run(
      stage,
      train.make_update(stage, self.optimizer, 0.0),
      state or make_state(self.optimizer, config.reference_refresh_rounds > 0),
      lambda update: 0.1,
      config,
      self.checkpointer,
      writer,
      first_round,
    )

  def collect(self, state, round):
    reference = state.reference and np.array(state.reference[0]["x"])
    self.seen.append((np.array(state.params["x"]), reference))
    return [batches((0.0, 1.0))], {"data/round": round}

  def saved(self):
    names = os.listdir(os.path.join(self.workdir, "checkpoints"))
    return sorted(int(name) for name in names if name.isdigit())

  def test_one_row_a_round(self):
    self.run_rounds(self.collect)
    rows = metrics.read_jsonl(os.path.join(self.workdir, "metrics.jsonl"))
    self.assertEqual([r["round"] for r in rows], [0, 1, 2])
    self.assertEqual([r["data/round"] for r in rows], [0, 1, 2])
    for name in ("train/loss", "train/lr", "time/total_secs"):
      self.assertIn(name, rows[0])

  @parameterized.parameters((1, [0, 1, 2]), (2, [1, 2]), (9, [2]))
  def test_checkpoints(self, every, want):
    self.run_rounds(self.collect, checkpoint_every_rounds=every)
    self.assertEqual(self.saved(), want)

  @parameterized.parameters(
    (0, 0, []), (2, 0, [-1, 1, 2]), (2, 1, [1, 2]), (9, 0, [-1, 2])
  )
  def test_evaluations(self, every, first_round, want):
    rounds = []
    self.run_rounds(
      self.collect,
      first_round,
      eval_every_rounds=every,
      evaluate=lambda state, round: rounds.append(round) or {"eval/x": 1.0},
    )
    self.assertEqual(rounds, want)

  def test_the_reference_is_refreshed_after_its_rounds(self):
    self.run_rounds(self.collect, rounds=5, reference_refresh_rounds=2)
    start = self.seen[0][0]
    for round, (_, reference) in enumerate(self.seen):
      want = start if round < 2 else self.seen[round // 2 * 2][0]
      np.testing.assert_array_equal(reference, want, f"round {round}")

  def test_without_a_refresh_the_reference_stays(self):
    state = make_state(self.optimizer, with_reference=True)
    self.run_rounds(self.collect, state=state)
    for _, reference in self.seen:
      np.testing.assert_array_equal(reference, [1.0, 2.0])

  @parameterized.parameters(1, 5)
  def test_not_finite_stops_with_the_state_before_saved(self, every):
    states = []

    def collect(state, round):
      states.append(tree.digest(state.params))
      return [batches((np.nan if round == 2 else 0.0, 1.0))], {}

    with self.assertRaisesRegex(
      train.NotFinite,
      "^Not finite in round 2, update 0: loss nan.* checkpoint 1 is saved. "
      "Lower config.optimizer.learning_rate",
    ) as raised:
      self.run_rounds(collect, checkpoint_every_rounds=every, rounds=4)
    self.assertNotIn("\n", str(raised.exception))
    self.assertEqual(self.saved()[-1], 1)
    state, info = self.checkpointer.restore(make_state(self.optimizer))
    self.assertEqual(info, {"next_round": 2})
    self.assertEqual(tree.digest(state.params), states[2])

  def test_not_finite_at_once(self):
    def collect(state, round):
      return [batches((np.nan, 1.0))], {}

    with self.assertRaisesRegex(train.NotFinite, "nothing is saved"):
      self.run_rounds(collect)
    self.assertEqual(self.saved(), [])

  def test_not_finite_in_a_later_update_keeps_the_last_checkpoint(self):
    def collect(state, round):
      bad = np.nan if round == 2 else 0.0
      return [batches((0.0, 1.0)), batches((bad, 1.0))], {}

    with self.assertRaisesRegex(
      train.NotFinite, "round 2, update 1: .*checkpoint 1 is saved"
    ):
      self.run_rounds(collect, rounds=4)

  def test_a_signal_saves_at_the_end_of_the_round(self):
    def collect(state, round):
      if round == 1:
        os.kill(os.getpid(), signal.SIGTERM)
      return self.collect(state, round)

    with self.assertLogs() as logs:
      self.run_rounds(collect, rounds=5, checkpoint_every_rounds=5)
    self.assertEqual(self.saved(), [1])
    self.assertLen(self.seen, 2)
    self.assertIn("Stopped by a signal; 2 rounds are saved.", logs.output[-1])

  def test_a_second_signal_stops_at_once(self):
    before = signal.getsignal(signal.SIGINT)

    def collect(state, round):
      os.kill(os.getpid(), signal.SIGINT)
      return self.collect(state, round)

    def twice(state, round):
      os.kill(os.getpid(), signal.SIGINT)
      return collect(state, round)

    self.run_rounds(collect)
    self.assertLen(self.seen, 1)
    with self.assertRaises(KeyboardInterrupt):
      self.run_rounds(twice)
    self.assertLen(self.seen, 1)
    self.assertIs(signal.getsignal(signal.SIGINT), before)

  def test_a_failing_save_stops_the_run_in_one_line(self):
    error = OSError(28, "No space left on device")
    with (
      mock.patch.object(self.checkpointer._manager, "save", side_effect=error),
      self.assertRaisesRegex(
        checkpoint.CheckpointError, "^Cannot write a checkpoint in .*No space"
      ),
    ):
      self.run_rounds(self.collect)


if __name__ == "__main__":
  absltest.main()
