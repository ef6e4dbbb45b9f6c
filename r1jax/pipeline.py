"""A chain of stages: each in its own directory, in order, resumable.

WORKDIR/chain.json holds for each stage the digest of its config, those of
what it took from the stages before it, and, once it is done, those of what it
gave. A chain that is started again skips what is done, goes on with what is
not, and refuses what has changed since.
"""

import contextlib
import hashlib
import json
import logging as std_logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_collections
import rich.console
import rich.table
from absl import logging
from jax.experimental.compilation_cache import compilation_cache

from r1jax import (
  chain,
  distributed,
  experiment,
  generate,
  interrupt,
  jobs,
  metrics,
  report,
  run_card,
  stage_table,
  training,
)
from r1jax import config_schema as schema

CARD, SUMMARY, REPORT = "chain.json", "summary.json", "report.html"
CHECKPOINTS = "checkpoints"
OUTPUTS = (training.EXPORT, generate.DATA, "eval.jsonl", CHECKPOINTS)
Stage = Mapping[str, Any]
Records = dict[str, dict[str, Any]]

# It tells of every reset.
std_logging.getLogger("jax._src.compilation_cache").setLevel("WARNING")


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Runs the stages that are not done, up to a signal, then sums up.

  Raises:
    ValueError: For what a stage asks and cannot be had, and for a stage that
      is done and no longer what chain.json says.
    OSError: If the workdir cannot be written.
  """
  workdir = os.path.abspath(workdir)
  os.makedirs(workdir, exist_ok=True)
  records = distributed.agreed(lambda: _checked(config, workdir))
  todo = [s for s in config.stages if "gave" not in records.get(s["stage"], {})]
  with interrupt.watch() as stopped, _compiled_once(workdir):
    for stage in todo:
      name = stage["stage"]
      logging.info("Stage %s, %d to do.", name, len(todo) - todo.index(stage))
      _run_stage(config, stage, workdir, records)
      done = "gave" in records[name]
      if stopped() or not done:
        how = "after" if done else "in"
        logging.info("Stopped %s stage %s; the same goes on.", how, name)
        return
      jax.clear_caches()
  if distributed.is_first():
    _sum_up(config, workdir, records, bool(todo))


def _checked(config: ml_collections.ConfigDict, workdir: str) -> Records:
  records = read(workdir)
  check(config, workdir, records)
  return records


@contextlib.contextmanager
def _compiled_once(workdir: str) -> Iterator[None]:
  """Lets stages share compiled programs, through files of this process.

  They are deleted at the end, and what a killed process left at the start:
  they fit one machine. A cache that the user has set is used instead. Each
  process of several has its own.
  """
  if jax.config.jax_compilation_cache_dir is not None:
    yield
    return
  path = os.path.join(workdir, f"compiled{distributed.index() or ''}")
  shutil.rmtree(path, ignore_errors=True)
  settings = {
    "jax_compilation_cache_dir": path,
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  _configure(settings)
  try:
    yield
  finally:
    _configure(before)
    shutil.rmtree(path, ignore_errors=True)


def _configure(settings: Mapping[str, Any]) -> None:
  for name, value in settings.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def read(workdir: str) -> Records:
  """What chain.json holds; nothing where there is none.

  Raises:
    ValueError: If it is not what `run` wrote.
  """
  path = os.path.join(workdir, CARD)
  if not os.path.exists(path):
    return {}
  try:
    with open(path, encoding="utf-8") as file:
      return dict(json.load(file)["stages"])
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path} cannot be read ({error!r}), so nobody knows what the stages "
      "were made from. Put a copy back, or choose another --workdir."
    ) from error


def check(
  config: ml_collections.ConfigDict, workdir: str, records: Records
) -> None:
  """Forgets the stages whose directory is gone, and checks the others.

  Raises:
    ValueError: For the first that is not as its record says.
  """
  for stage in config.stages:
    name = stage["stage"]
    path = os.path.join(workdir, name)
    is_there = os.path.isdir(path) and bool(os.listdir(path))
    if not is_there:
      records.pop(name, None)
      continue
    problem = _problem(config, stage, workdir, records)
    if problem:
      doomed = [name, *chain.made_from(config.stages, name)]
      there = [n for n in doomed if os.path.isdir(os.path.join(workdir, n))]
      raise ValueError(
        f"Stage {name}: {problem} Delete {', '.join(there)} in {workdir} to "
        "make them again, or choose another --workdir."
      )


def _problem(
  config: ml_collections.ConfigDict,
  stage: Stage,
  workdir: str,
  records: Records,
) -> str | None:
  """Why a stage that is there cannot be taken as it is, or None."""
  name = stage["stage"]
  path = os.path.join(workdir, name)
  if name not in records:
    return f"{path} is there, but {CARD} does not know it: it is another run's."
  record = records[name]
  for source in chain.sources(stage):
    if chain.owner(source) not in records:
      return f"it was made from {source}, which is gone."
  wanted = _config_digest(config, stage)
  if record["config"] != wanted:
    different = run_card.differences(
      run_card.read(path).get("config", {}),
      chain.config_of(stage, workdir, config.seed),
    )
    return (
      f"it was made by another config, {record['config']}, not {wanted} "
      f"({different})."
    )
  for source, digest in record["took"].items():
    now = _digest(workdir, source)
    if now != digest:
      return (
        f"it was made from {source} {digest}, which changed under it and is "
        f"{now or 'gone'} now."
      )
  if "gave" in record:
    now = _gave(path)
    for file, digest in record["gave"].items():
      if now.get(file) != digest:
        return (
          f"{os.path.join(path, file)} is {now.get(file) or 'gone'}, but was "
          f"{digest} when the stage was done."
        )
  return None


def _run_stage(
  config: ml_collections.ConfigDict,
  stage: Stage,
  workdir: str,
  records: Records,
) -> None:
  """Runs a stage; its record has `gave` if it came to its end."""
  name = stage["stage"]
  path = os.path.join(workdir, name)
  took = distributed.agreed(
    lambda: {s: _digest(workdir, s) for s in chain.sources(stage)}
  )
  for source, digest in took.items():
    if digest is None:
      raise ValueError(
        f"Stage {name}: {os.path.join(workdir, source)} is not there. It is "
        f"made by stage {chain.owner(source)}: run that first."
      )
  fresh = {"config": _config_digest(config, stage), "took": took, "secs": 0.0}
  record = records.setdefault(name, fresh)
  _write(os.path.join(workdir, CARD), {"stages": records})
  start = time.monotonic()
  try:
    jobs.run(chain.config_of(stage, workdir, config.seed), path)
    gave = distributed.agreed(lambda: _given(path, stage))
    if gave is not None:
      record["gave"] = gave
  except ValueError as error:
    raise ValueError(f"Stage {name}: {error}") from error
  finally:
    record["secs"] += time.monotonic() - start
    _write(os.path.join(workdir, CARD), {"stages": records})


def _given(path: str, stage: Stage) -> dict[str, str] | None:
  """What a stage gave, None where it did not come to its end."""
  done = "final_digests" in run_card.read(path)
  return _gave(path) if done or stage["config"]["job"] == "evaluate" else None


def _config_digest(config: ml_collections.ConfigDict, stage: Stage) -> str:
  """Of the stage's config, wherever the workdir is."""
  filled = chain.config_of(stage, "WORKDIR", config.seed)
  return experiment.digest_of(schema.plain(filled))


def _gave(path: str) -> dict[str, str]:
  """Digests of a stage's weights and of the files it is known by."""
  digests = run_card.read(path).get("final_digests", {})
  found = {f"{run_card.CARD}:{name}": d for name, d in digests.items()}
  for file in OUTPUTS:
    digest = _file_digest(os.path.join(path, file))
    if digest:
      found[file] = digest
  return found


def _digest(workdir: str, source: str) -> str | None:
  """Of a file, or of a stage's weights; None if it is not there."""
  path = os.path.join(workdir, source)
  if chain.owner(source) != source:
    return _file_digest(path)
  return run_card.read(path).get("final_digests", {}).get("params")


def _file_digest(path: str) -> str | None:
  """Of a file, or of the newest checkpoint of a directory of them."""
  if os.path.isfile(path):
    return experiment.file_digest(path)
  rounds = os.listdir(path) if os.path.isdir(path) else []
  rounds = [int(name) for name in rounds if name.isdigit()]
  if not rounds:
    return None
  newest = os.path.join(path, str(max(rounds)))
  digests = hashlib.sha256(str(max(rounds)).encode())
  for directory, folders, files in os.walk(newest):
    folders.sort()
    for name in sorted(files):
      file = os.path.join(directory, name)
      line = f"{os.path.relpath(file, newest)} {experiment.file_digest(file)}\n"
      digests.update(line.encode())
  return digests.hexdigest()[:16]


def _sum_up(
  config: ml_collections.ConfigDict,
  workdir: str,
  records: Records,
  changed: bool,
) -> None:
  """Writes summary.json and report.html, and shows the first."""
  names = [stage["stage"] for stage in config.stages]
  scores = {
    stage["stage"]: _scores(os.path.join(workdir, stage["stage"]))
    for stage in config.stages
    if stage["config"]["job"] == "evaluate"
  }
  summary = {
    "seed": config.seed,
    "secs": sum(records[name]["secs"] for name in names),
    "stages": {
      name: {
        "secs": records[name]["secs"],
        "digests": {
          key.partition(":")[2]: digest
          for key, digest in records[name]["gave"].items()
          if ":" in key
        },
      }
      for name in names
    },
    "evaluations": scores,
  }
  _write(os.path.join(workdir, SUMMARY), summary)
  if changed:
    paths = [os.path.join(workdir, name) for name in names]
    try:
      report.write_all(paths, os.path.join(workdir, REPORT))
    except Exception as error:  # The chain is whole, whatever its page lacks.
      logging.warning("%s: no report (%r).", workdir, error)
  evaluated = {
    name.removeprefix("eval_"): os.path.join(workdir, name) for name in scores
  }
  _show(summary, evaluated)


def _scores(path: str) -> dict[str, float]:
  """suite/metric to value, of the last evaluation in a workdir."""
  found = {}
  for row in metrics.read_jsonl(os.path.join(path, "eval.jsonl")):
    texts = [value for value in row.values() if isinstance(value, str)]
    for name, value in row.items():
      counts = name in ("round", "questions", "samples")
      if not counts and isinstance(value, (int, float)):
        found["/".join([*texts, name])] = value
  return found


def _show(summary: Mapping[str, Any], evaluated: Mapping[str, str]) -> None:
  """Prints the stages' seconds and digests, and the table of evaluations."""
  console = rich.console.Console()
  if not console.is_terminal:
    console.width = max(console.width, 40 + 12 * len(evaluated))
  times = rich.table.Table("stage", "seconds", "weights or data")
  for name, stage in summary["stages"].items():
    digest = next(iter(stage["digests"].values()), "")
    times.add_row(name, f"{stage['secs']:.1f}", digest)
  times.add_row("all", f"{summary['secs']:.1f}", "")
  console.print(times)
  if evaluated:
    stage_table.show(stage_table.table(evaluated), console)


def _write(path: str, value: Mapping[str, Any]) -> None:
  """Writes a JSON file in one step; the first process does."""
  if not distributed.is_first():
    return
  with open(path + ".new", "w", encoding="utf-8") as file:
    json.dump(value, file, indent=2, ensure_ascii=False)
  os.replace(path + ".new", path)
