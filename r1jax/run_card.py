"""The run card: what a workdir was made from, and by what."""

import json
import os
import platform
import subprocess
from typing import Any

import jax
import ml_collections

import r1jax
from r1jax import distributed

CARD = "run.json"


def claim(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Writes the config into run.json, or checks it against the one there.

  Raises:
    ValueError: If the workdir was made by another config.
  """
  wanted = json.loads(config.to_json())
  card = read(workdir)
  if "config" not in card:
    write(workdir, {"config": wanted})
    return
  different = differences(card["config"], config)
  if different:
    raise ValueError(
      f"{workdir} was made by another config: {different}. "
      "Choose another --workdir, or run the config that made it."
    )


def read(workdir: str) -> dict[str, Any]:
  """What run.json holds; nothing where there is none.

  Raises:
    ValueError: If it is not JSON.
  """
  path = os.path.join(workdir, CARD)
  if not os.path.exists(path):
    return {}
  with open(path, encoding="utf-8") as file:
    try:
      return json.load(file)
    except ValueError as error:
      raise ValueError(
        f"{path} is not JSON ({error}). Mend it, or choose another --workdir."
      ) from error


def write(workdir: str, fields: dict[str, Any]) -> None:
  """Adds fields to run.json, in one step; the first process does."""
  if not distributed.is_first():
    return
  path = os.path.join(workdir, CARD)
  card = read(workdir) | fields
  with open(path + ".new", "w", encoding="utf-8") as file:
    json.dump(card, file, indent=2, ensure_ascii=False)
  os.replace(path + ".new", path)


def differences(
  found: dict[str, Any], config: ml_collections.ConfigDict
) -> str:
  """Fields that differ, five at most; empty where none does."""
  wanted = json.loads(config.to_json())
  return "; ".join(sorted(_differences(found, wanted, "config"))[:5])


def _differences(found, wanted, field):
  if isinstance(found, dict) and isinstance(wanted, dict):
    for name in {*found, *wanted}:
      yield from _differences(
        found.get(name), wanted.get(name), f"{field}.{name}"
      )
  elif found != wanted:
    yield f"{field} is {wanted!r}, was {found!r}"


def machine() -> dict[str, Any]:
  """Versions, commit and devices that a run is made with."""
  device = jax.devices()[0]
  commit = subprocess.run(
    ["git", "-C", os.path.dirname(__file__), "rev-parse", "HEAD"],
    capture_output=True,
    text=True,
    check=False,
  ).stdout.strip()
  return {
    "r1jax": r1jax.__version__,
    "commit": commit or None,
    "python": platform.python_version(),
    "jax": jax.__version__,
    "device": f"{device.platform} {device.device_kind}",
    "device_count": jax.device_count(),
    "process_count": distributed.count(),
    "cpu_count": os.cpu_count(),
  }
