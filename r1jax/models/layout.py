"""How a model is laid out: its mesh, and the kernels that suit its devices.

The choice follows from the config and the mesh's own devices, never from
the machine that asks, so that a program can be compiled for devices which
are not there.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "expert", "tensor")
BATCH_AXES = ("data", "fsdp", "expert")

Rules = Mapping[str, str | tuple[str, ...] | None]

# Logical axis of a parameter to mesh axis or axes; None is replicated. The
# width and the latents of a dense layer lie on the expert axis too, which
# has no expert of theirs, so that nothing big is stored twice.
RULES: Rules = {
  "vocab": "tensor",
  "embed": ("fsdp", "expert"),
  "latent": ("fsdp", "expert"),
  "mlp": "tensor",
  "heads": "tensor",
  "kv_heads": "tensor",
  "head_dim": None,
  "q_lora": None,
  "kv_lora": None,
  "experts": "expert",
  "expert_embed": "fsdp",
  "expert_mlp": "tensor",
  "expert_inner": ("tensor", "fsdp"),
  "expert_out": None,
  "router": None,
  "norm": None,
  "layers": None,
}

# By config.sampling.weights: what is otherwise where the sampler runs. Whole
# experts on each device spare gathering their parts for every token drawn;
# so do whole dense kernels, which then have to fit.
_SPREAD: Rules = {
  "experts": ("expert", "fsdp"),
  "expert_embed": None,
  "expert_inner": "tensor",
}
DECODING: dict[str, Rules] = {
  "as_trained": {},
  "spread": _SPREAD,
  "whole": {**_SPREAD, "embed": None, "latent": None},
}

# Logical axis of an activation to its mesh axes; None is whole.
ACTIVATIONS: dict[str | None, tuple[str, ...]] = {
  "batch": BATCH_AXES,
  "heads": ("tensor",),
  "mlp": ("tensor",),
  "vocab": ("tensor",),
  None: (),
}

# By config.kernels field: platform to what "auto" means there, and where
# each form runs.
AUTO = {
  "attention": {"cpu": "by_length", "gpu": "triton", "tpu": "splash"},
  "experts": {"cpu": "scanned", "gpu": "scanned", "tpu": "megablox"},
}
ANYWHERE = ("cpu", "gpu", "tpu")
RUNS_ON = {
  "attention": {
    "mask": ANYWHERE,
    "chunked": ANYWHERE,
    "by_length": ANYWHERE,
    "triton": ("gpu",),
    "splash": ("tpu",),
  },
  "experts": {
    "dense": ANYWHERE,
    "ragged": ANYWHERE,
    "scanned": ANYWHERE,
    "megablox": ("tpu",),
  },
}
_PLATFORMS = {"cuda": "gpu", "rocm": "gpu"}


class Layout(NamedTuple):
  """A model's mesh and kernels; hashable.

  Attributes:
    mesh: None on one device, where nothing is constrained.
    attention: Form of the attention product, see `flash.form_of`.
    experts: Form of the experts' grouped matmul; "" leaves it to
      config.model.moe_impl, on one device only.
    weights: Where parameters lie, of DECODING.
  """

  mesh: Mesh | None = None
  attention: str = "by_length"
  experts: str = ""
  weights: str = "as_trained"

  @property
  def rules(self) -> Rules:
    """Logical axis of a parameter to mesh axes."""
    return {**RULES, **DECODING[self.weights]}

  def size(self, *axes: str) -> int:
    """Devices along mesh axes."""
    size = 1
    for axis in axes if self.mesh is not None else ():
      size *= self.mesh.shape[axis]
    return size

  def mesh_axes(self, axis: str) -> tuple[str, ...]:
    """Where a parameter's logical axis lies, if on several devices."""
    found = self.rules[axis] or ()
    found = (found,) if isinstance(found, str) else found
    return tuple(x for x in found if self.size(x) > 1)

  def tensor_axis(self, axis: str) -> str | None:
    """ "tensor" for a parameter's axis that stays in parts over it."""
    return "tensor" if "tensor" in self.mesh_axes(axis) else None

  def kernel_spec(self, axes: tuple[str, ...]) -> PartitionSpec:
    """Where a parameter of these logical axes lies."""
    return PartitionSpec(*(self.mesh_axes(axis) or None for axis in axes))

  def spec(self, shape: tuple[int, ...], *axes: str | None) -> PartitionSpec:
    """Where an array of logical axes lies; an axis that its mesh axes do not
    divide is left whole."""
    assert len(shape) == len(axes), (shape, axes)
    parts = []
    for length, axis in zip(shape, axes):
      used = tuple(x for x in ACTIVATIONS[axis] if self.size(x) > 1)
      parts.append(used if used and not length % self.size(*used) else None)
    return PartitionSpec(*parts)

  def place(
    self, shape: tuple[int, ...], *axes: str | None
  ) -> NamedSharding | None:
    """The sharding of an array of logical axes; None on one device."""
    if self.mesh is None:
      return None
    return NamedSharding(self.mesh, self.spec(shape, *axes))

  def constrain(self, x: jax.Array, *axes: str | None) -> jax.Array:
    """x, laid out by its logical axes; as it is on one device."""
    if self.mesh is None:
      return x
    return jax.lax.with_sharding_constraint(x, self.place(x.shape, *axes))


SINGLE = Layout()


def platform_of(mesh: Mesh) -> str:
  """Of ANYWHERE, by the mesh's devices."""
  name = mesh.devices.flat[0].platform
  return _PLATFORMS.get(name, name)


def of(mesh: Mesh, kernels: Mapping[str, str]) -> Layout:
  """The layout of a mesh, its kernels as config.kernels says.

  Args:
    mesh: Of devices, or of the description of some.
    kernels: `attention` and `experts`, each "auto" or a form.

  Raises:
    ValueError: For a form that does not run on the mesh's devices.
  """
  platform, chosen = platform_of(mesh), {}
  for field, table in RUNS_ON.items():
    form = kernels[field]
    if form == "auto":
      form = AUTO[field][platform]
    elif platform not in table.get(form, ()):
      known = ", ".join(k for k, v in table.items() if platform in v)
      raise ValueError(
        f"config.kernels.{field} is {form!r}, which does not run on the "
        f"mesh's {platform} devices. Set it to auto or one of {known}."
      )
    chosen[field] = form
  if mesh.size > 1:
    return Layout(mesh, **chosen)
  if platform == "cpu" and kernels["experts"] == "auto":
    chosen["experts"] = ""
  return Layout(None, **chosen)
