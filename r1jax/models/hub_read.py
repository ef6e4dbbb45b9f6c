"""Tensors of Hugging Face folders, read into sharded device arrays."""

import collections
import concurrent.futures
import dataclasses
import functools
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from r1jax import tree
from r1jax.models import config as config_lib
from r1jax.models import families, hub_source
from r1jax.models.hub_rules import Rule
from r1jax.types import Params

_MTP = "params.mtp."  # Leaves of multi-token prediction.


def load(
  path: str | os.PathLike, params: Params, buffers: Params
) -> tuple[Params, Params]:
  """(parameters, buffers) of a folder or GGUF file, as jax arrays.

  One tensor at a time is read, cast to its leaf's dtype and written into
  its slice of the leaf, which lies on its devices from the start. The host
  holds two tensors at most.

  Args:
    path: Of the folder or file.
    params, buffers: The model's, abstract: shapes, dtypes and shardings;
      a leaf without sharding goes to the default device.

  Raises:
    ValueError: If something is missing, left over or of another shape; it
      names the file and the tensor.
  """
  model = config_lib.from_dict(hub_source.read_config(path))
  family = families.of_json(hub_source.read_json_config(path))[1]
  source = hub_source.open_source(path)
  weights = {"params": params, "buffers": buffers}
  leaves = dict(zip(tree.names(weights), jax.tree.leaves(weights)))
  ignored = family.ignored
  if model.num_mtp_layers and not any(n.startswith(_MTP) for n in leaves):
    logging.info("%s: multi-token prediction is left out.", path)
    ignored = (*ignored, rf"model\.layers\.{model.num_layers}\..*")
    model = dataclasses.replace(model, num_mtp_layers=0)
  rules = family.rules(model)
  check_leaves(rules, leaves, path)
  plan = _plan(source, rules, ignored, path)
  filled = _fill(source, plan, leaves, path)
  structure = jax.tree.structure(weights)
  weights = jax.tree.unflatten(structure, [filled[name] for name in leaves])
  return weights["params"], weights["buffers"]


def check_leaves(rules, leaves, path):
  """Every leaf is filled whole, by rules of its shape."""
  shapes = {}
  for rule in rules:
    inner = rule.to_ours(np.broadcast_to(np.int8(0), rule.shape)).shape
    layers = () if rule.layers is None else (len(rule.layers),)
    experts = (rule.experts,) if rule.experts else ()
    shapes[rule.ours] = (*layers, *experts, *inner)
  for name in sorted({*shapes, *leaves}):
    there = shapes.get(name)
    here = tuple(leaves[name].shape) if name in leaves else None
    if there != here:
      raise ValueError(
        f"{path} has {_shown(there)} for {name}, config.model has "
        f"{_shown(here)}. Choose the model of the weights."
      )


def _shown(shape):
  return "nothing" if shape is None else str(list(shape))


def _plan(
  source: hub_source.Source,
  rules: Sequence[Rule],
  ignored: Sequence[str],
  path: Any,
) -> dict[str, tuple[Rule, tuple[int, ...]]]:
  """Tensor to its rule and index, in reading order.

  Raises:
    ValueError: If a tensor is missing, left over or of another shape.
  """
  wanted = {
    name: (rule, index) for rule in rules for name, index in rule.places()
  }
  names = source.names()
  found = set(names)
  for name, (rule, _) in wanted.items():
    if name not in found:
      if rule.repeats:
        continue
      raise ValueError(
        f"{path} has no tensor {name}, which its config.json asks for."
      )
    if tuple(source.shape(name)) != rule.shape:
      raise ValueError(
        f"{_file(source, name, path)}: {name} is of shape "
        f"{list(source.shape(name))}, its config.json asks for "
        f"{list(rule.shape)}."
      )
  patterns = [re.compile(pattern) for pattern in ignored]
  for name in names:
    if name not in wanted and not any(p.fullmatch(name) for p in patterns):
      raise ValueError(
        f"{_file(source, name, path)}: {name} is left over; no part of the "
        "model that its config.json describes is called so."
      )
  return {name: wanted[name] for name in names if name in wanted}


def _file(source, name, path):
  return source.file(name) if hasattr(source, "file") else path


def _fill(source, plan, leaves, path) -> dict[str, jax.Array]:
  """The leaves, from the tensors of the plan."""
  first, names = {}, []
  for name, (rule, index) in plan.items():
    if not rule.repeats:
      first[rule.ours, index] = name
      names.append(name)
  for name, (rule, index) in plan.items():
    other = first.get((rule.ours, index))
    if not rule.repeats or _equal(source, name, other):
      continue
    if rule.exact:
      raise ValueError(
        f"{_file(source, name, path)}: {name} differs from {other}, which "
        "the model shares. Set tie_word_embeddings to false in config.json."
      )
    logging.warning("%s differs from %s and is left out.", name, other)
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    writers = _writers(pool, plan, leaves)
    leaf_of = {name: leaves[plan[name][0].ours] for name in names}
    alike = {n for n in names if source.dtype(n) == leaf_of[n].dtype}
    filled = _empty(writers, leaves)
    for name, value in _read_ahead(source, names, alike):
      rule, index = plan[name]
      leaf = leaves[rule.ours]
      value = rule.to_ours(value.astype(leaf.dtype, copy=False))
      put = _put(value, inner_sharding(leaf, len(index)))
      del value
      if index:
        write = writers[rule.ours].result()
        put = write(filled.pop(rule.ours), put, np.asarray(index, np.int32))
      # One at a time: what is under way holds its tensor in memory.
      filled[rule.ours] = put.block_until_ready()
  return filled


def _equal(source, name, other):
  return np.array_equal(source.read(name), source.read(other))


def _read_ahead(source, names, ahead) -> Iterator[tuple[str, np.ndarray]]:
  """Each name with its tensor.

  Those of `ahead` are read while others are worked on, as many as take no
  more room than the largest does. The rest are cast, for which the host
  needs the room.
  """
  sizes = {name: math.prod(source.shape(name)) for name in names}
  room = max(sizes.values(), default=0)
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    futures: dict[str, concurrent.futures.Future] = {}
    waiting, used = collections.deque(names), 0
    for name in names:
      if name in futures:
        value = futures.pop(name).result()
        used -= sizes[name]
      else:
        value = source.read(waiting.popleft())
      while waiting and waiting[0] in ahead:
        if used + sizes[waiting[0]] > room:
          break
        following = waiting.popleft()
        used += sizes[following]
        futures[following] = pool.submit(source.read, following)
      yield name, value
      del value  # Before the next is read.


def _sharding(leaf):
  device = jax.devices()[0]
  found = getattr(leaf, "sharding", None)
  return found or jax.sharding.SingleDeviceSharding(device)


def inner_sharding(leaf, stacked):
  """The leaf's sharding without its first axes, which must be whole."""
  sharding = _sharding(leaf)
  if not isinstance(sharding, jax.sharding.NamedSharding):
    return sharding
  spec = (*sharding.spec, *[None] * (len(leaf.shape) - len(sharding.spec)))
  inner = jax.sharding.PartitionSpec(*spec[stacked:])
  return jax.sharding.NamedSharding(sharding.mesh, inner)


def _empty(names, leaves) -> dict[str, jax.Array]:
  """Zeros where stacked leaves go, by one program."""
  places = {name: _sharding(leaves[name]) for name in names}

  def make():
    return {n: jnp.zeros(leaves[n].shape, leaves[n].dtype) for n in places}

  return jax.jit(make, out_shardings=places)() if places else {}


def _put(value, sharding):
  """The tensor on its devices, each given its part alone."""
  return jax.make_array_from_callback(
    value.shape, sharding, lambda index: value[index]
  )


def _writers(pool, plan, leaves) -> dict[str, concurrent.futures.Future]:
  """By stacked leaf, the compiled program that writes into it."""
  found: dict[str, concurrent.futures.Future] = {}
  made: dict[Any, concurrent.futures.Future] = {}  # Leaves alike share one.
  for rule, index in plan.values():
    if not index or rule.ours in found:
      continue
    leaf = leaves[rule.ours]
    kind = (leaf.shape, leaf.dtype, _sharding(leaf), len(index))
    if kind not in made:
      whole = _abstract(leaf.shape, leaf.dtype, _sharding(leaf))
      inner = inner_sharding(leaf, len(index))
      value = _abstract(leaf.shape[len(index) :], leaf.dtype, inner)
      at = jax.ShapeDtypeStruct((len(index),), np.int32)
      lowered = writer(_sharding(leaf)).lower(whole, value, at)
      made[kind] = pool.submit(lowered.compile)
    found[rule.ours] = made[kind]
  return found


def _abstract(shape, dtype, sharding):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


@functools.lru_cache
def writer(sharding):
  """Jitted (leaf, value, index) -> the leaf with a slice replaced."""

  def write(leaf, value, index):
    stacked = leaf.ndim - value.ndim
    start = [index[i] for i in range(stacked)] + [0] * value.ndim
    value = value.reshape((1,) * stacked + value.shape)
    return jax.lax.dynamic_update_slice(leaf, value, start)

  return jax.jit(write, donate_argnums=0, out_shardings=sharding)
