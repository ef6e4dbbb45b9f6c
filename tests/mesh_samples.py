"""What eight virtual devices sample, against one device, as JSON.

Run by `sampling/mesh_test` in a process of its own, since the number of
devices is fixed when jax starts. For each mesh: the responses, and where one
is not that of a single device the token at which they part and how near the
draw was to falling on either, see `tie`.
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import policy, sharding
from r1jax.models import layout as layout_lib
from r1jax.sampling import engine
from tests import small

# Sizes of the axes, and where the sampler's weights lie.
MESHES = {
  "data 8": ((8, 1, 1, 1), "as_trained"),
  "fsdp 8": ((1, 8, 1, 1), "as_trained"),
  "expert 8": ((1, 1, 8, 1), "as_trained"),
  "data 2 x tensor 4": ((2, 1, 1, 4), "as_trained"),
  "data 2 x fsdp 4": ((2, 4, 1, 1), "spread"),
  "fsdp 4 x tensor 2": ((1, 4, 1, 2), "spread"),
  "fsdp 2 x expert 4": ((1, 2, 4, 1), "whole"),
  "expert 4 x tensor 2": ((1, 1, 4, 2), "whole"),
  "data 2 x fsdp 2 x expert 2": ((2, 2, 2, 1), "as_trained"),
  "data 2 x fsdp 2 x tensor 2": ((2, 2, 1, 2), "whole"),
  "data 2 x expert 2 x tensor 2": ((2, 1, 2, 2), "spread"),
  "fsdp 2 x expert 2 x tensor 2": ((1, 2, 2, 2), "whole"),
}
CONFIGS = {
  "dense": small.gqa(num_heads=8, num_kv_heads=4),
  "moe": small.mla(num_heads=4, q_lora_rank=16),
}
KERNELS = dict(attention="chunked", experts="auto")
PROMPTS = {
  q: small.tokens(n, seed=40 + q).tolist()
  for q, n in enumerate((3, 6, 1, 5, 2, 6, 4, 2, 3, 5))
}
REQUESTS = [engine.Request(q, s) for q in PROMPTS for s in range(2)]
LIMITS = [1 + (5 * i) % 12 for i in range(len(REQUESTS))]
EOS, KEY = 3, 7


def sample(config, mesh=None, weights="as_trained"):
  """The requests' samples, on a mesh if there is one."""
  layout = layout_lib.SINGLE
  params, buffers = small.weights(config)
  if mesh is not None:
    layout = layout_lib.of(mesh, KERNELS)
  model = policy.make(config, temperature=1.0, layout=layout)
  if mesh is not None:
    boxed = jax.eval_shape(model.init, jax.random.key(0))
    shardings = sharding.param_shardings(mesh, boxed)
    params, buffers = jax.device_put((params, buffers), shardings)
  programs = model.programs(
    eos_id=EOS,
    chunk_tokens=5,
    slots=8,
    prefill_rows=8,
    max_prompt_tokens=6,
    max_response_tokens=12,
    weights=weights,
  )
  samples, _ = engine.sample(
    programs,
    params,
    buffers,
    jax.random.key(KEY),
    PROMPTS,
    REQUESTS,
    limits=LIMITS,
  )
  return samples


def tie(logits_V, key, one, other):
  """How far, in probability, the draw was from the other token.

  With fewer than `logits.BLOCK` tokens the second uniform number picks the
  first token whose cumulated probability exceeds it.
  """
  probs_V = np.exp(np.float64(logits_V) - np.max(logits_V))
  cumulated_V = np.cumsum(probs_V / probs_V.sum())
  drawn = float(jax.random.uniform(key, (2,))[1])
  low, high = sorted((one, other))
  return float(np.min(np.abs(cumulated_V[low:high] - drawn)))


def differences(config, want, got):
  """Those of one mesh, each with its request, token and tie."""
  found = []
  logits = functools.partial(small.logits(config), *small.weights(config))
  for one, other in zip(want, got, strict=True):
    assert one[:2] == other[:2]
    n = min(len(one.tokens_T), len(other.tokens_T))
    parts = one.tokens_T[:n] != other.tokens_T[:n]
    if not parts.any():
      assert len(one.tokens_T) == len(other.tokens_T)
      gap = np.abs(one.logprobs_T - other.logprobs_T).max()
      found.append(dict(request=one[:2], at=-1, gap=float(gap)))
      continue
    t = int(np.argmax(parts))
    ids = [*PROMPTS[one.question], *one.tokens_T[:t].tolist()]
    fold = jax.random.fold_in
    key = fold(fold(fold(jax.random.key(KEY), one.question), one.sample), t)
    logits_TV = logits(jnp.array([ids]))[0]
    gap = tie(logits_TV[-1], key, one.tokens_T[t], other.tokens_T[t])
    found.append(dict(request=one[:2], at=t, gap=gap))
  return found


def main(kinds):
  """Prints the cases."""
  out = {"devices": jax.device_count()}
  for kind in kinds:
    config = CONFIGS[kind]
    want = sample(config)
    out[kind] = {}
    for name, (sizes, weights) in MESHES.items():
      mesh = sharding.make_mesh(dict(zip(layout_lib.MESH_AXES, sizes)))
      got = sample(config, mesh, weights)
      out[kind][name] = differences(config, want, got)
  print(json.dumps(out))


if __name__ == "__main__":
  main(sys.argv[1:] or list(CONFIGS))
