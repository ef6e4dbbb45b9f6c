"""Kills a chain with -9 at random moments and compares with the unbroken one.

  python -m tests.kill_chain --config=configs/r1.py:smoke --directory=DIR

The chains run in processes forked from this one, so that a restart costs
what the chain does and not what Python's imports do.
"""

import argparse
import importlib
import os
import pathlib
import random
import signal
import sys
import time

from r1jax import config_check, pipeline

MIN_SECS = 0.2


def launch(config, workdir, log):
  """The id of a process that runs the chain."""
  pid = os.fork()
  if pid:
    return pid
  status = 1
  try:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    pipeline.run(config, workdir)
    status = 0
  except (ValueError, OSError) as error:
    print(f"r1jax: {error}", flush=True)
  finally:
    os._exit(status)


def wait(pid, secs=None):
  """Its status, killed after so many seconds if it still runs then."""
  end = None if secs is None else time.monotonic() + secs
  while end is None or time.monotonic() < end:
    found, status = os.waitpid(pid, 0 if end is None else os.WNOHANG)
    if found:
      return os.waitstatus_to_exitcode(status)
    time.sleep(0.01)
  os.kill(pid, signal.SIGKILL)
  return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def digests(workdir):
  """What each stage gave, but for what holds the time of its making."""
  return {
    name: {k: v for k, v in record["gave"].items() if k != "checkpoints"}
    for name, record in pipeline.read(workdir).items()
  }


def seconds(workdir):
  """Of a chain, but for those that a kill took."""
  return sum(record["secs"] for record in pipeline.read(workdir).values())


def compare(config, directory, kills, seed):
  """(digests unbroken, digests broken, the stages that were killed).

  Where a chain comes to its end before all kills are made, another is begun;
  `broken` is a list of them all.
  """
  config_check.check(config)
  log = os.path.join(directory, "log.txt")
  unbroken = os.path.join(directory, "unbroken")
  assert wait(launch(config, unbroken, log)) == 0, tail(log)
  longest = seconds(unbroken) / 3  # So that some land in every chain.
  rng = random.Random(seed)
  hit, broken = [], []
  while len(hit) < kills:
    workdir = os.path.join(directory, f"broken{len(broken)}")
    status = -signal.SIGKILL
    while status == -signal.SIGKILL:
      last = len(hit) == kills
      secs = None if last else rng.uniform(MIN_SECS, longest)
      status = wait(launch(config, workdir, log), secs)
      assert status in (0, -signal.SIGKILL), tail(log)
      if status:
        records = pipeline.read(workdir)
        done = [n for n in records if "gave" in records[n]]
        where = f"{len(done)} done, in {(list(records) or ['none'])[-1]}"
        hit.append(where)
        print(f"Kill {len(hit)} after {secs:.1f} s: {where}.", flush=True)
    longest = min(longest, seconds(workdir) / 3)  # What was compiled stays.
    broken.append(digests(workdir))
  return digests(unbroken), broken, hit


def tail(log):
  return pathlib.Path(log).read_text(errors="replace")[-2000:]


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--config", required=True)
  parser.add_argument("--directory", required=True)
  parser.add_argument("--kills", type=int, default=10)
  parser.add_argument("--seed", type=int, default=0)
  flags = parser.parse_args()
  path, _, arg = flags.config.partition(":")
  module = path.removesuffix(".py").replace("/", ".")
  config = importlib.import_module(module).get_config(arg)
  os.makedirs(flags.directory, exist_ok=True)
  want, broken, _ = compare(config, flags.directory, flags.kills, flags.seed)
  differ = [
    f"Stage {name}: {got.get(name)}, unbroken {gave}"
    for got in broken
    for name, gave in want.items()
    if got.get(name) != gave
  ]
  if differ:
    sys.exit("\n".join(differ))
  print(f"{len(broken)} broken chains equal the unbroken one.")


if __name__ == "__main__":
  main()
