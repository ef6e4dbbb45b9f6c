"""Rows and caches of the sampler, spread over a mesh."""

import jax
from jax.experimental.layout import Format
from jax.experimental.layout import Layout as Order
from jax.sharding import PartitionSpec

from r1jax.models.config import ModelConfig
from r1jax.models.layout import BATCH_AXES, Layout


def cache_axes(rows: str | None, rank: int) -> tuple[str | None, ...]:
  """Logical axes of a cache: rows, heads if it has them, columns, width."""
  return (rows, *["heads"] * (rank - 3), None, None)


def cache_place(
  layout: Layout, config: ModelConfig, rows: int
) -> Format | None:
  """Where the caches of so many rows lie; None on one device.

  They keep the order of their axes in memory. Left to itself the compiler
  takes another for narrow ones where a program begins and ends, and copies
  them all to it and back.
  """
  if layout.mesh is None:
    return None
  shape = (rows, 1, 1)
  if config.attention == "gqa":
    shape = (rows, config.num_kv_heads, 1, 1)
  place = layout.place(shape, *cache_axes("batch", len(shape)))
  return Format(Order(tuple(range(len(shape)))), place)


def everywhere(
  layout: Layout, rows: jax.Array, *others: str | None
) -> jax.Array:
  """The rows of all devices on each of them.

  They are brought together along one axis of the mesh after another. Over
  several at once a TPU's compiler adds up padded copies instead.

  Args:
    layout: The mesh.
    rows: First axis over the devices that share a batch.
    others: Logical axes of the rest, which stay where they are.
  """
  axes = [axis for axis in BATCH_AXES if layout.size(axis) > 1]
  if not axes or rows.shape[0] % layout.size(*axes):
    return rows
  others = others or (None,) * (rows.ndim - 1)
  rest = layout.spec(rows.shape, None, *others)[1:]

  def gather(part):
    for axis in reversed(axes):
      part = jax.lax.all_gather(part, axis, axis=0, tiled=True)
    return part

  return jax.shard_map(
    gather,
    mesh=layout.mesh,
    in_specs=PartitionSpec(tuple(axes), *rest),
    out_specs=PartitionSpec(None, *rest),
    check_vma=False,
  )(rows)
