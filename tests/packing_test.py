import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from r1jax import losses, packing, registry, weighting
from tests import oracle

LOSS_FIELDS = ("logprobs_T", "old_logprobs_T", "advantages_T", "mask_T")


def random_sequences(lengths):
  rng = np.random.default_rng(0)
  return [
    {
      "tokens_T": rng.integers(1, 99, n).astype(np.int32),
      "mask_T": np.arange(n) >= n // 3,
      "advantages_T": np.full(n, rng.normal(), np.float32),
      "experts_TLP": rng.integers(0, 8, (n, 2, 3)).astype(np.int32),
    }
    for n in lengths
  ]


class BestFitTest(parameterized.TestCase):
  @parameterized.parameters(
    ([3, 5, 8, 2, 4], 8, [[2], [1, 0], [4, 3]]),
    # 2 fits both the row of 7 and that of 5; it goes where less is left.
    ([7, 6, 2, 1], 9, [[0, 2], [1, 3]]),
    ([4, 4, 4], 4, [[0], [1], [2]]),
    ([2, 2, 2, 2], 4, [[0, 1], [2, 3]]),
    ([4, 0], 4, [[0, 1]]),
    ([], 4, []),
  )
  def test_worked_example(self, lengths, row_tokens, expected):
    self.assertEqual(packing.best_fit(lengths, row_tokens), expected)

  @parameterized.parameters(*range(20))
  def test_agrees_with_loops(self, seed):
    lengths = np.random.default_rng(seed).integers(1, 33, 60)
    self.assertEqual(
      packing.best_fit(lengths, 32), oracle.best_fit(lengths, 32)
    )

  def test_too_long(self):
    with self.assertRaisesRegex(
      ValueError, "config.row_tokens is 8, but sequence 1 has 9 tokens"
    ):
      packing.best_fit([8, 9], 8)

  def test_fills_rows_on_realistic_lengths(self):
    lengths = np.random.default_rng(0).integers(50, 2000, 2000)
    rows = packing.best_fit(lengths, 4096)
    self.assertGreater(lengths.sum() / (len(rows) * 4096), 0.99)


class PackTest(parameterized.TestCase):
  def test_worked_example(self):
    sequences = [
      {
        "tokens_T": np.array([7, 8, 9]),
        "mask_T": np.array([False, True, True]),
      },
      {"tokens_T": np.array([5]), "mask_T": np.array([True])},
      {"tokens_T": np.array([1, 2, 3]), "mask_T": np.array([True] * 3)},
      {"tokens_T": np.array([4, 6]), "mask_T": np.array([True, False])},
    ]
    (first, last), layout = packing.pack(
      sequences, row_tokens=4, rows=2, pad_values={"tokens_T": -7}
    )
    self.assertEqual(
      layout, [(0, 0, 0, 3), (0, 0, 3, 1), (0, 1, 0, 3), (1, 0, 0, 2)]
    )
    np.testing.assert_array_equal(
      first["tokens_BT"], [[7, 8, 9, 5], [1, 2, 3, -7]]
    )
    np.testing.assert_array_equal(
      first["segments_BT"], [[1, 1, 1, 2], [1, 1, 1, 0]]
    )
    np.testing.assert_array_equal(
      first["positions_BT"], [[0, 1, 2, 0], [0, 1, 2, 0]]
    )
    np.testing.assert_array_equal(
      first["mask_BT"], [[0, 1, 1, 1], [1, 1, 1, 0]]
    )
    np.testing.assert_array_equal(
      last["tokens_BT"], [[4, 6, -7, -7], [-7, -7, -7, -7]]
    )
    np.testing.assert_array_equal(
      last["segments_BT"], [[1, 1, 0, 0], [0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(last["mask_BT"], [[1, 0, 0, 0], [0, 0, 0, 0]])

  @parameterized.product(
    loss=["clipped_surrogate", "gspo"],
    weights=["token_mean", "sequence_mean"],
    shape=[(1, 16), (3, 16), (2, 40), (20, 17)],
  )
  def test_loss_of_an_update_does_not_depend_on_the_split(
    self, loss, weights, shape
  ):
    rng = np.random.default_rng(0)
    sequences = random_sequences(rng.integers(1, 17, 20))
    for sequence in sequences:
      n = len(sequence["tokens_T"])
      sequence["logprobs_T"] = -rng.random(n, np.float32)
      sequence["old_logprobs_T"] = -rng.random(n, np.float32)
    lengths_B = [sequence["mask_T"].sum() for sequence in sequences]
    weights_B = weighting.WEIGHTINGS[weights](lengths_B, rng.random(20) < 0.8)
    clips = {"clip_low": 0.1, "clip_high": 0.1}
    expected = 0.0
    for sequence, weight in zip(sequences, weights_B):
      sequence["weights_T"] = weight * sequence["mask_T"]
      row = [sequence[name][None] for name in LOSS_FIELDS]
      loss_1T = getattr(oracle, loss)(*row, np.ones_like(row[3]), **clips)
      expected += float(weight) * loss_1T.sum()
    function = registry.make(losses.LOSSES, {"name": loss, **clips}, "loss")
    microbatches, _ = packing.pack(
      sequences, rows=shape[0], row_tokens=shape[1]
    )
    total = 0.0
    for microbatch in microbatches:
      row = [microbatch[name.replace("_T", "_BT")] for name in LOSS_FIELDS]
      loss_BT, _ = function(*row, microbatch["segments_BT"])
      total += float((microbatch["weights_BT"] * loss_BT).sum())
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-6)

  @parameterized.product(rows=[1, 3, 50], seed=[0, 1])
  def test_round_trip(self, rows, seed):
    lengths = np.random.default_rng(seed).integers(0, 17, 40)
    sequences = random_sequences(lengths)
    microbatches, layout = packing.pack(
      sequences, row_tokens=16, rows=rows, pad_values={"experts_TLP": -1}
    )
    for name in sequences[0]:
      packed = name.replace("_T", "_BT")
      back = packing.unpack([m[packed] for m in microbatches], layout)
      for got, sequence in zip(back, sequences):
        np.testing.assert_array_equal(got, sequence[name])
        self.assertEqual(got.dtype, sequence[name].dtype)
    for microbatch in microbatches:
      self.assertEqual(microbatch["experts_BTLP"].shape, (rows, 16, 2, 3))
      padding_BT = microbatch["segments_BT"] == 0
      self.assertTrue((microbatch["experts_BTLP"][padding_BT] == -1).all())
      self.assertFalse(microbatch["mask_BT"][padding_BT].any())

  def test_positions_and_segments_of_every_sequence(self):
    lengths = np.random.default_rng(2).integers(1, 17, 40)
    microbatches, layout = packing.pack(
      random_sequences(lengths), row_tokens=16, rows=4
    )
    positions = packing.unpack(
      [m["positions_BT"] for m in microbatches], layout
    )
    segments = packing.unpack([m["segments_BT"] for m in microbatches], layout)
    seen = set()
    for slot, positions_T, segments_T in zip(layout, positions, segments):
      np.testing.assert_array_equal(positions_T, np.arange(slot.length))
      self.assertLen(set(segments_T), 1)
      seen.add((slot.microbatch, slot.row, int(segments_T[0])))
    self.assertLen(seen, 40)
    tokens = sum((m["segments_BT"] > 0).sum() for m in microbatches)
    self.assertEqual(tokens, lengths.sum())

  def test_parts_of_a_sequence_are_segments_of_one_row(self):
    sequences = [
      {
        "tokens_T": np.arange(n + m, dtype=np.int32),
        "segments_T": np.repeat([1, 2], [n, m]),
      }
      for n, m in ((3, 2), (1, 4), (4, 4))
    ]
    (microbatch,), layout = packing.pack(sequences, row_tokens=12, rows=2)
    np.testing.assert_array_equal(
      microbatch["segments_BT"],
      [
        [1, 1, 1, 1, 2, 2, 2, 2] + [0] * 4,
        [1, 1, 1, 2, 2, 3, 4, 4, 4, 4, 0, 0],
      ],
    )
    np.testing.assert_array_equal(
      microbatch["positions_BT"],
      [
        [0, 1, 2, 3, 0, 1, 2, 3] + [0] * 4,
        [0, 1, 2, 0, 1, 0, 0, 1, 2, 3, 0, 0],
      ],
    )
    self.assertEqual(microbatch["segments_BT"].dtype, np.int32)
    self.assertEqual(microbatch["positions_BT"].dtype, np.int32)
    (tokens_T, *_) = packing.unpack([microbatch["tokens_BT"]], layout)
    np.testing.assert_array_equal(tokens_T, np.arange(5))

  def test_all_microbatches_but_the_last_have_every_row_in_use(self):
    lengths = np.random.default_rng(3).integers(9, 17, 10)
    microbatches, _ = packing.pack(
      random_sequences(lengths), row_tokens=16, rows=4
    )
    used = [(m["segments_BT"] > 0).any(axis=1).tolist() for m in microbatches]
    self.assertEqual(used, [[True] * 4, [True] * 4, [True] * 2 + [False] * 2])

  def test_unpack_of_device_arrays_is_a_copy(self):
    _, layout = packing.pack(random_sequences([3, 2]), row_tokens=8, rows=1)
    (first, second) = packing.unpack([jnp.arange(8.0)[None]], layout)
    np.testing.assert_array_equal(first, [0, 1, 2])
    np.testing.assert_array_equal(second, [3, 4])
    first[0] = 5.0

  def test_no_sequences(self):
    self.assertEqual(packing.pack([], row_tokens=8, rows=2), ([], []))

  @parameterized.parameters("ragged", "fields", "dtype", "pad", "name")
  def test_sequences_that_do_not_match_are_refused(self, wrong):
    sequences = random_sequences([3, 4])
    pad_values = {}
    if wrong == "ragged":
      sequences[1]["mask_T"] = sequences[1]["mask_T"][:2]
    elif wrong == "fields":
      del sequences[1]["mask_T"]
    elif wrong == "dtype":
      sequences[1]["mask_T"] = sequences[1]["mask_T"].astype(np.float32)
    elif wrong == "pad":
      pad_values = {"experts": -1}
    else:
      for sequence in sequences:
        sequence["weights"] = sequence["advantages_T"]
    with self.assertRaises((AssertionError, ValueError)):
      packing.pack(sequences, row_tokens=8, rows=1, pad_values=pad_values)
