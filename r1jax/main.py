"""Entry point: python -m r1jax.main --config=configs/zero.py."""

import json
import os
import sys

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from r1jax import config_check, plan_topology

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Experiment, as configs/zero.py or configs/zero.py:smoke."
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where the run is kept; by default runs/<name>."
)
_PLAN = flags.DEFINE_string(
  "plan",
  None,
  "Compiles the config's programs for devices that need not be there, such as "
  "v5p:8x8x8, v6e-256 or h100:8, and says what they need; nothing runs.",
)
_PLAN_JSON = flags.DEFINE_string(
  "plan_json",
  "",
  "A file for the plan as JSON, written after each program; what it holds of "
  "other programs of the same plan stays.",
)
_PLAN_PROGRAMS = flags.DEFINE_list(
  "plan_programs", [], "Plans only these, as update,decode."
)
_PLAN_LOWER_ONLY = flags.DEFINE_bool(
  "plan_lower_only", False, "Shapes, places and products, without compiling."
)
_PLAN_TEXT = flags.DEFINE_string(
  "plan_text", "", "A folder for the compiled programs' text."
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator",
  None,
  "HOST:PORT of process 0, in a run of several processes; by default what "
  "Slurm, Open MPI or a TPU say.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", None, "Processes of the run, with --coordinator."
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", None, "Which process this is, from 0, with --coordinator."
)
_PEER_TIMEOUT = flags.DEFINE_float(
  "peer_timeout_secs",
  60.0,
  "In which all processes must have come, and after which one that is not "
  "heard of is dead.",
)
flags.mark_flag_as_required("config")


def parse(argv: list[str]) -> list[str]:
  """What of the command line is no flag; a mistake in it ends in one line."""
  try:
    rest = flags.FLAGS(argv)
    _ = _CONFIG.value.name
  except (
    flags.Error,
    OSError,
    ValueError,
    LookupError,
    AttributeError,
  ) as error:
    sys.exit(f"r1jax: {_cause(error)}")
  return rest


def _cause(error: BaseException) -> str:
  """An error's text in one line, or its cause's where it is pages long."""
  while "\n" in str(error) and error.__context__:
    error = error.__context__
  # For a missing field ml_collections raises AttributeError(KeyError(text)).
  if error.args and isinstance(error.args[0], KeyError):
    error = error.args[0]
  if isinstance(error, KeyError):
    return f"config has no {'. '.join(error.args[0].splitlines())}"
  return " ".join(str(error).split())


def main(argv: list[str]) -> None:
  """Checks the config, then runs its job."""
  if len(argv) > 1:
    sys.exit(f"r1jax: Unknown argument {argv[1]!r}. Flags begin with --.")
  logging.set_verbosity(logging.INFO)
  logging.get_absl_handler().setFormatter(None)
  config = _CONFIG.value
  workdir = _WORKDIR.value or f"runs/{config.name}"
  try:
    config_check.check(config)
    if _PLAN.value is not None:
      _plan(config)
      return
    # They import jax: after the check.
    from r1jax import distributed, jobs, pipeline

    this = distributed.member(
      _COORDINATOR.value,
      _NUM_PROCESSES.value,
      _PROCESS_ID.value,
      _PEER_TIMEOUT.value,
      os.environ,
    )
    run = pipeline.run if config.job == "pipeline" else jobs.run
    with distributed.joined(this, json.loads(config.to_json()), workdir):
      run(config, workdir)
  except (ValueError, OSError) as error:
    sys.exit(f"r1jax: {error}")


def _plan(config: ml_collections.ConfigDict) -> None:
  """Compiles the config for --plan and says what it needs."""
  target = plan_topology.parse(_PLAN.value)
  plan_topology.prepare(target)
  from r1jax import plan, plan_report  # They import jax: after `prepare`.

  options = plan.Options(
    _PLAN_PROGRAMS.value,
    _PLAN_LOWER_ONLY.value,
    _PLAN_JSON.value,
    _PLAN_TEXT.value,
  )
  plan_report.show(plan.make(config, target, options))


if __name__ == "__main__":
  app.run(main, flags_parser=parse)
