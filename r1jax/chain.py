"""A chain of stages as data: its names, its order, its paths; no jax.

A stage is a dict of

  stage   its name, and its directory in the chain's workdir
  config  the whole config of its job
  init    the earlier stage whose weights it starts from, or None
  inputs  field of config, dotted, to "STAGE/file" of an earlier stage, or to
          "STAGE", its workdir
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections

# Jobs whose checkpoints are no policy that another stage could start from.
_WITHOUT_POLICY = ("evaluate", "generate", "reward_model")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def config_of(
  stage: Mapping[str, Any], workdir: str, seed: int
) -> ml_collections.ConfigDict:
  """The stage's config with the chain's seed and the paths of what it takes.

  Raises:
    ValueError: If the config lacks a field of `inputs`.
  """
  config = ml_collections.ConfigDict(stage["config"])
  config = config.copy_and_resolve_references()
  values = {
    field: os.path.join(workdir, *source.split("/"))
    for field, source in stage["inputs"].items()
  }
  with config.unlocked():
    config.seed = seed
    if stage["init"] is not None:
      path = os.path.join(workdir, stage["init"])
      config.init = dict(name="checkpoint", path=path)
    for field, value in values.items():
      *path, last = field.split(".")
      place = config
      for part in path:
        place = getattr(place, part, None)
      if not isinstance(place, ml_collections.ConfigDict) or last not in place:
        raise ValueError(
          f"config.{field} is unknown, but inputs fills it from "
          f"{stage['inputs'][field]}. Name a field that the config has."
        )
      place[last] = value
  return config.lock()


def sources(stage: Mapping[str, Any]) -> list[str]:
  """What the stage takes: each "STAGE" or "STAGE/file", once."""
  init = [] if stage["init"] is None else [stage["init"]]
  return list(dict.fromkeys([*init, *stage["inputs"].values()]))


def owner(source: str) -> str:
  """The stage that a source is of."""
  return source.split("/")[0]


def problems(stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  """What is wrong with names and order, one line each."""
  jobs: dict[str, str] = {}
  names = [stage["stage"] for stage in stages]
  if not stages:
    yield "config.stages is empty. Name a stage."
  for stage in stages:
    name = stage["stage"]
    if not _NAME.fullmatch(name):
      yield (
        f"Stage {name!r}: the name is a directory. Use small letters, "
        "digits and _."
      )
    if name in jobs:
      yield f"Stage {name}: there are two of this name. Rename one."
    for source in sources(stage):
      yield from _source_problems(name, source, jobs, names)
    init = stage["init"]
    if jobs.get(init) in _WITHOUT_POLICY:
      yield (
        f"Stage {name}: init is {init}, whose job {jobs[init]} makes no "
        "policy to start from. Name one that trains a policy."
      )
    jobs[name] = stage["config"].get("job")
    if jobs[name] == "pipeline":
      yield f"Stage {name}: a chain is no stage. List its stages instead."


def _source_problems(name, source, earlier, names) -> Iterator[str]:
  made_by, *path = source.split("/")
  if any(part in ("", ".", "..") for part in path):
    yield f"Stage {name}: {source!r} is no STAGE/file of this chain."
  if made_by in earlier:
    return
  known = ", ".join(earlier) or "none"
  why = "a later stage" if made_by in names else "unknown"
  yield f"Stage {name}: it takes {source}, which is {why}. Before it: {known}."


def made_from(stages: Sequence[Mapping[str, Any]], name: str) -> list[str]:
  """The stages that take something from this one, directly or not."""
  found = [name]
  for stage in stages:
    if any(owner(source) in found for source in sources(stage)):
      found.append(stage["stage"])
  return found[1:]
