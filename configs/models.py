"""Model presets; dimensions of the published ones from their configs."""

import functools
import os
import pathlib

from ml_collections import ConfigDict

from r1jax.models import hub_source


def get_config(preset: str = "tiny") -> ConfigDict:
  """The `config.model` of a preset, a Hugging Face folder or a GGUF file.

  Raises:
    ValueError: For an unknown preset; it lists the known ones. For a folder
      or file whose model is not built.
  """
  if is_path(preset):
    fields = hub_source.read_config(preset)
    form = {"moe_impl": "ragged"} if fields.get("num_experts") else {}
    return ConfigDict({**_BIG, **fields, **form})
  if preset not in PRESETS:
    known = ", ".join(sorted(PRESETS))
    raise ValueError(f"Model preset {preset!r} is unknown. Known: {known}.")
  return ConfigDict(PRESETS[preset]())


def is_path(preset: str) -> bool:
  """Whether it is a checkpoint's place and no preset's name."""
  return preset not in PRESETS and os.path.exists(preset)


def label(preset: str) -> str:
  """The preset, or what the folder or file is called."""
  return pathlib.Path(preset).resolve().stem if is_path(preset) else preset


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


_BIG = dict(param_dtype="bfloat16", compute_dtype="bfloat16", remat="full")
_SMOLLM2 = dict(
  vocab_size=49152, norm_eps=1e-5, rope_theta=1e5, tie_embeddings=True
)
_LLAMA3 = dict(
  vocab_size=128256,
  norm_eps=1e-5,
  rope_theta=500000.0,
  rope_scaling=dict(
    name="llama3",
    factor=8.0,
    original_max_positions=8192,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
  ),
)
_MISTRAL = dict(vocab_size=32768, norm_eps=1e-5, rope_theta=1e6)
_QWEN25 = dict(vocab_size=152064, qkv_bias=True, rope_theta=1e6)
# The small ones tie the head to the embedding and have a smaller vocabulary.
_QWEN25_TIED = dict(_QWEN25, vocab_size=151936, tie_embeddings=True)
_QWEN3 = dict(vocab_size=151936, qk_norm=True, rope_theta=1e6)
_QWEN3_TIED = dict(_QWEN3, tie_embeddings=True)
_MATH = dict(rope_theta=1e4)
_THETA_130K = dict(rope_theta=1.3e5)
_EPS_1E5 = dict(norm_eps=1e-5)
_LAPTOP = dict(param_dtype="float32", compute_dtype="float32", remat="dots")

# Width, layers, heads, inner width, the rest; from the models' config.json.
# Mistral is v0.3, which has no sliding window; the bases Qwen2.5-Math, of two
# of R1's students, have another rotary base than the general ones.
DENSE = {
  "smollm2-135m": (576, 30, (9, 3, 64), 1536, _SMOLLM2, _LAPTOP),
  "smollm2-360m": (960, 32, (15, 5, 64), 2560, _SMOLLM2, {}),
  "smollm2-1.7b": (2048, 24, (32, 32, 64), 8192, _SMOLLM2, _THETA_130K),
  "qwen2.5-0.5b": (896, 24, (14, 2, 64), 4864, _QWEN25_TIED, {}),
  "qwen2.5-1.5b": (1536, 28, (12, 2, 128), 8960, _QWEN25_TIED, {}),
  "qwen2.5-math-1.5b": (1536, 28, (12, 2, 128), 8960, _QWEN25_TIED, _MATH),
  "qwen2.5-7b": (3584, 28, (28, 4, 128), 18944, _QWEN25, {}),
  "qwen2.5-math-7b": (3584, 28, (28, 4, 128), 18944, _QWEN25, _MATH),
  "qwen2.5-14b": (5120, 48, (40, 8, 128), 13824, _QWEN25, _EPS_1E5),
  "qwen2.5-32b": (5120, 64, (40, 8, 128), 27648, _QWEN25, _EPS_1E5),
  "qwen3-0.6b": (1024, 28, (16, 8, 128), 3072, _QWEN3_TIED, {}),
  "qwen3-1.7b": (2048, 28, (16, 8, 128), 6144, _QWEN3_TIED, {}),
  "qwen3-4b": (2560, 36, (32, 8, 128), 9728, _QWEN3_TIED, {}),
  "qwen3-8b": (4096, 36, (32, 8, 128), 12288, _QWEN3, {}),
  "qwen3-14b": (5120, 40, (40, 8, 128), 17408, _QWEN3, {}),
  "qwen3-32b": (5120, 64, (64, 8, 128), 25600, _QWEN3, {}),
  "llama-3.1-8b": (4096, 32, (32, 8, 128), 14336, _LLAMA3, {}),
  "llama-3.3-70b": (8192, 80, (64, 8, 128), 28672, _LLAMA3, {}),
  "mistral-7b": (4096, 32, (32, 8, 128), 14336, _MISTRAL, {}),
}


def _dense(
  d_model: int,
  num_layers: int,
  heads: tuple[int, int, int],
  d_ff: int,
  family: dict,
  own: dict,
) -> dict:
  """A row of DENSE; `heads` are of queries, of keys, and their width."""
  num_heads, num_kv_heads, head_dim = heads
  return {
    **_BIG,
    **dict(
      d_model=d_model,
      num_layers=num_layers,
      num_dense_layers=num_layers,
      num_heads=num_heads,
      num_kv_heads=num_kv_heads,
      head_dim=head_dim,
      d_ff=d_ff,
      attention="gqa",
    ),
    **family,
    **own,
  }


def qwen3_30b_a3b() -> dict:
  """Qwen3-30B-A3B of April 2025, 128 experts in each layer."""
  return dict(
    _dense(2048, 48, (32, 4, 128), 6144, _QWEN3, {}),
    num_dense_layers=0,
    num_experts=128,
    experts_per_token=8,
    d_expert=768,
    router_score="softmax",
    router_bias=False,
    moe_impl="ragged",
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
    **_BIG,
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
    num_mtp_layers=1,
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
  **{name: functools.partial(_dense, *row) for name, row in DENSE.items()},
  "qwen3-30b-a3b": qwen3_30b_a3b,
  "deepseek-v3": deepseek_v3,
  "deepseek-v2": deepseek_v2,
  "deepseek-v2-lite": deepseek_v2_lite,
  "moonlight-16b": moonlight_16b,
}
