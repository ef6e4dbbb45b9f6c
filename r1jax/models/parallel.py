"""Projections on a mesh: each device its own rows, kernels gathered.

A kernel lies in parts over the axes that share the batch. Before a product
the parts are brought together, one mesh axis after the other, and so is the
gradient summed and scattered again, by the transpose of the same lines. Over
tensor a kernel stays in parts; a product over such an axis is summed.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1jax.models.layout import BATCH_AXES, Layout

Axes = tuple[str, ...]


def on_rows(
  layout: Layout,
  run: Callable[..., jax.Array],
  in_specs: tuple[PartitionSpec, ...],
  out_specs: PartitionSpec | tuple[PartitionSpec, ...],
) -> Callable[..., jax.Array]:
  """`run` on every device with its own part of each array."""
  return jax.shard_map(
    run, mesh=layout.mesh, in_specs=in_specs, out_specs=out_specs
  )


def gathered(layout: Layout, kernel: jax.Array, axes: Axes) -> jax.Array:
  """Inside of `on_rows`: a kernel's parts over the batch's axes, together.

  A collective runs over the kernel's first axis; over another the compiler
  would make an all-reduce of it.

  Args:
    layout: The mesh.
    kernel: This device's part.
    axes: Logical axes of the kernel.
  """
  mine = [x for axis in axes for x in layout.mesh_axes(axis)]
  others = tuple(x for x in BATCH_AXES if x not in mine)
  # Where the gradient is summed last, when it is smallest.
  if others:
    kernel = jax.lax.pcast(kernel, others, to="varying")
  for i, axis in enumerate(axes):
    for name in reversed(layout.mesh_axes(axis)):
      if name in BATCH_AXES:
        first = jnp.moveaxis(kernel, i, 0)
        first = jax.lax.all_gather(first, name, axis=0, tiled=True)
        kernel = jnp.moveaxis(first, 0, i)
  return kernel


def whole(layout: Layout, kernel: jax.Array, axes: Axes) -> jax.Array:
  """As `gathered`, over tensor too."""
  kernel = gathered(layout, kernel, axes)
  for i, axis in enumerate(axes):
    if layout.tensor_axis(axis):
      first = jnp.moveaxis(kernel, i, 0)
      first = jax.lax.all_gather(first, "tensor", axis=0, tiled=True)
      kernel = jnp.moveaxis(first, 0, i)
  return kernel


def linear(
  layout: Layout,
  x: jax.Array,
  kernel: jax.Array,
  axes: Axes,
  inputs: int,
  dtype: jnp.dtype | None = None,
) -> jax.Array:
  """x, rows first, with its last `inputs` axes replaced by the kernel's.

  Args:
    layout: The mesh.
    x: Of the kernel's dtype.
    kernel: Its parts.
    axes: Its logical axes.
    inputs: How many of them are contracted.
    dtype: Of the result; by default of x.
  """
  lead = x.ndim - inputs
  rows = (BATCH_AXES, *[None] * (lead - 1))
  split = [layout.tensor_axis(axis) for axis in axes]
  width = math.prod(kernel.shape[:inputs])

  def run(x, kernel):
    kernel = gathered(layout, kernel, axes)
    batch, outputs = x.shape[:lead], kernel.shape[inputs:]
    y_XO = jnp.dot(
      x.reshape(math.prod(batch), -1),
      kernel.reshape(-1, math.prod(outputs)),
      preferred_element_type=dtype,
    )
    if any(split[:inputs]):
      y_XO = jax.lax.psum(y_XO, "tensor")
    return y_XO.reshape(*batch, *outputs)

  assert width == math.prod(x.shape[lead:]), (x.shape, kernel.shape)
  return on_rows(
    layout,
    run,
    (PartitionSpec(*rows, *split[:inputs]), layout.kernel_spec(axes)),
    PartitionSpec(*rows, *split[inputs:]),
  )(x, kernel)


def embed(
  layout: Layout, table_VD: jax.Array, tokens_BT: jax.Array
) -> jax.Array:
  """The tokens' rows of the table, [B, T, D]."""
  axes = ("vocab", "embed")

  def run(table_VD, tokens_BT):
    table_VD = gathered(layout, table_VD, axes)
    if layout.size("tensor") == 1:
      return jnp.take(table_VD, tokens_BT, axis=0)
    start = jax.lax.axis_index("tensor") * len(table_VD)
    local_BT = tokens_BT - start
    here_BT1 = ((local_BT >= 0) & (local_BT < len(table_VD)))[..., None]
    rows_BTD = jnp.take(table_VD, jnp.where(here_BT1[..., 0], local_BT, 0), 0)
    return jax.lax.psum(jnp.where(here_BT1, rows_BTD, 0), "tensor")

  rows = PartitionSpec(BATCH_AXES)
  return on_rows(layout, run, (layout.kernel_spec(axes), rows), rows)(
    table_VD, tokens_BT
  )
