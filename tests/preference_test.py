import os
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized

from r1jax import checkpoint, experiment, preference, run_card, sharding
from r1jax.data import general, miniature, templates
from r1jax.data import tokenizer as tokenizer_lib
from r1jax.models import store
from r1jax.records import Response, Reward
from tests import small
from tests.models import heads_test

TOKENIZER = tokenizer_lib.load()
SNOW = general.all_questions()[0]
TEXT = miniature.layout("think of snow", "snow is white.")


def reading(score_on, template="miniature"):
  return preference.Reading(TOKENIZER, template, score_on)


def read(score_on, text, ids=None, prefilled=False, template="miniature"):
  """What is read after the prompt, without the EOS."""
  made = reading(score_on, template)
  response = Response(text, 0, "eos", prefilled)
  found = preference.token_ids(made, SNOW, response, ids)
  if found is None:
    return None
  prompt = templates.prompt_ids(template, SNOW, TOKENIZER)
  assert found[: len(prompt)] == prompt
  assert found[-1] == TOKENIZER.eos_id
  return found[len(prompt) : -1]


class TokenIdsTest(parameterized.TestCase):
  def test_of_text(self):
    self.assertEqual(read("summary", TEXT), TOKENIZER.encode("snow is white."))
    self.assertEqual(read("response", TEXT), TOKENIZER.encode(TEXT))
    self.assertEqual(
      read("summary", "snow is white."), TOKENIZER.encode("snow is white.")
    )

  def test_ids_are_the_policys_own(self):
    # One piece a byte is how the tokenizer would never write it.
    odd = [i for c in "snow" for i in TOKENIZER.encode(c)]
    before, after = TEXT.split("snow is white.")
    ids = [
      *TOKENIZER.encode(before),
      *odd,
      *TOKENIZER.encode(" is white."),
      *TOKENIZER.encode(after),
    ]
    self.assertEqual(TOKENIZER.decode(ids), TEXT)
    self.assertNotEqual(ids, TOKENIZER.encode(TEXT))
    self.assertEqual(read("response", TEXT, ids), ids)
    want = [*odd, *TOKENIZER.encode(" is white.")]
    self.assertEqual(read("summary", TEXT, ids), want)
    self.assertNotEqual(want, TOKENIZER.encode("snow is white."))

  @parameterized.parameters(
    "<think>x</think><answer> snow is white. </answer>",
    "<think>snow is white.</think><answer>\nsnow is white.\n</answer>snow",
    "<think>x</think> snow is white.",
    "<think>中</think><answer>snow is white.</answer>",
    "snow is white.",
  )
  def test_the_slice_decodes_to_the_summary(self, text):
    ids = read("summary", text, TOKENIZER.encode(text))
    self.assertEqual(TOKENIZER.decode(ids), "snow is white.")

  def test_a_summary_that_begins_inside_a_token_is_encoded(self):
    piece = next(
      i for i in range(TOKENIZER.vocab_size) if TOKENIZER.piece(i) == "▁is"
    )
    before = TEXT.removesuffix("snow is white.</answer>")
    ids = [*TOKENIZER.encode(before), piece, *TOKENIZER.encode("</answer>")]
    text = TOKENIZER.decode(ids)
    self.assertEndsWith(text, "<answer> is</answer>")
    self.assertEqual(read("summary", text, ids), TOKENIZER.encode("is"))

  @parameterized.parameters(
    "<think>cut off",
    "<think>x</think><answer>snow is",
    "<think>x</think><answer> </answer>",
    "",
  )
  def test_no_summary(self, text):
    self.assertIsNone(read("summary", text))
    self.assertIsNone(read("summary", text, TOKENIZER.encode(text)))
    self.assertIsNotNone(read("response", text))

  def test_an_opened_think_is_read_once(self):
    inner = TEXT.removeprefix("<think>")
    ids = TOKENIZER.encode(inner)
    # The policy's prompt opened it, the reward model's does not.
    self.assertEqual(
      read("response", inner, ids, prefilled=True), TOKENIZER.encode(TEXT)
    )
    # Both do: the policy's own ids.
    same = dict(prefilled=True, template="miniature-think")
    self.assertEqual(read("response", inner, ids, **same), ids)
    # Only the reward model's does.
    self.assertEqual(
      read("response", TEXT, None, template="miniature-think"), ids
    )

  def test_a_template_that_opens_think_is_refused_for_summaries(self):
    preference.check(reading("summary"))
    preference.check(reading("response", "miniature-think"))
    with self.assertRaisesRegex(ValueError, "'miniature-think' opens <think>"):
      preference.check(reading("summary", "miniature-think"))


class ScorerTest(parameterized.TestCase):
  @parameterized.parameters(*small.CONFIGS)
  def test_packed_equals_one_by_one(self, name):
    config = small.CONFIGS[name]()
    weights = heads_test.drawn(config)
    sequences = [small.tokens(n, seed=n) for n in (5, 9, 3, 7, 12, 4, 2)]
    # Both fill a batch of one shape, the second one with a sequence.
    score = preference.make_scorer(
      preference.make(config), lambda x: x, row_tokens=12, rows=2
    )
    packed_B = score(*weights, sequences)
    alone_B = [score(*weights, [ids])[0] for ids in sequences]
    self.assertEqual(packed_B.dtype, np.float32)
    np.testing.assert_allclose(packed_B, alone_B, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(packed_B, score(*weights, sequences))
    # Scores differ and each is its own sequence's.
    self.assertLen(set(packed_B.tolist()), 7)
    np.testing.assert_allclose(
      score(*weights, sequences[::-1]), packed_B[::-1], rtol=1e-4, atol=1e-5
    )

  def test_one_program(self):
    config = small.gqa()
    traced = []
    model = preference.make(config)

    def scores(*arguments):
      traced.append(None)
      return model.scores(*arguments)

    score = preference.make_scorer(
      model._replace(scores=scores), lambda x: x, row_tokens=12, rows=2
    )
    weights = heads_test.drawn(config)
    for count in (1, 5, 9):
      score(*weights, [small.tokens(n % 7 + 2) for n in range(count)])
    self.assertLen(traced, 1)
    self.assertEqual(score(*weights, []).shape, (0,))


class RewardTest(parameterized.TestCase):
  def reward(self, responses, score_on="summary", max_tokens=99, clip=9.0):
    """The rewards, and what was scored; scores are 0, 1, 2, ..."""
    scored = []

    def score(params, buffers, sequences):
      self.assertEqual((params, buffers), ("params", "buffers"))
      scored.extend(sequences)
      return np.arange(len(sequences), dtype=np.float32)

    found = preference.reward(
      score,
      reading(score_on),
      "params",
      "buffers",
      [SNOW] * len(responses),
      responses,
      [TOKENIZER.encode(each.text) for each in responses],
      floor=-0.5,
      clip=clip,
      max_tokens=max_tokens,
    )
    return found, scored

  def test_it_is_the_sigmoid_of_the_responses_own_score(self):
    texts = ["snow is white.", "<think>cut", TEXT, "snow is red."]
    found, scored = self.reward([Response(t, 0, "eos") for t in texts])
    prompt = templates.prompt_ids("miniature", SNOW, TOKENIZER)
    self.assertEqual(
      scored,
      [
        [*prompt, *TOKENIZER.encode(text), TOKENIZER.eos_id]
        for text in ("snow is white.", "snow is white.", "snow is red.")
      ],
    )
    np.testing.assert_allclose(
      [reward.value for reward in found],
      [0.5, -0.5, 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-2))],
      rtol=1e-6,
    )
    self.assertEqual(found[1], Reward(-0.5, "no summary", "unscored"))
    self.assertEqual(found[3].reason, "score 2")
    self.assertEqual([r.status for r in found].count("ok"), 3)

  def test_large_scores_stay_finite(self):
    score = lambda *arguments: np.array([-1e4, 1e4], np.float32)  # noqa: E731
    found = preference.reward(
      score,
      reading("summary"),
      None,
      None,
      [SNOW] * 2,
      [Response(TEXT, 0, "eos")] * 2,
      [TOKENIZER.encode(TEXT)] * 2,
      floor=0.0,
      clip=700.0,
      max_tokens=99,
    )
    np.testing.assert_allclose([r.value for r in found], [0, 1], atol=1e-9)

  def test_beyond_the_clip_all_are_alike(self):
    found, _ = self.reward([Response(TEXT, 0, "eos")] * 4, clip=1.5)
    np.testing.assert_allclose(
      [reward.value for reward in found],
      [1 / (1 + np.exp(-x)) for x in (0, 1, 1.5, 1.5)],
      rtol=1e-6,
    )
    self.assertEqual(found[2].value, found[3].value)
    self.assertEqual(found[3].reason, "score 3")  # Logged as it is.

  def test_what_was_cut_off_is_not_scored(self):
    cut = [Response(TEXT, 7, why) for why in ("length", "repetition")]
    found, scored = self.reward(cut, score_on="response")
    self.assertEmpty(scored)
    self.assertEqual(
      found[0], Reward(-0.5, "cut off after 7 tokens", "unscored")
    )
    self.assertEqual(found[1].status, "unscored")

  def test_what_does_not_fit_is_not_scored(self):
    response = Response(TEXT, 0, "eos")
    length = len(self.reward([response], "response")[1][0])
    found, _ = self.reward([response], "response", max_tokens=length)
    self.assertEqual(found[0].status, "ok")
    found, scored = self.reward([response], "response", max_tokens=length - 1)
    self.assertEmpty(scored)
    self.assertEqual(
      found[0],
      Reward(-0.5, f"more than {length - 1} tokens to read", "unscored"),
    )


class LoadTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = self.enter_context(tempfile.TemporaryDirectory())
    self.file = os.path.join(self.folder, "rm.safetensors")
    self.config = small.mla()
    self.weights = heads_test.drawn(self.config)

  def save(self, **changes):
    """A trained model's file and workdir."""
    note = preference.describe(self.config, "t0", reading("summary")) | changes
    notes = {preference.NOTE: note}
    store.save(self.file, self.config, *self.weights, notes)
    saved = checkpoint.Checkpointer(
      os.path.join(self.folder, "checkpoints"), keep=1
    )
    params, buffers = self.weights
    saved.save(0, {"params": params, "buffers": buffers}, {})
    saved.close()
    run_card.write(self.folder, {preference.NOTE: note})

  def load(self, path, config=None, digest="t0"):
    config = config or self.config
    mesh = sharding.make_mesh(dict(data=1, fsdp=1, expert=1, tensor=1))
    abstract = experiment.abstract_weights(preference.make(config), mesh)
    return preference.restore(path, config, TOKENIZER, digest, abstract)

  def test_from_file_workdir_and_checkpoints(self):
    self.save()
    for path in (
      self.file,
      self.folder,
      os.path.join(self.folder, "checkpoints"),
    ):
      params, buffers, found = self.load(path)
      self.assertEqual(found, reading("summary"))
      jax.tree.map(
        np.testing.assert_array_equal, (params, buffers), self.weights
      )

  def test_how_it_is_computed_may_differ(self):
    self.save()
    other = small.mla(remat="full", moe_impl="dense", scan_unroll=2)
    self.load(self.file, other)

  def test_another_model_is_refused(self):
    self.save()
    for path in (self.file, self.folder):
      with self.assertRaisesRegex(
        ValueError, f"^{path} is a reward model whose rope_theta is 10000.0"
      ) as raised:
        self.load(path, small.mla(rope_theta=7.0))
      self.assertNotIn("\n", str(raised.exception))

  def test_another_tokenizer_is_refused(self):
    self.save()
    for path in (self.file, self.folder):
      with self.assertRaisesRegex(
        ValueError, f"^{path} reads tokens of tokenizer t0, .* is t1. Train"
      ):
        self.load(path, digest="t1")

  def test_a_policy_is_refused(self):
    store.save(self.file, self.config, *small.weights(self.config))
    for path in (self.file, self.folder):
      with self.assertRaisesRegex(ValueError, f"^{path} holds no reward model"):
        self.load(path)

  def test_a_reward_model_is_refused_as_a_policy(self):
    self.save()
    abstract = jax.eval_shape(lambda: small.weights(self.config))
    message = "has (no|none|float32).*"
    with self.assertRaisesRegex(ValueError, message):
      store.load(self.file, *abstract)
    with self.assertRaisesRegex(ValueError, message):
      checkpoint.restore_weights(self.folder, *abstract)


if __name__ == "__main__":
  absltest.main()
