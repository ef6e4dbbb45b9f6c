"""The mesh, and where every array lives on it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.models import transformer
from r1jax.models.layout import BATCH_AXES, MESH_AXES, RULES, Layout, Rules


def make_mesh(
  sizes: Mapping[str, int], devices: Sequence[Any] | None = None
) -> Mesh:
  """The mesh of the devices, neighbours in it neighbours in the machine.

  Where there are several slices of a TPU, the slow network between them
  divides the first axis that it can: data, then fsdp, then expert.

  Args:
    sizes: By axis.
    devices: All of this process's by default; a topology's, to compile for.

  Raises:
    ValueError: If the sizes do not multiply to the number of devices, or
      the slices divide no axis.
  """
  devices = jax.devices() if devices is None else list(devices)
  shape = tuple(sizes[axis] for axis in MESH_AXES)
  if math.prod(shape) != len(devices):
    raise ValueError(
      f"config.mesh {dict(sizes)} has {math.prod(shape)} devices, but there "
      f"are {len(devices)}. Its sizes must multiply to that."
    )
  kinds = (jax.sharding.AxisType.Auto,) * len(shape)
  return Mesh(_ordered(shape, devices), MESH_AXES, axis_types=kinds)


def _ordered(shape: tuple[int, ...], devices: list[Any]) -> np.ndarray:
  slices = {getattr(device, "slice_index", 0) for device in devices}
  if devices[0].platform != "tpu" or len(slices) == 1:
    return _on_torus(shape, devices)
  for i, axis in enumerate(MESH_AXES):
    if axis in BATCH_AXES and shape[i] % len(slices) == 0:
      inside = list(shape)
      inside[i] //= len(slices)
      parts = [
        _on_torus(tuple(inside), [d for d in devices if d.slice_index == s])
        for s in sorted(slices)
      ]
      return np.concatenate(parts, axis=i)
  raise ValueError(
    f"config.mesh {dict(zip(MESH_AXES, shape))} has no axis that the "
    f"{len(slices)} slices divide. Make data a multiple of {len(slices)}."
  )


def _on_torus(shape: tuple[int, ...], devices: list[Any]) -> np.ndarray:
  try:
    return mesh_utils.create_device_mesh(shape, devices)
  except NotImplementedError:  # An axis is no product of the torus's axes.
    return mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )


def param_shardings(mesh: Mesh, boxed: Any, rules: Rules | None = None) -> Any:
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
    named = [x for axis in axes for x in _several(axis)]
    if len(named) != len(set(named)):
      raise ValueError(
        f"Parameter {name} has the axes {leaf.names}, two of which the "
        f"rules put on one mesh axis: {axes}. Change sharding.RULES."
      )
    return NamedSharding(mesh, PartitionSpec(*axes))

  return jax.tree_util.tree_map_with_path(
    place, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
  )


def decode_shardings(layout: Layout, init: Callable[[jax.Array], Any]) -> Any:
  """Where each tree of weights lies once `transformer.unstack`ed; None on
  one device.

  Args:
    layout: The sampler's.
    init: Key to (params, buffers), boxed with their logical axes.

  Raises:
    ValueError: As `param_shardings`.
  """
  if layout.mesh is None:
    return None
  boxed = jax.eval_shape(init, jax.random.key(0))
  places = param_shardings(layout.mesh, boxed, layout.rules)

  def of_each_layer(leaf, place):
    each = np.empty(leaf.shape[0], object)
    each.fill(NamedSharding(layout.mesh, PartitionSpec(*place.spec[1:])))
    return each

  def unstacked(shapes, places):
    stacks = {
      name: jax.tree.map(of_each_layer, shapes[name], places[name])
      for name in transformer.STACKS
      if name in shapes
    }
    return transformer.unstack({**places, **stacks})

  return tuple(map(unstacked, nn.unbox(boxed), places))


def _several(axis: str | tuple[str, ...] | None) -> tuple[str, ...]:
  if axis is None:
    return ()
  return (axis,) if isinstance(axis, str) else axis


def _usable(mesh, axis, size, where):
  """The mesh axes of a logical axis that have more than one device."""
  used = tuple(x for x in _several(axis) if mesh.shape[x] > 1)
  shards = math.prod(mesh.shape[x] for x in used)
  if size % shards:
    sizes = " * ".join(f"config.mesh.{x}" for x in used)
    raise ValueError(
      f"{sizes} is {shards}, which does not divide {where} of size {size}. "
      "Choose a divisor."
    )
  return used[0] if len(used) == 1 else used or None


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
