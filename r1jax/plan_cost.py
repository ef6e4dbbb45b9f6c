"""What a program costs: seconds by published rates, and what is too large."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from r1jax import plan_read, plan_topology

_NEEDS = (
  r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm",
  r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)",
)
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def estimate(
  mesh: jax.sharding.Mesh,
  target: plan_topology.Target,
  row: Mapping[str, Any],
  collectives: Sequence[plan_read.Collective],
) -> dict[str, float]:
  """Seconds of one call at published peak rates: an estimate.

  `low` hides all but the slowest of products, memory and links behind it,
  `high` hides nothing.
  """
  chip, far = target.chip, far_axes(mesh)
  links = sum(
    plan_read.wire_bytes(x)
    / (chip.far_rate if far & set(x.axes.split("+")) else chip.link_rate)
    for x in collectives
  )
  parts = {
    "products": row["flops"] / target.devices / chip.flops,
    "memory": row["traffic_bytes"] / chip.hbm_rate,
    "links": links,
  }
  low, high = max(parts.values()), sum(parts.values())
  return {"low_secs": low, "high_secs": high, **parts}


def far_axes(mesh: jax.sharding.Mesh) -> set[str]:
  """Axes of the mesh that leave a TPU slice or a GPU node."""
  is_tpu = mesh.devices.flat[0].platform == "tpu"
  owners = [
    getattr(x, "slice_index", 0) if is_tpu else x.process_index
    for x in mesh.devices.flat
  ]
  owners = np.reshape(owners, mesh.devices.shape)
  return {
    axis
    for i, axis in enumerate(mesh.axis_names)
    if np.any(np.diff(owners, axis=i))
  }


def too_large(
  error: Exception, row: Mapping[str, Any], target: plan_topology.Target
) -> dict[str, Any]:
  """Of a program that the compiler could not place in the memory.

  Raises:
    ValueError: For any other error.
  """
  text = str(error)
  for pattern in _NEEDS:
    found = re.search(pattern, text)
    if found:
      needs = int(float(found.group(1)) * _UNITS[found.group(2)])
      total = needs + sum(row["resident_bytes"].values())
      return {
        "fits": False,
        "total_bytes": total,
        "over_bytes": total - int(target.chip.hbm_bytes),
        "error": " ".join(found.group().split()),
        "temporaries": _allocations(text),
      }
  raise ValueError(
    f"--plan: {row['name']} does not compile for {target.name}: "
    f"{' '.join(text.split())[:400]}"
  ) from error


def _allocations(text):
  """The largest arrays as the compiler lists them where it gives up."""
  found = re.findall(
    r"Size: ([\d.]+)([KMGT])\s+(?:Operator: op_name=\"([^\"]*)\")?.*?"
    r"Shape: ([^\n]*)",
    text,
    re.DOTALL,
  )
  return [
    {
      "shape": shape.split("{")[0],
      "bytes": int(float(size) * _UNITS[unit]),
      "op_name": "/".join(name.split("/")[-4:]),
    }
    for size, unit, name, shape in found[:10]
  ]
