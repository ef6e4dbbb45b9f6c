"""The bundled base as a judge: in process, and behind an HTTP server."""

import functools

import flax.linen as nn
import jax
import pytest
from absl.testing import absltest

from configs import models
from r1jax import experiment, judging, policy
from r1jax.data import tokenizer
from r1jax.models import config as model_config
from r1jax.models import store
from r1jax.rewards import judge
from tests import judge_server

HTTP = dict(
  name="http", model="tiny", key_env="", temperature=1.0, max_reply_tokens=32
)
QUERIES = [
  judge.Query(f"q{i}", f"{i} 2 3 -> {i}", str(i), str(i)) for i in range(6)
]


@functools.cache
def tiny():
  """The bundled base, ready to judge."""
  tok = tokenizer.load()
  config = model_config.from_dict(models.get_config("tiny").to_dict())
  model = policy.make(config, temperature=1.0)
  boxed = jax.eval_shape(model.init, jax.random.key(0))
  programs = model.programs(
    eos_id=tok.eos_id,
    chunk_tokens=16,
    slots=4,
    prefill_rows=2,
    max_prompt_tokens=1024,
    max_response_tokens=32,
  )
  weights = store.load(experiment.BUNDLED, *nn.unbox(boxed))
  return judging.Model(programs, tok, *weights)


class MakeTest(absltest.TestCase):
  def test_what_cannot_be_had_is_named(self):
    for choice, message in (
      (dict(name="oracle"), "judge.name is 'oracle'. Known: http, policy."),
      (dict(name="policy", template="r1"), "template is 'r1'. Known"),
      (dict(name="policy", template="miniature"), "no policy is at hand"),
      (dict(name="http", model="m"), "judge.url is missing"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        judging.make(choice, "judge")


@pytest.mark.slow
class PolicyTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    choice = dict(name="policy", template="miniature")
    self.ask = judging.make(choice, "judge", tiny())

  def test_over_http_it_says_what_it_says_in_process(self):
    here = judge.grade(self.ask, QUERIES, seed=3)
    serve = judge_server.asks(self.ask, judge.Prompt)
    with judge_server.Server(serve) as server:
      ask = judging.make(HTTP | dict(url=server.url), "judge")
      there = judge.grade(ask, QUERIES, seed=3)
    for mine, other in zip(here, there, strict=True):
      self.assertEqual(mine.reply, other.reply)
      self.assertEqual(mine.status, other.status)
      # A model of Countdown writes no JSON: the third outcome, not a crash.
      self.assertEqual(mine.status, "unparseable")
    self.assertLen({each.reply for each in here}, len(QUERIES))

  def test_a_reply_depends_on_its_prompt_and_seed_alone(self):
    whole = judge.grade(self.ask, QUERIES, seed=3)
    self.assertEqual(judge.grade(self.ask, QUERIES[3:4], seed=3), whole[3:4])
    self.assertEqual(judge.grade(self.ask, QUERIES, seed=3), whole)
    self.assertNotEqual(judge.grade(self.ask, QUERIES, seed=4), whole)

  def test_prompts_that_cannot_be_asked_fail_alone(self):
    long = QUERIES[0]._replace(id="long", answer="9 " * 2000)
    first, second = judge.grade(self.ask, [long, QUERIES[1]], seed=3)
    self.assertEqual(first.status, "failed")
    self.assertIn("tokens, more than 1024", first.reason)
    self.assertEqual(second.status, "unparseable")


if __name__ == "__main__":
  absltest.main()
