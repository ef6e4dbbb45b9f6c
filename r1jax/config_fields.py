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
  "weights": schema.one_of("as_trained", "spread", "whole"),
}
_BUDGET = {
  "max_prompt_tokens": schema.integer(1),
  "max_response_tokens": schema.integer(1),
  "overlong": schema.one_of("refuse", "drop"),  # Prompts over the budget.
}
_FILTERS = schema.EachOf(
  schema.Choice(None),
  (
    "finished",
    "no_code",
    "no_repeats",
    "one_language",
    "rewarded",
    "searches",
    "short_paragraphs",
  ),
)
_MODES = ("sampled", "greedy", "few_shot", "few_shot_greedy")
_WEIGHTING = schema.named("token_mean", "sequence_mean", "fixed_length")
_REWARDS = {
  "accuracy": {},
  "format": {},
  "harmless": {},
  "language": {"identifier": schema.one_of("script", "lingua")},
  "length": {},
  "overlong": {
    "max_tokens": schema.integer(1),
    "cache_tokens": schema.integer(1),
  },
  "repetition": {"ngram_tokens": schema.integer(1)},
}
_MODEL_REWARD = {
  "floor": schema.number(),  # Where there is nothing to read.
  "clip": schema.number(0.001),  # Of the score.
}
_MODEL_REWARDS = {"helpful": _MODEL_REWARD, "safety": _MODEL_REWARD}
_GRADER = {
  "workers": schema.integer(1),
  "timeout_secs": schema.number(0.001),
  "budget_secs": schema.number(0.001),
  "worker_mem_mb": schema.integer(64),
}

_BASE = {
  "name": schema.TEXT,
  "job": schema.one_of(
    "lm",
    "grpo",
    "distill",
    "on_policy_distill",
    "reward_model",
    "evaluate",
    "generate",
  ),
  "seed": schema.integer(0),
  "model": schema.OPEN,
  "init": schema.Choice(
    {
      "random": {},
      "bundled": {},
      "safetensors": {"path": schema.TEXT},
      "checkpoint": {"path": schema.TEXT},
      "hub": {"path": schema.TEXT},
    }
  ),
  "tokenizer": schema.TEXT,
  "template": schema.Kind(
    "a text, or a dict with one for each kind of question",
    lambda x: (
      isinstance(x, str)
      or (isinstance(x, dict) and all(isinstance(v, str) for v in x.values()))
    ),
  ),
  "mesh": {
    "data": schema.integer(1),
    "fsdp": schema.integer(1),
    "expert": schema.integer(1),
    "tensor": schema.integer(1),
  },
  "kernels": {
    "attention": schema.one_of("auto", "mask"),
    "experts": schema.one_of("auto", "dense", "ragged", "scanned", "megablox"),
  },
}

_ASKED = {
  **_SAMPLING,
  "samples_per_question": schema.integer(1),
  "questions": schema.integer(1),  # At most, of each suite.
}
_GRADED = {
  **_BASE,
  "eval_data": schema.EachOf(schema.Choice(None, {"suite": schema.TEXT})),
  **_BUDGET,
  "rewards": schema.EachOf(
    schema.Choice(_REWARDS, {"weight": schema.number()}), tuple(_REWARDS)
  ),
  "grader": _GRADER,
}
_COMMON = {**_GRADED, "eval_sampling": _ASKED}

_UPDATES = {
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

_TRAINING = {**_COMMON, **_UPDATES}

_DIVERGENCES = {
  "forward_kl": {},
  "reverse_kl": {},
  "jensen_shannon": {"beta": schema.number(0.001, 0.999)},
}
_TEACHER = schema.Choice(
  {
    "bundled": {},
    "safetensors": {"path": schema.TEXT},
    "checkpoint": {"path": schema.TEXT},
    "hub": {"path": schema.TEXT},
  },
  {"model": schema.OPEN, "tokenizer": schema.TEXT},
)

FIELDS: dict[str, dict[str, Any]] = {
  "lm": {
    **_TRAINING,
    "rounds": schema.integer(0),  # 0 leaves it to epochs.
    "epochs": schema.number(0.0),  # Passes over finite data; 0 for rounds.
    "sequences_per_round": schema.integer(1),
    "loss_on": schema.one_of("all", "response"),
    "weighting": _WEIGHTING,
    "mtp_coef": schema.number(0.0),  # Of multi-token prediction's loss.
    "sampling": _SLOTS,
  },
  "grpo": {
    **_TRAINING,
    "rounds": schema.integer(1),
    "questions_per_round": schema.integer(1),
    "samples_per_question": schema.integer(1),
    "updates_per_round": schema.integer(1),
    "rewards": schema.EachOf(
      schema.Choice(_REWARDS | _MODEL_REWARDS, {"weight": schema.number()}),
      (*_REWARDS, *_MODEL_REWARDS),
    ),
    "rewards_by_kind": schema.OPEN,  # Empty: all take all.
    "reward_models": schema.EachOf(
      schema.Choice({k: {"path": schema.TEXT} for k in _MODEL_REWARDS}),
      tuple(_MODEL_REWARDS),
    ),
    "general_from_round": schema.integer(0),
    "general_frac": schema.number(0.0, 1.0),  # Of the questions from then on.
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
  "distill": {
    **_TRAINING,
    "teacher": _TEACHER,
    "divergence": schema.Choice(
      _DIVERGENCES, {"temperature": schema.number(0.01)}
    ),
    "rounds": schema.integer(0),
    "epochs": schema.number(0.0),
    "sequences_per_round": schema.integer(1),
    "weighting": _WEIGHTING,
    "sampling": _SLOTS,
  },
  "on_policy_distill": {
    **_TRAINING,
    "teacher": _TEACHER,
    "divergence": schema.Choice(
      {**_DIVERGENCES, "sampled_reverse_kl": {}},
      {"temperature": schema.number(0.01)},
    ),
    "rounds": schema.integer(1),
    "questions_per_round": schema.integer(1),
    "samples_per_question": schema.integer(1),
    "weighting": _WEIGHTING,
    "sampling": {**_SAMPLING, **_SLOTS},
  },
  "reward_model": {
    **_BASE,
    **_UPDATES,
    "template": schema.TEXT,
    "loss": schema.named("pairwise", "pointwise"),
    "score_on": schema.one_of("summary", "response"),
    "epochs": schema.number(0.001),
    "records_per_round": schema.integer(1),
    "max_tokens": schema.integer(2),  # Of a prompt and its response.
    "overlong": schema.one_of("refuse", "drop"),
    "eval_records": schema.EachOf(schema.Choice(None, {"suite": schema.TEXT})),
  },
  "evaluate": {
    **_GRADED,
    "sampling": _SLOTS,
    "eval_modes": schema.EachOf(
      schema.Choice(
        {mode: {} for mode in _MODES}, {**_ASKED, "shots": schema.integer(0)}
      ),
      _MODES,
    ),
    "readable": _FILTERS,
  },
  "generate": {
    **_COMMON,
    "data": schema.Choice(None),
    "questions_per_round": schema.integer(1),
    "samples_per_question": schema.integer(1),
    "sampling": {**_SAMPLING, **_SLOTS},
    "filters": _FILTERS,
    "judge": schema.named("none", "oracle", "http"),
    "refine": schema.named("as_it_is", "miniature"),
    "max_kept_per_question": schema.integer(1),
    "max_other_frac": schema.number(0.0, 1.0),
    "other_data": schema.named("none", "miniature", "file"),
  },
  # The whole config of each stage is checked as one of its job.
  "pipeline": {
    "name": schema.TEXT,
    "job": schema.one_of("pipeline"),
    "seed": schema.integer(0),
    "stages": schema.EachOf(
      {
        "stage": schema.TEXT,
        "config": schema.OPEN,
        "init": schema.OPTIONAL_TEXT,
        "inputs": schema.TEXTS,
      }
    ),
  },
}
