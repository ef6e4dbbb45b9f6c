"""The mesh, and where every array lives on it."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "expert", "tensor")
BATCH_AXES = ("data", "fsdp", "expert")

# Logical axis of a parameter to mesh axis; None is replicated.
RULES: dict[str, str | None] = {
  "vocab": "tensor",
  "embed": "fsdp",
  "mlp": "tensor",
  "heads": "tensor",
  "kv_heads": "tensor",
  "head_dim": None,
  "q_lora": None,
  "kv_lora": None,
  "experts": "expert",
  "expert_mlp": "tensor",
  "router": None,
  "norm": None,
  "layers": None,
}


def make_mesh(sizes: Mapping[str, int]) -> Mesh:
  """The mesh of all devices.

  Raises:
    ValueError: If the sizes do not multiply to the number of devices.
  """
  shape = tuple(sizes[axis] for axis in MESH_AXES)
  product = 1
  for size in shape:
    product *= size
  if product != jax.device_count():
    raise ValueError(
      f"config.mesh {dict(sizes)} has {product} devices, but there are "
      f"{jax.device_count()}. Its sizes must multiply to that."
    )
  devices = mesh_utils.create_device_mesh(shape)
  kinds = (jax.sharding.AxisType.Auto,) * len(shape)
  return Mesh(devices, MESH_AXES, axis_types=kinds)


def param_shardings(
  mesh: Mesh, boxed: Any, rules: Mapping[str, str | None] | None = None
) -> Any:
  """Sharding of each leaf of a tree boxed with logical axes.

  A mesh axis that does not divide the leaf's axis is an error, as is a
  logical axis without a rule or two axes of a leaf on one mesh axis.

  Raises:
    ValueError: It names the parameter.
  """
  rules = RULES if rules is None else rules

  def place(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    if not isinstance(leaf, nn.LogicallyPartitioned):
      return NamedSharding(mesh, PartitionSpec())
    axes = []
    for axis, size in zip(leaf.names, leaf.value.shape):
      if axis not in rules:
        raise ValueError(
          f"Parameter {name} has the axis {axis!r}, which no rule covers. "
          f"Add it to sharding.RULES. Known: {', '.join(rules)}."
        )
      axes.append(_usable(mesh, rules[axis], size, f"{name} axis {axis}"))
    named = [axis for axis in axes if axis]
    if len(named) != len(set(named)):
      raise ValueError(
        f"Parameter {name} has the axes {leaf.names}, two of which the "
        f"rules put on one mesh axis: {axes}."
      )
    return NamedSharding(mesh, PartitionSpec(*axes))

  return jax.tree_util.tree_map_with_path(
    place, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
  )


def _usable(mesh, axis, size, where):
  if axis is None or mesh.shape[axis] == 1:
    return None
  if size % mesh.shape[axis]:
    raise ValueError(
      f"config.mesh.{axis} is {mesh.shape[axis]}, which does not divide "
      f"{where} of size {size}. Choose a divisor."
    )
  return axis


def optimizer_shardings(
  optimizer: optax.GradientTransformation, params: Any, shardings: Any
) -> Any:
  """Sharding of the optimizer's state: moments lie where parameters do."""
  state = jax.eval_shape(optimizer.init, params)
  mesh = jax.tree.leaves(shardings)[0].mesh
  return optax.tree_map_params(
    optimizer,
    lambda _, sharding: sharding,
    state,
    shardings,
    transform_non_params=lambda _: replicated(mesh),
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """On every device whole."""
  return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh) -> NamedSharding:
  """First axis over the devices that share a batch, others whole."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))
