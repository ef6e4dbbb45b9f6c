import pathlib
import re
import tempfile

import numpy as np
import pytest
import safetensors.numpy
from absl.testing import absltest, parameterized

from r1jax import policy
from r1jax.models import hub
from tests import small
from tests.models import parity, smollm2


class GoldenTest(parameterized.TestCase):
  """What transformers said of the models in tests/models/golden."""

  @parameterized.parameters(*parity.GOLDEN_MODELS)
  def test_logits_and_greedy_tokens_are_those_of_transformers(self, name):
    folder = parity.GOLDEN / name
    # The form of the experts that compiles fastest.
    config, weights = parity.load(folder, moe_impl="dense")
    want = safetensors.numpy.load_file(folder / "expected.safetensors")
    # A fifth sequence: the prompt and what transformers wrote after it.
    written = np.concatenate([parity.sequences()[0], want["greedy_T"]])
    found = [*parity.sequences(), written]
    rows = small.rows(found, (2, 2, 1), len(written))
    *got, written_TV = parity.logits(config, weights, rows)
    for i, logits_TV in enumerate(got):
      np.testing.assert_allclose(
        logits_TV, want[f"logits{i}_TV"], rtol=0, atol=parity.LIMIT
      )
    likeliest_T = written_TV.argmax(axis=-1)[-parity.GENERATED - 1 : -1]
    np.testing.assert_array_equal(likeliest_T, want["greedy_T"])

  def test_golden_files_are_small(self):
    files = parity.GOLDEN.rglob("*")
    self.assertLess(sum(f.stat().st_size for f in files), 1_500_000)


@pytest.mark.slow
class TransformersTest(parameterized.TestCase):
  """Against transformers' own forward, on small random models."""

  def setUp(self):
    super().setUp()
    pytest.importorskip("torch")
    pytest.importorskip("transformers")

  @parameterized.parameters(*parity.MODELS)
  def test_logits_and_greedy_tokens(self, name):
    with tempfile.TemporaryDirectory() as folder:
      model = parity.save(name, folder)
      config, weights = parity.load(folder)
    want = parity.reference_logits(model)
    scale = float(np.concatenate(want).std())
    layouts = parity.layouts()
    padded = parity.reference_padded_logits(model)
    wants = dict.fromkeys(layouts, want) | {"padded before": padded}
    for layout, rows in layouts.items():
      got, want = parity.logits(config, weights, rows), wants[layout]
      self.assertLen(got, len(want))
      gap = max(np.abs(a - b).max() for a, b in zip(got, want))
      print(f"{name}, {layout}: {gap:.1e} of scale {scale:.2f}")
      if gap > parity.LIMIT:
        report = parity.hidden_report(config, weights, model)
        self.fail(f"{name}, {layout}: logits differ by {gap:.1e}; {report}")
    np.testing.assert_array_equal(
      parity.greedy(config, weights), parity.reference_greedy(model)
    )

  def test_a_failure_shows_the_layer_it_begins_in(self):
    with tempfile.TemporaryDirectory() as folder:
      model = parity.save("llama", folder)
      config, weights = parity.load(folder)
    norm = weights[0]["dense_layers"]["mlp_norm"]["scale"]
    weights[0]["dense_layers"]["mlp_norm"]["scale"] = norm.at[1].multiply(2.0)
    report = parity.hidden_report(config, weights, model)
    gaps = [float(x) for x in re.findall(r": ([0-9.e+-]+) of scale", report)]
    self.assertLen(gaps, config.num_layers)
    self.assertLess(gaps[0], parity.LIMIT)
    self.assertGreater(min(gaps[1:]), 100 * parity.LIMIT)

  @parameterized.parameters(*parity.MODELS)
  def test_transformers_loads_what_is_exported(self, name):
    with tempfile.TemporaryDirectory() as root:
      first = pathlib.Path(root) / "first"
      model = parity.save(name, first)
      config, weights = parity.load(first)
      for base in (first, None):
        shown = pathlib.Path(root) / f"base {base is not None}"
        hub.export(shown, config, *weights, base=base, max_shard_bytes=20000)
        again, problems = parity.reload(shown)
        self.assertFalse(any(problems.values()), problems)
        values = again.state_dict()
        for path, value in model.state_dict().items():
          np.testing.assert_array_equal(values[path], value)
        for got, want in zip(
          parity.reference_logits(again), parity.reference_logits(model)
        ):
          # torch's sums depend on how the weights are aligned in memory.
          np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.slow
class SmolLM2Test(parameterized.TestCase):
  """A real model on a real text."""

  def test_logprobs(self):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    folder = smollm2.folder()
    ids = smollm2.text_ids(folder)
    config, weights = parity.load(folder)
    rows = small.rows([ids], [1], len(ids))
    scores = policy.make(config, temperature=1.0).logprobs(
      *weights, small.batch(*rows)
    )
    want = smollm2.reference_logprobs(folder, ids)
    got = np.asarray(scores.logprobs_BT)[0, 1:]
    gap = float(np.abs(got - want).max())
    print(f"{len(ids)} tokens, mean {want.mean():.3f}, gap {gap:.1e}")
    self.assertLess(gap, 1e-3)
    self.assertGreater(want.mean(), -5.0)  # A text that the model can read.


if __name__ == "__main__":
  absltest.main()
