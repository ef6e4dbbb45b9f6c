import dataclasses
import json
import pathlib
import tempfile

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from configs import models
from r1jax import experiment, tree
from r1jax.models import config as config_lib
from r1jax.models import (
  families,
  fp8,
  hub,
  hub_source,
  mtp,
  store,
  transformer,
)
from r1jax.models.attention import Context, packed_mask
from tests import small
from tests.models import parity


def yarn(mscale):
  return dict(
    type="yarn",
    factor=40,
    original_max_position_embeddings=4096,
    beta_fast=32,
    beta_slow=1,
    mscale=mscale,
    mscale_all_dim=mscale,
  )


LATENT = dict(
  hidden_act="silu",
  attention_bias=False,
  kv_lora_rank=512,
  qk_nope_head_dim=128,
  qk_rope_head_dim=64,
  v_head_dim=128,
  moe_layer_freq=1,
  max_position_embeddings=163840,
  rms_norm_eps=1e-6,
  rope_theta=10000,
  tie_word_embeddings=False,
)
V3 = dict(
  LATENT,
  architectures=["DeepseekV3ForCausalLM"],
  vocab_size=129280,
  hidden_size=7168,
  num_hidden_layers=61,
  first_k_dense_replace=3,
  intermediate_size=18432,
  moe_intermediate_size=2048,
  num_attention_heads=128,
  num_key_value_heads=128,
  q_lora_rank=1536,
  n_routed_experts=256,
  n_shared_experts=1,
  num_experts_per_tok=8,
  n_group=8,
  topk_group=4,
  topk_method="noaux_tc",
  scoring_func="sigmoid",
  norm_topk_prob=True,
  routed_scaling_factor=2.5,
  num_nextn_predict_layers=1,
  rope_scaling=yarn(1.0),
  quantization_config=fp8.QUANTIZATION,
)
V2 = dict(
  LATENT,
  architectures=["DeepseekV2ForCausalLM"],
  vocab_size=102400,
  hidden_size=5120,
  num_hidden_layers=60,
  first_k_dense_replace=1,
  intermediate_size=12288,
  moe_intermediate_size=1536,
  num_attention_heads=128,
  num_key_value_heads=128,
  q_lora_rank=1536,
  n_routed_experts=160,
  n_shared_experts=2,
  num_experts_per_tok=6,
  n_group=8,
  topk_group=3,
  topk_method="group_limited_greedy",
  scoring_func="softmax",
  norm_topk_prob=False,
  routed_scaling_factor=16.0,
  rope_scaling=yarn(0.707),
)
LITE = dict(
  V2,
  hidden_size=2048,
  num_hidden_layers=27,
  intermediate_size=10944,
  moe_intermediate_size=1408,
  num_attention_heads=16,
  num_key_value_heads=16,
  q_lora_rank=None,
  n_routed_experts=64,
  n_group=1,
  topk_group=1,
  topk_method="greedy",
  routed_scaling_factor=1.0,
)
MOONLIGHT = dict(
  LITE,
  architectures=["DeepseekV3ForCausalLM"],
  vocab_size=163840,
  intermediate_size=11264,
  topk_method="noaux_tc",
  scoring_func="sigmoid",
  norm_topk_prob=True,
  routed_scaling_factor=2.446,
  num_nextn_predict_layers=0,
  max_position_embeddings=8192,
  rms_norm_eps=1e-5,
  rope_theta=50000.0,
  rope_scaling=None,
)
QWEN3_30B = dict(
  architectures=["Qwen3MoeForCausalLM"],
  attention_bias=False,
  decoder_sparse_step=1,
  head_dim=128,
  hidden_act="silu",
  hidden_size=2048,
  intermediate_size=6144,
  max_position_embeddings=40960,
  mlp_only_layers=[],
  moe_intermediate_size=768,
  norm_topk_prob=True,
  num_attention_heads=32,
  num_experts=128,
  num_experts_per_tok=8,
  num_hidden_layers=48,
  num_key_value_heads=4,
  rms_norm_eps=1e-6,
  rope_theta=1000000.0,
  tie_word_embeddings=False,
  use_sliding_window=False,
  vocab_size=151936,
)
# config.json of our presets, and their parameters with the routers' biases
# and without multi-token prediction.
PUBLISHED = {
  "deepseek-v3": (V3, 671_026_419_200),
  "deepseek-v2": (V2, 235_741_434_880),
  "deepseek-v2-lite": (LITE, 15_706_484_224),
  "moonlight-16b": (MOONLIGHT, 15_960_110_208),
  "qwen3-30b-a3b": (QWEN3_30B, 30_532_122_624),
}
OWN_CHOICE = (
  *("param_dtype", "compute_dtype", "remat", "moe_impl", "init_std"),
  "scan_unroll",
)


def fields(hf):
  return families.of_json(hf)[1].from_hf(hf)


def without_mtp(weights):
  """(params, buffers) that multi-token prediction has no part in."""
  return tuple(
    {k: v for k, v in part.items() if k != mtp.NAME} for part in weights
  )


def qwen3(**changes):
  """A small model of Qwen3-MoE's kind."""
  return small.gqa(
    qkv_bias=False,
    num_dense_layers=0,
    num_experts=4,
    experts_per_token=2,
    d_expert=8,
    router_score="softmax",
    router_bias=False,
    **changes,
  )


SMALL = {
  "v3": small.mla(num_mtp_layers=1, tie_embeddings=False),
  "v3 tied": small.mla(num_mtp_layers=1),
  "moonlight": small.mla(
    q_lora_rank=0, router_groups=1, router_topk_groups=1, num_shared_experts=2
  ),
  "v2": small.mla(
    router_score="softmax", router_bias=False, router_normalize=False
  ),
  "qwen3": qwen3(),
}


class ConfigTest(parameterized.TestCase):
  @parameterized.parameters(*PUBLISHED)
  def test_published_config_is_the_preset_to_the_unit(self, name):
    hf, count = PUBLISHED[name]
    found = dataclasses.asdict(config_lib.from_dict(fields(hf)))
    preset = config_lib.from_dict(models.get_config(name).to_dict())
    want = dataclasses.asdict(preset)
    for field in want:
      if field not in OWN_CHOICE:
        self.assertEqual(found[field], want[field], field)
    weights = without_mtp(parity.abstract(config_lib.from_dict(fields(hf))))
    self.assertEqual(tree.count(weights), count)

  def test_mtp_of_v3_has_its_parameters(self):
    params, _ = parity.abstract(config_lib.from_dict(fields(V3)))
    D, heads = 7168, 128
    attention = D * 1536 + 1536 + 1536 * heads * 192 + D * 576 + 512
    attention += 512 * heads * 256 + heads * 128 * D
    experts = D * 256 + 257 * 3 * D * 2048
    norms, join = 5 * D, 2 * D * D
    self.assertEqual(
      tree.count(params[mtp.NAME]), attention + experts + norms + join
    )

  def test_qwen3_30b_has_its_parameters(self):
    config = config_lib.from_dict(fields(QWEN3_30B))
    D, V, layers = 2048, 151936, 48
    attention = 2 * D * 32 * 128 + 2 * D * 4 * 128 + 2 * 128
    layer = attention + 2 * D + D * 128 + 128 * 3 * D * 768
    self.assertEqual(
      tree.count(parity.abstract(config)), 2 * V * D + D + layers * layer
    )
    self.assertTrue(config.router_normalize)

  @parameterized.parameters(
    (V3, dict(scoring_func="softmax"), "scoring_func is 'softmax'"),
    (V3, dict(topk_method="greedy"), "topk_method is 'greedy'"),
    (V3, dict(rope_interleave=False), "rope_interleave is False"),
    (V3, dict(attention_bias=True), "attention_bias is True"),
    (V3, dict(moe_layer_freq=2), "moe_layer_freq is 2"),
    (V3, dict(num_key_value_heads=8), "num_key_value_heads is 8"),
    (V3, dict(hidden_act="gelu"), "hidden_act is 'gelu'"),
    (V3, dict(kv_lora_rank=None), "kv_lora_rank is missing"),
    (V2, dict(norm_topk_prob=True), "norm_topk_prob is True"),
    (V2, dict(scoring_func="sigmoid"), "scoring_func is 'sigmoid'"),
    (QWEN3_30B, dict(decoder_sparse_step=2), "decoder_sparse_step is 2"),
    (QWEN3_30B, dict(mlp_only_layers=[0]), r"mlp_only_layers is \[0\]"),
    (QWEN3_30B, dict(use_sliding_window=True), "use_sliding_window is True"),
  )
  def test_what_is_not_built_is_refused_in_one_line(self, hf, changes, message):
    with self.assertRaisesRegex(ValueError, message) as caught:
      fields(hf | changes)
    self.assertNotIn("\n", str(caught.exception))

  def test_groups_of_v2_count_only_for_its_grouped_method(self):
    self.assertEqual(fields(V2)["router_groups"], 8)
    self.assertEqual(
      fields(V2 | dict(topk_method="greedy"))["router_groups"], 1
    )
    none = fields(MOONLIGHT | dict(n_group=None, topk_group=None))
    self.assertEqual(
      (none["router_groups"], none["router_topk_groups"]), (1, 1)
    )

  @parameterized.parameters(*SMALL)
  def test_config_json_and_back(self, name):
    config = SMALL[name]
    _, family = families.of_model(config)
    hf = json.loads(json.dumps(family.to_hf(config)))
    hf |= {"max_position_embeddings": 256}
    self.assertIs(families.of_json(hf)[1], family)
    self.assertEqual(config_lib.from_dict(family.from_hf(hf)), config)


class FolderTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folder = root / "model"

  def export(self, name, **arguments):
    weights = small.weights(SMALL[name])
    hub.export(self.folder, SMALL[name], *weights, **arguments)
    return weights

  def load(self, config):
    return hub.load(self.folder, *parity.abstract(config))

  def assert_same(self, got, want):
    self.assertEqual(tree.names(got), tree.names(want))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
      np.testing.assert_array_equal(a, b)

  @parameterized.parameters(*SMALL)
  @pytest.mark.slow
  def test_import_gives_the_bits_that_were_exported(self, name):
    want = self.export(name)
    self.assert_same(self.load(SMALL[name]), want)

  def test_names_and_shapes_of_v3(self):
    self.export("v3")
    source = hub_source.Safetensors([self.folder / "model.safetensors"])
    shapes = {name: source.shape(name) for name in source.names()}
    layer = "model.layers.1"
    for name, shape in {
      "model.layers.0.mlp.down_proj.weight": (16, 24),
      f"{layer}.self_attn.q_a_proj.weight": (12, 16),
      f"{layer}.self_attn.q_b_proj.weight": (2 * 10, 12),
      f"{layer}.self_attn.kv_a_proj_with_mqa.weight": (8 + 4, 16),
      f"{layer}.self_attn.kv_b_proj.weight": (2 * 11, 8),
      f"{layer}.self_attn.o_proj.weight": (16, 2 * 5),
      f"{layer}.mlp.gate.weight": (8, 16),
      f"{layer}.mlp.gate.e_score_correction_bias": (8,),
      f"{layer}.mlp.experts.7.up_proj.weight": (8, 16),
      f"{layer}.mlp.shared_experts.down_proj.weight": (16, 8),
      "model.layers.3.eh_proj.weight": (16, 32),
      "model.layers.3.embed_tokens.weight": (32, 16),
      "model.layers.3.shared_head.head.weight": (32, 16),
      "model.layers.3.shared_head.norm.weight": (16,),
      "model.layers.3.mlp.experts.0.gate_proj.weight": (8, 16),
    }.items():
      self.assertEqual(shapes[name], shape, name)

  @pytest.mark.slow
  def test_mtp_is_left_out_where_the_model_has_none(self):
    want = self.export("v3")
    config = dataclasses.replace(SMALL["v3"], num_mtp_layers=0)
    got = self.load(config)
    self.assert_same(got, without_mtp(want))

  def test_fp8_reads_as_the_dequantized_weights(self):
    params, _ = self.export("v3", fp8=True)
    source = hub_source.Safetensors([self.folder / "model.safetensors"])
    name = "model.layers.2.mlp.experts.5.down_proj.weight"
    self.assertEqual(source.dtype(name), fp8.FLOAT8)
    for plain in ("model.layers.3.eh_proj.weight", "lm_head.weight"):
      self.assertEqual(source.dtype(plain), np.float32)
    got, _ = self.load(SMALL["v3"])
    scale = source.read(name + fp8.SCALE)
    want = fp8.dequantize(source.read(name), scale).T
    np.testing.assert_array_equal(got["moe_layers"]["moe"]["down"][1, 5], want)
    exact = np.asarray(params["moe_layers"]["moe"]["down"][1, 5])
    np.testing.assert_allclose(want, exact, rtol=2**-4, atol=2e-3)

  @pytest.mark.slow
  def test_fp8_of_what_was_read_gives_the_same_files(self):
    self.export("v3", fp8=True)
    second = self.folder.parent / "second"
    hub.export(second, SMALL["v3"], *self.load(SMALL["v3"]), fp8=True)
    files = [f / "model.safetensors" for f in (self.folder, second)]
    self.assertEqual(files[0].read_bytes(), files[1].read_bytes())

  @pytest.mark.slow
  def test_transformers_reads_what_is_exported(self):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    for name in ("deepseek-v3", "moonlight", "deepseek-v2", "qwen3-moe"):
      first = self.folder.parent / f"{name}-first"
      want = parity.reference_logits(parity.save(name, first))
      config, weights = parity.load(first)
      folder = self.folder.parent / name
      hub.export(folder, config, *weights, base=first)
      loaded = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype="float32"
      )
      for a, b in zip(parity.reference_logits(loaded), want):
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg=name)

  @pytest.mark.slow
  def test_transformers_agrees_on_the_bundled_base(self):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = config_lib.from_dict(models.get_config("tiny").to_dict())
    weights = store.load(experiment.BUNDLED, *parity.abstract(config))
    hub.export(self.folder, config, *weights)
    model = transformers.AutoModelForCausalLM.from_pretrained(
      self.folder, dtype="float32"
    )
    got = parity.logits(config, weights, parity.layouts()["packed"])
    for a, b in zip(got, parity.reference_logits(model), strict=True):
      # 1.5e-5 was measured, of logits of scale 5.
      np.testing.assert_allclose(a, b, rtol=0, atol=parity.LIMIT)

  @pytest.mark.slow
  def test_transformers_reads_fp8_as_we_do(self):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")  # transformers asks for it here.
    config = SMALL["moonlight"]
    self.export("moonlight", fp8=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
      self.folder,
      dtype="float32",
      quantization_config=transformers.FineGrainedFP8Config(dequantize=True),
    )
    found = [ids % small.VOCAB for ids in parity.sequences()]
    rows = small.rows(found, [2, 2], sum(parity.LENGTHS))
    got = parity.logits(config, self.load(config), rows)
    for ids, logits_TV in zip(found, got, strict=True):
      with torch.no_grad():
        out = model(torch.tensor(ids[None], dtype=torch.long))
      np.testing.assert_allclose(
        logits_TV, out.logits[0].numpy(), rtol=0, atol=parity.LIMIT
      )

  @pytest.mark.slow
  def test_transformers_reads_mtp_and_agrees_with_it(self):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    layers = pytest.importorskip("transformers.modeling_layers")
    config = SMALL["v3"]
    weights = self.export("v3")
    model = transformers.AutoModelForCausalLM.from_pretrained(
      self.folder, dtype="float32"
    )
    # transformers finds the layer by V3's own number, 61; here it is 3.
    model._keys_to_ignore_on_load_unexpected = [r"model\.layers\.3\..*"]
    module = layers.MtpModel.from_pretrained(model)
    ids = small.tokens(1, 12, seed=4)
    positions_BT = np.arange(12)[None]
    context = Context(positions_BT, packed_mask(np.ones_like(ids)), ids * 0 + 1)
    decoder = transformer.Transformer(config, with_mtp=True)
    variables = {"params": weights[0], "buffers": weights[1]}
    out = decoder.apply(variables, ids, context)
    got_BTV = decoder.apply(variables, out.mtp_BTD, method="logits")
    with torch.no_grad():
      tokens = torch.tensor(ids, dtype=torch.long)
      hidden = model.model(tokens).last_hidden_state
      last = module.forward_layer(
        0,
        hidden[:, :-1],
        torch.tensor(positions_BT[:, 1:]),
        None,
        input_ids=tokens[:, 1:],
      )
      want_BTV = module._project_to_logits(last).numpy()
    gap = np.abs(got_BTV[:, 1:] - want_BTV).max()
    print(f"MTP: {gap:.1e} of scale {want_BTV.std():.2f}")
    self.assertLess(gap, parity.LIMIT)


if __name__ == "__main__":
  absltest.main()
