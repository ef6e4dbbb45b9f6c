"""GGUF files, read as a Hugging Face folder would be.

Metadata becomes a config.json, tensors their Hugging Face names and
layout. Source: the GGUF specification (ggml/docs/gguf.md) and the names
that llama.cpp's converters give. The `gguf` package reads and dequantises.
"""

import functools
import os
import pathlib
import re
from typing import Any

import numpy as np

from r1jax.models import layers
from r1jax.models.config import RopeScaling

ARCHITECTURES = {
  "llama": "LlamaForCausalLM",
  "qwen2": "Qwen2ForCausalLM",
  "qwen3": "Qwen3ForCausalLM",
}
TYPES = (
  *("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"),
  *("Q5_0", "Q5_1", "Q5_K"),  # What quantisers fall back to beside those.
)
# Of Llama 3.1 to 3.3; a GGUF holds the divisors of the frequencies alone.
_LLAMA3 = dict(
  original_max_positions=8192, low_freq_factor=1.0, high_freq_factor=4.0
)
_ROPE_DIVISORS = "rope_freqs.weight"
_ENDS = {
  "token_embd": "model.embed_tokens",
  "output_norm": "model.norm",
  "output": "lm_head",
}
_PARTS = {
  "attn_norm": "input_layernorm",
  "attn_q": "self_attn.q_proj",
  "attn_k": "self_attn.k_proj",
  "attn_v": "self_attn.v_proj",
  "attn_q_norm": "self_attn.q_norm",
  "attn_k_norm": "self_attn.k_norm",
  "attn_output": "self_attn.o_proj",
  "ffn_norm": "post_attention_layernorm",
  "ffn_gate": "mlp.gate_proj",
  "ffn_up": "mlp.up_proj",
  "ffn_down": "mlp.down_proj",
}


def read_config(path: str | os.PathLike) -> dict[str, Any]:
  """What a config.json of the model would say.

  Floats are the shortest decimals of the file's float32.

  Raises:
    ValueError: If the file cannot be read, is of an architecture that is
      not known, or lacks a field.
  """
  reader = _reader(path)
  arch = _value(reader, "general.architecture")
  if arch not in ARCHITECTURES:
    raise ValueError(
      f"{path}: general.architecture is {arch!r}. Known: "
      f"{', '.join(ARCHITECTURES)}. Choose a model of one of them."
    )
  experts = _value(reader, f"{arch}.expert_count")
  if experts:
    raise ValueError(
      f"{path}: {arch}.expert_count is {experts}; only dense GGUF models are "
      "built. Give the model's Hugging Face folder."
    )

  def get(name, default=None):
    value = _value(reader, f"{arch}.{name}")
    if value is None and default is None:
      raise ValueError(f"{path} has no {arch}.{name}. Convert the model again.")
    return default if value is None else value

  width, heads = get("embedding_length"), get("attention.head_count")
  tensors = {tensor.name: tensor for tensor in reader.tensors}
  if "token_embd.weight" not in tensors:
    raise ValueError(f"{path} has no tensor token_embd.weight.")
  head_dim = get("rope.dimension_count", width // heads)
  found = dict(
    architectures=[ARCHITECTURES[arch]],
    model_type=arch,
    hidden_act="silu",
    vocab_size=_shape(tensors["token_embd.weight"])[0],
    hidden_size=width,
    num_hidden_layers=get("block_count"),
    num_attention_heads=heads,
    num_key_value_heads=get("attention.head_count_kv", heads),
    head_dim=get("attention.key_length", head_dim),
    intermediate_size=get("feed_forward_length"),
    rms_norm_eps=_decimal(get("attention.layer_norm_rms_epsilon")),
    max_position_embeddings=get("context_length"),
    rope_theta=_decimal(get("rope.freq_base", 10000.0)),
    tie_word_embeddings="output.weight" not in tensors,
  )
  scaling = _rope_scaling(found, tensors, get, path)
  return found | ({"rope_scaling": scaling} if scaling else {})


def _rope_scaling(found, tensors, get, path) -> dict[str, Any] | None:
  """The rope_scaling of a config.json, or None."""
  if _ROPE_DIVISORS in tensors:
    divisors = np.asarray(tensors[_ROPE_DIVISORS].data, np.float32).ravel()
    return _llama3(found, divisors, path)
  kind = get("rope.scaling.type", "none")
  if kind == "none":
    return None
  return dict(
    rope_type=kind,
    factor=_decimal(get("rope.scaling.factor")),
    original_max_position_embeddings=get(
      "rope.scaling.original_context_length", found["max_position_embeddings"]
    ),
  )


def _llama3(found, divisors, path) -> dict[str, Any]:
  """The rope_scaling whose divisors of the frequencies a file holds."""
  scaling = RopeScaling("llama3", float(divisors.max()), **_LLAMA3)
  theta, width = found["rope_theta"], found["head_dim"]
  plain = layers.rope_frequencies(width, theta, None)
  scaled = layers.rope_frequencies(width, theta, scaling)
  expected = np.asarray(plain) / np.asarray(scaled)
  if divisors.shape != expected.shape or not np.allclose(
    divisors, expected, rtol=1e-3
  ):
    raise ValueError(
      f"{path}: {_ROPE_DIVISORS} is not that of Llama 3's scaling by "
      f"{scaling.factor:g} over {scaling.original_max_positions} positions. "
      "Give the model's Hugging Face folder."
    )
  return dict(
    rope_type="llama3",
    factor=scaling.factor,
    original_max_position_embeddings=scaling.original_max_positions,
    low_freq_factor=scaling.low_freq_factor,
    high_freq_factor=scaling.high_freq_factor,
  )


class Source:
  """The tensors of a GGUF file, by Hugging Face's names, as float32.

  A tensor without a Hugging Face name keeps its own.
  """

  def __init__(self, path: str | os.PathLike):
    """Reads the header.

    Raises:
      ValueError: As `read_config`, or for a tensor of a type that is not
        dequantised here.
    """
    found = read_config(path)
    self._permuted = {}
    if found["model_type"] == "llama":
      self._permuted = {
        "q_proj": found["num_attention_heads"],
        "k_proj": found["num_key_value_heads"],
      }
    self._tensors = {}
    for tensor in _reader(path).tensors:
      if tensor.tensor_type.name not in TYPES:
        raise ValueError(
          f"{path}: {tensor.name} is of type {tensor.tensor_type.name}. "
          f"Known: {', '.join(TYPES)}. Quantise it as one of them, or give "
          "the model's Hugging Face folder."
        )
      if tensor.name != _ROPE_DIVISORS:
        self._tensors[_hub_name(tensor.name)] = tensor

  def names(self) -> list[str]:
    """Names, in the order of the file."""
    return list(self._tensors)

  def shape(self, name: str) -> tuple[int, ...]:
    """Shape of a tensor."""
    return _shape(self._tensors[name])

  def dtype(self, name: str) -> np.dtype:
    """Dtype of what `read` gives."""
    return np.dtype(np.float32)

  def read(self, name: str) -> np.ndarray:
    """The tensor."""
    from gguf import quants

    tensor = self._tensors[name]
    value = quants.dequantize(tensor.data, tensor.tensor_type)
    value = value.reshape(_shape(tensor))
    for part, heads in self._permuted.items():
      if f".{part}." in name:
        value = _halves_from_pairs(value, heads)
    return value


def _halves_from_pairs(value: np.ndarray, heads: int) -> np.ndarray:
  """A projection's rows with each head's rotary pairs (i, i + d/2).

  llama.cpp writes Llama's query and key rows so that the pairs are
  neighbours, (2i, 2i + 1); this undoes it.
  """
  pairs = value.reshape(heads, value.shape[0] // heads // 2, 2, -1)
  return pairs.swapaxes(1, 2).reshape(value.shape)


def _hub_name(name: str) -> str:
  match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
  if match:
    layer, part, kind = match.groups()
    if layer is None and part in _ENDS:
      return f"{_ENDS[part]}.{kind}"
    if layer is not None and part in _PARTS:
      return f"model.layers.{layer}.{_PARTS[part]}.{kind}"
  return name


def _reader(path: str | os.PathLike) -> Any:
  """The file's reader; it maps the file and reads no tensor.

  Raises:
    ValueError: If the package is missing or the file cannot be read.
  """
  file = pathlib.Path(path)
  try:
    stat = file.stat()
    return _read(str(file), stat.st_size, stat.st_mtime_ns)
  except ImportError as error:
    raise ValueError(
      f"{path} needs the package gguf. Run pip install 'r1jax[hf]'."
    ) from error
  except (OSError, ValueError, IndexError, KeyError) as error:
    reason = " ".join(str(error).split())[:200]
    raise ValueError(
      f"{path} cannot be read as GGUF: {reason}. Fetch the file again."
    ) from error


@functools.lru_cache(maxsize=1)
def _read(path, size, changed):
  """A reader; it takes seconds, for the vocabulary is in the header."""
  import gguf

  return gguf.GGUFReader(path)


def _value(reader, name):
  field = reader.get_field(name)
  return None if field is None else field.contents()


def _shape(tensor) -> tuple[int, ...]:
  """Rows first; GGUF writes the fastest axis first."""
  return tuple(int(n) for n in reversed(tensor.shape))


def _decimal(value: float) -> float:
  return float(str(np.float32(value)))
