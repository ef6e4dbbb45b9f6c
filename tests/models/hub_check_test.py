"""A preset is compared with the checkpoint it is loaded from."""

import dataclasses
import json
import pathlib
import tempfile

from absl.testing import absltest, parameterized

from configs import models
from r1jax.models import config as config_lib
from r1jax.models import hub

PRESET = config_lib.from_dict(models.get_config("smollm2-135m").to_dict())
PUBLISHED = dict(
  architectures=["LlamaForCausalLM"],
  hidden_act="silu",
  hidden_size=576,
  intermediate_size=1536,
  num_attention_heads=9,
  num_hidden_layers=30,
  num_key_value_heads=3,
  head_dim=64,
  rms_norm_eps=9.999999747378752e-06,  # 1e-5 as a GGUF file holds it.
  rope_parameters=dict(rope_theta=100000.0, rope_type="default"),
  tie_word_embeddings=True,
  vocab_size=49152,
)


class CheckTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    (self.folder / "config.json").write_text(json.dumps(PUBLISHED))

  def test_the_same_model(self):
    hub.check(self.folder, PRESET, "config.model")

  def test_own_choices_may_differ(self):
    model = dataclasses.replace(PRESET, param_dtype="bfloat16", remat="full")
    hub.check(self.folder, model, "config.model")

  @parameterized.parameters(
    ("rope_theta", 10000.0), ("norm_eps", 1e-6), ("num_layers", 31)
  )
  def test_a_dimension_that_differs_is_named(self, name, value):
    model = dataclasses.replace(PRESET, **{name: value})
    with self.assertRaisesRegex(ValueError, rf"config\.model\.{name} is"):
      hub.check(self.folder, model, "config.model")


if __name__ == "__main__":
  absltest.main()
