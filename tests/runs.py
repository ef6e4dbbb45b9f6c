"""Runs small enough for a test: whole jobs in a second or two."""

import importlib
import os
import pathlib
import subprocess
import sys
import tempfile

import jax

from r1jax import metrics

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Runs of one shape compile the same programs; the second takes them from
# here, which saves nine tenths of its time.
_CACHE = tempfile.TemporaryDirectory(prefix="r1jax-compiled-")
_CACHE_SETTINGS = {
  "jax_compilation_cache_dir": _CACHE.name,
  "jax_persistent_cache_min_compile_time_secs": 0,
  "jax_persistent_cache_min_entry_size_bytes": -1,
}
for _name, _value in _CACHE_SETTINGS.items():
  jax.config.update(_name, _value)

DENSE = dict(
  vocab_size=512,
  d_model=16,
  num_layers=1,
  num_dense_layers=1,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  d_ff=16,
  attention="gqa",
  init_std=0.1,
)
MOE = dict(
  vocab_size=512,
  d_model=16,
  num_layers=2,
  num_dense_layers=1,
  num_heads=2,
  d_ff=16,
  attention="mla",
  q_lora_rank=0,
  kv_lora_rank=8,
  qk_nope_head_dim=4,
  qk_rope_head_dim=4,
  v_head_dim=4,
  num_experts=4,
  experts_per_token=2,
  num_shared_experts=1,
  d_expert=8,
  router_groups=2,
  router_topk_groups=1,
  router_scale=2.5,
  init_std=0.1,
)
# A model that knows nothing still differs from itself in these.
REWARDS = dict(
  accuracy=dict(weight=1.0),
  format=dict(weight=1.0),
  language=dict(weight=1.0, identifier="script"),
  repetition=dict(weight=1.0, ngram_tokens=1),
)
SMALL = {
  "init": dict(name="random"),
  "max_response_tokens": 16,
  "sampling.slots": 8,
  "sampling.chunk_tokens": 8,
  "sampling.prefill_rows": 4,
  "eval_sampling.questions": 2,
  "eval_sampling.samples_per_question": 2,
  "eval_modes": dict(
    sampled=dict(
      temperature=1.0,
      top_p=1.0,
      top_k=0,
      samples_per_question=2,
      questions=2,
      shots=0,
    )
  ),
  "checkpoint_every_rounds": 1,
}
ZERO = SMALL | {
  "row_tokens": 32,
  "rows_per_microbatch": 4,
  "rewards": REWARDS,
  "questions_per_round": 2,
  "samples_per_question": 4,
  "routing_replay": False,
}


def config(name="zero", model=DENSE, **changes):
  """The smoke variant of configs/<name>.py, made small, with fields set.

  Args:
    name: Of the file.
    model: config.model.
    **changes: Field to value; `__` stands for the dots of a field.
  """
  module = importlib.import_module(f"configs.{name}")
  config = module.get_config("smoke").copy_and_resolve_references()
  small = ZERO if config.job == "grpo" else SMALL
  changes = {k.replace("__", "."): v for k, v in changes.items()}
  with config.unlocked():
    small = {k: v for k, v in small.items() if k.split(".")[0] in config}
    for field, value in {"model": model, **small, **changes}.items():
      *path, last = field.split(".")
      owner = config
      for part in path:
        owner = owner[part]
      if last in owner:
        del owner[last]
      owner[last] = value
  return config.lock()


def rows(workdir, name="metrics.jsonl"):
  """The rows of a log, without what the clock says."""
  return [
    {k: v for k, v in row.items() if not k.startswith("time/")}
    for row in metrics.read_jsonl(os.path.join(workdir, name))
  ]


def start(config, workdir, directory):
  """The process of `python -m r1jax.main` on a config.

  Args:
    config: What to run.
    workdir: Where.
    directory: Where its config file may be written.
  """
  # A new name each time: Python knows a module's bytecode by path, size and
  # second, and two configs may share all three.
  handle, name = tempfile.mkstemp(suffix=".py", dir=directory)
  os.close(handle)
  path = pathlib.Path(name)
  path.write_text(
    "import json\nfrom ml_collections import ConfigDict\n"
    "def get_config():\n"
    f"  return ConfigDict(json.loads({config.to_json()!r})).lock()\n"
  )
  return main(f"--config={path}", f"--workdir={workdir}")


def main(*flags, **environment):
  """The process of `python -m r1jax.main` with these flags."""
  settings = {k.upper(): str(v) for k, v in _CACHE_SETTINGS.items()}
  return subprocess.Popen(
    [sys.executable, "-m", "r1jax.main", *flags],
    cwd=ROOT,
    env=os.environ | settings | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def check(code, *arguments):
  """Runs code in a process that can be forked: no device is touched yet."""
  settings = {k.upper(): str(v) for k, v in _CACHE_SETTINGS.items()}
  done = subprocess.run(
    [sys.executable, "-c", code, *arguments],
    cwd=ROOT,
    env=os.environ | settings,
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout
