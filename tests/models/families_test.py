import dataclasses

import jax
import numpy as np
from absl.testing import absltest, parameterized

from r1jax import tree
from r1jax.models import config as config_lib
from r1jax.models import families, hub_read
from tests import small
from tests.models import parity

LLAMA_8B = dict(
  architectures=["LlamaForCausalLM"],
  attention_bias=False,
  hidden_act="silu",
  hidden_size=4096,
  intermediate_size=14336,
  max_position_embeddings=131072,
  mlp_bias=False,
  num_attention_heads=32,
  num_hidden_layers=32,
  num_key_value_heads=8,
  rms_norm_eps=1e-05,
  rope_scaling=dict(
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=8192,
    rope_type="llama3",
  ),
  rope_theta=500000.0,
  tie_word_embeddings=False,
  vocab_size=128256,
)


def qwen2(width, inner, layers, heads, kv_heads, vocab, tied, theta):
  return dict(
    architectures=["Qwen2ForCausalLM"],
    hidden_act="silu",
    hidden_size=width,
    intermediate_size=inner,
    max_position_embeddings=32768,
    max_window_layers=21,
    num_attention_heads=heads,
    num_hidden_layers=layers,
    num_key_value_heads=kv_heads,
    rms_norm_eps=1e-06,
    rope_theta=theta,
    sliding_window=4096,
    tie_word_embeddings=tied,
    use_sliding_window=False,
    vocab_size=vocab,
  )


# Parameters of the R1 paper's students, facts of their config.json files.
PUBLISHED = {
  "Qwen2.5-Math-1.5B": (
    qwen2(1536, 8960, 28, 12, 2, 151936, True, 10000),
    1_543_714_304,
  ),
  "R1-Distill-Qwen-7B": (
    qwen2(3584, 18944, 28, 28, 4, 152064, False, 10000),
    7_615_616_512,
  ),
  "Qwen2.5-32B": (
    qwen2(5120, 27648, 64, 40, 8, 152064, False, 1000000.0),
    32_763_876_352,
  ),
  "Llama-3.1-8B": (LLAMA_8B, 8_030_261_248),
}


def small_json(**changes):
  base = {
    name: LLAMA_8B[name]
    for name in ("architectures", "hidden_act", "max_position_embeddings")
  }
  return {
    **base,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 64,
    **changes,
  }


def fields(**changes):
  hf = small_json(**changes)
  return families.of_json(hf)[1].from_hf(hf)


class ConfigTest(parameterized.TestCase):
  @parameterized.parameters(*PUBLISHED)
  def test_published_models_have_their_number_of_parameters(self, name):
    hf, count = PUBLISHED[name]
    _, family = families.of_json(hf)
    config = config_lib.from_dict(family.from_hf(hf))
    weights = parity.abstract(config)
    self.assertEqual(tree.count(weights), count)
    self.assertEqual(config.rope_theta, hf["rope_theta"])

  def test_llama_3_scaling_is_read(self):
    hf, _ = PUBLISHED["Llama-3.1-8B"]
    scaling = families.FAMILIES["LlamaForCausalLM"].from_hf(hf)["rope_scaling"]
    want = dict(
      name="llama3",
      factor=8.0,
      original_max_positions=8192,
      low_freq_factor=1.0,
      high_freq_factor=4.0,
    )
    self.assertEqual(scaling, want)

  @parameterized.named_parameters(
    ("transformers 4", dict(rope_theta=7e5)),
    ("transformers 5", dict(rope_parameters=dict(rope_theta=7e5))),
    ("both", dict(rope_theta=1.0, rope_parameters=dict(rope_theta=7e5))),
  )
  def test_theta_in_each_form(self, changes):
    self.assertEqual(fields(**changes)["rope_theta"], 7e5)
    self.assertIsNone(fields(**changes)["rope_scaling"])

  @parameterized.parameters("type", "rope_type")
  def test_yarn_in_each_form(self, kind):
    scaling = {kind: "yarn", "factor": 4.0, "beta_fast": 16}
    got = fields(rope_scaling=scaling, max_position_embeddings=4096)
    want = dict(
      name="yarn", factor=4.0, original_max_positions=4096, beta_fast=16.0
    )
    self.assertEqual(got["rope_scaling"], want)

  def test_a_factor_that_the_lengths_say(self):
    scaling = {"type": "yarn", "original_max_position_embeddings": 1024}
    got = fields(rope_scaling=scaling, max_position_embeddings=4096)
    self.assertEqual(got["rope_scaling"]["factor"], 4.0)

  def test_what_config_json_leaves_out(self):
    got = fields()
    self.assertEqual(got["num_kv_heads"], 4)
    self.assertEqual(got["head_dim"], 8)
    self.assertEqual(got["norm_eps"], 1e-6)
    self.assertEqual(got["rope_theta"], 10000.0)
    self.assertFalse(got["tie_embeddings"])
    got = fields(architectures=["Qwen3ForCausalLM"], head_dim=None)
    self.assertEqual(got["head_dim"], 8)
    got = fields(architectures=["Qwen3ForCausalLM"])
    self.assertEqual(got["head_dim"], 128)

  @parameterized.parameters(
    (dict(hidden_act="gelu"), "hidden_act is 'gelu'"),
    (dict(attention_bias=True), "attention_bias is True"),
    (dict(mlp_bias=True), "mlp_bias is True"),
    (dict(vocab_size=None), "vocab_size is missing"),
    (dict(rope_scaling=dict(type="dynamic", factor=2.0)), "'dynamic'. Known"),
    (
      dict(rope_parameters=dict(partial_rotary_factor=0.5)),
      "rope_parameters.partial_rotary_factor is 0.5",
    ),
    (
      dict(rope_scaling=dict(type="yarn", factor=2.0, attention_factor=1.5)),
      "rope_scaling.attention_factor is 1.5",
    ),
    (dict(rope_scaling=dict(rope_type="llama3")), "lacks factor"),
    (dict(architectures=["MistralForCausalLM"]), "sliding_window is 4096"),
    (
      dict(architectures=["Qwen2ForCausalLM"], use_sliding_window=True),
      "sliding_window is 4096",
    ),
    (
      dict(architectures=["Qwen3ForCausalLM"], attention_bias=True),
      "attention_bias is True",
    ),
    (dict(architectures=["GPT2LMHeadModel"]), "Known: .*LlamaForCausalLM"),
    (dict(architectures=None), "architectures is None"),
  )
  def test_what_is_not_built_is_refused_in_one_line(self, changes, message):
    with self.assertRaisesRegex(ValueError, message) as caught:
      fields(**changes)
    self.assertNotIn("\n", str(caught.exception))

  def test_windows_that_no_token_notices(self):
    for changes in (
      dict(architectures=["MistralForCausalLM"], sliding_window=None),
      dict(
        architectures=["MistralForCausalLM"],
        sliding_window=512,
        max_position_embeddings=512,
      ),
      dict(architectures=["Qwen2ForCausalLM"], sliding_window=512),
    ):
      self.assertEqual(fields(**changes)["d_model"], 32)


DENSE = {
  "LlamaForCausalLM": dict(qkv_bias=False, qk_norm=False),
  "Qwen2ForCausalLM": dict(qkv_bias=True, qk_norm=False),
  "Qwen3ForCausalLM": dict(qkv_bias=False, qk_norm=True),
}


class RulesTest(parameterized.TestCase):
  @parameterized.product(name=list(DENSE), tied=[False, True])
  def test_rules_fill_every_leaf_and_undo_themselves(self, name, tied):
    config = small.gqa(tie_embeddings=tied, **DENSE[name])
    weights = parity.abstract(config)
    weights = {"params": weights[0], "buffers": weights[1]}
    leaves = dict(zip(tree.names(weights), jax.tree.leaves(weights)))
    rules = families.FAMILIES[name].rules(config)
    hub_read.check_leaves(rules, leaves, "here")
    for rule in rules:
      there = np.arange(np.prod(rule.shape)).reshape(rule.shape)
      back = rule.to_hub(rule.to_ours(there))
      np.testing.assert_array_equal(back, there)
      # Nothing is copied on the host for its layout's sake.
      self.assertTrue(np.shares_memory(rule.to_ours(there), there))

  @parameterized.parameters(*DENSE)
  def test_config_json_and_back(self, name):
    for scaling in (
      None,
      config_lib.RopeScaling("llama3", 8.0, 64, low_freq_factor=2.0),
      config_lib.RopeScaling("yarn", 4.0, 64, beta_fast=16.0),
      config_lib.RopeScaling("yarn", 4.0, 64, mscale=0.7, mscale_all_dim=0.9),
    ):
      config = small.gqa(
        rope_theta=5e5, norm_eps=3e-6, tie_embeddings=True, **DENSE[name]
      )
      config = dataclasses.replace(config, rope_scaling=scaling)
      found, family = families.of_model(config)
      self.assertEqual(found, name)
      hf = {"max_position_embeddings": 256} | family.to_hf(config)
      self.assertEqual(config_lib.from_dict(family.from_hf(hf)), config)

  def test_a_model_of_no_family(self):
    with self.assertRaisesRegex(ValueError, "is none of LlamaForCausalLM"):
      families.of_model(small.gqa(qkv_bias=True, qk_norm=True))


if __name__ == "__main__":
  absltest.main()
