"""Families with experts: DeepSeek-V2 and -V3, Moonlight, Qwen3-MoE.

Sources: the models' published config.json files and tensor names, and
DeepSeek-V3's README_WEIGHTS.md.
"""

from collections.abc import Mapping
from typing import Any

from r1jax.models.config import ModelConfig
from r1jax.models.hub_rules import (
  ROTARY_TABLES,
  Family,
  Rule,
  ends,
  gated,
  grouped_query,
  linear,
  need,
  norms,
  refuse,
  rope_fields,
  rope_to_hf,
  vector,
)


def _deepseek_fields(hf: Mapping[str, Any]) -> dict[str, Any]:
  """What DeepSeek-V2 and -V3 share."""
  refuse(hf, "hidden_act", ("silu", "swish"), "the experts' is silu here")
  refuse(hf, "attention_bias", (False, None), "projections have no bias here")
  refuse(hf, "moe_layer_freq", (1, None), "every later layer has experts here")
  heads = need(hf, "num_attention_heads")
  refuse(hf, "num_key_value_heads", (heads, None), "latents serve every head")
  layers = need(hf, "num_hidden_layers")
  # Of groups that are absent or null, there is one.
  groups = hf.get("n_group") or 1
  return dict(
    vocab_size=need(hf, "vocab_size"),
    d_model=need(hf, "hidden_size"),
    num_layers=layers,
    num_dense_layers=min(hf.get("first_k_dense_replace", 0), layers),
    num_heads=heads,
    d_ff=need(hf, "intermediate_size"),
    attention="mla",
    q_lora_rank=hf.get("q_lora_rank") or 0,
    kv_lora_rank=need(hf, "kv_lora_rank"),
    qk_nope_head_dim=need(hf, "qk_nope_head_dim"),
    qk_rope_head_dim=need(hf, "qk_rope_head_dim"),
    v_head_dim=need(hf, "v_head_dim"),
    num_experts=need(hf, "n_routed_experts"),
    experts_per_token=need(hf, "num_experts_per_tok"),
    num_shared_experts=hf.get("n_shared_experts") or 0,
    d_expert=need(hf, "moe_intermediate_size"),
    router_groups=groups,
    router_topk_groups=(hf.get("topk_group") or 1) if groups > 1 else 1,
    router_scale=float(hf.get("routed_scaling_factor", 1.0)),
    rope_interleaved=True,
    norm_eps=hf.get("rms_norm_eps", 1e-6),
    tie_embeddings=hf.get("tie_word_embeddings", False),
    **rope_fields(hf),
  )


def _v3_fields(hf):
  reason = "V3's router is built"
  refuse(hf, "scoring_func", ("sigmoid",), reason)
  refuse(hf, "topk_method", ("noaux_tc",), reason)
  refuse(hf, "rope_interleave", (True, None), "DeepSeek's pairs interleave")
  modules = hf.get("num_nextn_predict_layers", hf.get("num_mtp_layers")) or 0
  return _deepseek_fields(hf) | dict(
    router_score="sigmoid",
    router_normalize=hf.get("norm_topk_prob", True),
    router_bias=True,
    num_mtp_layers=modules,
  )


def _v2_fields(hf):
  refuse(hf, "scoring_func", ("softmax",), "V2's router is built")
  refuse(hf, "norm_topk_prob", (False, None), "V2's gates add up to any sum")
  methods = ("greedy", "group_limited_greedy")
  refuse(hf, "topk_method", methods, "V2's router is built")
  if hf.get("topk_method", "greedy") == "greedy":
    hf = {**hf, "n_group": 1}
  return _deepseek_fields(hf) | dict(
    router_score="softmax", router_normalize=False, router_bias=False
  )


def _qwen3_fields(hf):
  reason = "Qwen3's projections have no bias here"
  refuse(hf, "hidden_act", ("silu", "swish"), "the experts' is silu here")
  refuse(hf, "attention_bias", (False, None), reason)
  refuse(hf, "decoder_sparse_step", (1,), "every layer has experts here")
  refuse(hf, "mlp_only_layers", ([], None), "every layer has experts here")
  refuse(hf, "use_sliding_window", (False, None), "attention is over all")
  heads = need(hf, "num_attention_heads")
  return dict(
    vocab_size=need(hf, "vocab_size"),
    d_model=need(hf, "hidden_size"),
    num_layers=need(hf, "num_hidden_layers"),
    num_dense_layers=0,
    num_heads=heads,
    num_kv_heads=hf.get("num_key_value_heads") or heads,
    head_dim=hf.get("head_dim") or need(hf, "hidden_size") // heads,
    d_ff=need(hf, "intermediate_size"),
    attention="gqa",
    qk_norm=True,
    num_experts=hf.get("num_experts") or need(hf, "num_local_experts"),
    experts_per_token=need(hf, "num_experts_per_tok"),
    d_expert=need(hf, "moe_intermediate_size"),
    router_score="softmax",
    router_normalize=bool(hf.get("norm_topk_prob", False)),
    router_bias=False,
    norm_eps=hf.get("rms_norm_eps", 1e-6),
    tie_embeddings=hf.get("tie_word_embeddings", False),
    **rope_fields(hf),
  )


def _latent(c: ModelConfig, hub: str, ours: str, span: Any) -> list[Rule]:
  """The rules of latent attention."""
  queries = (c.num_heads, c.qk_nope_head_dim + c.qk_rope_head_dim)
  pairs = (c.num_heads, c.qk_nope_head_dim + c.v_head_dim)
  width, rank, latent = (c.d_model,), (c.q_lora_rank,), (c.kv_lora_rank,)
  down = (c.kv_lora_rank + c.qk_rope_head_dim,)
  table = [
    ("kv_a_proj_with_mqa", "kv_down.kernel", width, down),
    ("kv_b_proj", "kv_up", latent, pairs),
    ("o_proj", "out.kernel", (c.num_heads, c.v_head_dim), width),
  ]
  if c.q_lora_rank:
    table += [
      ("q_a_proj", "query_down.kernel", width, rank),
      ("q_b_proj", "query.kernel", rank, queries),
    ]
  else:
    table.append(("q_proj", "query.kernel", width, queries))
  rules = [
    linear(f"{hub}.{there}.weight", f"{ours}.{here}", a, b, **span)
    for there, here, a, b in table
  ]
  scales = [("kv_a_layernorm", "kv_norm", latent)]
  if c.q_lora_rank:
    scales.append(("q_a_layernorm", "query_norm", rank))
  return rules + [
    vector(f"{hub}.{there}.weight", f"{ours}.{here}.scale", size, **span)
    for there, here, size in scales
  ]


def _experts(c: ModelConfig, hub: str, ours: str, span: Any) -> list[Rule]:
  """The rules of a layer's router and experts.

  Args:
    c: The model.
    hub: What its tensors' names begin with.
    ours: What its leaves' names do, without `params` or `buffers`.
    span: More of Rule's attributes.
  """
  width, inner, count = (c.d_model,), (c.d_expert,), (c.num_experts,)
  rules = [
    linear(f"{hub}.gate.weight", f"params.{ours}.router", width, count, **span)
  ]
  for name, a, b in (
    ("gate", width, inner),
    ("up", width, inner),
    ("down", inner, width),
  ):
    there = f"{hub}.experts.{{expert}}.{name}_proj.weight"
    here = f"params.{ours}.{name}"
    rules.append(linear(there, here, a, b, experts=c.num_experts, **span))
  if c.router_bias:
    there, here = f"{hub}.gate.e_score_correction_bias", f"{ours}.router_bias"
    rules.append(vector(there, f"buffers.{here}", count, **span))
  if c.num_shared_experts:
    there, here = f"{hub}.shared_experts", f"params.{ours}.shared"
    total = c.num_shared_experts * c.d_expert
    rules += gated(there, here, c.d_model, total, **span)
  return rules


def _stacks(c: ModelConfig) -> list[Rule]:
  """The rules of all layers."""
  hub, rules = "model.layers.{layer}", []
  for stack, layers in (
    ("dense_layers", range(c.num_dense_layers)),
    ("moe_layers", range(c.num_dense_layers, c.num_layers)),
  ):
    if not layers:
      continue
    span = dict(layers=layers)
    rules += norms(c, stack, layers)
    if c.attention == "mla":
      attention = f"params.{stack}.attention"
      rules += _latent(c, f"{hub}.self_attn", attention, span)
    else:
      rules += grouped_query(c, stack, layers)
    if stack == "dense_layers":
      ours = f"params.{stack}.mlp"
      rules += gated(f"{hub}.mlp", ours, c.d_model, c.d_ff, **span)
    else:
      rules += _experts(c, f"{hub}.mlp", f"{stack}.moe", span)
  return rules


def _mtp(c: ModelConfig) -> list[Rule]:
  """The rules of multi-token prediction: a layer after the last.

  Its embedding and its head are the model's, written a second time.
  """
  hub, width = f"model.layers.{c.num_layers}", (c.d_model,)
  block = "params.mtp.block"
  rules = [
    vector(f"{hub}.{there}.weight", f"params.mtp.{here}.scale", width)
    for there, here in (
      ("enorm", "embedding_norm"),
      ("hnorm", "hidden_norm"),
      ("shared_head.norm", "final_norm"),
      ("input_layernorm", "block.attention_norm"),
      ("post_attention_layernorm", "block.mlp_norm"),
    )
  ]
  join = "params.mtp.join.kernel"
  rules.append(linear(f"{hub}.eh_proj.weight", join, (2 * c.d_model,), width))
  rules += _latent(c, f"{hub}.self_attn", f"{block}.attention", {})
  rules += _experts(c, f"{hub}.mlp", "mtp.block.moe", {})
  copies = [
    rule for rule in ends(c) if rule.ours in ("params.embedding", "params.head")
  ]
  return rules + [
    rule._replace(hub=f"{hub}.{_COPIES[rule.hub]}", repeats=True, exact=False)
    for rule in copies
  ]


_COPIES = {
  "model.embed_tokens.weight": "embed_tokens.weight",
  "lm_head.weight": "shared_head.head.weight",
}


def _rules(c: ModelConfig) -> list[Rule]:
  return [*ends(c), *_stacks(c), *(_mtp(c) if c.num_mtp_layers else ())]


def _shared_to_hf(c: ModelConfig) -> dict[str, Any]:
  """What all families with experts write."""
  return dict(
    vocab_size=c.vocab_size,
    hidden_size=c.d_model,
    intermediate_size=c.d_ff,
    moe_intermediate_size=c.d_expert,
    num_hidden_layers=c.num_layers,
    num_attention_heads=c.num_heads,
    num_experts_per_tok=c.experts_per_token,
    norm_topk_prob=c.router_normalize,
    hidden_act="silu",
    rms_norm_eps=c.norm_eps,
    tie_word_embeddings=c.tie_embeddings,
    attention_bias=False,
    attention_dropout=0.0,
    initializer_range=c.init_std,
    use_cache=True,
    **rope_to_hf(c),
  )


def _deepseek_to_hf(c: ModelConfig) -> dict[str, Any]:
  return _shared_to_hf(c) | dict(
    num_key_value_heads=c.num_heads,
    first_k_dense_replace=c.num_dense_layers,
    moe_layer_freq=1,
    q_lora_rank=c.q_lora_rank or None,
    kv_lora_rank=c.kv_lora_rank,
    qk_nope_head_dim=c.qk_nope_head_dim,
    qk_rope_head_dim=c.qk_rope_head_dim,
    v_head_dim=c.v_head_dim,
    n_routed_experts=c.num_experts,
    n_shared_experts=c.num_shared_experts,
    n_group=c.router_groups,
    topk_group=c.router_topk_groups,
    routed_scaling_factor=c.router_scale,
    scoring_func=c.router_score,
  )


def _v3_to_hf(c: ModelConfig) -> dict[str, Any]:
  return _deepseek_to_hf(c) | dict(
    architectures=["DeepseekV3ForCausalLM"],
    model_type="deepseek_v3",
    topk_method="noaux_tc",
    num_nextn_predict_layers=c.num_mtp_layers,
  )


def _v2_to_hf(c: ModelConfig) -> dict[str, Any]:
  method = "group_limited_greedy" if c.router_groups > 1 else "greedy"
  return _deepseek_to_hf(c) | dict(
    architectures=["DeepseekV2ForCausalLM"],
    model_type="deepseek_v2",
    topk_method=method,
  )


def _qwen3_to_hf(c: ModelConfig) -> dict[str, Any]:
  return _shared_to_hf(c) | dict(
    architectures=["Qwen3MoeForCausalLM"],
    model_type="qwen3_moe",
    num_key_value_heads=c.num_kv_heads,
    head_dim=c.head_dim,
    num_experts=c.num_experts,
    decoder_sparse_step=1,
    mlp_only_layers=[],
    use_sliding_window=False,
  )


def _is_deepseek(c: ModelConfig) -> bool:
  return bool(
    c.attention == "mla"
    and c.num_moe_layers
    and c.rope_interleaved
    and c.num_shared_experts
  )


def _v3_holds(c: ModelConfig) -> bool:
  return _is_deepseek(c) and c.router_score == "sigmoid" and c.router_bias


def _v2_holds(c: ModelConfig) -> bool:
  return (
    _is_deepseek(c)
    and c.router_score == "softmax"
    and not (c.router_bias or c.router_normalize or c.num_mtp_layers)
  )


def _qwen3_holds(c: ModelConfig) -> bool:
  return (
    c.attention == "gqa"
    and c.num_dense_layers == 0
    and c.router_score == "softmax"
    and (c.router_groups, c.router_scale) == (1, 1.0)
    and (c.qkv_bias, c.qk_norm) == (False, True)
    and not (
      c.rope_interleaved
      or c.router_bias
      or c.num_shared_experts
      or c.num_mtp_layers
    )
  )


FAMILIES: dict[str, Family] = {
  name: Family(fields, to_hf, _rules, holds, ROTARY_TABLES)
  for name, fields, to_hf, holds in (
    ("DeepseekV3ForCausalLM", _v3_fields, _v3_to_hf, _v3_holds),
    ("DeepseekV2ForCausalLM", _v2_fields, _v2_to_hf, _v2_holds),
    ("Qwen3MoeForCausalLM", _qwen3_fields, _qwen3_to_hf, _qwen3_holds),
  )
}
