"""The dimensions of a decoder."""

import dataclasses
from collections.abc import Mapping
from typing import Any

ATTENTIONS = ("gqa", "mla")
ROPE_SCALINGS = ("llama3", "yarn")
ROUTER_SCORES = ("sigmoid", "softmax")
REMATS = ("none", "dots", "full")
MOE_IMPLS = ("dense", "blocked", "ragged")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How rotary frequencies are stretched past the pretraining length.

  Attributes:
    name: "yarn" (arXiv:2309.00071) or "llama3".
    factor: Context after over context before.
    original_max_positions: Context before.
    beta_fast, beta_slow: YaRN's ramp, in rotations over the old context.
    mscale, mscale_all_dim: YaRN's temperature as DeepSeek writes it.
    low_freq_factor, high_freq_factor: Llama 3's ramp.
  """

  name: str
  factor: float
  original_max_positions: int
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  mscale: float = 1.0
  mscale_all_dim: float = 0.0
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """One decoder: DeepSeek-V2/V3, Moonlight, Qwen, Llama or smaller.

  Attributes:
    num_dense_layers: Leading layers with a plain MLP; the rest are MoE.
    d_ff: Inner width of the plain MLP.
    attention: "gqa" reads num_kv_heads and head_dim, "mla" the ranks.
    q_lora_rank: 0 projects queries in one step (V2-Lite, Moonlight).
    d_expert: Inner width of one expert.
    num_shared_experts: Fused into one MLP of that many times d_expert.
    router_groups, router_topk_groups: Group-limited routing; 1 turns it
      off.
    router_bias: Whether selection adds a bias that has no gradient.
    num_mtp_layers: Multi-token prediction, 0 or 1 module.
    remat: What the backward pass recomputes of a layer.
    scan_unroll: Layers a step of the scan over layers; more compile
      longer and store less between layers.
    moe_impl: "dense" computes every expert for every token, "blocked"
      batches sorted tokens in blocks of one expert, "ragged" is
      lax.ragged_dot; all are dropless and agree to rounding.
  """

  vocab_size: int
  d_model: int
  num_layers: int
  num_dense_layers: int
  num_heads: int
  d_ff: int
  attention: str
  num_kv_heads: int = 0
  head_dim: int = 0
  qkv_bias: bool = False
  qk_norm: bool = False
  q_lora_rank: int = 0
  kv_lora_rank: int = 0
  qk_nope_head_dim: int = 0
  qk_rope_head_dim: int = 0
  v_head_dim: int = 0
  num_experts: int = 0
  experts_per_token: int = 0
  num_shared_experts: int = 0
  d_expert: int = 0
  router_score: str = "sigmoid"
  router_groups: int = 1
  router_topk_groups: int = 1
  router_normalize: bool = True
  router_scale: float = 1.0
  router_bias: bool = True
  num_mtp_layers: int = 0
  rope_theta: float = 10000.0
  rope_interleaved: bool = False
  rope_scaling: RopeScaling | None = None
  norm_eps: float = 1e-6
  tie_embeddings: bool = False
  init_std: float = 0.02
  param_dtype: str = "float32"
  compute_dtype: str = "float32"
  remat: str = "none"
  scan_unroll: int = 1
  moe_impl: str = "blocked"

  @property
  def num_moe_layers(self) -> int:
    """Layers with experts."""
    return self.num_layers - self.num_dense_layers


def from_dict(fields: Mapping[str, Any]) -> ModelConfig:
  """The config of a plain mapping, its values checked against each other.

  Raises:
    ValueError: For a field that is unknown, missing, or does not fit
      another.
  """
  fields = dict(fields)
  if fields.get("rope_scaling"):
    fields["rope_scaling"] = _build(
      RopeScaling, fields["rope_scaling"], "config.model.rope_scaling"
    )
  config = _build(ModelConfig, fields, "config.model")
  for problem in _problems(config):
    raise ValueError(f"config.model.{problem}")
  return config


def _build(kind, fields, where):
  """kind(**fields).

  Raises:
    ValueError: For an unknown or a missing field.
  """
  known = {f.name: f.default for f in dataclasses.fields(kind)}
  for name in fields:
    if name not in known:
      listed = ", ".join(sorted(known))
      raise ValueError(f"{where}.{name} is unknown. Known: {listed}.")
  for name, default in known.items():
    if default is dataclasses.MISSING and name not in fields:
      raise ValueError(f"{where}.{name} is missing. Set it.")
  return kind(**fields)


def _problems(c: ModelConfig):
  for field, allowed in (
    ("attention", ATTENTIONS),
    ("router_score", ROUTER_SCORES),
    ("remat", REMATS),
    ("moe_impl", MOE_IMPLS),
    ("param_dtype", DTYPES),
    ("compute_dtype", DTYPES),
  ):
    value = getattr(c, field)
    if value not in allowed:
      yield f"{field} is {value!r}. Known: {', '.join(allowed)}."
  if c.rope_scaling and c.rope_scaling.name not in ROPE_SCALINGS:
    known = ", ".join(ROPE_SCALINGS)
    yield f"rope_scaling.name is {c.rope_scaling.name!r}. Known: {known}."
  for field in ("head_dim", "qk_rope_head_dim"):
    if getattr(c, field) % 2:
      yield (
        f"{field} is {getattr(c, field)}; rotary turns pairs, so it must be "
        "even."
      )
  if c.scan_unroll < 1:
    yield f"scan_unroll is {c.scan_unroll}; it must be 1 or more."
  if c.num_mtp_layers not in (0, 1):
    yield f"num_mtp_layers is {c.num_mtp_layers}; only 0 and 1 are built."
  if not 0 <= c.num_dense_layers <= c.num_layers:
    yield (
      f"num_dense_layers is {c.num_dense_layers}, "
      f"outside 0 to num_layers={c.num_layers}."
    )
  if c.attention == "gqa" and (
    c.num_kv_heads < 1 or c.num_heads % c.num_kv_heads or c.head_dim < 2
  ):
    yield (
      f"num_kv_heads is {c.num_kv_heads}; num_heads={c.num_heads} must be "
      "a multiple of it, and head_dim 2 or more."
    )
  if c.attention == "mla" and not (
    c.kv_lora_rank and c.qk_rope_head_dim and c.v_head_dim
  ):
    yield "attention is 'mla': set kv_lora_rank and the three head dims."
  if c.num_moe_layers:
    yield from _router_problems(c)


def _router_problems(c: ModelConfig):
  if not 1 <= c.experts_per_token <= c.num_experts:
    yield (
      f"experts_per_token is {c.experts_per_token}, "
      f"outside 1 to num_experts={c.num_experts}."
    )
  elif c.num_experts % c.router_groups:
    yield (
      f"router_groups is {c.router_groups}; it must divide "
      f"num_experts={c.num_experts}."
    )
  elif not 1 <= c.router_topk_groups <= c.router_groups:
    yield (
      f"router_topk_groups is {c.router_topk_groups}, "
      f"outside 1 to router_groups={c.router_groups}."
    )
  elif (
    c.experts_per_token
    > c.num_experts // c.router_groups * c.router_topk_groups
  ):
    yield (
      f"router_topk_groups is {c.router_topk_groups}: too few groups "
      f"for experts_per_token={c.experts_per_token}."
    )
