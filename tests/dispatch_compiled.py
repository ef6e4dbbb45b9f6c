"""Collectives of the experts' gradient on devices that are not there, as JSON.

  python -m tests.dispatch_compiled v5p:2x2x1

Run by `dispatch_test` in a process of its own, since a topology's name decides
what jax must find in its environment.
"""

import json
import re
import sys

from r1jax import plan_hlo, plan_topology

SIZES = {"v5p:2x2x1": (1, 2, 2, 1), "h100:8": (1, 2, 4, 1)}
B, T, D, F, E, P = 8, 256, 1024, 512, 16, 4
KINDS = ("all-to-all", "all-gather", "reduce-scatter", "all-reduce")


def compiled(devices, sizes):
  """The text of the experts and their gradient."""
  import jax
  import jax.numpy as jnp
  from jax.sharding import NamedSharding, PartitionSpec

  from r1jax import sharding
  from r1jax.models import dispatch, layout

  mesh = sharding.make_mesh(dict(zip(layout.MESH_AXES, sizes)), devices)
  where = layout.of(mesh, dict(attention="auto", experts="auto"))

  def given(shape, dtype, spec):
    place = NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

  rows = PartitionSpec(layout.BATCH_AXES)
  wide = where.kernel_spec(("experts", "expert_embed", "expert_mlp"))
  back = where.kernel_spec(("experts", "expert_inner", "expert_out"))
  arguments = (
    given((B, T, P), jnp.int32, rows),
    given((B, T, D), jnp.bfloat16, rows),
    given((B, T, P), jnp.float32, rows),
    given((E, D, F), jnp.bfloat16, wide),
    given((E, D, F), jnp.bfloat16, wide),
    given((E, F, D), jnp.bfloat16, back),
    given((B, T, D), jnp.bfloat16, rows),
  )

  def run(experts_BTP, x_BTD, gates_BTP, gate, up, down, dy_BTD):
    y_BTD, pull = jax.vjp(
      lambda x, gates, *kernels: dispatch.experts(
        where, where.experts, x, experts_BTP, gates, *kernels
      ),
      *(x_BTD, gates_BTP, gate, up, down),
    )
    return y_BTD, *pull(dy_BTD)

  places = tuple(each.sharding for each in arguments[1:6])
  program = jax.jit(run, out_shardings=(places[0], *places))
  return program.trace(*arguments).lower().compile().as_text()


def main(name):
  """Prints sizes of each kind's arrays, kernels, and plain products."""
  target = plan_topology.parse(name)
  plan_topology.prepare(target)
  text = compiled(plan_topology.describe(target), SIZES[name])
  module, out = plan_hlo.parse(text), {kind: [] for kind in KINDS}
  out |= {"kernels": text.count('"tpu_custom_call"'), "products": []}
  for each, _ in module.steps():
    kind = each.opcode.removesuffix("-start")
    if kind in KINDS:
      out[kind].append(max(array.bare for array in each.arrays))
    if kind in ("dot", "convolution"):
      out["products"].append(re.sub(r"{.*", "", each.arrays[0].text))
  print(json.dumps(out))


if __name__ == "__main__":
  main(sys.argv[1])
