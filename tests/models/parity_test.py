import tempfile

import numpy as np
import pytest
import safetensors.numpy
from absl.testing import absltest, parameterized

from tests import small
from tests.models import parity


class GoldenTest(parameterized.TestCase):
  """What transformers said of the models in tests/models/golden."""

  @parameterized.parameters(*parity.GOLDEN_MODELS)
  def test_logits_and_greedy_tokens_are_those_of_transformers(self, name):
    folder = parity.GOLDEN / name
    config, weights = parity.load(folder)
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
    for layout, rows in parity.layouts().items():
      got = parity.logits(config, weights, rows)
      self.assertLen(got, len(want))
      gap = max(np.abs(a - b).max() for a, b in zip(got, want))
      print(f"{name}, {layout}: {gap:.1e} of scale {scale:.2f}")
      if gap > parity.LIMIT:
        report = parity.hidden_report(config, weights, model)
        self.fail(f"{name}, {layout}: logits differ by {gap:.1e}; {report}")
    np.testing.assert_array_equal(
      parity.greedy(config, weights), parity.reference_greedy(model)
    )


if __name__ == "__main__":
  absltest.main()
