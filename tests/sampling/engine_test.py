import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from r1jax import packing, policy
from r1jax.sampling import engine
from tests import small

PROMPTS = {
  q: small.tokens(n, seed=20 + q).tolist()
  for q, n in ((0, 3), (1, 6), (2, 1), (5, 4), (9, 2))
}
REQUESTS = [engine.Request(q, s) for q in PROMPTS for s in range(3)]
LIMITS = [1 + (5 * i) % 12 for i in range(len(REQUESTS))]
ROW_TOKENS = 20


@functools.lru_cache
def model(kind, temperature):
  """(policy, params, buffers)."""
  config = small.CONFIGS[kind]()
  return policy.make(config, temperature=temperature), *small.weights(config)


@functools.lru_cache
def programs(kind, temperature, slots):
  return model(kind, temperature)[0].programs(
    eos_id=3,
    chunk_tokens=5,
    slots=slots,
    prefill_rows=2,
    max_prompt_tokens=6,
    max_response_tokens=12,
  )


def sample(kind, temperature=1.0, slots=4, requests=REQUESTS, limits=None):
  _, params, buffers = model(kind, temperature)
  return engine.sample(
    programs(kind, temperature, slots),
    params,
    buffers,
    jax.random.key(7),
    PROMPTS,
    requests,
    limits=limits,
  )


@functools.lru_cache
def samples(kind, temperature=1.0, slots=4):
  """All requests' samples at varied limits."""
  return sample(kind, temperature, slots, limits=LIMITS)[0]


class TrainerTest(parameterized.TestCase):
  """The sampler and the trainer are one forward function."""

  @parameterized.parameters("gqa", "mla")
  def test_greedy_decode_is_the_argmax_of_full_forwards(self, kind):
    greedy, _ = sample(kind, temperature=0, limits=LIMITS)
    _, params, buffers = model(kind, 0)
    for first, each in zip(range(0, len(REQUESTS), 3), greedy[::3]):
      prompt = PROMPTS[each.question]
      row_1T = np.zeros((1, ROW_TOKENS), np.int32)
      row_1T[0, : len(prompt)] = prompt
      for t, token in enumerate(each.tokens_T):
        place = len(prompt) + t
        logits_1TV = small.logits(small.CONFIGS[kind]())(
          params, buffers, row_1T
        )
        self.assertEqual(token, np.argmax(logits_1TV[0, place - 1]))
        row_1T[0, place] = token
      # Without chance, samples differ by their limit alone.
      for other in greedy[first : first + 3]:
        length = min(len(each.tokens_T), len(other.tokens_T))
        np.testing.assert_array_equal(
          other.tokens_T[:length], each.tokens_T[:length]
        )

  @parameterized.parameters(("gqa", 1.0), ("mla", 0.8))
  def test_logprobs_and_experts_are_the_trainers(self, kind, temperature):
    got = samples(kind, temperature)
    prompts = [PROMPTS[each.question] for each in got]
    sequences = []
    for each, prompt in zip(got, prompts):
      tokens_T = np.concatenate([prompt, each.tokens_T]).astype(np.int32)
      mask_T = np.arange(len(tokens_T)) >= len(prompt)
      sequences.append({"tokens_T": tokens_T, "mask_T": mask_T})
    fields, layout = packing.pack(sequences, row_tokens=ROW_TOKENS, rows=4)
    policy_, params, buffers = model(kind, temperature)
    run = jax.jit(functools.partial(policy_.logprobs, params, buffers))
    scores = [
      run(
        small.batch(
          *(f[f"{name}_BT"] for name in ("tokens", "segments", "positions")),
          f["mask_BT"],
        )
      )
      for f in fields
    ]
    logprobs = packing.unpack([s.logprobs_BT for s in scores], layout)
    tokens = 0
    for each, prompt, logprobs_T in zip(got, prompts, logprobs):
      gap = np.abs(each.logprobs_T - logprobs_T[len(prompt) :])
      self.assertLessEqual(gap.max(), 1e-5)
      tokens += len(gap)
    self.assertGreater(tokens, 60)
    if kind == "gqa":
      return
    experts = packing.unpack(
      [np.transpose(s.report.experts_BTP, (1, 2, 0, 3)) for s in scores], layout
    )
    for each, want_TLP in zip(got, experts):
      self.assertEqual(each.experts_TLP.shape, want_TLP.shape)
      np.testing.assert_array_equal(each.experts_TLP[:-1], want_TLP[:-1])
      self.assertTrue(np.all(each.experts_TLP[-1] == -1))


class QueueTest(parameterized.TestCase):
  @parameterized.parameters("gqa", "mla")
  def test_order_of_the_queue_changes_no_token(self, kind):
    temperature = 1.0 if kind == "gqa" else 0.8
    want = samples(kind, temperature)
    order = np.random.default_rng(0).permutation(len(REQUESTS))
    got, _ = sample(
      kind,
      temperature,
      requests=[REQUESTS[i] for i in order],
      limits=[LIMITS[i] for i in order],
    )
    for i, each in zip(order, got):
      self.assertEqual(each[:2], want[i][:2])
      np.testing.assert_array_equal(each.tokens_T, want[i].tokens_T)
      np.testing.assert_allclose(each.logprobs_T, want[i].logprobs_T, atol=1e-5)
      np.testing.assert_array_equal(each.experts_TLP, want[i].experts_TLP)

  @parameterized.parameters(2, 16)
  def test_number_of_slots_changes_tokens_by_rounding_alone(self, slots):
    want, got = samples("mla", 0.8), samples("mla", 0.8, slots)
    differing = 0
    for left, right in zip(want, got):
      length = min(len(left.tokens_T), len(right.tokens_T))
      same = left.tokens_T[:length] == right.tokens_T[:length]
      until = length if same.all() else int(np.argmin(same))
      gaps = np.abs(left.logprobs_T[:until] - right.logprobs_T[:until])
      gap = gaps.max(initial=0)
      self.assertLessEqual(gap, 1e-4)
      if not same.all() or len(left.tokens_T) != len(right.tokens_T):
        differing += 1
        print(f"{left[:2]} differs at token {until}, log-prob gap {gap:.1e}")
    self.assertLessEqual(differing, 1)

  def test_samples_of_a_question_differ(self):
    got, _ = sample("gqa", requests=REQUESTS[:9])
    self.assertLen({tuple(each.tokens_T.tolist()) for each in got}, 9)

  def test_samples_come_in_the_requests_order_within_their_limits(self):
    got = samples("gqa")
    self.assertEqual([engine.Request(*each[:2]) for each in got], REQUESTS)
    for each, limit in zip(got, LIMITS):
      if each.finish_reason == "eos":
        self.assertEqual(
          each.tokens_T.tolist().index(3), len(each.tokens_T) - 1
        )
        self.assertLessEqual(len(each.tokens_T), limit)
      else:
        self.assertEqual(each.finish_reason, "length")
        self.assertLen(each.tokens_T, limit)
        self.assertNotIn(3, each.tokens_T)
      self.assertLen(each.logprobs_T, len(each.tokens_T))
    self.assertLen({each.finish_reason for each in got}, 2)

  def test_limits_default_to_the_most_response_tokens(self):
    got, _ = sample("gqa", requests=REQUESTS[:4])
    for each in got:
      if each.finish_reason == "length":
        self.assertLen(each.tokens_T, 12)

  def test_nothing_compiles_after_the_first_round(self):
    samples("mla", 0.8)
    compiled = []

    def listen(event, duration, **_):
      del duration
      if "compile" in event:
        compiled.append(event)

    _, params, buffers = model("mla", 0.8)
    params = jax.tree.map(lambda leaf: leaf * jnp.float32(1.01), params)
    key = jax.random.key(8)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
      engine.sample(
        programs("mla", 0.8, 4),
        params,
        buffers,
        key,
        {4: [1, 2, 3, 4, 5], 6: [9], 7: [1, 1]},
        [engine.Request(*pair) for pair in ((4, 0), (7, 1), (6, 0), (4, 5))],
      )
      self.assertEmpty(compiled)
      # The listener does hear a compilation.
      jax.jit(lambda x: x * 3 + 1)(jnp.float32(1))
      self.assertNotEmpty(compiled)
    finally:
      jax.monitoring.unregister_event_duration_listener(listen)

  @parameterized.parameters(0, 7)
  def test_prompt_of_wrong_length_is_named(self, length):
    with self.assertRaisesRegex(
      ValueError,
      f"question 4 of the round has {length} tokens; "
      "config.max_prompt_tokens is 6",
    ):
      engine.sample(
        programs("gqa", 1.0, 4),
        *model("gqa", 1.0)[1:],
        jax.random.key(0),
        {2: [1], 4: [1] * length},
        [engine.Request(2, 0)],
      )


class MarkovTest(parameterized.TestCase):
  """With a model whose next token is written down."""

  def setUp(self):
    super().setUp()
    # 0 1 2 3 end | 4 4 4 ... | 5 6 5 7 6 ..., never twice sure in a row.
    odds_VV = np.full((8, 8), 1e-9)
    for token, after in ((0, 1), (1, 2), (2, 3), (4, 4)):
      odds_VV[token, after] = 1
    for token, others in ((5, (6, 7)), (6, (5, 7)), (7, (5, 6))):
      odds_VV[token, others] = 0.5
    config, self.params, self.buffers = small.markov(np.log(odds_VV))
    self.programs = policy.make(config, temperature=1.0).programs(
      eos_id=3,
      chunk_tokens=4,
      repetition_tokens=4,
      slots=3,
      prefill_rows=2,
      max_prompt_tokens=3,
      max_response_tokens=9,
    )
    self.prompts = {0: [5, 0], 1: [4], 2: [1, 2, 5], 3: [5, 1], 4: [2, 0]}

  def sample(self, requests, **arguments):
    return engine.sample(
      self.programs,
      self.params,
      self.buffers,
      jax.random.key(0),
      self.prompts,
      [engine.Request(*pair) for pair in requests],
      **arguments,
    )

  def test_finish_reasons_refill_and_prefill(self):
    prefilled, inserts = [], []
    inner = self.programs

    def prefill(params, buffers, tokens_BT):
      prefilled.append(tokens_BT.copy())
      return inner.prefill(params, buffers, tokens_BT)

    def insert(slots, caches, chosen_B, *rest):
      inserts.append(int(chosen_B.sum()))
      return inner.insert(slots, caches, chosen_B, *rest)

    self.programs = inner._replace(prefill=prefill, insert=insert)
    requests = [(q, s) for s in range(3) for q in range(5)]
    ended = []
    got, stats = self.sample(requests, on_finish=ended.append)
    with self.subTest("finish reasons"):
      for each in got:
        reason, tokens = {
          0: ("eos", [1, 2, 3]),
          1: ("repetition", [4, 4, 4, 4]),
          2: ("length", None),
          3: ("eos", [2, 3]),
          4: ("eos", [1, 2, 3]),
        }[each.question]
        self.assertEqual(each.finish_reason, reason)
        if tokens:
          self.assertEqual(each.tokens_T.tolist(), tokens)
        else:
          self.assertLen(each.tokens_T, 9)
          self.assertContainsSubset(each.tokens_T.tolist(), [5, 6, 7])
    with self.subTest("every slot is refilled, every request placed once"):
      self.assertEqual(sum(inserts), 15)
      self.assertGreater(len(inserts), 4)
    with self.subTest("a question's prompt is prefilled once"):
      rows = [tuple(row.tolist()) for rows in prefilled for row in rows]
      self.assertLen(prefilled, 3)
      for prompt in self.prompts.values():
        padded = tuple(prompt + [0] * (3 - len(prompt)))
        self.assertEqual(rows.count(padded), 1)
    with self.subTest("each is told as it ends"):
      self.assertCountEqual(
        [each[:2] for each in ended], [each[:2] for each in got]
      )
      self.assertNotEqual([e[:2] for e in ended], [e[:2] for e in got])
    with self.subTest("utilization counts tokens over slots and steps"):
      tokens = sum(len(each.tokens_T) for each in got)
      self.assertAlmostEqual(stats.slot_utilization, tokens / (3 * stats.steps))
      self.assertBetween(stats.slot_utilization, 0.5, 1.0)

  def test_limits_are_per_request(self):
    got, _ = self.sample([(2, 0), (2, 1), (2, 2), (0, 0)], limits=[1, 9, 4, 2])
    self.assertEqual([len(each.tokens_T) for each in got], [1, 9, 4, 2])
    self.assertEqual({each.finish_reason for each in got}, {"length"})

  def test_nothing_to_sample(self):
    got, stats = self.sample([])
    self.assertEqual((got, stats.steps), ([], 0))


if __name__ == "__main__":
  absltest.main()
