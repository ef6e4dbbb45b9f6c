"""Checkpoints between rounds: atomic, verified, the last few kept."""

import errno
import hashlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from r1jax import tree

_log = logging.getLogger(__name__)
_DAMAGED = "damaged"

# Orbax logs each step of a save, and a failure as pages of tracebacks, all
# of which it also raises.
logging.getLogger("absl").addFilter(
  lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname
)


class CheckpointError(ValueError):
  """A checkpoint could not be written or read; the text is one line."""


class Checkpointer:
  """Saves and restores states in one directory.

  A checkpoint is a folder named by its round. Orbax writes it under
  another name in the background and renames it when it is whole, so a
  kill at any time leaves the previous one.
  """

  def __init__(self, directory: str | os.PathLike, *, keep: int):
    """Opens the directory, makes it if need be, drops unfinished saves.

    Raises:
      CheckpointError: If it cannot be written to.
    """
    self._directory = pathlib.Path(directory).absolute()
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep,
      cleanup_tmp_directories=True,
      lightweight_initialize=True,
    )
    try:
      self._directory.mkdir(parents=True, exist_ok=True)
      if not os.access(self._directory, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
      self._manager = ocp.CheckpointManager(self._directory, options=options)
    except OSError as error:
      raise self._cannot_write(error) from error

  def save(self, round: int, state: Any, info: dict[str, Any]) -> None:
    """Starts to save a state; returns once its buffers may be donated.

    Args:
      round: Names the checkpoint. If it is there already, as when a run
        resumes and stops at once, the save is left out.
      state: Any tree of arrays; None holds its place.
      info: What else a resume needs, as JSON can hold it.

    Raises:
      CheckpointError: If this or the previous save failed.
    """
    if round in self._manager.all_steps():
      return
    record = {
      "round": round,
      "digest": tree.digest(state),
      "layout": tree.layout(state),
      "info": json.loads(json.dumps(info, allow_nan=False)),
    }
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(_named(state)),
      info=ocp.args.JsonSave({"record": record, "sha256": _sha256(record)}),
    )
    self._writing(lambda: self._manager.save(round, args=items, force=True))

  def wait(self) -> None:
    """Returns when the last save is on disk.

    Raises:
      CheckpointError: If it failed.
    """
    self._writing(self._manager.wait_until_finished)

  def latest(self) -> int | None:
    """The newest checkpoint's round, None if there is none."""
    return self._manager.latest_step()

  def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
    """(state, info) of the newest whole checkpoint, None if there is none.

    The digest of what was read is compared with the one that was saved. A
    checkpoint that fails is logged in one line and the one before it is
    taken; only then is the failed one moved into the folder `damaged`, so
    that what strikes every checkpoint (too little memory) costs none.

    Args:
      abstract_state: A tree of jax.ShapeDtypeStruct with shardings, which
        need not be those of the state that was saved, or of arrays.

    Raises:
      CheckpointError: If no checkpoint can be read.
      ValueError: If a whole checkpoint holds other arrays than asked for.
    """
    failed = []
    for round in sorted(self._manager.all_steps(), reverse=True):
      found, problem = self._read(round, abstract_state)
      if found is not None:
        self._set_aside(failed)
        return found
      failed.append(round)
      _log.warning(
        "Checkpoint %s cannot be read (%s); trying the one before it.",
        self._directory / str(round),
        problem,
      )
    if failed:
      raise CheckpointError(
        f"No checkpoint in {self._directory} can be read (the oldest: "
        f"{problem}). Put a copy of one back, or delete the directory to "
        "train from the start."
      )
    return None

  def close(self) -> None:
    """Waits for the last save and lets go of the directory.

    Raises:
      CheckpointError: If the last save failed.
    """
    self._writing(self._manager.close)

  def _read(
    self, round: int, abstract_state: Any
  ) -> tuple[tuple[Any, dict[str, Any]] | None, str]:
    """((state, info), "") or (None, what is wrong with the checkpoint)."""
    record = state = None
    problem = ""
    try:
      record = self._read_record(round)
    except Exception as error:  # Orbax raises no narrower class.
      problem = _one_line(error)
    if _any_host(problem):
      return None, problem or "unreadable on another host"
    self._check_layout(round, record["layout"], tree.layout(abstract_state))
    try:
      state = self._read_state(round, abstract_state)
    except Exception as error:  # Orbax raises no narrower class.
      problem = _one_line(error)
    if _any_host(problem):
      return None, problem or "unreadable on another host"
    digest = tree.digest(state)
    if digest != record["digest"]:
      return None, f"digest {digest}, saved as {record['digest']}"
    return (state, record["info"]), ""

  def _read_record(self, round: int) -> dict[str, Any]:
    items = ocp.args.Composite(info=ocp.args.JsonRestore())
    stored = self._manager.restore(round, args=items)["info"]
    record = stored["record"]
    if _sha256(record) != stored["sha256"]:
      raise ValueError("the info file was changed")
    if record["round"] != round:
      raise ValueError(f"it is the checkpoint of round {record['round']}")
    return record

  def _read_state(self, round: int, abstract_state: Any) -> Any:
    target = jax.tree.map(_abstract, abstract_state)
    items = ocp.args.Composite(state=ocp.args.StandardRestore(_named(target)))
    arrays = self._manager.restore(round, args=items)["state"]
    leaves = [arrays[name] for name in tree.names(target)]
    return jax.tree.unflatten(jax.tree.structure(target), leaves)

  def _check_layout(
    self, round: int, saved: dict[str, str], wanted: dict[str, str]
  ) -> None:
    for name in [*wanted, *saved]:
      has, wants = saved.get(name), wanted.get(name)
      if has != wants:
        raise ValueError(
          f"Checkpoint {self._directory / str(round)} has {has or 'no'} "
          f"{name}, this config has {wants or 'none'}. Run the config that "
          "made it, or choose another --workdir."
        )

  def _set_aside(self, rounds: list[int]) -> None:
    """Moves checkpoints out of the way of their second save."""
    if rounds and jax.process_index() == 0:
      for round in rounds:
        aside = self._directory / _DAMAGED / str(round)
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        (self._directory / str(round)).rename(aside)
    if rounds and jax.process_count() > 1:
      multihost_utils.sync_global_devices("r1jax_checkpoint_set_aside")
    self._manager.reload()

  def _writing(self, work: Callable[[], Any]) -> None:
    try:
      work()
    except (OSError, ValueError, RuntimeError) as error:
      raise self._cannot_write(error) from error

  def _cannot_write(self, error: Exception) -> CheckpointError:
    free = shutil.disk_usage(_existing(self._directory)).free
    return CheckpointError(
      f"Cannot write a checkpoint in {self._directory} ({free >> 20} MiB "
      f"free there): {_one_line(error)}. Checkpoints written before are "
      "whole: make room or mend the permissions, then run the same command."
    )


def _named(state: Any) -> dict[str, Any]:
  """Path to leaf: what is stored knows no classes, and None needs no place."""
  named = dict(zip(tree.names(state), jax.tree.leaves(state)))
  assert len(named) == len(jax.tree.leaves(state)), "paths are not unique"
  return named


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  sharding = getattr(leaf, "sharding", None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _any_host(problem: str) -> bool:
  """Whether any host has a problem, so that all take the same checkpoint."""
  if jax.process_count() == 1:
    return bool(problem)
  return bool(
    np.any(multihost_utils.process_allgather(np.array(bool(problem))))
  )


def _sha256(record: dict[str, Any]) -> str:
  text = json.dumps(record, sort_keys=True, allow_nan=False)
  return hashlib.sha256(text.encode()).hexdigest()


def _one_line(error: Exception) -> str:
  """Name of an error and the start of its text, which may be pages."""
  text = " ".join(str(error).split())
  full = os.strerror(errno.ENOSPC)
  return full if full in text else f"{type(error).__name__}: {text[:120]}"


def _existing(path: pathlib.Path) -> pathlib.Path:
  """The path, or its nearest parent that exists."""
  return next(p for p in [path, *path.parents] if p.exists())
