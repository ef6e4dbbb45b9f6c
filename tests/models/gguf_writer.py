"""Small GGUF files, written as llama.cpp's converters do."""

import pathlib
from collections.abc import Mapping

import gguf
import numpy as np

PARTS = {
  "input_layernorm": "attn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.q_norm": "attn_q_norm",
  "self_attn.k_norm": "attn_k_norm",
  "self_attn.o_proj": "attn_output",
  "post_attention_layernorm": "ffn_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
  "model.embed_tokens": "token_embd",
  "model.norm": "output_norm",
  "lm_head": "output",
}


def write(
  path: pathlib.Path,
  arch: str,
  hf: dict,
  tensors: dict[str, np.ndarray],
  *,
  kind: str = "F32",
  fields: Mapping[str, int | float | str | None] = {},
  more: Mapping[str, np.ndarray] = {},
  kind_of_more: str = "F32",
) -> pathlib.Path:
  """The file of a Hugging Face model.

  Args:
    path: Of the file.
    arch: Of the metadata.
    hf: config.json.
    tensors: By Hugging Face's names.
    kind: Type of all matrices.
    fields: More metadata, `None` to leave one out.
    more: Tensors by their own names.
    kind_of_more: Type of those.
  """
  writer = gguf.GGUFWriter(path, arch)
  values = {
    "block_count": hf["num_hidden_layers"],
    "context_length": 128,
    "embedding_length": hf["hidden_size"],
    "feed_forward_length": hf["intermediate_size"],
    "attention.head_count": hf["num_attention_heads"],
    "attention.head_count_kv": hf["num_key_value_heads"],
    "attention.key_length": hf["head_dim"],
    "attention.layer_norm_rms_epsilon": float(hf["rms_norm_eps"]),
    "rope.freq_base": float(hf.get("rope_theta", 10000.0)),
    **fields,
  }
  for name, value in values.items():
    kinds = {int: writer.add_uint32, float: writer.add_float32}
    kinds[str] = writer.add_string
    if value is not None:
      kinds[type(value)](f"{arch}.{name}", value)
  heads = {"attn_q": hf["num_attention_heads"]}
  heads["attn_k"] = hf["num_key_value_heads"]
  for name, value in tensors.items():
    theirs = name.replace("model.layers.", "blk.")
    for hub, part in PARTS.items():
      theirs = theirs.replace(hub, part)
    part = theirs.split(".")[-2]
    if arch == "llama" and part in heads:
      value = permuted(value, heads[part])
    _add(writer, theirs, value, kind if value.ndim == 2 else "F32")
  for name, value in more.items():
    _add(writer, name, value, kind_of_more)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def _add(writer, name, value, kind):
  kind = gguf.GGMLQuantizationType[kind]
  data = gguf.quants.quantize(value.astype(np.float32), kind)
  writer.add_tensor(name, data, raw_dtype=kind)


def permuted(value: np.ndarray, heads: int) -> np.ndarray:
  """Rows i and i + d/2 of each head, made neighbours."""
  out = np.empty_like(value)
  d = value.shape[0] // heads
  for head in range(heads):
    for i in range(d // 2):
      out[head * d + 2 * i] = value[head * d + i]
      out[head * d + 2 * i + 1] = value[head * d + d // 2 + i]
  return out
