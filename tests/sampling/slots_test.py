"""The bundled base's samples do not depend on the number of slots."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from absl.testing import absltest

from configs import models
from r1jax import experiment, policy
from r1jax.data import countdown, templates, tokenizer
from r1jax.models import config as model_config
from r1jax.models import store
from r1jax.sampling import engine

QUESTIONS, SAMPLES = 16, 8


class SlotsTest(absltest.TestCase):
  @pytest.mark.slow
  def test_4_16_and_64_slots_differ_by_rounding_alone(self):
    runs = {slots: self.sample(slots) for slots in (4, 16, 64)}
    shuffled = self.sample(16, order=np.random.default_rng(0))
    for request, sample in shuffled.items():
      np.testing.assert_array_equal(sample.tokens_T, runs[16][request].tokens_T)
    for slots in (4, 64):
      for request, sample in runs[slots].items():
        self.compare(slots, sample, runs[16][request])

  def sample(self, slots, order=None):
    tok = tokenizer.load()
    config = model_config.from_dict(models.get_config("tiny").to_dict())
    model = policy.make(config, temperature=1.0)
    boxed = jax.eval_shape(model.init, jax.random.key(0))
    weights = store.load(experiment.BUNDLED, *nn.unbox(boxed))
    questions = countdown.questions(split="test")[:QUESTIONS]
    prompts = {
      q: templates.prompt_ids("miniature", question, tok)
      for q, question in enumerate(questions)
    }
    requests = [
      engine.Request(q, g) for q in range(QUESTIONS) for g in range(SAMPLES)
    ]
    if order is not None:
      requests = [requests[i] for i in order.permutation(len(requests))]
    programs = model.programs(
      eos_id=tok.eos_id,
      chunk_tokens=16,
      slots=slots,
      prefill_rows=8,
      max_prompt_tokens=16,
      max_response_tokens=176,
    )
    samples, _ = engine.sample(
      programs, *weights, jax.random.key(7), prompts, requests
    )
    return dict(zip(requests, samples))

  def compare(self, slots, one, other):
    """Equal, or the first token that differs is a tie up to rounding."""
    n = min(len(one.tokens_T), len(other.tokens_T))
    differ = one.tokens_T[:n] != other.tokens_T[:n]
    first = int(np.argmax(differ)) if differ.any() else n
    gaps = np.abs(one.logprobs_T[:first] - other.logprobs_T[:first])
    gap = float(np.max(gaps, initial=0.0))
    if differ.any():
      print(
        f"{slots} against 16 slots, question {one.question}, sample "
        f"{one.sample}: differs at token {first}, gap before {gap:.1e}"
      )
    else:
      self.assertEqual(len(one.tokens_T), len(other.tokens_T))
    self.assertLess(gap, 1e-4)


if __name__ == "__main__":
  absltest.main()
