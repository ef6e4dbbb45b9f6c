"""Work directories of runs that never ran, for tests."""

import json
import os

# Responses that a page must not take for its own.
HOSTILE = (
  '</script><script>window.hit = 1</script><img src="http://x.test/a.png" '
  'onerror="window.hit = 1"><!--<script>\'"`&lt;${window.hit = 1}',
  "a\u2028b\u2029c\0d\x1be\u202ef\u2066g\ufeffh",
  "half a pair \ud800, the other \udc00, whole \U0001f600",
  "]]>\\u003c\\ud800\r\n\t{{data}}{{script}}</title></style>",
)


def row(round=0, question="q0", sample=0, response=None, **fields):
  """A row of rollouts.jsonl."""
  return {
    "round": round,
    "question": question,
    "sample": sample,
    "prompt": f"Ask {question}",
    "response": response or f"<think>r{round} s{sample}</think>done",
    "tokens": 10,
    "finish_reason": "eos",
    "reward": 1.0,
    "rewards": {"accuracy": {"value": 1.0, "reason": "right", "status": "ok"}},
    "advantage": 0.5,
    "weights": "ab",
    **fields,
  }


def make(workdir, *, card=None, **logs):
  """A workdir with run.json and these logs; text is written as it is."""
  os.makedirs(workdir, exist_ok=True)
  files = {f"{name}.jsonl": rows for name, rows in logs.items()}
  if card is not None:
    files["run.json"] = json.dumps(card)
  for name, rows in files.items():
    if not isinstance(rows, str):
      rows = "".join(json.dumps(each) + "\n" for each in rows)
    with open(os.path.join(workdir, name), "w", encoding="utf-8") as file:
      file.write(rows)
  return str(workdir)


def card(seed=0, **config):
  """What run.json of a finished run holds."""
  config = {"name": "zero", "job": "grpo", "seed": seed, **config}
  return {"config": config, "final_digests": {"params": f"p{seed}"}}


def run(workdir, seed=0, accuracy=(0.25, 0.5), **config):
  """A finished run of two rounds."""
  return make(
    workdir,
    card=card(seed, rounds=2, **config),
    metrics=[
      {"round": r, "rollout/accuracy_mean": x} for r, x in enumerate(accuracy)
    ],
    eval=[
      {"round": r - 1, "suite": "s", "questions": 4, "samples": 2, "pass@1": x}
      for r, x in enumerate(accuracy)
    ],
    rollouts=[
      row(r, f"q{q}", s) for r in (0, 1) for q in (0, r + 1) for s in (0, 1)
    ],
  )
