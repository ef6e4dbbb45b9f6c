"""Every field that a config may have, by job; imports no jax.

A new field is one line.
"""

from typing import Any

from r1jax import config_schema as schema

_SAMPLING = {
  "temperature": schema.number(0.0),
  "top_p": schema.number(0.0, 1.0),
  "top_k": schema.integer(0),  # 0 keeps every token.
}
_SLOTS = {
  "slots": schema.integer(1),
  "chunk_tokens": schema.integer(1),
  "prefill_rows": schema.integer(1),
  "repetition_tokens": schema.integer(0),  # 0 never ends a response for it.
}
_BUDGET = {
  "max_prompt_tokens": schema.integer(1),
  "max_response_tokens": schema.integer(1),
}
_WEIGHTING = schema.named("token_mean", "sequence_mean", "fixed_length")
_GRADER = {"workers": schema.integer(1), "timeout_secs": schema.number(0.001)}

_COMMON = {
  "name": schema.TEXT,
  "job": schema.one_of("lm", "grpo", "evaluate"),
  "seed": schema.integer(0),
  "model": schema.OPEN,
  "init": schema.Choice(
    {
      "random": {},
      "bundled": {},
      "safetensors": {"path": schema.TEXT},
      "checkpoint": {"path": schema.TEXT},
    }
  ),
  "tokenizer": schema.TEXT,
  "template": schema.TEXT,
  "mesh": {
    "data": schema.integer(1),
    "fsdp": schema.integer(1),
    "expert": schema.integer(1),
    "tensor": schema.integer(1),
  },
  "eval_data": schema.EachOf(schema.Choice(None)),
  "eval_sampling": {
    **_SAMPLING,
    "samples_per_question": schema.integer(1),
    "questions": schema.integer(1),
  },
  **_BUDGET,
  "rewards": schema.EachOf(
    schema.Choice(None, {"weight": schema.number()}),
    ("accuracy", "format", "language", "overlong", "repetition"),
  ),
  "grader": _GRADER,
}

_TRAINING = {
  **_COMMON,
  "rounds": schema.integer(1),
  "data": schema.Choice(None),
  "row_tokens": schema.integer(2),
  "rows_per_microbatch": schema.integer(1),
  "optimizer": schema.Choice(
    dict.fromkeys(("adamw", "sgd")),
    {
      "learning_rate": schema.number(0.0),
      "clip_norm": schema.Kind(
        "a number of 0 or more, or None",
        lambda x: x is None or schema.number(0.0).accepts(x),
      ),
      "schedule": schema.named("constant", "linear", "cosine"),
    },
  ),
  "checkpoint_every_rounds": schema.integer(1),
  "keep_checkpoints": schema.integer(1),
  "eval_every_rounds": schema.integer(0),  # 0 never evaluates.
  "router_bias_rate": schema.number(0.0),
  "balance_coef": schema.number(0.0),
}

FIELDS: dict[str, dict[str, Any]] = {
  "lm": {
    **_TRAINING,
    "sequences_per_round": schema.integer(1),
    "loss_on": schema.one_of("all", "response"),
    "weighting": _WEIGHTING,
    "sampling": _SLOTS,
  },
  "grpo": {
    **_TRAINING,
    "questions_per_round": schema.integer(1),
    "samples_per_question": schema.integer(1),
    "updates_per_round": schema.integer(1),
    "sampling": {**_SAMPLING, **_SLOTS},
    "loss": schema.named("clipped_surrogate", "gspo", "cispo"),
    "advantage": schema.named(
      "group_normalized",
      "group_centered",
      "leave_one_out",
      "batch_normalized",
    ),
    "weighting": _WEIGHTING,
    "kl": {
      "name": schema.one_of("k1", "k2", "k3"),
      "coef": schema.number(0.0),
      "where": schema.one_of("loss", "reward"),
      "importance_weighted": schema.BOOL,
    },
    "reference_refresh_rounds": schema.integer(0),  # 0 never refreshes.
    "dynamic_sampling": schema.BOOL,
    "dynamic_sampling_max_waves": schema.integer(1),
    "filter_truncated": schema.BOOL,
    "importance": schema.named(
      "none",
      "token_truncate",
      "token_mask",
      "sequence_truncate",
      "sequence_mask",
    ),
    "routing_replay": schema.BOOL,
  },
  "evaluate": {**_COMMON, "sampling": _SLOTS},
}
