"""Grouped matmuls: rows sorted by group, each group with its own kernel.

The first sizes_E[0] rows are group 0's, the next sizes_E[1] group 1's, and
so on; Z rows may be more than the sizes' sum, and what is behind it counts
nowhere. Rows of a product that belong to no group are unspecified.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm, tgmm

BLOCK_ROWS = 128
_TILE_ROWS, _TILE_WIDTH = 512, 1024  # Of megablox, at most.


class Form(NamedTuple):
  """One way to compute the products.

  Attributes:
    product: (x_ZI, kernel_EIO, sizes_E) -> x kernel, [Z, O].
    transposed: (y_ZO, kernel_EIO, sizes_E) -> y kernel', [Z, I].
    outer: (x_ZI, y_ZO, sizes_E) -> each group's x' y, [E, I, O].
  """

  product: Callable[..., jax.Array]
  transposed: Callable[..., jax.Array]
  outer: Callable[..., jax.Array]


def _onehot(sizes_E, Z, dtype):
  """[Z, E], 1 at a row's group; all 0 behind the last group."""
  ends_E = jnp.cumsum(sizes_E)
  rows_Z1 = jnp.arange(Z)[:, None]
  inside_ZE = (rows_Z1 >= (ends_E - sizes_E)[None]) & (rows_Z1 < ends_E[None])
  return inside_ZE.astype(dtype)


def _dense(equation, x_ZI, kernel_EIO, sizes_E):
  """Every kernel on every row."""
  onehot_ZE = _onehot(sizes_E, len(x_ZI), x_ZI.dtype)
  return jnp.einsum(equation, onehot_ZE, x_ZI, kernel_EIO)


def _dense_outer(x_ZI, y_ZO, sizes_E):
  onehot_ZE = _onehot(sizes_E, len(x_ZI), x_ZI.dtype)
  return jnp.einsum("ZE,ZI,ZO->EIO", onehot_ZE, x_ZI, y_ZO)


def _blocks(sizes_E, Z, block):
  """(group, first row, end of the group) of blocks of one group each.

  Z / block + E blocks suffice for any sizes. Those left over are of
  the last group and lie behind its end.
  """
  E = len(sizes_E)
  count = -(-Z // block) + E
  blocks_E = -(-sizes_E // block)
  ends_E = jnp.cumsum(sizes_E)
  last_E = jnp.cumsum(blocks_E)
  index_W = jnp.arange(count)
  group_W = jnp.sum(index_W[:, None] >= last_E[None], axis=1)
  group_W = jnp.minimum(group_W, E - 1)
  inside_W = index_W - (last_E - blocks_E)[group_W]
  start_W = (ends_E - sizes_E)[group_W] + inside_W * block
  return group_W, start_W, ends_E[group_W]


def _padded(x_ZI):
  """(x with room for a block that starts at its last row, the block)."""
  block = min(BLOCK_ROWS, len(x_ZI))
  return jnp.pad(x_ZI, ((0, block), (0, 0))), block


def _scanned(equation, x_ZI, kernel_EIO, sizes_E):
  """One block after another, each of the rows of one group."""
  x_WI, size = _padded(x_ZI)
  width = jax.eval_shape(
    lambda x, k: jnp.einsum(equation, x, k), x_ZI, kernel_EIO[0]
  ).shape[1]

  def step(out_WO, block):
    group, start, _ = block
    rows_BI = jax.lax.dynamic_slice_in_dim(x_WI, start, size)
    kernel_IO = jax.lax.dynamic_index_in_dim(kernel_EIO, group, 0, False)
    # What is written past the group's end, the next block writes again.
    new_BO = jnp.einsum(equation, rows_BI, kernel_IO)
    return jax.lax.dynamic_update_slice(out_WO, new_BO, (start, 0)), None

  zeros_WO = jnp.zeros((len(x_WI), width), x_ZI.dtype)
  out_WO, _ = jax.lax.scan(step, zeros_WO, _blocks(sizes_E, len(x_ZI), size))
  return out_WO[: len(x_ZI)]


def _scanned_outer(x_ZI, y_ZO, sizes_E):
  (x_WI, size), (y_WO, _) = _padded(x_ZI), _padded(y_ZO)

  def step(sum_EIO, block):
    group, start, end = block
    x_BI = jax.lax.dynamic_slice_in_dim(x_WI, start, size)
    y_BO = jax.lax.dynamic_slice_in_dim(y_WO, start, size)
    real_B1 = (start + jnp.arange(size) < end)[:, None]
    new_IO = jnp.dot(jnp.where(real_B1, x_BI, 0).T, y_BO)
    old_IO = jax.lax.dynamic_index_in_dim(sum_EIO, group, 0, False)
    return (
      jax.lax.dynamic_update_index_in_dim(sum_EIO, old_IO + new_IO, group, 0),
      None,
    )

  shape = (len(sizes_E), x_ZI.shape[1], y_ZO.shape[1])
  zeros_EIO = jnp.zeros(shape, x_ZI.dtype)
  sum_EIO, _ = jax.lax.scan(step, zeros_EIO, _blocks(sizes_E, len(x_ZI), size))
  return sum_EIO


def _ragged_outer(x_ZI, y_ZO, sizes_E):
  numbers = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((0,), (0,)), ((), ())),
    lhs_ragged_dimensions=[0],
    rhs_group_dimensions=[],
  )
  return jax.lax.ragged_dot_general(x_ZI, y_ZO, sizes_E, numbers)


def _tiles(rows: int) -> tuple[int, int, int]:
  return math.gcd(rows, _TILE_ROWS), _TILE_WIDTH, _TILE_WIDTH


def _megablox(transposed, x_ZI, kernel_EIO, sizes_E, interpret=False):
  """Pallas kernel for TPU: tiles of no group are skipped."""
  return gmm(
    x_ZI,
    kernel_EIO,
    sizes_E,
    x_ZI.dtype,
    _tiles(len(x_ZI)),
    transpose_rhs=transposed,
    interpret=interpret,
  )


def _megablox_outer(x_ZI, y_ZO, sizes_E, interpret=False):
  return tgmm(
    x_ZI.T,
    y_ZO,
    sizes_E,
    x_ZI.dtype,
    _tiles(len(x_ZI)),
    interpret=interpret,
  )


FORMS = {
  "dense": Form(
    functools.partial(_dense, "ZE,ZI,EIO->ZO"),
    functools.partial(_dense, "ZE,ZO,EIO->ZI"),
    _dense_outer,
  ),
  "scanned": Form(
    functools.partial(_scanned, "BI,IO->BO"),
    functools.partial(_scanned, "BO,IO->BI"),
    _scanned_outer,
  ),
  "ragged": Form(
    jax.lax.ragged_dot,
    lambda y_ZO, kernel_EIO, sizes_E: jax.lax.ragged_dot(
      y_ZO, kernel_EIO.swapaxes(1, 2), sizes_E
    ),
    _ragged_outer,
  ),
  "megablox": Form(
    functools.partial(_megablox, False),
    functools.partial(_megablox, True),
    _megablox_outer,
  ),
}
