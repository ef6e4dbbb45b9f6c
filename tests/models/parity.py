"""Comparison with transformers: models, packings, samples.

`MODELS` has the small random models; a family is a line there. torch and
transformers are imported by the functions that need them, never here.
"""

import functools
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from r1jax import policy
from r1jax.models import config as config_lib
from r1jax.models import hub
from r1jax.models.attention import Context, packed_mask
from r1jax.models.transformer import Transformer, unstack
from r1jax.sampling import engine
from tests import small

GOLDEN = pathlib.Path(__file__).parent / "golden"
VOCAB = 64
STD = 0.2  # Of weights: logits are of scale 1 or so.
LIMIT = 1e-4  # Absolute, on such logits, in float32.
LENGTHS = (11, 5, 24, 1)
GENERATED = 64

_DENSE = dict(
  vocab_size=VOCAB,
  hidden_size=24,
  intermediate_size=32,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=8,
  max_position_embeddings=256,
)
_LLAMA3 = dict(
  rope_type="llama3",
  rope_theta=500000.0,
  factor=8.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=32,
)
_YARN = dict(
  rope_type="yarn",
  rope_theta=1000000.0,
  factor=4.0,
  original_max_position_embeddings=64,
)

_LATENT = dict(
  vocab_size=VOCAB,
  hidden_size=24,
  intermediate_size=32,
  moe_intermediate_size=12,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=4,
  first_k_dense_replace=1,
  kv_lora_rank=10,
  qk_nope_head_dim=8,
  qk_rope_head_dim=4,
  v_head_dim=6,
  n_routed_experts=8,
  num_experts_per_tok=2,
  n_shared_experts=2,
  routed_scaling_factor=1.5,
  max_position_embeddings=256,
)
_DEEPSEEK_YARN = dict(
  rope_type="yarn",
  rope_theta=10000.0,
  factor=8.0,
  original_max_position_embeddings=16,
  beta_fast=4,
  beta_slow=1,
  mscale=0.707,
  mscale_all_dim=0.9,
)
_V3 = dict(q_lora_rank=14, n_group=4, topk_group=2, num_mtp_layers=0)
_MOONLIGHT = dict(q_lora_rank=None, n_group=1, topk_group=1, num_mtp_layers=0)


class Model(NamedTuple):
  """A small model: the stem of its transformers classes and its settings."""

  stem: str
  settings: dict[str, Any]


MODELS = {
  "llama": Model("Llama", _DENSE | dict(rope_parameters=_LLAMA3)),
  "smollm": Model(
    "Llama",
    _DENSE
    | dict(tie_word_embeddings=True, num_attention_heads=3)
    | dict(num_key_value_heads=1, rms_norm_eps=1e-5),
  ),
  "mistral": Model("Mistral", _DENSE | dict(sliding_window=None)),
  "qwen2": Model("Qwen2", _DENSE | dict(rope_parameters=_YARN)),
  "qwen2-tied": Model("Qwen2", _DENSE | dict(tie_word_embeddings=True)),
  "qwen3": Model("Qwen3", _DENSE | dict(head_dim=16)),
  "qwen3-tied": Model(
    "Qwen3", _DENSE | dict(tie_word_embeddings=True, num_key_value_heads=4)
  ),
  "deepseek-v3": Model(
    "DeepseekV3", _LATENT | _V3 | dict(rope_parameters=_DEEPSEEK_YARN)
  ),
  "moonlight": Model("DeepseekV3", _LATENT | _MOONLIGHT),
  "deepseek-v2": Model(
    "DeepseekV2",
    _LATENT
    | dict(q_lora_rank=14, topk_method="group_limited_greedy")
    | dict(n_group=4, topk_group=2, rope_parameters=_DEEPSEEK_YARN),
  ),
  "deepseek-v2-lite": Model("DeepseekV2", _LATENT | dict(q_lora_rank=None)),
  "qwen3-moe": Model(
    "Qwen3Moe",
    _DENSE
    | dict(moe_intermediate_size=12, num_experts=8, num_experts_per_tok=2)
    | dict(norm_topk_prob=True),
  ),
}
GOLDEN_MODELS = (
  *("llama", "qwen2", "qwen3-tied"),
  *("deepseek-v3", "deepseek-v2-lite", "qwen3-moe"),
)


def make(name: str) -> Any:
  """transformers' model, with every weight, bias and norm drawn anew."""
  import torch
  import transformers

  stem, settings = MODELS[name]
  torch.manual_seed(0)
  config = getattr(transformers, f"{stem}Config")(**settings)
  model = getattr(transformers, f"{stem}ForCausalLM")(config)
  values = [*model.named_parameters(), *model.named_buffers()]
  with torch.no_grad():
    for path, value in values:
      if "inv_freq" not in path and value.is_floating_point():
        value.normal_(std=STD)
        if path.endswith("norm.weight"):
          value.add_(1.0)
  return model.eval()


def save(name: str, folder: Any) -> Any:
  """The model that was written there, in two files or more."""
  model = make(name)
  model.save_pretrained(folder, max_shard_size="20KB")
  return model


def reload(folder: Any) -> tuple[Any, dict[str, Any]]:
  """(model, what is missing or left over) of a folder, by transformers."""
  import transformers

  model, found = transformers.AutoModelForCausalLM.from_pretrained(
    folder, output_loading_info=True, dtype="auto"
  )
  return model.eval(), found


def load(folder: Any, **changes: Any) -> tuple[config_lib.ModelConfig, Any]:
  """(config, (params, buffers)) of a folder, as r1jax reads it."""
  config = config_lib.from_dict(hub.read_config(folder) | changes)
  return config, hub.load(folder, *abstract(config))


@functools.lru_cache
def abstract(config: config_lib.ModelConfig) -> Any:
  """(params, buffers) of a model, as shapes."""
  init = policy.make(config, temperature=1.0).init
  return nn.unbox(jax.eval_shape(init, jax.random.key(0)))


def sequences() -> list[np.ndarray]:
  """Ids of the sequences that are compared, of several lengths."""
  rng = np.random.default_rng(1)
  return [rng.integers(0, VOCAB, n).astype(np.int32) for n in LENGTHS]


def layouts() -> dict[str, Any]:
  """(tokens_BT, segments_BT, positions_BT) of the sequences, in each way.

  Alone and padded behind, alone and padded before, and packed.
  """
  found, width = sequences(), sum(LENGTHS)
  alone = small.rows(found, [1] * len(found), width)
  before = np.zeros_like(alone)
  for b, n in enumerate(LENGTHS):
    for here, there in zip(before, alone):
      here[b, -n:] = there[b, :n]
  packed = small.rows(found, [2, len(found) - 2, 0, 0], width)
  return {"alone": alone, "padded before": tuple(before), "packed": packed}


@functools.lru_cache
def _forward(config):
  model = Transformer(config)

  def run(params, buffers, tokens_BT, segments_BT, positions_BT):
    context = Context(positions_BT, packed_mask(segments_BT), segments_BT)
    variables = {"params": params, "buffers": buffers}
    hidden_BTD = model.apply(variables, tokens_BT, context).hidden_BTD
    return model.apply(variables, hidden_BTD, method="logits")

  return jax.jit(run)


def logits(config: config_lib.ModelConfig, weights: Any, rows: Any) -> Any:
  """logits_TV of each sequence of the rows, in order."""
  logits_BTV = np.asarray(_forward(config)(*weights, *rows))
  found = []
  for logits_TV, segments_T in zip(logits_BTV, rows[1]):
    for segment in range(1, segments_T.max() + 1):
      found.append(logits_TV[segments_T == segment])
  return found


def greedy(config: config_lib.ModelConfig, weights: Any) -> np.ndarray:
  """The likeliest GENERATED tokens after a prompt, by our sampler."""
  prompt = sequences()[0].tolist()
  programs = policy.make(config, temperature=0).programs(
    eos_id=VOCAB,  # No token is, so no response ends early.
    chunk_tokens=8,
    slots=2,
    prefill_rows=1,
    max_prompt_tokens=len(prompt) + 3,
    max_response_tokens=GENERATED,
  )
  found, _ = engine.sample(
    programs,
    *weights,
    jax.random.key(0),
    {0: prompt},
    [engine.Request(0, 0)],
  )
  return found[0].tokens_T


def reference_logits(model: Any) -> list[np.ndarray]:
  """logits_TV of each sequence, by transformers."""
  import torch

  with torch.no_grad():
    return [
      model(torch.tensor(ids[None], dtype=torch.long)).logits[0].numpy()
      for ids in sequences()
    ]


def reference_padded_logits(model: Any) -> list[np.ndarray]:
  """logits_TV of each sequence, by transformers in one left-padded batch."""
  import torch

  found = sequences()
  width = max(LENGTHS)
  ids_BT = np.zeros((len(found), width), np.int64)
  mask_BT = np.zeros((len(found), width), np.int64)
  for b, ids in enumerate(found):
    ids_BT[b, -len(ids) :], mask_BT[b, -len(ids) :] = ids, 1
  positions_BT = np.maximum(np.cumsum(mask_BT, axis=1) - 1, 0)
  with torch.no_grad():
    logits_BTV = model(
      torch.tensor(ids_BT),
      attention_mask=torch.tensor(mask_BT),
      position_ids=torch.tensor(positions_BT),
    ).logits.numpy()
  return [logits_BTV[b, -n:] for b, n in enumerate(LENGTHS)]


def reference_greedy(model: Any) -> np.ndarray:
  """The likeliest tokens after the same prompt, by transformers."""
  import torch

  ids = torch.tensor(sequences()[0][None], dtype=torch.long)
  found = model.generate(
    ids,
    attention_mask=torch.ones_like(ids),
    do_sample=False,
    max_new_tokens=GENERATED,
    eos_token_id=None,
    pad_token_id=0,
  )
  return found[0, ids.shape[1] :].numpy().astype(np.int32)


def hidden_report(
  config: config_lib.ModelConfig, weights: Any, model: Any
) -> str:
  """How far the hidden states are from transformers' after each layer."""
  import torch

  ids = sequences()[0][None]
  with torch.no_grad():
    out = model(torch.tensor(ids, dtype=torch.long), output_hidden_states=True)
  want = [each[0].numpy() for each in out.hidden_states]
  names = [f"dense_layers_{i}" for i in range(config.num_dense_layers)]
  names += [f"moe_layers_{i}" for i in range(config.num_moe_layers)]
  variables = dict(zip(("params", "buffers"), map(unstack, weights)))
  ones_BT = np.ones_like(ids)
  context = Context(np.cumsum(ones_BT, 1) - 1, packed_mask(ones_BT), ones_BT)
  final, state = Transformer(config, unrolled=True).apply(
    variables,
    ids,
    context,
    capture_intermediates=lambda module, _: module.name in names,
    mutable=["intermediates"],
  )
  layers = state["intermediates"]
  got = [layers[name]["__call__"][0][0][0] for name in names[:-1]]
  lines = []
  for name, ours, theirs in zip(
    [*names[:-1], "final_norm"], [*got, final.hidden_BTD[0]], want[1:]
  ):
    gap = np.abs(np.asarray(ours) - theirs).max()
    lines.append(f"{name}: {gap:.1e} of scale {theirs.std():.1f}")
  return "after each layer, the greatest difference: " + "; ".join(lines)
