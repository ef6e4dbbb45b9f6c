"""Matrix products of a program, counted on its jaxpr with loops' lengths."""

import math
from typing import Any

from jax.extend import core

_PRODUCTS = ("dot_general", "ragged_dot", "ragged_dot_general")


def count(jaxpr: Any) -> float:
  """Floating-point operations of all matrix products, on all devices.

    2 m n k of each product, times the lengths of the scans around it

  A loop without a known length turns once: a step of decoding, a pass of a
  dispatch. Of a branch the dearest counts. What runs under `shard_map` is one
  device's and counts for each of them. A Pallas kernel counts as it says, or
  else as its products times its grid; what it skips is not deducted.

  Args:
    jaxpr: Closed or open.
  """
  jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
  return sum(_equation(each) for each in jaxpr.eqns)


def _equation(each) -> float:
  name, params = each.primitive.name, each.params
  if name == "dot_general":
    return _dot(each)
  if name in _PRODUCTS:
    return _ragged(each)
  if name == "scan":
    return params["length"] * count(params["jaxpr"])
  if name == "while":
    return count(params["body_jaxpr"]) + count(params["cond_jaxpr"])
  if name == "cond":
    return max(count(branch) for branch in params["branches"])
  if name == "pallas_call":
    return _kernel(params)
  inner = sum(count(x) for x in _inner(params))
  if name == "shard_map":
    return inner * math.prod(params["mesh"].shape.values())
  return inner


def _inner(params):
  """The jaxprs that an equation calls, each once."""
  if "call_jaxpr" in params:
    return [params["call_jaxpr"]]
  return [
    value
    for value in params.values()
    if isinstance(value, (core.Jaxpr, core.ClosedJaxpr))
  ]


def _dot(each) -> float:
  (contracted, _), _ = each.params["dimension_numbers"]
  left = each.invars[0].aval.shape
  depth = math.prod(left[axis] for axis in contracted)
  return 2.0 * depth * math.prod(each.outvars[0].aval.shape)


def _ragged(each) -> float:
  """Of grouped products: each row meets one group's matrix."""
  left, right = (x.aval.shape for x in each.invars[:2])
  out = each.outvars[0].aval.shape
  if len(out) == 3:  # A gradient: rows are summed over, groups stay.
    return 2.0 * left[0] * math.prod(out[1:])
  del right
  return 2.0 * left[-1] * math.prod(out)


def _kernel(params) -> float:
  estimate = params.get("cost_estimate")
  if estimate is not None and estimate.flops > 0:
    return float(estimate.flops)
  grid = params["grid_mapping"].grid
  steps = math.prod(x for x in grid if isinstance(x, int))
  return steps * count(params["jaxpr"])
