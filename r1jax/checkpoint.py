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
      "arrays": tree.fingerprints(state),
      "info": json.loads(json.dumps(info, allow_nan=False)),
    }
    items = ocp.args.Composite(
      state=ocp.args.PyTreeSave(_named(state)),
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

    The bits of what was read are compared with what was saved. A
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
      found, problem = _read(self._manager, round, abstract_state)
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


def restore_weights(
  path: str | os.PathLike, params: Any, buffers: Any
) -> tuple[Any, Any]:
  """(params, buffers) of the newest checkpoint of another run.

  That run may be under way; nothing of it is changed.

  Args:
    path: Its workdir, or the directory of its checkpoints.
    params: As `abstract_state` of `Checkpointer.restore`.
    buffers: The same.

  Raises:
    CheckpointError: If there is no checkpoint or the newest is damaged.
    ValueError: If it is another model's.
  """
  directory = pathlib.Path(path).absolute()
  if (directory / "checkpoints").is_dir():
    directory = directory / "checkpoints"
  options = ocp.CheckpointManagerOptions(
    read_only=True, lightweight_initialize=True
  )
  round = None
  if directory.is_dir():
    manager = ocp.CheckpointManager(directory, options=options)
    round = manager.latest_step()
  if round is None:
    raise CheckpointError(
      f"No checkpoint in {directory}. Give the --workdir of a run that saved "
      "one."
    )
  part = {"params": params, "buffers": buffers}
  found, problem = _read(manager, round, part, whole=False)
  if found is None:
    raise CheckpointError(
      f"Checkpoint {directory / str(round)} cannot be read ({problem}). Run "
      "the command that made it again, which goes back to a whole one."
    )
  return found[0]["params"], found[0]["buffers"]


def _read(
  manager: ocp.CheckpointManager,
  round: int,
  abstract_state: Any,
  *,
  whole: bool = True,
) -> tuple[tuple[Any, dict[str, Any]] | None, str]:
  """((state, info), "") or (None, what is wrong with the checkpoint).

  Args:
    manager: Of the directory.
    round: Which checkpoint.
    abstract_state: What to read.
    whole: Whether that is all of the state that was saved.
  """
  record = state = None
  problem = ""
  try:
    record = _read_record(manager, round)
  except Exception as error:  # Orbax raises no narrower class.
    problem = _one_line(error)
  if _any_host(problem):
    return None, problem or "unreadable on another host"
  _check_layout(manager.directory / str(round), record, abstract_state, whole)
  try:
    state = _read_state(manager, round, abstract_state)
  except Exception as error:  # Orbax raises no narrower class.
    problem = _one_line(error)
  if _any_host(problem):
    return None, problem or "unreadable on another host"
  for name, found in tree.fingerprints(state).items():
    if found != record["arrays"][name]:
      return None, f"the bits of {name} are not those that were saved"
  return (state, record["info"]), ""


def _read_record(manager: ocp.CheckpointManager, round: int) -> dict[str, Any]:
  items = ocp.args.Composite(info=ocp.args.JsonRestore())
  stored = manager.restore(round, args=items)["info"]
  record = stored["record"]
  if _sha256(record) != stored["sha256"]:
    raise ValueError("the info file was changed")
  if record["round"] != round:
    raise ValueError(f"it is the checkpoint of round {record['round']}")
  return record


def _read_state(
  manager: ocp.CheckpointManager, round: int, abstract_state: Any
) -> Any:
  target = jax.tree.map(_abstract, abstract_state)
  named = _named(target)
  restore = ocp.args.PyTreeRestore(
    item=named,
    restore_args=ocp.checkpoint_utils.construct_restore_args(named),
    partial_restore=True,
  )
  arrays = manager.restore(round, args=ocp.args.Composite(state=restore))
  leaves = [arrays["state"][name] for name in named]
  return jax.tree.unflatten(jax.tree.structure(target), leaves)


def _check_layout(
  path: os.PathLike, record: dict[str, Any], abstract_state: Any, whole: bool
) -> None:
  wanted = tree.layout(abstract_state)
  saved = {name: line.split()[0] for name, line in record["arrays"].items()}
  for name in [*wanted, *saved] if whole else wanted:
    has, wants = saved.get(name), wanted.get(name)
    if has != wants:
      raise ValueError(
        f"Checkpoint {path} has {has or 'no'} {name}, this config has "
        f"{wants or 'none'}. Run the config that made it, or choose another "
        "--workdir."
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
