"""A run of several processes: how it starts, and what they share.

Every process runs the same program on the same numbers; jax's own runtime
makes one machine of their devices. What differs by process is small: which
responses it grades, which rows it puts on its devices, and that the first
alone writes logs. In a run of one process all of this does nothing.
"""

import contextlib
import functools
import json
import logging
import os
import re
import secrets
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from r1jax import peers

# Of an error that jax's runtime raises, whatever its class.
_STATUS = re.compile(
  r"(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|"
  r"FAILED_PRECONDITION|DATA_LOSS)\b"
)
_SEEN_SECS = 20.0  # For a file to be seen by the other hosts.
_PROBE = ".shared"
_watch: peers.Watch | None = None

logging.getLogger("jax._src.distributed").setLevel(logging.WARNING)


def member(
  coordinator: str | None,
  count: int | None,
  index: int | None,
  timeout_secs: float,
  environment: Mapping[str, str],
) -> peers.Member | None:
  """Which process of which run this is; None where it is the only one.

  Args:
    coordinator, count, index, timeout_secs: As of `peers.Member`, where the
      command line gives them; all three of the first or none.
    environment: Else these variables say: those of Slurm, Open MPI, or a TPU
      on GKE or Compute Engine.

  Raises:
    ValueError: For flags that do not fit each other.
  """
  given = (coordinator, count, index)
  if given.count(None) not in (0, 3):
    raise ValueError(
      f"--coordinator is {coordinator}, --num_processes {count}, "
      f"--process_id {index}. Give all three, or none for what Slurm, Open "
      "MPI or a TPU say."
    )
  if coordinator is None or count is None or index is None:
    return _detected(timeout_secs, environment)
  if not 0 <= index < count:
    raise ValueError(
      f"--process_id is {index} and --num_processes {count}, but a process "
      f"of {count} is 0 to {count - 1}. Mend one."
    )
  if count == 1:
    return None
  peers.address(coordinator)
  return peers.Member(coordinator, count, index, None, timeout_secs)


def _detected(
  timeout_secs: float, environment: Mapping[str, str]
) -> peers.Member | None:
  """What jax finds in the environment of a scheduler."""
  from jax._src import clusters  # No public name lists them one by one.

  for cluster in (
    clusters.OmpiCluster,
    clusters.SlurmCluster,
    clusters.GkeTpuCluster,
    clusters.GceTpuCluster,
  ):
    if not cluster.is_env_present():
      continue
    count = cluster.get_process_count()
    if count == 1:
      return None
    port = environment.get("JAX_COORDINATOR_PORT")
    where = cluster.get_coordinator_address(int(timeout_secs), port)
    devices = None
    if _tasks_on_host(environment) > 1:
      devices = (cluster.get_local_process_id(),)
    index = cluster.get_process_id()
    return peers.Member(where, count, index, devices, timeout_secs)
  return None


def _tasks_on_host(environment: Mapping[str, str]) -> int:
  """Processes that share a host, of Slurm or Open MPI; else 1."""
  found = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE")
  found = found or environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
  return max(int(n) for n in re.findall(r"(\d+)(?:\(x\d+\))?", found))


@contextlib.contextmanager
def joined(
  this: peers.Member | None, config: Mapping[str, Any], workdir: str
) -> Iterator[None]:
  """Everything inside runs once all processes are there and alike.

  An error inside is told to all processes and ends them.

  Args:
    this: Of `member`.
    config: Resolved, as JSON can hold it.
    workdir: Which all must share.

  Raises:
    ValueError: If they cannot begin; it names the process and why.
  """
  if this is None:
    yield
    return
  global _watch
  _watch, address = peers.join(this, peers.facts(config))
  with told():
    if jax.config.jax_platforms == "cpu":
      jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
      address,
      this.count,
      this.index,
      local_device_ids=this.devices,
      cluster_detection_method="deactivate",
      # The service at `address` is the coordinator's; nobody asks this one.
      coordinator_bind_address="localhost:0",
    )
    _check_shared(workdir)
    if not is_first():
      logging.getLogger("absl").setLevel(logging.WARNING)
    yield
    jax.distributed.shutdown()
    _watch.finish()
  _watch = None


@contextlib.contextmanager
def told() -> Iterator[None]:
  """An error inside ends all processes, at once: what waits for the others
  while it is cleaned up would wait forever."""
  try:
    yield
  except (Exception, KeyboardInterrupt) as error:
    if _watch is None:
      raise
    line = " ".join(str(error).split()) or type(error).__name__
    by_another = isinstance(error, jax.errors.JaxRuntimeError)
    by_another = by_another or bool(_STATUS.match(line))
    if not isinstance(error, (ValueError, OSError, KeyboardInterrupt)):
      line = f"{type(error).__name__}: {line}"
      if not by_another:
        traceback.print_exception(error)
    _watch.fail(line, by_another=by_another)


def _check_shared(workdir: str) -> None:
  """Every process sees what the first writes.

  Raises:
    ValueError: If this one does not.
  """
  path = os.path.join(workdir, _PROBE)
  nonce = agreed(lambda: secrets.token_hex(8))
  if is_first():
    os.makedirs(workdir, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
      file.write(nonce)
  deadline = time.monotonic() + _SEEN_SECS
  while _content(path) != nonce:
    if time.monotonic() > deadline:
      raise ValueError(
        f"process {index()} does not see in {workdir} what process 0 writes "
        "there. Give a --workdir that all hosts share."
      )
    time.sleep(0.1)
  any_process(False)
  if is_first():
    os.remove(path)


def _content(path: str) -> str | None:
  try:
    with open(path, encoding="utf-8") as file:
      return file.read()
  except OSError:
    return None


def count() -> int:
  """Processes of the run; does not start a device where there is one."""
  return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
  """Which of them this is, from 0."""
  return jax.process_index() if jax.distributed.is_initialized() else 0


def is_first() -> bool:
  """Whether this is the one that writes."""
  return index() == 0


def note_round(round: int) -> None:
  """Lets the others know how far this process is."""
  if _watch is not None:
    _watch.note(round)


def any_process(flag: bool) -> bool:
  """Whether the flag is up in any process; all must ask together."""
  if count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def agreed(ask: Callable[[], Any]) -> Any:
  """What the first process's `ask` returns, in all; JSON must hold it."""
  if count() == 1:
    return ask()
  return gathered(ask() if is_first() else None)[0]


def gathered(value: Any) -> list[Any]:
  """The value of each process, in all; JSON must hold it.

  What passes between the devices has few sizes, so that few programs are
  compiled.
  """
  if count() == 1:
    return [value]
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(len(data)))
  room = np.zeros(1 << int(np.max(sizes)).bit_length(), np.uint8)
  room[: len(data)] = data
  found = multihost_utils.process_allgather(room)
  return [json.loads(row[:size].tobytes()) for row, size in zip(found, sizes)]


def is_mine(place: int) -> bool:
  """Whether this process does the place-th of things that are shared out."""
  return place % count() == index()


def place(tree: Any, shardings: Any) -> Any:
  """The arrays on their devices; each process gives its part alone.

  Args:
    tree: Arrays, whole and the same in every process.
    shardings: Of each leaf, or one for all.
  """
  if count() == 1:
    return jax.device_put(tree, shardings)
  if isinstance(shardings, jax.sharding.Sharding):
    return jax.tree.map(lambda leaf: _placed(leaf, shardings), tree)
  return jax.tree.map(_placed, tree, shardings)


def _placed(leaf, sharding):
  if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
    return jax.device_put(leaf, sharding)
  host = np.asarray(leaf)
  return jax.make_array_from_callback(
    host.shape, sharding, lambda part: host[part]
  )


def fetch(leaf: Any, index: tuple[int, ...] = ()) -> np.ndarray:
  """An array, or its slice at an index, whole on the host of every process.

  All must ask together. Only what is asked for is brought together on the
  devices.
  """
  if isinstance(leaf, np.ndarray):
    return leaf[index]
  if not index and (leaf.is_fully_addressable or leaf.is_fully_replicated):
    return np.asarray(leaf)
  sharding = leaf.sharding
  if isinstance(sharding, jax.sharding.NamedSharding):
    sharding = sharding.update(spec=jax.sharding.PartitionSpec())
  at = np.asarray(index, np.int32)
  return np.asarray(_slice(sharding, len(index))(leaf, at))


@functools.lru_cache
def _slice(sharding, stacked):
  """Jitted (leaf, index) -> the slice, whole on every device."""

  def pick(leaf, index):
    for i in range(stacked):
      leaf = jax.lax.dynamic_index_in_dim(leaf, index[i], keepdims=False)
    return leaf

  return jax.jit(pick, out_shardings=sharding)


def blocks(leaf: Any, max_bytes: int) -> Iterator[np.ndarray]:
  """An array's parts in the order of its bytes, each as of `fetch`.

  Args:
    leaf: The array.
    max_bytes: Of a part, unless it is one row of the last axis.
  """
  depth, size = 0, leaf.size * leaf.dtype.itemsize
  while size > max_bytes and depth < leaf.ndim - 1:
    size //= leaf.shape[depth]
    depth += 1
  for index in np.ndindex(leaf.shape[:depth]):
    yield fetch(leaf, index)
