import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from r1jax import packing
from r1jax.models import attention
from tests import small

LENGTHS = (5, 3, 7, 4)
PACKED, SINGLE, T = (2, 2, 0, 0), (1, 1, 1, 1), 12  # One shape.


def loop(q_BTNH, k_BKSH, v_BKSH, mask_BTS, scale):
  """Attention a head and a token at a time, float64."""
  B, T, N, H = q_BTNH.shape
  K, S = k_BKSH.shape[1:3]
  out = np.zeros((B, T, N, v_BKSH.shape[-1]))
  for b, t, n in np.ndindex(B, T, N):
    k = n // (N // K)
    seen = [s for s in range(S) if mask_BTS[b, t, s]]
    logits = [
      scale
      * sum(float(q_BTNH[b, t, n, h]) * k_BKSH[b, k, s, h] for h in range(H))
      for s in seen
    ]
    exps = [np.exp(x - max(logits)) for x in logits]
    for s, e in zip(seen, exps):
      out[b, t, n] += e / sum(exps) * v_BKSH[b, k, s]
  return out


def by_sequence(values_BT, counts, lengths):
  """The parts of packed rows, sequence by sequence."""
  parts, left = [], list(lengths)
  for row, count in zip(np.asarray(values_BT), counts):
    start = 0
    for _ in range(count):
      parts.append(row[start : start + left[0]])
      start += left.pop(0)
  return parts


class AttendTest(parameterized.TestCase):
  @parameterized.parameters((4, 4), (4, 2), (4, 1), (6, 2))
  def test_agrees_with_a_loop(self, N, K):
    rng = np.random.default_rng(N + K)
    q = rng.normal(size=(2, 5, N, 4)).astype(np.float32)
    k, v = rng.normal(size=(2, 2, K, 5, 4)).astype(np.float32)
    mask_BTS = np.tril(np.ones((2, 5, 5), bool))
    mask_BTS[1, :, 0] = False
    mask_BTS[1, 0, 0] = True
    got = attention.attend(q, k, v, jnp.asarray(mask_BTS), 0.7)
    want = loop(q, k, v, mask_BTS, 0.7)
    np.testing.assert_allclose(got, want, atol=3e-6)

  def test_values_may_be_wider_than_keys(self):
    rng = np.random.default_rng(0)
    q = rng.normal(size=(1, 3, 2, 4)).astype(np.float32)
    k = rng.normal(size=(1, 2, 3, 4)).astype(np.float32)
    v = rng.normal(size=(1, 2, 3, 7)).astype(np.float32)
    mask_BTS = np.ones((1, 3, 3), bool)
    got = attention.attend(q, k, v, jnp.asarray(mask_BTS), 1.0)
    np.testing.assert_allclose(got, loop(q, k, v, mask_BTS, 1.0), atol=3e-6)

  def test_token_that_may_look_at_nothing_stays_finite(self):
    ones = jnp.ones((1, 2, 2, 4))

    def total(q):
      mask_BTS = jnp.zeros((1, 2, 2), bool)
      return jnp.sum(attention.attend(q, ones, ones, mask_BTS, 1.0))

    value, grad = jax.jit(jax.value_and_grad(total))(ones)
    self.assertTrue(np.isfinite(value))
    np.testing.assert_array_equal(grad, np.zeros(grad.shape))


class GroupedQueryAttentionTest(parameterized.TestCase):
  @parameterized.parameters(True, False)
  def test_agrees_with_a_loop(self, extras):
    c = small.gqa(qkv_bias=extras, qk_norm=extras)
    params = small.weights(c)[0]["dense_layers"]["attention"]
    params = jax.tree.map(lambda a: a[0], params)
    x_BTD = np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)
    ones_BT = jnp.ones((2, 5), jnp.int32)
    mask_BTS = attention.packed_mask(ones_BT)
    context = attention.Context(jnp.cumsum(ones_BT, axis=1) - 1, mask_BTS)
    layer = attention.GroupedQueryAttention(c)
    got, cache = jax.jit(layer.apply)({"params": params}, x_BTD, context, None)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)

    def project(name, turned):
      y = np.einsum("BTD,DNH->BTNH", x_BTD, p[name]["kernel"])
      if extras:
        y += p[name]["bias"]
      if extras and turned:
        rms = np.sqrt(np.mean(y * y, axis=-1, keepdims=True) + 1e-6)
        y = y / rms * p[f"{name}_norm"]["scale"]
      if not turned:
        return y
      angles = np.arange(5)[:, None] * 10000.0 ** (-np.arange(4) / 4)
      pairs = y[..., :4] + 1j * y[..., 4:]
      pairs *= np.exp(1j * angles)[None, :, None]
      return np.concatenate([pairs.real, pairs.imag], axis=-1)

    q = project("query", True)
    k = project("key", True).swapaxes(1, 2)
    v = project("value", False).swapaxes(1, 2)
    out = loop(q, k, v, np.asarray(mask_BTS), 8**-0.5)
    want = np.einsum("BTNH,NHD->BTD", out, p["out"]["kernel"])
    np.testing.assert_allclose(got, want, atol=2e-5)
    for got_leaf, want_leaf in zip(cache, (k, v)):
      np.testing.assert_allclose(got_leaf, want_leaf, atol=2e-5)


class PackedMaskTest(parameterized.TestCase):
  def test_worked_example(self):
    got = attention.packed_mask(jnp.array([[1, 1, 2, 2, 0]]))
    want = [
      [1, 0, 0, 0, 0],
      [1, 1, 0, 0, 0],
      [0, 0, 1, 0, 0],
      [0, 0, 1, 1, 0],
      [0, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(got[0], np.array(want, bool))

  def test_gradients_are_causal_inside_a_sequence(self):
    mask_BTS = attention.packed_mask(jnp.array([[1, 1, 1, 2, 2, 0]]))
    rng = np.random.default_rng(0)
    q = rng.normal(size=(1, 6, 2, 4)).astype(np.float32)
    k, v = rng.normal(size=(2, 1, 2, 6, 4)).astype(np.float32)

    def out_T(k, v):
      out = attention.attend(q, k, v, mask_BTS, 1.0)
      return jnp.sum(jnp.sin(out), axis=(0, 2, 3))

    reach = sum(
      np.abs(each).sum(axis=(1, 2, 4))
      for each in jax.jit(jax.jacrev(out_T, (0, 1)))(k, v)
    )
    for t, s in np.ndindex(5, 6):
      if mask_BTS[0, t, s]:
        self.assertGreater(reach[t, s], 1e-3)
      else:
        self.assertEqual(reach[t, s], 0)


class WriteColumnsTest(parameterized.TestCase):
  def test_each_row_has_its_own_column(self):
    cache = np.zeros((2, 3, 4, 5), np.float32)
    new = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    got = attention.write_columns(cache, new, jnp.array([3, 1]))
    want = cache.copy()
    want[0, :, 3], want[1, :, 1] = new
    np.testing.assert_array_equal(got, want)


class PackingTest(parameterized.TestCase):
  """Packed rows are the unpacked ones, in every attention path."""

  def setUp(self):
    super().setUp()
    self.sequences = [small.tokens(n, seed=i) for i, n in enumerate(LENGTHS)]

  def hidden(self, kind, rows):
    config = small.CONFIGS[kind]()
    out = small.forward(config)(*small.weights(config), *rows)
    return np.asarray(out.hidden_BTD)

  @parameterized.parameters("gqa", "mla")
  def test_packed_equals_unpacked(self, kind):
    packed = small.rows(self.sequences, PACKED, T)
    single = small.rows(self.sequences, SINGLE, T)
    got = by_sequence(self.hidden(kind, packed), PACKED, LENGTHS)
    want = by_sequence(self.hidden(kind, single), SINGLE, LENGTHS)
    for got_TD, want_TD in zip(got, want):
      # One rounding of float32 a sum, a few layers deep.
      np.testing.assert_allclose(got_TD, want_TD, atol=2e-5)

  @parameterized.parameters("gqa", "mla")
  def test_block_diagonal_mask_of_packing(self, kind):
    packed = small.rows(self.sequences, PACKED, T)
    before = by_sequence(self.hidden(kind, packed), PACKED, LENGTHS)
    self.sequences[0] = (self.sequences[0] + 1) % small.VOCAB
    packed = small.rows(self.sequences, PACKED, T)
    after = by_sequence(self.hidden(kind, packed), PACKED, LENGTHS)
    self.assertGreater(np.abs(before[0] - after[0]).min(), 0)
    for neighbour in (1, 2, 3):
      np.testing.assert_allclose(before[neighbour], after[neighbour], atol=2e-5)

  @parameterized.parameters("gqa", "mla")
  def test_positions_restart_in_a_packed_row(self, kind):
    # Rotary products depend on distances alone, so any start would give
    # the same here; the sampler starts at 0, and so does every sequence.
    (fields,), _ = packing.pack(
      [{"tokens_T": ids} for ids in self.sequences], row_tokens=T, rows=4
    )
    tokens_BT, segments_BT, positions_BT = (
      fields[f"{name}_BT"] for name in ("tokens", "segments", "positions")
    )
    np.testing.assert_array_equal(
      positions_BT,
      [
        [*range(7), *range(5)],
        [*range(4), *range(3), *[0] * 5],
        [0] * T,
        [0] * T,
      ],
    )
    same = self.hidden(kind, (tokens_BT, segments_BT, positions_BT))
    positions_BT[0, 8:12] += 3
    moved = self.hidden(kind, (tokens_BT, segments_BT, positions_BT))
    self.assertGreater(np.abs(same[0, 8:] - moved[0, 8:]).max(), 1e-3)
    np.testing.assert_allclose(same[0, :8], moved[0, :8], atol=2e-5)

  @parameterized.parameters("gqa", "mla")
  def test_padding_content_changes_nothing(self, kind):
    outs = []
    for seed in (1, 2):
      rows = small.rows(self.sequences, PACKED, T, seed=seed)
      outs.append(by_sequence(self.hidden(kind, rows), PACKED, LENGTHS))
    for first_TD, second_TD in zip(*outs):
      np.testing.assert_allclose(first_TD, second_TD, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
