"""The families of Hugging Face checkpoints, by their `architectures`.

A family is a table: what of config.json our ModelConfig needs, and which
tensor fills which leaf. Sources: the models' published config.json files
and tensor names.
"""

from collections.abc import Mapping
from typing import Any

from r1jax.models import families_moe
from r1jax.models.config import ModelConfig
from r1jax.models.hub_rules import (
  ROTARY_TABLES,
  Family,
  Rule,
  ends,
  gated,
  grouped_query,
  need,
  norms,
  refuse,
  rope_fields,
  rope_to_hf,
)


def _dense_fields(hf: Mapping[str, Any]) -> dict[str, Any]:
  """What the dense families share."""
  refuse(hf, "hidden_act", ("silu", "swish"), "the MLP's is silu here")
  layers, width = need(hf, "num_hidden_layers"), need(hf, "hidden_size")
  heads = need(hf, "num_attention_heads")
  return dict(
    vocab_size=need(hf, "vocab_size"),
    d_model=width,
    num_layers=layers,
    num_dense_layers=layers,
    num_heads=heads,
    num_kv_heads=hf.get("num_key_value_heads") or heads,
    head_dim=hf.get("head_dim") or width // heads,
    d_ff=need(hf, "intermediate_size"),
    attention="gqa",
    norm_eps=hf.get("rms_norm_eps", 1e-6),
    tie_embeddings=hf.get("tie_word_embeddings", False),
    **rope_fields(hf),
  )


def _whole_window(hf: Mapping[str, Any], window: int | None) -> None:
  """Returns if no token is further back than the attention's window.

  Raises:
    ValueError: If the longest sequence is longer than the window.
  """
  longest = need(hf, "max_position_embeddings")
  if window is not None and window < longest:
    raise ValueError(
      f"sliding_window is {window}, below max_position_embeddings {longest}; "
      "attention is over all tokens here. Set sliding_window to null, and "
      f"keep sequences within {window} tokens."
    )


def _llama_fields(hf):
  reason = "Llama's projections have no bias here"
  refuse(hf, "attention_bias", (False, None), reason)
  refuse(hf, "mlp_bias", (False, None), reason)
  return _dense_fields(hf)


def _mistral_fields(hf):
  _whole_window(hf, hf.get("sliding_window", 4096))
  return _dense_fields(hf)


def _qwen2_fields(hf):
  if hf.get("use_sliding_window"):
    _whole_window(hf, hf.get("sliding_window", 4096))
  return _dense_fields(hf) | {"qkv_bias": True}


def _qwen3_fields(hf):
  reason = "Qwen3's projections have no bias here"
  refuse(hf, "attention_bias", (False, None), reason)
  if hf.get("use_sliding_window"):
    _whole_window(hf, hf.get("sliding_window", 4096))
  hf = {"head_dim": 128, **hf}
  return _dense_fields(hf) | {"qk_norm": True}


def _dense_rules(c: ModelConfig) -> list[Rule]:
  stack, layers = "dense_layers", range(c.num_layers)
  hub, ours = "model.layers.{layer}.mlp", f"params.{stack}.mlp"
  return [
    *ends(c),
    *norms(c, stack, layers),
    *grouped_query(c, stack, layers),
    *gated(hub, ours, c.d_model, c.d_ff, layers=layers),
  ]


def _dense_to_hf(name, model_type, **more):
  """The writer of config.json of a dense family."""

  def to_hf(c: ModelConfig) -> dict[str, Any]:
    return dict(
      architectures=[name],
      model_type=model_type,
      vocab_size=c.vocab_size,
      hidden_size=c.d_model,
      intermediate_size=c.d_ff,
      num_hidden_layers=c.num_layers,
      num_attention_heads=c.num_heads,
      num_key_value_heads=c.num_kv_heads,
      head_dim=c.head_dim,
      hidden_act="silu",
      rms_norm_eps=c.norm_eps,
      tie_word_embeddings=c.tie_embeddings,
      attention_dropout=0.0,
      initializer_range=c.init_std,
      use_cache=True,
      **rope_to_hf(c),
      **more,
    )

  return to_hf


def _dense_holds(qkv_bias, qk_norm):
  def holds(c: ModelConfig) -> bool:
    return (
      c.attention == "gqa"
      and c.num_dense_layers == c.num_layers
      and not c.rope_interleaved
      and not c.num_mtp_layers
      and (c.qkv_bias, c.qk_norm) == (qkv_bias, qk_norm)
    )

  return holds


def _dense(name, model_type, fields, *, qkv_bias=False, qk_norm=False, **more):
  return Family(
    fields,
    _dense_to_hf(name, model_type, **more),
    _dense_rules,
    _dense_holds(qkv_bias, qk_norm),
    ROTARY_TABLES,
  )


FAMILIES: dict[str, Family] = {
  "LlamaForCausalLM": _dense(
    "LlamaForCausalLM",
    "llama",
    _llama_fields,
    attention_bias=False,
    mlp_bias=False,
  ),
  "MistralForCausalLM": _dense(
    "MistralForCausalLM", "mistral", _mistral_fields, sliding_window=None
  ),
  "Qwen2ForCausalLM": _dense(
    "Qwen2ForCausalLM",
    "qwen2",
    _qwen2_fields,
    qkv_bias=True,
    use_sliding_window=False,
  ),
  "Qwen3ForCausalLM": _dense(
    "Qwen3ForCausalLM",
    "qwen3",
    _qwen3_fields,
    qk_norm=True,
    attention_bias=False,
    use_sliding_window=False,
  ),
  **families_moe.FAMILIES,
}


def of_json(hf: Mapping[str, Any]) -> tuple[str, Family]:
  """(name, family) of a config.json.

  Raises:
    ValueError: If it names none, or one that is not known.
  """
  names = hf.get("architectures") or [None]
  if names[0] not in FAMILIES:
    raise ValueError(
      f"architectures is {hf.get('architectures')!r}. Known: "
      f"{', '.join(sorted(FAMILIES))}. Choose a model of one of them."
    )
  return names[0], FAMILIES[names[0]]


def of_model(config: ModelConfig) -> tuple[str, Family]:
  """(name, family) that a ModelConfig is written as: the first that holds it.

  Raises:
    ValueError: If none does.
  """
  for name, family in FAMILIES.items():
    if family.holds(config):
      return name, family
  raise ValueError(
    f"config.model with attention={config.attention!r}, "
    f"qkv_bias={config.qkv_bias}, qk_norm={config.qk_norm} is none of "
    f"{', '.join(FAMILIES)}. Save it as safetensors instead."
  )
