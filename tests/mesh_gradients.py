"""Gradients of one update on eight virtual devices, as JSON.

Run by `sharding_test` in a process of its own, since the number of devices
is fixed when jax starts. Each case is the same 32 sequences, split, packed
and laid out in its own way; its value is the norm of the gradient's
difference from the first case's over the norm of that.
"""

import json
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from r1jax import policy, sharding, weighting
from r1jax.models import layout
from r1jax.stages import lm
from tests import small

# By case: data, fsdp, expert, tensor.
QUICK = {
  "data 2 x fsdp 2 x expert 2": (2, 2, 2, 1),
  "fsdp 4 x tensor 2": (1, 4, 1, 2),
}
MESHES = QUICK | {
  "data 8": (8, 1, 1, 1),
  "fsdp 8": (1, 8, 1, 1),
  "expert 8": (1, 1, 8, 1),
  "data 4 x tensor 2": (4, 1, 1, 2),
  "data 2 x expert 4": (2, 1, 4, 1),
  "fsdp 2 x expert 4": (1, 2, 4, 1),
  "fsdp 4 x expert 2": (1, 4, 2, 1),
  "expert 4 x tensor 2": (1, 1, 4, 2),
  "fsdp 2 x expert 2 x tensor 2": (1, 2, 2, 2),
  "data 2 x fsdp 2 x tensor 2": (2, 2, 1, 2),
}
# By case, rows of a microbatch and tokens of a row: 10 fit one sequence.
SPLITS = {
  "unpacked, 1 microbatch": (32, 10),
  "unpacked, 2 microbatches": (16, 10),
  "unpacked, 4 microbatches": (8, 10),
  "packed": (8, 24),
}
CONFIGS = {
  "moe": small.mla(num_layers=2, num_dense_layers=0, q_lora_rank=16),
  "dense": small.gqa(),
}


def update(rows, row_tokens):
  """The update's microbatches."""
  rng = np.random.default_rng(0)
  sequences = []
  for i in range(32):
    tokens_T = small.tokens(int(rng.integers(6, 11)), seed=i)
    mask_T = np.arange(len(tokens_T)) >= rng.integers(1, 4)
    sequences.append({"tokens_T": tokens_T, "mask_T": mask_T})
  return lm.pack_update(
    sequences, weighting.sequence_mean, rows=rows, row_tokens=row_tokens
  )


def gradient(config, batches, mesh=None):
  """Of the update's loss, every microbatch's added, on the host."""
  kernels = dict(attention="auto", experts="auto")
  where = layout.SINGLE if mesh is None else layout.of(mesh, kernels)
  model = policy.make(config, temperature=0.9, layout=where)
  params, buffers = small.weights(config)
  if mesh is not None:
    boxed = jax.eval_shape(model.init, jax.random.key(0))
    shardings = sharding.param_shardings(mesh, boxed)
    assert jax.tree.structure(shardings) == jax.tree.structure(nn.unbox(boxed))
    params, buffers = jax.device_put((params, buffers), shardings)
    batches = jax.device_put(batches, sharding.rows(mesh))

  @jax.jit
  def grad(params, buffers, batch):
    def loss(params):
      logprobs_BT = model.logprobs(params, buffers, batch).logprobs_BT
      return -jnp.sum(batch.weights_BT * logprobs_BT)

    return jax.grad(loss)(params)

  parts = [jax.device_get(grad(params, buffers, each)) for each in batches]
  return jax.tree.map(lambda *leaves: np.sum(np.float64(leaves), 0), *parts)


def norm(tree):
  """Over all leaves."""
  return float(
    np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))
  )


def splits():
  """One device's gradients of every split."""
  config, want, out = CONFIGS["moe"], None, {}
  for case, shape in SPLITS.items():
    batches = update(*shape)
    got = gradient(config, batches)
    want = want or got
    out["least"] = min(float(abs(leaf).max()) for leaf in jax.tree.leaves(want))
    out[case] = distance(got, want), len(batches)
  return out


def meshes(kind, cases):
  """A model's gradients on meshes."""
  batches = update(*SPLITS["packed"])
  want, out = gradient(CONFIGS[kind], batches), {}
  for case in cases:
    sizes = dict(zip(layout.MESH_AXES, MESHES[case]))
    got = gradient(CONFIGS[kind], batches, sharding.make_mesh(sizes))
    out[f"{kind}, {case}"] = distance(got, want), len(batches)
  return out


def main(which):
  """Prints the cases: "quick", or a model's with all meshes."""
  out = {"devices": jax.device_count()}
  if which == "quick":
    out |= splits() | meshes("moe", QUICK)
  else:
    out |= meshes(which, MESHES)
  print(json.dumps(out))


def distance(got, want):
  """Norm of the difference over norm."""
  return norm(jax.tree.map(np.subtract, got, want)) / norm(want)


if __name__ == "__main__":
  main(sys.argv[1])
