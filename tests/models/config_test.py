import dataclasses

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

from configs import models
from r1jax import policy, tree
from r1jax.models import config as config_lib
from r1jax.models import families
from tests import small


def count(preset):
  """Parameters, the routers' biases among them, without MTP's."""
  config = config_lib.from_dict(models.get_config(preset))
  config = dataclasses.replace(config, num_mtp_layers=0)
  model = policy.make(config, temperature=1.0)
  return tree.count(jax.eval_shape(model.init, jax.random.key(0)))


class CountsTest(parameterized.TestCase):
  @parameterized.parameters(
    ("deepseek-v3", 671_026_419_200),
    ("deepseek-v2", 235_741_434_880),
    ("deepseek-v2-lite", 15_706_484_224),
    ("moonlight-16b", 15_960_110_208),
    ("qwen3-30b-a3b", 30_532_122_624),
    ("smollm2-135m", 134_515_008),
    ("smollm2-360m", 361_821_120),
    ("smollm2-1.7b", 1_711_376_384),
    ("qwen2.5-0.5b", 494_032_768),
    ("qwen2.5-1.5b", 1_543_714_304),
    ("qwen2.5-math-1.5b", 1_543_714_304),
    ("qwen2.5-7b", 7_615_616_512),
    ("qwen2.5-math-7b", 7_615_616_512),
    ("qwen2.5-14b", 14_770_033_664),
    ("qwen2.5-32b", 32_763_876_352),
    ("qwen3-0.6b", 596_049_920),
    ("qwen3-1.7b", 1_720_574_976),
    ("qwen3-4b", 4_022_468_096),
    ("qwen3-8b", 8_190_735_360),
    ("qwen3-14b", 14_768_307_200),
    ("qwen3-32b", 32_762_123_264),
    ("llama-3.1-8b", 8_030_261_248),
    ("llama-3.3-70b", 70_553_706_496),
    ("mistral-7b", 7_248_023_552),
  )
  def test_published_model_has_its_parameters_to_the_unit(self, preset, want):
    self.assertEqual(count(preset), want)

  def test_the_math_bases_have_another_rotary_base(self):
    for size in ("1.5b", "7b"):
      general = models.get_config(f"qwen2.5-{size}").to_dict()
      math = models.get_config(f"qwen2.5-math-{size}").to_dict()
      self.assertEqual(general | {"rope_theta": 1e4}, math)
      self.assertEqual(general["rope_theta"], 1e6)

  def test_router_biases_of_v3_are_buffers(self):
    config = config_lib.from_dict(models.get_config("deepseek-v3"))
    model = policy.make(config, temperature=1.0)
    _, buffers = jax.eval_shape(model.init, jax.random.key(0))
    bias_LE, mtp_E = jax.tree.leaves(buffers)
    self.assertEqual(bias_LE.shape, (58, 256))
    self.assertEqual(mtp_E.shape, (256,))
    self.assertEqual(bias_LE.dtype, jnp.float32)

  def test_tiny_has_about_a_million(self):
    self.assertBetween(count("tiny"), 900_000, 1_200_000)

  def test_the_student_is_smaller(self):
    self.assertLess(count("tiny-dense"), count("tiny") / 2)


# Of the published config.json files: what is read, and max positions.
_LLAMA3_ROPE = dict(
  rope_type="llama3",
  factor=8.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=8192,
)
PUBLISHED = {
  "llama-3.1-8b": dict(
    architectures=["LlamaForCausalLM"],
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    rope_scaling=_LLAMA3_ROPE,
    max_position_embeddings=131072,
    tie_word_embeddings=False,
  ),
  "mistral-7b": dict(
    architectures=["MistralForCausalLM"],
    vocab_size=32768,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    rms_norm_eps=1e-5,
    rope_theta=1000000.0,
    sliding_window=None,
    max_position_embeddings=32768,
    tie_word_embeddings=False,
  ),
  "qwen2.5-7b": dict(
    architectures=["Qwen2ForCausalLM"],
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    rms_norm_eps=1e-6,
    rope_theta=1000000.0,
    sliding_window=131072,
    use_sliding_window=False,
    max_position_embeddings=131072,
    tie_word_embeddings=False,
  ),
  "qwen3-0.6b": dict(
    architectures=["Qwen3ForCausalLM"],
    attention_bias=False,
    vocab_size=151936,
    hidden_size=1024,
    head_dim=128,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    rms_norm_eps=1e-6,
    rope_theta=1000000,
    max_position_embeddings=40960,
    tie_word_embeddings=True,
  ),
}
# What a checkpoint does not say.
_OURS = ("param_dtype", "compute_dtype", "remat", "scan_unroll", "init_std")


class PublishedTest(parameterized.TestCase):
  @parameterized.parameters(*PUBLISHED)
  def test_preset_is_what_its_config_json_says(self, preset):
    hf = dict(PUBLISHED[preset], hidden_act="silu")
    family = families.FAMILIES[hf["architectures"][0]]
    mine = config_lib.from_dict(models.get_config(preset).to_dict())
    own = {name: getattr(mine, name) for name in _OURS}
    theirs = config_lib.from_dict(dict(family.from_hf(hf), **own))
    self.assertEqual(theirs, mine)


class FromDictTest(parameterized.TestCase):
  @parameterized.parameters(*models.PRESETS)
  def test_preset_is_valid(self, preset):
    config = config_lib.from_dict(models.get_config(preset))
    self.assertEqual(
      config.num_moe_layers, config.num_layers - config.num_dense_layers
    )

  def test_unknown_preset_lists_the_known(self):
    with self.assertRaisesRegex(ValueError, "'tny' is unknown.*tiny-dense"):
      models.get_config("tny")

  @parameterized.parameters(
    (dict(d_modle=3), "config.model.d_modle is unknown. Known: attention"),
    (dict(attention="mha"), "config.model.attention is 'mha'. Known: gqa, m"),
    (dict(router_score="tanh"), "router_score is 'tanh'. Known: sigmoid"),
    (dict(remat="some"), "remat is 'some'. Known: none, dots, full"),
    (dict(moe_impl="fast"), "moe_impl is 'fast'. Known: dense, blocked"),
    (dict(param_dtype="float16"), "param_dtype is 'float16'. Known: float32"),
    (dict(compute_dtype="int8"), "compute_dtype is 'int8'. Known: float32"),
    (dict(scan_unroll=0), "scan_unroll is 0; it must be 1 or more"),
    (dict(num_mtp_layers=2), "num_mtp_layers is 2; only 0 and 1 are built"),
    (dict(num_dense_layers=4), "num_dense_layers is 4, outside 0 to .*=3"),
    (dict(kv_lora_rank=0), "attention is 'mla': set kv_lora_rank"),
    (dict(qk_rope_head_dim=3), "qk_rope_head_dim is 3; .* even"),
    (dict(experts_per_token=9), "experts_per_token is 9, outside 1 to .*=8"),
    (dict(router_groups=3), "router_groups is 3; it must divide .*=8"),
    (dict(router_topk_groups=5), "router_topk_groups is 5, outside 1 to .*=4"),
    (
      dict(experts_per_token=5),
      "router_topk_groups is 2: too few groups for experts_per_token=5",
    ),
    (
      dict(rope_scaling=dict(name="ntk", factor=2.0, original_max_positions=8)),
      "config.model.rope_scaling.name is 'ntk'. Known: llama3, yarn",
    ),
    (
      dict(rope_scaling=dict(name="yarn", factr=2.0)),
      "config.model.rope_scaling.factr is unknown. Known: ",
    ),
    (
      dict(rope_scaling=dict(name="yarn", factor=2.0)),
      "config.model.rope_scaling.original_max_positions is missing",
    ),
  )
  def test_wrong_value_is_named(self, changes, message):
    with self.assertRaisesRegex(ValueError, message):
      small.mla(**changes)

  @parameterized.parameters(
    (dict(num_kv_heads=3), "num_kv_heads is 3; num_heads=4 must be"),
    (dict(num_kv_heads=0), "num_kv_heads is 0"),
    (dict(head_dim=7), "head_dim is 7; .* even"),
  )
  def test_wrong_heads_are_named(self, changes, message):
    with self.assertRaisesRegex(ValueError, message):
      small.gqa(**changes)

  def test_missing_field_is_named(self):
    with self.assertRaisesRegex(ValueError, "config.model.d_ff is missing"):
      config_lib.from_dict(
        dict(
          vocab_size=8,
          d_model=8,
          num_layers=1,
          num_dense_layers=1,
          num_heads=1,
          attention="gqa",
        )
      )


if __name__ == "__main__":
  absltest.main()
