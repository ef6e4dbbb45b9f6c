"""Experts on eight virtual devices against one, as JSON.

Run by `dispatch_test` in a process of its own. A case's value is the largest
difference of the output or of a gradient, norm over norm, and how many passes
the fullest pair of devices needs.
"""

import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import sharding
from r1jax.models import dispatch, layout, moe

B, T, D, F, E, P = 8, 24, 8, 16, 8, 2
# By case: the form, and data, fsdp, expert, tensor.
QUICK = {"fsdp 2 x expert 4": ("scanned", (1, 2, 4, 1))}
PARTS = 5  # Of the case so called; they do not divide its tokens.
MESHES = QUICK | {
  "expert 8": ("scanned", (1, 1, 8, 1)),
  "data 2 x expert 2 x tensor 2": ("scanned", (2, 1, 2, 2)),
  "ragged": ("ragged", (1, 2, 2, 2)),
  "dense": ("dense", (1, 2, 4, 1)),
  "no expert axis": ("scanned", (2, 4, 1, 1)),
  "in parts": ("scanned", (1, 2, 4, 1)),
}


def routings():
  """By case: experts_BTP, two different ones for each token."""
  rng = np.random.default_rng(0)

  def picks(weights_E):
    noise_BTE = rng.gumbel(size=(B, T, E)) + np.log(weights_E)
    return np.argsort(-noise_BTE, axis=-1)[..., :P].astype(np.int32)

  ones = np.ones(E)
  return {
    "even": np.arange(B * T * P, dtype=np.int32).reshape(B, T, P) % E,
    "random": picks(ones),
    "all to one device": np.broadcast_to(np.int32([1, 0]), (B, T, P)),
    "none to one device": picks(ones * (np.arange(E) > 1) + 1e-30),
    "two experts of all": picks(ones * np.isin(np.arange(E), [2, 7]) + 1e-30),
    "uneven": picks(2.0 ** np.arange(E)),
    "one row to one, others elsewhere": np.where(
      (np.arange(B) == 3)[:, None, None],
      np.int32([6, 7]),
      picks(ones * (np.arange(E) < 6) + 1e-30),
    ),
  }


def values():
  """x, gates, the three kernels and the output's gradient."""
  rng = np.random.default_rng(1)
  shapes = ((B, T, D), (B, T, P), (E, D, F), (E, D, F), (E, F, D), (B, T, D))
  return [jnp.asarray(rng.standard_normal(s, np.float32)) for s in shapes]


def with_gradients(function):
  """(output, gradients) of a function of x, experts, gates and kernels."""

  @jax.jit
  def run(experts_BTP, x_BTD, gates_BTP, gate, up, down, dy_BTD):
    y_BTD, pull = jax.vjp(
      lambda x, gates, *kernels: function(x, experts_BTP, gates, *kernels),
      *(x_BTD, gates_BTP, gate, up, down),
    )
    return y_BTD, *pull(dy_BTD)

  return run


def dense(x_BTD, experts_BTP, gates_BTP, *kernels):
  """Every expert on every token."""
  routing = moe.Routing(
    experts_BTP.reshape(-1, P), gates_BTP.reshape(-1, P), None
  )
  y_XD = moe.dense_experts(x_BTD.reshape(-1, D), routing, *kernels)
  return y_XD.reshape(x_BTD.shape)


def passes(where, experts_BTP):
  """Of the fullest pair, counted on the host."""
  N = where.size("expert")
  senders = B // where.size(*layout.BATCH_AXES)
  room = dispatch.room(where, E // N, senders * T, P)
  fullest = max(
    np.bincount(rows.reshape(-1) // (E // N), minlength=N).max()
    for rows in np.split(experts_BTP, B // senders)
  )
  return math.ceil(fullest / room)


def main(which):
  """Prints the cases of QUICK or MESHES."""
  reference, arguments = with_gradients(dense), values()
  out = {"devices": jax.device_count()}
  want = {k: reference(v, *arguments) for k, v in routings().items()}
  for mesh_case, (form, sizes) in globals()[which].items():
    mesh = sharding.make_mesh(dict(zip(layout.MESH_AXES, sizes)))
    where = layout.of(mesh, dict(attention="auto", experts=form))

    def run(*args, where=where):
      return dispatch.experts(where, where.experts, *args)

    copies = B * T * P // where.size(*layout.BATCH_AXES)
    in_parts = mesh_case == "in parts"
    dispatch.MOST_COPIES = -(-copies // PARTS) if in_parts else copies
    assert dispatch.parts(copies // P, P) == (PARTS if in_parts else 1)
    program = with_gradients(run)
    for case, experts_BTP in routings().items():
      got = jax.device_get(program(experts_BTP, *arguments))
      difference = max(
        float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for a, b in zip(got, jax.device_get(want[case]))
      )
      out[f"{mesh_case}, {case}"] = difference, passes(where, experts_BTP)
  print(json.dumps(out))


if __name__ == "__main__":
  main(sys.argv[1])
