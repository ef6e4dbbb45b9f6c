"""Devices that are not there: their names, and what the makers say of them.

Imports jax only where devices are described, so that `prepare` can set the
environment that jax reads when it is first imported.
"""

import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

# Set before jax is imported: arrays stay on the CPU, libtpu looks neither
# for chips nor for a metadata server, and several plans run side by side.
ENVIRONMENT = {
  "JAX_PLATFORMS": "cpu",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5p-8",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_LOG_DIR": "disabled",
}
GPU_FLAGS = "--xla_gpu_autotune_level=0"  # Autotuning would need the GPU.
GIB = 1 << 30


class Chip(NamedTuple):
  """A device, by its maker's published numbers.

  Attributes:
    name: Of `CHIPS`.
    dims: Axes of its torus; 0 for GPUs.
    flops: Dense bfloat16 a second.
    hbm_bytes: What programs may use: on TPUs the compiler's limit.
    hbm_rate: Bytes a second.
    link_rate: Bytes a second that leave it on all its links together,
      inside a slice or node.
    far_rate: The same to other slices or nodes.
    per_chip: Devices a chip.
    per_host: Devices a host.
    counted: What cloud names as v5p-1024 count a chip as.
  """

  name: str
  dims: int
  flops: float
  hbm_bytes: float
  hbm_rate: float
  link_rate: float
  far_rate: float
  per_chip: int = 1
  per_host: int = 4
  counted: int = 1


# Google's pages on each TPU and NVIDIA's data sheets; of TPUs the memory is
# what libtpu 0.0.42.1 refuses to exceed, and a link's rate is one way.
CHIPS = {
  chip.name: chip
  for chip in (
    Chip("v4", 3, 275e12, 30.75 * GIB, 1228e9, 270e9, 6e9, counted=2),
    Chip("v5e", 2, 197e12, 15.75 * GIB, 819e9, 180e9, 3e9),
    Chip("v5p", 3, 459e12, 95.74 * GIB, 2765e9, 540e9, 6e9, counted=2),
    Chip("v6e", 2, 918e12, 31.25 * GIB, 1640e9, 360e9, 12e9),
    Chip(
      *("tpu7x", 3, 1153e12, 94.75 * GIB, 3690e9, 270e9, 6e9, 2, 8),
      counted=2,
    ),
    Chip("h100", 0, 989e12, 79.1 * GIB, 3352e9, 450e9, 50e9, per_host=8),
    Chip("h200", 0, 989e12, 131.3 * GIB, 4800e9, 450e9, 50e9, per_host=8),
  )
}
CLOUD = {"v5litepod": "v5e", **{name: name for name in CHIPS}}
KNOWN = (
  "v4:AxBxC, v5e:AxB, v5p:AxBxC, v6e:AxB, tpu7x:AxBxC (in chips), cloud names "
  "such as v5p-1024, v5litepod-16 or v6e-256, h100:N and h200:N (in GPUs), and "
  "several slices as 2*v5e:4x4"
)


class Target(NamedTuple):
  """What a plan compiles for.

  Attributes:
    chip: Of CHIPS.
    shape: Chips along each axis of a slice's torus; (N,) GPUs.
    slices: TPU slices, joined by the data centre's network.
  """

  chip: Chip
  shape: tuple[int, ...]
  slices: int = 1

  @property
  def name(self) -> str:
    """As `parse` reads it."""
    text = f"{self.chip.name}:{'x'.join(map(str, self.shape))}"
    return text if self.slices == 1 else f"{self.slices}*{text}"

  @property
  def devices(self) -> int:
    """How many there are."""
    return math.prod(self.shape) * self.slices * self.chip.per_chip


def parse(name: str) -> Target:
  """The target that a topology's or a cloud's name stands for.

  Raises:
    ValueError: For an unknown name; it lists what is known.
  """
  found = re.fullmatch(r"(?:(\d+)\*)?(\w+)([:-])(\d+(?:x\d+)*)", name)
  problem = "is unknown"
  if found:
    slices, kind, mark, sizes = found.groups()
    shape, slices = tuple(map(int, sizes.split("x"))), int(slices or 1)
    chip = CHIPS.get(CLOUD.get(kind, ""))
    if chip and min(shape) > 0 and slices > 0:
      if mark == "-" and len(shape) == 1 and chip.dims:
        problem = f"has no whole torus of {shape[0]} / {chip.counted} chips"
        shape = _torus(shape[0], chip)
      elif mark == ":" and not chip.dims:
        problem = f"does not fill nodes of {chip.per_host} GPUs"
        n = shape[0] if len(shape) == 1 and slices == 1 else 0
        shape = shape if n and (n < 8 or n % 8 == 0) else None
      else:
        problem = f"has {len(shape)} axes where {kind} has {chip.dims}"
        shape = shape if mark == ":" and len(shape) == chip.dims else None
      if shape:
        return Target(chip, shape, slices)
  raise ValueError(f"--plan is {name!r}, which {problem}. Known: {KNOWN}.")


def _torus(count: int, chip: Chip) -> tuple[int, ...] | None:
  """The torus that a cloud builds of so many chips, or cores where its name
  counts those: the sides as even as powers of two allow."""
  chips = count // chip.counted
  if count % chip.counted or not chips or chips & (chips - 1):
    return None
  if chips < 4:
    return (chips, 1)[: chip.dims] if chip.dims == 2 else None
  sides = [2, 2] if chip.dims == 2 else [2, 2, 1]
  while math.prod(sides) < chips:
    sides[-1 - sides[::-1].index(min(sides))] *= 2
  return tuple(sorted(sides)) if chips > 4 else tuple(sides)


def prepare(target: Target) -> None:
  """Sets the environment that compiling for the target needs.

  Raises:
    ValueError: Where the compiler is not installed; it says how to.
  """
  package = "libtpu" if target.chip.dims else "jax_cuda12_plugin"
  if importlib.util.find_spec(package) is None:
    extra = "plan" if target.chip.dims else "plan-gpu"
    raise ValueError(
      f"--plan={target.name} compiles with {package}, which is not installed. "
      f"Install it with: pip install 'r1jax[{extra}]'."
    )
  os.environ.update(ENVIRONMENT)
  os.environ.pop("TPU_LIBRARY_PATH", None)
  if not target.chip.dims:
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} {GPU_FLAGS}".strip()


def describe(target: Target) -> list[Any]:
  """The target's devices, as jax sees them.

  Raises:
    ValueError: If the compiler knows no such topology.
  """
  import jax
  from jax.experimental import topologies

  sizes = "x".join(map(str, target.shape))
  try:
    if not target.chip.dims:
      per_host = min(target.devices, target.chip.per_host)
      found = topologies.get_topology_desc(
        target.chip.name,
        "cuda",
        target_config=_gpu_description(target.chip),
        topology=f"1x{target.devices // per_host}x{per_host}",
      )
    else:
      found = topologies.get_topology_desc(
        platform="tpu",
        topology_name=f"{target.chip.name}:{sizes}",
        **_options(target),
      )
  except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
    line = " ".join(str(error).split())[:200]
    raise ValueError(
      f"--plan is {target.name!r}, which the compiler does not know: {line}. "
      f"Known: {KNOWN}."
    ) from error
  return list(found.devices)


def _options(target: Target) -> dict[str, Any]:
  options: dict[str, Any] = {}
  if target.chip.name == "v4":
    options["chip_config_name"] = "megacore"  # One device a chip.
  if target.shape == (1, 1):
    options["chips_per_host_bounds"] = (1, 1, 1)
  if target.slices > 1:
    options["num_slices"] = target.slices
  return options


def _gpu_description(chip: Chip) -> str:
  """A Hopper GPU as XLA's GpuTargetConfig, from NVIDIA's tables."""
  memory = int(chip.hbm_bytes)
  return f"""
  gpu_device_info {{
    threads_per_block_limit: 1024 threads_per_warp: 32
    shared_memory_per_block: 49152 shared_memory_per_core: 233472
    threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
    block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
    block_dim_limit_z: 65535 memory_bandwidth: {int(chip.hbm_rate)}
    l2_cache_size: 52428800 clock_rate_ghz: 1.98
    device_memory_size: {memory} shared_memory_per_block_optin: 232448
    cuda_compute_capability {{ major: 9 minor: 0 }}
    registers_per_core_limit: 65536 registers_per_block_limit: 65536
  }}
  platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }}
  runtime_version {{ major: 12 minor: 9 }}
  device_description_str: "NVIDIA {chip.name.upper()}"
  """
