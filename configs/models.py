"""Model presets; dimensions of the published ones from their configs."""

from ml_collections import ConfigDict


def get_config(preset: str = "tiny") -> ConfigDict:
  """The preset's `config.model`.

  Raises:
    ValueError: For an unknown preset; it lists the known ones.
  """
  if preset not in PRESETS:
    known = ", ".join(sorted(PRESETS))
    raise ValueError(f"Model preset {preset!r} is unknown. Known: {known}.")
  return ConfigDict(PRESETS[preset]())


def tiny() -> dict:
  """About a million parameters, DeepSeek-V3 in every part but size."""
  return dict(
    vocab_size=512,
    d_model=128,
    num_layers=4,
    num_dense_layers=1,
    num_heads=4,
    d_ff=256,
    attention="mla",
    q_lora_rank=0,
    kv_lora_rank=32,
    qk_nope_head_dim=32,
    qk_rope_head_dim=16,
    v_head_dim=32,
    num_experts=8,
    experts_per_token=2,
    num_shared_experts=1,
    d_expert=56,
    router_score="sigmoid",
    router_groups=4,
    router_topk_groups=2,
    router_normalize=True,
    router_scale=2.5,
    router_bias=True,
    rope_theta=10000.0,
    rope_interleaved=True,
    tie_embeddings=True,
    init_std=0.05,
    scan_unroll=4,
  )


def tiny_dense() -> dict:
  """A small dense decoder, the student of the miniature."""
  return dict(
    vocab_size=512,
    d_model=96,
    num_layers=3,
    num_dense_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=24,
    d_ff=256,
    attention="gqa",
    qk_norm=True,
    tie_embeddings=True,
    init_std=0.05,
    scan_unroll=4,
  )


def smollm2_135m() -> dict:
  """SmolLM2-135M, a Llama decoder with a tied head."""
  return dict(
    vocab_size=49152,
    d_model=576,
    num_layers=30,
    num_dense_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    d_ff=1536,
    attention="gqa",
    rope_theta=100000.0,
    norm_eps=1e-5,
    tie_embeddings=True,
    remat="dots",
  )


def bench_tiny() -> dict:
  """The random Llama of the tiny-fixed benchmark workload."""
  return dict(
    vocab_size=512,
    d_model=128,
    num_layers=4,
    num_dense_layers=4,
    num_heads=4,
    num_kv_heads=4,
    head_dim=32,
    d_ff=384,
    attention="gqa",
    norm_eps=1e-6,
    tie_embeddings=True,
    remat="dots",
    scan_unroll=4,
  )


def _yarn(mscale: float) -> dict:
  return dict(
    name="yarn",
    factor=40.0,
    original_max_positions=4096,
    beta_fast=32.0,
    beta_slow=1.0,
    mscale=mscale,
    mscale_all_dim=mscale,
  )


def _latent() -> dict:
  """What the published latent-attention models share."""
  return dict(
    attention="mla",
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    rope_interleaved=True,
    param_dtype="bfloat16",
    compute_dtype="bfloat16",
    remat="full",
    moe_impl="ragged",
  )


def deepseek_v3() -> dict:
  """DeepSeek-V3 and R1, 671B (arXiv:2412.19437, §4.2)."""
  return dict(
    _latent(),
    vocab_size=129280,
    d_model=7168,
    num_layers=61,
    num_dense_layers=3,
    num_heads=128,
    d_ff=18432,
    q_lora_rank=1536,
    num_experts=256,
    experts_per_token=8,
    num_shared_experts=1,
    d_expert=2048,
    router_groups=8,
    router_topk_groups=4,
    router_scale=2.5,
    rope_scaling=_yarn(1.0),
  )


def deepseek_v2() -> dict:
  """DeepSeek-V2, 236B (arXiv:2405.04434, §3.1.2)."""
  return dict(
    _latent(),
    vocab_size=102400,
    d_model=5120,
    num_layers=60,
    num_dense_layers=1,
    num_heads=128,
    d_ff=12288,
    q_lora_rank=1536,
    num_experts=160,
    experts_per_token=6,
    num_shared_experts=2,
    d_expert=1536,
    router_score="softmax",
    router_groups=8,
    router_topk_groups=3,
    router_normalize=False,
    router_scale=16.0,
    router_bias=False,
    rope_scaling=_yarn(0.707),
  )


def deepseek_v2_lite() -> dict:
  """DeepSeek-V2-Lite, 15.7B (arXiv:2405.04434, App. B)."""
  return dict(
    _latent(),
    vocab_size=102400,
    d_model=2048,
    num_layers=27,
    num_dense_layers=1,
    num_heads=16,
    d_ff=10944,
    num_experts=64,
    experts_per_token=6,
    num_shared_experts=2,
    d_expert=1408,
    router_score="softmax",
    router_normalize=False,
    router_bias=False,
    rope_scaling=_yarn(0.707),
  )


def moonlight_16b() -> dict:
  """Moonlight-16B-A3B, of DeepSeek-V3's architecture."""
  return dict(
    _latent(),
    vocab_size=163840,
    d_model=2048,
    num_layers=27,
    num_dense_layers=1,
    num_heads=16,
    d_ff=11264,
    num_experts=64,
    experts_per_token=6,
    num_shared_experts=2,
    d_expert=1408,
    router_scale=2.446,
    rope_theta=50000.0,
    norm_eps=1e-5,
  )


PRESETS = {
  "tiny": tiny,
  "tiny-dense": tiny_dense,
  "bench-tiny": bench_tiny,
  "smollm2-135m": smollm2_135m,
  "deepseek-v3": deepseek_v3,
  "deepseek-v2": deepseek_v2,
  "deepseek-v2-lite": deepseek_v2_lite,
  "moonlight-16b": moonlight_16b,
}
