"""Imports and exports on eight virtual devices; run by `hub_test`.

Prints a line for each model and mesh: whether the import gave the leaves'
shardings and the bits that were exported, whether an export from the mesh
gives them again, and whether a write moves a leaf between devices.
"""

import json
import pathlib
import sys
import tempfile

import flax.linen as nn
import jax
import numpy as np

from r1jax import policy, sharding, tree
from r1jax.models import hub, hub_read
from tests import small

MESHES = (
  dict(data=1, fsdp=8, expert=1, tensor=1),
  dict(data=1, fsdp=2, expert=2, tensor=2),
)
MODELS = {
  "llama": small.gqa(qkv_bias=False, qk_norm=False),
  "qwen2": small.gqa(qk_norm=False, tie_embeddings=True),
}


def abstract_on(config, mesh):
  """(params, buffers) as shapes, with their places on the mesh."""
  boxed = jax.eval_shape(policy.make(config, temperature=1.0).init, KEY)
  places = sharding.param_shardings(mesh, boxed)
  return jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=place
    ),
    nn.unbox(boxed),
    places,
  )


def moves(leaf, stacked):
  """Whether writing a slice of a leaf is a collective of its devices."""
  inner = hub_read.inner_sharding(leaf, stacked)
  value = jax.ShapeDtypeStruct(leaf.shape[stacked:], leaf.dtype, sharding=inner)
  index = np.zeros(stacked, np.int32)
  lowered = hub_read.writer(leaf.sharding).lower(leaf, value, index)
  text = lowered.compile().as_text()
  return any(f"{name}(" in text for name in COLLECTIVES)


def run(name, sizes, root):
  config = MODELS[name]
  weights = small.weights(config)
  first, second = root / "first", root / "second"
  hub.export(first, config, *weights, max_shard_bytes=4000)
  abstract = abstract_on(config, sharding.make_mesh(sizes))
  got = hub.load(first, *abstract)
  hub.export(second, config, *got, max_shard_bytes=4000)
  pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(abstract)))
  stacked = jax.tree.leaves(abstract[0]["dense_layers"])
  return dict(
    model=name,
    mesh=sizes,
    placed=all(leaf.sharding == like.sharding for leaf, like in pairs),
    split=any(not leaf.sharding.is_fully_replicated for leaf, _ in pairs),
    same=tree.digest(got) == tree.digest(weights),
    exported=all(
      file.read_bytes() == (second / file.name).read_bytes()
      for file in first.iterdir()
    ),
    moves=any(moves(leaf, 1) for leaf in stacked),
  )


def experts_move():
  """Whether writing an expert is, where experts are split over devices."""
  mesh = sharding.make_mesh(MESHES[1])
  params, _ = abstract_on(small.mla(), mesh)
  moe = params["moe_layers"]["moe"]
  assert moe["gate"].sharding.spec[1] == "expert"
  return any(moves(moe[name], 2) for name in ("gate", "up", "down"))


COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute")
KEY = jax.random.key(0)

if __name__ == "__main__":
  assert jax.device_count() == 8, sys.argv
  for model in MODELS:
    for mesh in MESHES:
      with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(run(model, mesh, pathlib.Path(temporary))))
  print(json.dumps(dict(model="experts", moves=experts_move())))
