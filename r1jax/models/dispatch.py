"""Experts on a mesh: tokens go to the devices that hold their experts.

Dropless on fixed shapes: a pass carries at most C copies of tokens from a
device to each of the others along the expert axis, and as many passes are
made as the fullest pair of devices needs. One is the rule; any routing is
computed in full. Forward and backward are each one program of a device,
so what crosses the mesh is written here, line by line:

  forward   the experts' kernels are gathered over fsdp; a pass sends the
            copies with their gates, and gets their outputs back
  backward  gathers again; a pass sends the copies again with the outputs'
            gradients, and gets the inputs' and the gates' back; the
            kernels' gradients are summed over data and scattered over fsdp

A gate multiplies the inner activations, where the experts are, so that its
gradient needs no second product: out = (gate silu(x g) (x u)) d.
"""

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1jax.models import grouped
from r1jax.models.layout import BATCH_AXES, Layout

# Copies a pass has room for, over those of an even routing.
CAPACITY = 1.25
# Tokens of more copies go in parts: of a row of 33,792 tokens DeepSeek-V3 would
# keep 50 GB at once.
MOST_COPIES = 1 << 16
_ROUND = 16  # Rows of a tile.


class _Trips(NamedTuple):
  """Where a device's copies of tokens go; Y copies in order of expert.

  Attributes:
    token_Y: The copy's token.
    pick_Y: Its place among all copies in the tokens' order.
    expert_Y: Its expert, counted inside of the device that has it.
    first_N, count_N: Copies for each device: the first, and how many.
    device_XP, rank_XP: Of each token's copies: the device, and the place
      among the copies for it.
    passes: As many as the fullest pair of all devices needs.
    room: Copies for one device in one pass.
  """

  token_Y: jax.Array
  pick_Y: jax.Array
  expert_Y: jax.Array
  first_N: jax.Array
  count_N: jax.Array
  device_XP: jax.Array
  rank_XP: jax.Array
  passes: jax.Array
  room: int


class _Arrived(NamedTuple):
  """What a pass brought: rows in order of expert, those of none last."""

  rows_Z: jax.Array
  gates_Z: jax.Array
  sizes_E: jax.Array
  real_Z1: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def experts(
  layout: Layout,
  form: str,
  x_BTD: jax.Array,
  experts_BTP: jax.Array,
  gates_BTP: jax.Array,
  gate_EDF: jax.Array,
  up_EDF: jax.Array,
  down_EFD: jax.Array,
) -> jax.Array:
  """The gated sum of each token's experts, [B, T, D].

  Args:
    layout: The mesh, or one device.
    form: Of `grouped.FORMS`.
    x_BTD: The tokens, of the kernels' dtype.
    experts_BTP, gates_BTP: Of `moe.route`.
    gate_EDF, up_EDF, down_EFD: Kernels, laid out by `sharding.RULES`.

  Raises:
    ValueError: If the rows do not divide among the devices.
  """
  run = functools.partial(_forward, layout, grouped.FORMS[form])
  batch, *kernels = _specs(layout, x_BTD.shape[0])
  return _on_mesh(layout, run, (batch,) * 3 + tuple(kernels), batch)(
    x_BTD, experts_BTP, gates_BTP, gate_EDF, up_EDF, down_EFD
  )


def _save(layout, form, *args):
  return experts(layout, form, *args), args


def _transpose(layout, form, args, dy_BTD):
  run = functools.partial(_backward, layout, grouped.FORMS[form])
  batch, *kernels = _specs(layout, dy_BTD.shape[0])
  dx_BTD, dgates_BTP, *dkernels = _on_mesh(
    layout,
    run,
    (batch,) * 3 + tuple(kernels) + (batch,),
    (batch, batch, *kernels),
  )(*args, dy_BTD)
  return dx_BTD, None, dgates_BTP, *dkernels


experts.defvjp(_save, _transpose)


def _specs(layout: Layout, B: int) -> tuple[PartitionSpec, ...]:
  """Of rows, and of the three kernels."""
  shards = layout.size(*BATCH_AXES)
  if B % shards:
    raise ValueError(
      f"A batch of {B} rows does not divide among data * fsdp * expert of "
      f"config.mesh = {shards} devices. Make it a multiple."
    )
  wide = layout.kernel_spec(("experts", "expert_embed", "expert_mlp"))
  narrow = layout.kernel_spec(("experts", "expert_inner", "expert_out"))
  return PartitionSpec(BATCH_AXES), wide, wide, narrow


def _on_mesh(layout, run, in_specs, out_specs):
  if layout.mesh is None:
    return run
  return jax.shard_map(
    run,
    mesh=layout.mesh,
    in_specs=in_specs,
    out_specs=out_specs,
    check_vma=False,
  )


def _forward(layout, form, x_BTD, experts_BTP, gates_BTP, *kernels):
  """One device's part of `experts`."""
  gate_EDF, up_EDF, down_EFD = (_gathered(layout, k) for k in kernels)

  def one_part(none, tokens):
    x_XD, experts_XP, gates_XP = tokens
    trips = _trips(layout, len(gate_EDF), experts_XP)

    def one_pass(state):
      index, y_XD = state
      got, back = _send(layout, trips, index, len(gate_EDF), x_XD, gates_XP)
      inner_ZF = _inner(
        form.product(got.rows_Z, gate_EDF, got.sizes_E),
        form.product(got.rows_Z, up_EDF, got.sizes_E),
        got.gates_Z,
      )
      out_ZD = form.product(inner_ZF, down_EFD, got.sizes_E)
      out_ND = back(jnp.where(got.real_Z1, out_ZD, 0))
      return index + 1, y_XD + _combined(trips, index, out_ND)

    y_XD = _repeat(trips, one_pass, jnp.zeros(x_XD.shape, jnp.float32))
    return none, y_XD.astype(x_XD.dtype)

  tokens = (x_BTD, experts_BTP, gates_BTP)
  _, y_XD = _in_parts(one_part, None, tokens)
  return _summed(layout, y_XD, "tensor").reshape(x_BTD.shape)


def _backward(layout, form, x_BTD, experts_BTP, gates_BTP, *rest):
  """One device's part of the gradient."""
  *kernels, dy_BTD = rest
  whole = [_gathered(layout, kernel) for kernel in kernels]

  def one_part(dkernels, tokens):
    return _part_backward(layout, form, whole, dkernels, *tokens)

  zeros = [jnp.zeros(kernel.shape, jnp.float32) for kernel in whole]
  tokens = (x_BTD, experts_BTP, gates_BTP, dy_BTD)
  dkernels, (dx_XD, dgates_XP) = _in_parts(one_part, zeros, tokens)
  return (
    _summed(layout, dx_XD, "tensor").reshape(x_BTD.shape),
    _summed(layout, dgates_XP, "tensor").reshape(gates_BTP.shape),
    *(
      _scattered(layout, dkernel.astype(kernel.dtype))
      for dkernel, kernel in zip(dkernels, kernels)
    ),
  )


def _part_backward(
  layout, form, kernels, dkernels, x_XD, experts_XP, gates_XP, dy_XD
):
  """(the kernels' gradients with the part's added, (those of x, gates))."""
  gate_EDF, up_EDF, down_EFD = kernels
  trips = _trips(layout, len(gate_EDF), experts_XP)
  both_XD = jnp.concatenate([x_XD, dy_XD], axis=1)

  def one_pass(state):
    index, (dx_XD, dgates_XP, dkernels) = state
    got, back = _send(layout, trips, index, len(gate_EDF), both_XD, gates_XP)
    x_ZD, dy_ZD = jnp.split(got.rows_Z, 2, axis=1)
    sizes_E = got.sizes_E
    inner_ZF, pull = jax.vjp(
      _inner,
      form.product(x_ZD, gate_EDF, sizes_E),
      form.product(x_ZD, up_EDF, sizes_E),
      got.gates_Z,
    )
    da_ZF, db_ZF, dgates_Z = pull(form.transposed(dy_ZD, down_EFD, sizes_E))
    pairs = (x_ZD, da_ZF), (x_ZD, db_ZF), (inner_ZF, dy_ZD)
    new = [form.outer(*pair, sizes_E) for pair in pairs]
    dx_ZD = form.transposed(da_ZF, gate_EDF, sizes_E)
    dx_ZD += form.transposed(db_ZF, up_EDF, sizes_E)
    dx_ND = back(jnp.where(got.real_Z1, dx_ZD, 0))
    dgates_N1 = back(jnp.where(got.real_Z1, dgates_Z[:, None], 0))
    return index + 1, (
      dx_XD + _combined(trips, index, dx_ND),
      dgates_XP + _each(trips, index, dgates_N1)[..., 0],
      jax.tree.map(jnp.add, dkernels, new),
    )

  zeros = jnp.zeros(x_XD.shape, jnp.float32), jnp.zeros_like(gates_XP)
  dx_XD, dgates_XP, dkernels = _repeat(trips, one_pass, (*zeros, dkernels))
  return dkernels, (dx_XD.astype(x_XD.dtype), dgates_XP)


def _in_parts(one_part, start, values):
  """(last carry, results_X) of a scan over the tokens, in parts.

  `one_part` is (carry, values_X) -> (carry, results_X); of the tokens' values,
  _BT, the second are their experts. Tokens of zeros fill the last part.
  """
  values = [a.reshape(-1, a.shape[-1]) for a in values]
  X, n = len(values[0]), parts(*values[1].shape)
  if n == 1:
    return one_part(start, values)
  filled = [jnp.pad(a, ((0, -X % n), (0, 0))) for a in values]
  split = [a.reshape(n, -1, a.shape[-1]) for a in filled]
  carry, results = jax.lax.scan(one_part, start, split)
  return carry, jax.tree.map(lambda a: a.reshape(-1, a.shape[-1])[:X], results)


def parts(X: int, P: int) -> int:
  """In how many parts X tokens of P copies each are sent."""
  return max(1, -(-X * P // MOST_COPIES))


def _inner(a_ZF, b_ZF, gates_Z):
  """gate silu(a) b, in float32 until the end."""
  wide = nn.silu(a_ZF.astype(jnp.float32)) * b_ZF.astype(jnp.float32)
  return (wide * gates_Z[:, None]).astype(a_ZF.dtype)


def _repeat(trips, one_pass, start):
  """What is summed over the passes."""
  _, out = jax.lax.while_loop(
    lambda state: state[0] < trips.passes, one_pass, (jnp.int32(0), start)
  )
  return out


def room(layout: Layout, E: int, X: int, P: int) -> int:
  """Copies from a device to another in one pass, a multiple of a tile.

  Args:
    layout: The mesh.
    E: Experts of a device.
    X: Tokens of a device.
    P: Experts of a token.
  """
  most = X * min(P, E)
  N = layout.size(*layout.mesh_axes("experts"))
  even = math.ceil(CAPACITY * X * P / N)
  return -(-min(most, even) // _ROUND) * _ROUND


def _trips(layout: Layout, E: int, experts_XP: jax.Array) -> _Trips:
  X, P = experts_XP.shape
  N = layout.size(*layout.mesh_axes("experts"))
  C = room(layout, E, X, P)
  pick_Y = jnp.argsort(experts_XP.reshape(X * P), stable=True)
  expert_Y = experts_XP.reshape(X * P)[pick_Y]
  device_XP = experts_XP // E
  count_N = _counts(device_XP.reshape(X * P), N)
  first_N = jnp.cumsum(count_N) - count_N
  place_XP = jnp.argsort(pick_Y).reshape(X, P)
  passes = -(-jnp.max(count_N) // C)
  if layout.mesh is not None:  # The same everywhere: a pass is collective.
    passes = jax.lax.pmax(passes, layout.mesh.axis_names)
  return _Trips(
    pick_Y // P,
    pick_Y,
    expert_Y % E,
    first_N,
    count_N,
    device_XP,
    place_XP - first_N[device_XP],
    passes,
    C,
  )


def _counts(values_X, N):
  """How often each of 0 to N - 1 is there."""
  return jnp.sum(values_X[:, None] == jnp.arange(N)[None], axis=0)


def _send(layout, trips, index, E, rows_XD, gates_XP):
  """(what arrives in a pass, the function that sends its results back)."""
  N, C = len(trips.count_N), trips.room
  within_NC = index * C + jnp.arange(C)[None]
  real_NC = within_NC < trips.count_N[:, None]
  copy_NC = jnp.where(real_NC, trips.first_N[:, None] + within_NC, 0)
  expert_NC = jnp.where(real_NC, trips.expert_Y[copy_NC], E)
  gates_NC = gates_XP.reshape(-1)[trips.pick_Y[copy_NC]]
  # A gate and its expert in one message.
  label_NC2 = jnp.stack(
    [jax.lax.bitcast_convert_type(gates_NC, jnp.int32), expert_NC], axis=-1
  )
  rows_ND = rows_XD[trips.token_Y[copy_NC]]
  label_Z2 = _exchanged(layout, label_NC2).reshape(N * C, 2)
  order_Z = jnp.argsort(label_Z2[:, 1], stable=True)
  place_Z = jnp.argsort(order_Z)
  sizes_E = _counts(label_Z2[:, 1], E).astype(jnp.int32)
  gates_Z = jax.lax.bitcast_convert_type(label_Z2[:, 0], jnp.float32)
  arrived = _Arrived(
    _exchanged(layout, rows_ND).reshape(N * C, -1)[order_Z],
    gates_Z[order_Z],
    sizes_E,
    (jnp.arange(N * C) < jnp.sum(sizes_E))[:, None],
  )

  def back(results_ZD):
    return _exchanged(layout, results_ZD[place_Z].reshape(N, C, -1))

  return arrived, back


def _exchanged(layout, x_NCD):
  """Entry n to the nth device that has experts, and theirs in return."""
  axes = layout.mesh_axes("experts")
  return jax.lax.all_to_all(x_NCD, axes, 0, 0, tiled=True) if axes else x_NCD


def _place(trips, index):
  """Which result of a pass each copy's is, and whether it is there."""
  rank_XP = trips.rank_XP - index * trips.room
  there_XP = (rank_XP >= 0) & (rank_XP < trips.room)
  place_XP = trips.device_XP * trips.room + rank_XP
  return jnp.where(there_XP, place_XP, 0), there_XP


def _each(trips, index, results_ND):
  """Each copy's result, [X, P, D]; 0 where the pass had not that copy."""
  place_XP, there_XP = _place(trips, index)
  results_ZD = results_ND.reshape(-1, results_ND.shape[-1])
  return jnp.where(there_XP[..., None], results_ZD[place_XP], 0)


def _combined(trips, index, results_ND):
  """The sum of each token's results, float32; no order but that of P."""
  place_XP, there_XP = _place(trips, index)
  results_ZD = results_ND.reshape(-1, results_ND.shape[-1])

  def step(sum_XD, copies):
    place_X, there_X = copies
    new_XD = jnp.where(there_X[:, None], results_ZD[place_X], 0)
    return sum_XD + new_XD, None

  zeros_XD = jnp.zeros((len(place_XP), results_ZD.shape[1]), jnp.float32)
  return jax.lax.scan(step, zeros_XD, (place_XP.T, there_XP.T))[0]


def _summed(layout, x, axis):
  return x if layout.size(axis) == 1 else jax.lax.psum(x, axis)


# A collective over another axis than the first would be an all-reduce.
def _gathered(layout, kernel_EIO):
  """A kernel's parts along fsdp, together."""
  if "fsdp" not in layout.mesh_axes("expert_embed"):
    return kernel_EIO
  kernel_IEO = kernel_EIO.swapaxes(0, 1)
  kernel_IEO = jax.lax.all_gather(kernel_IEO, "fsdp", axis=0, tiled=True)
  return kernel_IEO.swapaxes(0, 1)


def _scattered(layout, dkernel_EIO):
  """A kernel's gradient, summed over all devices with the same experts."""
  if "fsdp" in layout.mesh_axes("expert_embed"):
    dkernel_EIO = jax.lax.psum_scatter(
      dkernel_EIO.swapaxes(0, 1), "fsdp", scatter_dimension=0, tiled=True
    ).swapaxes(0, 1)
  return _summed(layout, dkernel_EIO, "data")
