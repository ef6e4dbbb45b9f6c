import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from r1jax.models import transformer
from r1jax.sampling import decode
from tests import small

V, EOS = 8, 7
SETTINGS = decode.Settings(
  temperature=1.0,
  top_k=0,
  top_p=1.0,
  eos_id=EOS,
  chunk_tokens=6,
  min_response_tokens=0,
  repetition_tokens=0,
)
PATIENT = np.int32(99)


def table(likely):
  """Logits by last token that nearly force the given next token.

  Args:
    likely: By token, the next one, or a dict of next ones and odds.
  """
  odds_VV = np.full((V, V), 1e-9)
  for token, after in likely.items():
    for each, odds in (
      after if isinstance(after, dict) else {after: 1}
    ).items():
      odds_VV[token, each] = odds
  return np.log(odds_VV)


COUNT_UP = table({i: (i + 1) % V for i in range(V)})


@functools.lru_cache
def program(settings):
  """Jitted decode of a Markov model, and its prefill."""
  config, params, buffers = small.markov(COUNT_UP)
  del params
  return (
    config,
    buffers,
    jax.jit(functools.partial(decode.decode, config, settings)),
  )


@functools.partial(jax.jit, static_argnums=0)
def fill(config, params, buffers, tokens_BT, last_B, lengths_B, limits_B):
  """Slots of 24 columns, every one with its row's prompt."""
  rows_B = jnp.arange(len(tokens_BT))
  return decode.insert(
    decode.empty_slots(config, params, buffers, len(tokens_BT), 24),
    decode.prefill(config, params, buffers, tokens_BT)[0],
    jnp.ones_like(rows_B, bool),
    rows_B,
    last_B,
    lengths_B,
    limits_B,
    decode.response_keys(jax.random.key(0), rows_B, 0 * rows_B),
  )


def start(table_VV, prompts, limits, settings=SETTINGS):
  """(slots holding the prompts, function that decodes a chunk)."""
  _, params, _ = small.markov(table_VV)
  params = transformer.unstack(params)
  config, buffers, run = program(settings)
  B = len(prompts)
  tokens_BT = np.zeros((B, 4), np.int32)
  for b, prompt in enumerate(prompts):
    tokens_BT[b, : len(prompt)] = prompt
  last_B = np.array([prompt[-1] for prompt in prompts])
  lengths_B = np.array([len(prompt) for prompt in prompts])
  slots = fill(
    config, params, buffers, tokens_BT, last_B, lengths_B, np.array(limits)
  )
  return slots, functools.partial(run, params, buffers)


def drawn(chunk):
  """Each row's tokens."""
  return [
    row[:n].tolist()
    for row, n in zip(np.asarray(chunk.tokens_BX), chunk.emitted_B)
  ]


class FinishTest(parameterized.TestCase):
  def test_worked_example(self):
    # The first ends by its end of sequence, which belongs to it; the
    # second by its limit; the third is still running.
    slots, run = start(COUNT_UP, [[1, 4], [0], [7]], [9, 2, 9])
    slots, chunk = run(slots, PATIENT)
    self.assertEqual(drawn(chunk), [[5, 6, 7], [1, 2], [0, 1, 2, 3, 4, 5]])
    self.assertEqual(
      chunk.finish_B.tolist(), [decode.EOS, decode.LENGTH, decode.RUNNING]
    )
    self.assertEqual(int(chunk.steps), 6)
    _, chunk = run(slots, PATIENT)
    self.assertEqual(drawn(chunk), [[], [], [6, 7]])
    self.assertEqual(int(chunk.steps), 2)
    self.assertEqual(chunk.finish_B[2], decode.EOS)

  def test_end_of_sequence_at_the_limit_is_an_end(self):
    slots, run = start(COUNT_UP, [[5], [5], [5]], [2, 1, 3])
    _, chunk = run(slots, PATIENT)
    self.assertEqual(drawn(chunk), [[6, 7], [6], [6, 7]])
    self.assertEqual(
      chunk.finish_B.tolist(), [decode.EOS, decode.LENGTH, decode.EOS]
    )

  def test_returns_when_patience_is_over(self):
    slots, run = start(COUNT_UP, [[5], [3], [0]], [9, 9, 9])
    slots, chunk = run(slots, np.int32(1))
    self.assertEqual(int(chunk.steps), 2)
    self.assertEqual(drawn(chunk), [[6, 7], [4, 5], [1, 2]])
    slots, chunk = run(slots, np.int32(2))
    self.assertEqual(drawn(chunk), [[], [6, 7], [3, 4, 5, 6, 7]])

  def test_confident_streak_ends_a_response(self):
    settings = SETTINGS._replace(repetition_tokens=3)
    # After 2 comes a toss-up, which breaks the streak.
    likely = {0: 1, 1: 2, 2: {3: 1, 4: 1}, 3: 0, 4: 0}
    slots, run = start(table(likely), [[0], [2], [1]], [9, 9, 9], settings)
    slots, chunk = run(slots, PATIENT)
    tokens = drawn(chunk)
    # 1 2 | x 0 1 2: the streak of 1 2 is cut, then 0 1 2 ends it.
    self.assertEqual([row[-3:] for row in tokens], [[0, 1, 2]] * 3)
    self.assertEqual([len(row) for row in tokens], [6, 4, 5])
    self.assertEqual(chunk.finish_B.tolist(), [decode.REPETITION] * 3)

  def test_streaks_do_not_matter_when_turned_off(self):
    likely = {i: (i + 1) % 5 for i in range(5)}
    slots, run = start(table(likely), [[0]] * 3, [9, 9, 9])
    for _ in range(3):
      slots, chunk = run(slots, PATIENT)
    self.assertEqual(chunk.finish_B.tolist(), [decode.LENGTH] * 3)

  def test_no_end_before_the_fewest_tokens(self):
    settings = SETTINGS._replace(min_response_tokens=3)
    likely = {0: {EOS: 1, 0: 1e-4}}
    slots, run = start(table(likely), [[0], [1, 0], [0]], [9, 9, 2], settings)
    _, chunk = run(slots, PATIENT)
    self.assertEqual(drawn(chunk), [[0, 0, EOS], [0, 0, EOS], [0, 0]])

  def test_more_ids_end_a_response(self):
    settings = SETTINGS._replace(stop_ids=(2, 4))
    slots, run = start(COUNT_UP, [[0], [2], [4]], [9, 9, 9], settings)
    _, chunk = run(slots, PATIENT)
    self.assertEqual(drawn(chunk), [[1, 2], [3, 4], [5, 6, EOS]])
    self.assertEqual(chunk.finish_B.tolist(), [decode.EOS] * 3)

  def test_logprobs_are_the_models(self):
    likely = {0: {1: 0.75, 2: 0.25}, 1: 0, 2: 0}
    slots, run = start(table(likely), [[0]] * 3, [6] * 3)
    _, chunk = run(slots, PATIENT)
    odds = {(0, 1): 0.75, (0, 2): 0.25, (1, 0): 1.0, (2, 0): 1.0}
    for tokens_X, logprobs_X in zip(drawn(chunk), chunk.logprobs_BX):
      before = 0
      for token, logprob in zip(tokens_X, logprobs_X):
        self.assertAlmostEqual(
          float(logprob), np.log(odds[before, token]), delta=1e-5
        )
        before = token


class KeyTest(parameterized.TestCase):
  TOSS_UP = table({i: dict.fromkeys(range(V - 1), 1) for i in range(V)})

  def test_tokens_follow_the_key_and_not_the_place(self):
    keys = decode.response_keys(
      jax.random.key(3), jnp.array([4, 4, 5]), jnp.array([0, 1, 0])
    )
    rows = []
    for order in ([0, 1, 2], [2, 0, 1]):
      slots, run = start(self.TOSS_UP, [[0]] * 3, [6] * 3)
      slots = slots._replace(keys_B=keys[jnp.array(order)])
      _, chunk = run(slots, PATIENT)
      rows.append(dict(zip(order, drawn(chunk))))
    self.assertEqual(rows[0], rows[1])
    self.assertLen({tuple(row) for row in rows[0].values()}, 3)

  def test_chunks_do_not_change_the_tokens(self):
    whole = start(self.TOSS_UP, [[0]] * 3, [6] * 3)
    want = drawn(whole[1](whole[0], PATIENT)[1])
    slots, run = start(
      self.TOSS_UP, [[0]] * 3, [6] * 3, SETTINGS._replace(chunk_tokens=2)
    )
    got = [[], [], []]
    for _ in range(3):
      slots, chunk = run(slots, PATIENT)
      got = [left + right for left, right in zip(got, drawn(chunk))]
    self.assertEqual(got, want)

  def test_tokens_of_a_response_differ(self):
    slots, run = start(self.TOSS_UP, [[0]] * 3, [6] * 3)
    for row in drawn(run(slots, PATIENT)[1]):
      self.assertGreater(len(set(row)), 2)

  def test_keys_fold_in_question_then_sample(self):
    key = jax.random.key(3)
    got = decode.response_keys(key, jnp.array([4, 9]), jnp.array([9, 4]))
    fold = jax.random.fold_in
    want = [fold(fold(key, 4), 9), fold(fold(key, 9), 4)]
    np.testing.assert_array_equal(
      jax.random.key_data(got), [jax.random.key_data(k) for k in want]
    )


class InsertTest(parameterized.TestCase):
  def test_other_rows_are_unchanged(self):
    slots, run = start(COUNT_UP, [[1, 4], [0], [2]], [9, 9, 9])
    slots, _ = run(slots, np.int32(1))  # The first row ends.
    config, params, buffers = small.markov(COUNT_UP)
    params = transformer.unstack(params)
    caches, _ = decode.prefill(
      config, params, buffers, jnp.array([[0, 0, 0, 0], [5, 3, 0, 0]])
    )
    after = decode.insert(
      slots,
      caches,
      jnp.array([True, False, False]),
      jnp.array([1, 0, 0]),
      jnp.array([3, 6, 6]),
      jnp.array([2, 4, 4]),
      jnp.array([4, 1, 1]),
      decode.response_keys(jax.random.key(1), jnp.arange(3), jnp.arange(3)),
    )
    raw = slots._replace(keys_B=jax.random.key_data(slots.keys_B))
    new = after._replace(keys_B=jax.random.key_data(after.keys_B))
    for old_leaf, new_leaf in zip(jax.tree.leaves(raw), jax.tree.leaves(new)):
      np.testing.assert_array_equal(old_leaf[1:], new_leaf[1:])
    first = [
      int(each[0])
      for each in (
        after.tokens_B,
        after.positions_B,
        after.steps_B,
        after.limits_B,
        after.streaks_B,
        after.finish_B,
      )
    ]
    self.assertEqual(first, [3, 1, 0, 4, 0, decode.RUNNING])
    _, chunk = run(after, PATIENT)
    self.assertEqual(drawn(chunk)[0], [4, 5, 6, 7])

  def test_free_slots_do_not_run(self):
    config, params, buffers = small.markov(COUNT_UP)
    slots = decode.empty_slots(
      config, transformer.unstack(params), buffers, 3, 24
    )
    _, chunk = program(SETTINGS)[2](
      transformer.unstack(params), buffers, slots, PATIENT
    )
    self.assertEqual(int(chunk.steps), 0)
    self.assertEqual(chunk.emitted_B.tolist(), [0, 0, 0])


if __name__ == "__main__":
  absltest.main()
