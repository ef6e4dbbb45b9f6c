"""What this machine can do: matmul rate, bandwidth, a model's own matmuls.

python -m benchmarks.ceilings
"""

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def seconds(run: Callable[[], Any], repeats: int = 5, calls: int = 1) -> float:
  """Median seconds of a call, after one that is not counted."""
  jax.block_until_ready(run())
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    for _ in range(calls):
      jax.block_until_ready(run())
    times.append((time.perf_counter() - start) / calls)
  return statistics.median(times)


def matmul_flops(dtype: str = "float32", size: int = 2048) -> float:
  """Flops a second of a square matmul."""
  a = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
  product = jax.jit(jnp.dot)
  return 2 * size**3 / seconds(lambda: product(a, a), calls=3)


def read_bytes(megabytes: int = 512) -> float:
  """Bytes a second of summing a large array."""
  big = jnp.ones(megabytes * 2**20 // 4, jnp.float32)
  total = jax.jit(jnp.sum)
  return big.nbytes / seconds(lambda: total(big), calls=2)


def own_matmuls(unstacked: Any, head: jax.Array, rows: int) -> float:
  """Seconds of a decode step's matmuls alone, each weight read once.

  Every kernel multiplies rows of random numbers, the head too; together
  the weights are larger than the caches, so each is cold.

  Args:
    unstacked: Parameters, a tree a layer; leaves of two or more axes are
      kernels.
    head: [vocabulary, width]; multiplied transposed.
    rows: Rows of the left side.
  """
  kernels = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(unstacked):
    name = jax.tree_util.keystr(path)
    if "layers" not in name or leaf.ndim < 2:
      continue
    inputs = 2 if "'out'" in name else 1
    width = 1
    for size in leaf.shape[:inputs]:
      width *= size
    kernels.append(leaf.reshape(width, -1))
  left = {
    width: jax.random.normal(jax.random.key(width), (rows, width))
    for width in {k.shape[0] for k in kernels} | {head.shape[1]}
  }

  @jax.jit
  def run(kernels, head, left):
    outs = [left[k.shape[0]] @ k for k in kernels]
    tail = jax.lax.dot_general(
      left[head.shape[1]], head, (((1,), (1,)), ((), ()))
    )
    return outs, tail

  return seconds(lambda: run(kernels, head, left), repeats=7)


if __name__ == "__main__":
  print(
    json.dumps(
      {
        "device": str(jax.devices()[0].device_kind),
        "float32_matmul_gflops": round(matmul_flops() / 1e9, 1),
        "bfloat16_matmul_gflops": round(matmul_flops("bfloat16") / 1e9, 1),
        "read_gb_per_sec": round(read_bytes() / 1e9, 1),
      }
    )
  )
