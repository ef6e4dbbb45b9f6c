"""What the tables of Hugging Face families are made of."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.models.config import ModelConfig

Transform = Callable[[np.ndarray], np.ndarray]
# Tables of frequencies that early checkpoints carry; they follow from config.
ROTARY_TABLES = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)


class Rule(NamedTuple):
  """One pattern of tensor names, and the leaf that it fills.

  Attributes:
    hub: Name in the checkpoint; `{layer}` and `{expert}` stand for numbers.
    ours: The leaf, as `tree.names` writes it of {"params": ..., "buffers":
      ...}.
    shape: Of the checkpoint's tensor.
    to_ours, to_hub: Inverses of each other. Views where they can be, so
      that a tensor is copied once, onto its device.
    layers: The checkpoint's numbers of the layers that the leaf stacks on
      its first axis; None if it stacks none.
    experts: How many the leaf stacks on its next axis; 0 if none.
    repeats: True of a tensor that another rule's equals, in checkpoints
      that hold it twice. It may be lacking; where it is not, it is compared.
    exact: Whether a repetition that differs is an error; else it is left
      out, and a line is logged.
    exported: Whether `hub.export` writes it.
  """

  hub: str
  ours: str
  shape: tuple[int, ...]
  to_ours: Transform = lambda x: x
  to_hub: Transform = lambda x: x
  layers: range | None = None
  experts: int = 0
  repeats: bool = False
  exact: bool = True
  exported: bool = True

  def places(self) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name in the checkpoint, index into the leaf) of each tensor."""
    for at, layer in enumerate(self.layers or [None]):
      first = () if layer is None else (at,)
      for expert in range(self.experts or 1):
        index = (*first, expert) if self.experts else first
        yield self.hub.format(layer=layer, expert=expert), index


class Family(NamedTuple):
  """Models of one `architectures` entry.

  Attributes:
    from_hf: config.json -> fields of ModelConfig; dtypes, `remat` and the
      like are the user's and not among them. A ValueError names the field
      that is not built, without the file.
    to_hf: ModelConfig -> config.json, but for what no dimension says.
    rules: ModelConfig -> the rules of all tensors.
    holds: Whether the family can express a ModelConfig.
    ignored: Patterns, as of re.fullmatch, of tensors that hold nothing.
  """

  from_hf: Callable[[Mapping[str, Any]], dict[str, Any]]
  to_hf: Callable[[ModelConfig], dict[str, Any]]
  rules: Callable[[ModelConfig], list[Rule]]
  holds: Callable[[ModelConfig], bool]
  ignored: tuple[str, ...] = ()


def linear(
  hub: str,
  ours: str,
  inputs: Sequence[int],
  outputs: Sequence[int],
  **span: Any,
) -> Rule:
  """The rule of a kernel: [outputs, inputs] there, [*inputs, *outputs] here.

  Args:
    hub, ours: As of Rule.
    inputs, outputs: Widths of our kernel's axes.
    **span: More of Rule's attributes.
  """
  width, height = math.prod(inputs), math.prod(outputs)
  here = (*inputs, *outputs)
  return Rule(
    hub,
    ours,
    (height, width),
    lambda x: x.T.reshape(here),
    lambda x: x.reshape(width, height).T,
    **span,
  )


def vector(hub: str, ours: str, outputs: Sequence[int], **span: Any) -> Rule:
  """The rule of a bias or a scale: flat there, of shape `outputs` here."""
  outputs = tuple(outputs)
  return Rule(
    hub,
    ours,
    (math.prod(outputs),),
    lambda x: x.reshape(outputs),
    lambda x: x.reshape(-1),
    **span,
  )


def ends(c: ModelConfig) -> list[Rule]:
  """The rules of what stands before and after the layers."""
  embedding = (c.vocab_size, c.d_model)
  rules = [
    Rule("model.embed_tokens.weight", "params.embedding", embedding),
    vector("model.norm.weight", "params.final_norm.scale", (c.d_model,)),
  ]
  if c.tie_embeddings:
    rules.append(
      Rule(
        "lm_head.weight",
        "params.embedding",
        embedding,
        repeats=True,
        exported=False,
      )
    )
  else:
    rules.append(
      linear("lm_head.weight", "params.head", (c.d_model,), (c.vocab_size,))
    )
  return rules


def norms(c: ModelConfig, stack: str, layers: range) -> list[Rule]:
  """The rules of the two norms of each layer of a stack."""
  hub, ours = "model.layers.{layer}", f"params.{stack}"
  return [
    vector(
      f"{hub}.{there}.weight",
      f"{ours}.{here}.scale",
      (c.d_model,),
      layers=layers,
    )
    for there, here in (
      ("input_layernorm", "attention_norm"),
      ("post_attention_layernorm", "mlp_norm"),
    )
  ]


def grouped_query(c: ModelConfig, stack: str, layers: range) -> list[Rule]:
  """The rules of the attention of a stack of layers."""
  hub, ours = "model.layers.{layer}.self_attn", f"params.{stack}.attention"
  span = dict(layers=layers)
  rules = []
  for there, here, heads in (
    ("q_proj", "query", c.num_heads),
    ("k_proj", "key", c.num_kv_heads),
    ("v_proj", "value", c.num_kv_heads),
  ):
    there, here = f"{hub}.{there}", f"{ours}.{here}"
    outputs = (heads, c.head_dim)
    rules.append(
      linear(f"{there}.weight", f"{here}.kernel", (c.d_model,), outputs, **span)
    )
    if c.qkv_bias:
      rules.append(vector(f"{there}.bias", f"{here}.bias", outputs, **span))
  if c.qk_norm:
    rules += [
      vector(
        f"{hub}.{there}.weight", f"{ours}.{here}.scale", (c.head_dim,), **span
      )
      for there, here in (("q_norm", "query_norm"), ("k_norm", "key_norm"))
    ]
  inputs, outputs = (c.num_heads, c.head_dim), (c.d_model,)
  return [
    *rules,
    linear(
      f"{hub}.o_proj.weight", f"{ours}.out.kernel", inputs, outputs, **span
    ),
  ]


def gated(
  hub: str, ours: str, width: int, inner: int, **span: Any
) -> list[Rule]:
  """The rules of a gated MLP.

  Args:
    hub, ours: What its tensors' and its leaves' names begin with.
    width, inner: Of its input, and between its projections.
    **span: More of Rule's attributes.
  """
  return [
    linear(f"{hub}.{name}_proj.weight", f"{ours}.{name}.kernel", a, b, **span)
    for name, a, b in (
      ("gate", (width,), (inner,)),
      ("up", (width,), (inner,)),
      ("down", (inner,), (width,)),
    )
  ]


def refuse(
  hf: Mapping[str, Any], field: str, allowed: Sequence[Any], reason: str
) -> None:
  """Returns if the field is absent or allowed.

  Raises:
    ValueError: If it has another value.
  """
  value = hf.get(field, allowed[0])
  if value not in allowed:
    listed = ", ".join(repr(each) for each in allowed)
    raise ValueError(
      f"{field} is {value!r}; {reason}. Allowed: {listed}. Choose another "
      "model."
    )


def need(hf: Mapping[str, Any], field: str) -> Any:
  """A field that has no default.

  Raises:
    ValueError: If it is absent.
  """
  if hf.get(field) is None:
    raise ValueError(f"{field} is missing. Complete the file.")
  return hf[field]


def rope_fields(hf: Mapping[str, Any]) -> dict[str, Any]:
  """rope_theta and rope_scaling of a config.json, in any of its forms.

  transformers 5 writes `rope_parameters`, theta among them; before, theta
  stood by itself and `rope_scaling` named its kind `rope_type` or `type`.

  Raises:
    ValueError: For a kind of scaling that is not built.
  """
  found = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
  field = "rope_parameters" if hf.get("rope_parameters") else "rope_scaling"
  theta = found.get("rope_theta", hf.get("rope_theta", 10000.0))
  fields = {"rope_theta": float(theta), "rope_scaling": None}
  if found.get("partial_rotary_factor", 1.0) != 1.0:
    raise ValueError(
      f"{field}.partial_rotary_factor is {found['partial_rotary_factor']}; "
      "only whole heads are rotated here. Choose another model."
    )
  kind = found.get("rope_type", found.get("type", "default"))
  if kind == "default":
    return fields
  if kind not in _ROPE_KINDS:
    known = ", ".join(["default", *_ROPE_KINDS])
    raise ValueError(
      f"{field}.rope_type is {kind!r}. Known: {known}. Choose another model."
    )
  longest = hf.get("max_position_embeddings")
  factor = found.get("factor")
  original = found.get("original_max_position_embeddings")
  if not (factor or original) or not (longest or (factor and original)):
    raise ValueError(
      f"{field} of kind {kind!r} lacks factor and "
      "original_max_position_embeddings. Complete the file."
    )
  original = original or longest
  factor = factor or longest / original
  scaling = dict(
    name=kind, factor=float(factor), original_max_positions=int(original)
  )
  return fields | {"rope_scaling": scaling | _ROPE_KINDS[kind](found, field)}


def _llama3(found, field):
  return {
    name: float(found[name])
    for name in ("low_freq_factor", "high_freq_factor")
    if name in found
  }


def _yarn(found, field):
  for name, allowed in (("attention_factor", None), ("truncate", True)):
    if found.get(name, allowed) is not allowed:
      raise ValueError(
        f"{field}.{name} is {found[name]}; only its default is built. "
        "Choose another model."
      )
  names = ("beta_fast", "beta_slow")
  scaling = {name: float(found[name]) for name in names if found.get(name)}
  if found.get("mscale") and found.get("mscale_all_dim"):
    for name in ("mscale", "mscale_all_dim"):
      scaling[name] = float(found[name])
  return scaling


_ROPE_KINDS = {"llama3": _llama3, "yarn": _yarn}


def rope_to_hf(config: ModelConfig) -> dict[str, Any]:
  """`rope_theta` and `rope_scaling`, which transformers 4 and 5 read."""
  fields: dict[str, Any] = {"rope_theta": config.rope_theta}
  s = config.rope_scaling
  if s is None:
    return fields
  scaling = {
    "rope_type": s.name,
    "factor": s.factor,
    "original_max_position_embeddings": s.original_max_positions,
  }
  kept = {
    "llama3": ("low_freq_factor", "high_freq_factor"),
    "yarn": ("beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
  }
  for name in kept[s.name]:
    scaling[name] = getattr(s, name)
  if s.name == "yarn" and not s.mscale_all_dim:
    # transformers reads mscale beside mscale_all_dim only; alone it is 1.
    if s.mscale != 1.0:
      raise ValueError(
        f"config.model.rope_scaling.mscale is {s.mscale} beside "
        "mscale_all_dim 0, which no config.json can say. Set it to 1.0."
      )
    del scaling["mscale"], scaling["mscale_all_dim"]
  return fields | {"rope_scaling": scaling}
