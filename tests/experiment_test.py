import functools
import pathlib
import tempfile

import flax.linen as nn
import jax
import ml_collections
from absl.testing import absltest, parameterized

from r1jax import experiment, policy, run_card, sharding, tree
from r1jax.data import tokenizer as tokenizer_lib
from r1jax.models import config as model_config
from r1jax.models import store
from r1jax.records import Question
from tests import runs

TOKENIZER = tokenizer_lib.load("bundled")
MESH = sharding.make_mesh(dict(data=1, fsdp=1, expert=1, tensor=1))
DIMS = model_config.from_dict(runs.DENSE)
MODEL = policy.make(DIMS, temperature=1.0)


class WeightsTest(parameterized.TestCase):
  def test_random_weights_are_a_function_of_the_seed(self):
    digests = [
      tree.digest(experiment.weights(runs.config(seed=s), MODEL, MESH))
      for s in (0, 0, 1)
    ]
    self.assertEqual(digests[0], digests[1])
    self.assertNotEqual(digests[0], digests[2])

  def test_they_have_the_abstract_weights_layout(self):
    abstract = experiment.abstract_weights(MODEL, MESH)
    weights = experiment.weights(runs.config(), MODEL, MESH)
    self.assertEqual(tree.layout(weights), tree.layout(abstract))
    for leaf, want in zip(jax.tree.leaves(weights), jax.tree.leaves(abstract)):
      self.assertEqual(leaf.sharding, want.sharding)
    self.assertFalse(
      [x for x in jax.tree.leaves(abstract) if isinstance(x, nn.Partitioned)]
    )

  def test_a_file_is_loaded_bit_for_bit(self):
    weights = experiment.weights(runs.config(seed=5), MODEL, MESH)
    with tempfile.TemporaryDirectory() as directory:
      path = pathlib.Path(directory, "x.safetensors")
      store.save(path, DIMS, *weights)
      init = dict(name="safetensors", path=str(path))
      loaded = experiment.weights(runs.config(init=init), MODEL, MESH)
    self.assertEqual(tree.digest(loaded), tree.digest(weights))


class TeacherTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = self.enterContext(tempfile.TemporaryDirectory())
    self.directory = pathlib.Path(directory)

  def config(self, **changes):
    """A student of config runs.DENSE, its teacher one of runs.DENSE too."""
    path = str(self.directory / "params.safetensors")
    teacher = dict(
      name="safetensors", path=path, model=runs.DENSE, tokenizer="bundled"
    )
    return ml_collections.ConfigDict(
      dict(tokenizer="bundled", teacher=teacher | changes)
    )

  def test_its_weights_and_dimensions(self):
    weights = experiment.weights(runs.config(seed=5), MODEL, MESH)
    config = self.config()
    store.save(config.teacher.path, DIMS, *weights)
    dims, loaded = experiment.teacher(config, DIMS, MESH)
    self.assertEqual(dims, DIMS)
    self.assertEqual(tree.digest(loaded), tree.digest(weights))

  def test_another_vocabulary_is_refused(self):
    config = self.config(model=runs.DENSE | dict(vocab_size=640))
    with self.assertRaisesRegex(
      ValueError,
      "config.teacher.model.vocab_size is 640, config.model.vocab_size is "
      "512. Choose a student",
    ):
      experiment.teacher(config, DIMS, MESH)

  def test_another_tokenizer_is_refused(self):
    other = self.directory / "other.model"
    other.write_bytes(b"other")
    config = self.config(tokenizer=str(other))
    with self.assertRaisesRegex(
      ValueError,
      f"config.teacher.tokenizer has tokenizer {experiment.file_digest(other)}"
      ", config.tokenizer is ",
    ):
      experiment.teacher(config, DIMS, MESH)

  @parameterized.parameters("", "checkpoints", "params.safetensors")
  def test_a_run_with_another_tokenizer_is_refused(self, part):
    run_card.write(str(self.directory), {"tokenizer_digest": "0123"})
    (self.directory / "checkpoints").mkdir()
    config = self.config(path=str(self.directory / part))
    with self.assertRaisesRegex(
      ValueError, "the run of config.teacher.path .* has tokenizer 0123, "
    ):
      experiment.teacher(config, DIMS, MESH)


class DataTest(parameterized.TestCase):
  def test_questions_come_in_an_endless_order_of_the_seed(self):
    data = [Question(f"q{i}", "?", i, "none") for i in range(5)]
    take = experiment.question_order(data, 3)
    ids = [q.id for q in take(0, 10)]
    self.assertCountEqual(ids[:5], [q.id for q in data])
    self.assertCountEqual(ids[5:], [q.id for q in data])
    self.assertNotEqual(ids[:5], ids[5:])
    again = experiment.question_order(data, 3)
    self.assertEqual([q.id for q in again(4, 3)], ids[4:7])
    other = experiment.question_order(data, 4)
    self.assertNotEqual([q.id for q in other(0, 10)], ids)

  def test_documents_are_a_function_of_the_round(self):
    config = runs.config("pretrain", sequences_per_round=3)
    make = experiment.documents(config, TOKENIZER)
    first, second = make(0), make(1)
    self.assertLen(first, 3)
    self.assertNotEqual(first, second)
    self.assertEqual(experiment.documents(config, TOKENIZER)(1), second)
    for prompt, response in first:
      self.assertEqual(prompt[0], TOKENIZER.bos_id)
      self.assertEqual(response[-1], TOKENIZER.eos_id)
    six = experiment.documents(
      runs.config("pretrain", sequences_per_round=6), TOKENIZER
    )
    self.assertEqual(six(0), first + second)

  def test_a_long_prompt_is_named(self):
    data = [
      Question("short", "1", 0, "none"),
      Question("long", "1 2 3 " * 9, 0, "none"),
    ]
    config = runs.config()
    budget = functools.partial(experiment.within_budget, config, TOKENIZER)
    self.assertEqual(budget(data[:1], "config.data"), data[:1])
    with self.assertRaisesRegex(
      ValueError,
      r"^config.data: the prompt of question 'long' has \d+ tokens, but "
      "config.max_prompt_tokens is 16. Raise it",
    ):
      budget(data, "config.data")
    with config.unlocked():
      config.overlong = "drop"
    with self.assertLogs(level="WARNING") as logs:
      self.assertEqual(budget(data, "config.data"), data[:1])
    self.assertIn("1 prompts are too long", logs.output[0])
    with self.assertRaisesRegex(ValueError, "all 1 prompts are longer than"):
      budget(data[1:], "config.data")

  def test_a_vocabulary_without_room_is_named(self):
    model = runs.DENSE | {"vocab_size": TOKENIZER.vocab_size - 1}
    with self.assertRaisesRegex(
      ValueError, "config.model.vocab_size is .* the tokenizer 'bundled' has"
    ):
      experiment.dimensions(runs.config(model=model), TOKENIZER)


class DigestTest(parameterized.TestCase):
  def test_of_values(self):
    a = experiment.digest_of({"x": 1, "y": [1, 2]})
    self.assertEqual(a, experiment.digest_of({"y": [1, 2], "x": 1}))
    self.assertNotEqual(a, experiment.digest_of({"x": 1, "y": [2, 1]}))
    self.assertRegex(a, "^[0-9a-f]{16}$")

  def test_of_a_file(self):
    with tempfile.TemporaryDirectory() as directory:
      path = pathlib.Path(directory, "x")
      path.write_bytes(b"abc")
      # sha256sum of "abc".
      self.assertEqual(experiment.file_digest(path), "ba7816bf8f01cfea")


class PartsTest(parameterized.TestCase):
  def test_grader_takes_the_arguments_without_the_weights(self):
    grader = experiment.grader(runs.config())
    self.addCleanup(grader.close)
    self.assertEqual(
      grader._rewards,
      {
        "accuracy": {},
        "format": {},
        "language": {"identifier": "script"},
        "repetition": {"ngram_tokens": 1},
      },
    )
    self.assertEqual(grader.pids(), [])

  def test_sampler_has_the_configs_shapes(self):
    config = runs.config()
    programs = experiment.programs(config, MODEL, TOKENIZER, config.sampling)
    self.assertEqual(programs.slots, 8)
    self.assertEqual(programs.prefill_rows, 4)
    self.assertEqual(programs.max_prompt_tokens, 16)
    self.assertEqual(programs.max_response_tokens, 16)


if __name__ == "__main__":
  absltest.main()
