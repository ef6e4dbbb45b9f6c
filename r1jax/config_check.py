"""Values of a config that are wrong, or contradict each other.

`check` runs before any device is touched and imports no jax. A new
contradiction is one function in RULES.
"""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections

from r1jax import chain, config_kinds, registry
from r1jax import config_schema as schema
from r1jax.config_fields import FIELDS

# The shortest response that can be right: four tags, a thought, an answer
# of one token, with an end-of-sequence.
MIN_RESPONSE_TOKENS = 8


def check(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError with every problem of a config, one a line.

  Unknown and missing fields, values of a wrong type or out of range, names
  that no table has, and values that contradict each other.
  """
  found = _problems(schema.plain(config))
  if found:
    raise ValueError("\n".join(found))


def _problems(config: dict[str, Any]) -> list[str]:
  job = config.get("job")
  if job not in FIELDS:
    registry.lookup(FIELDS, job, "config.job")
  found = list(schema.problems(config, FIELDS[job], "config"))
  return found or [p for rule in RULES[job] for p in rule(config)]


def paths(job: str) -> list[str]:
  """Dotted names of the fields of a job; a choice counts as one field."""
  return list(schema.paths(FIELDS[job]))


def _mesh_divides_rows(config: dict[str, Any]) -> Iterator[str]:
  mesh = config["mesh"]
  shards = mesh["data"] * mesh["fsdp"] * mesh["expert"]
  rows = config["rows_per_microbatch"]
  if rows % shards:
    yield (
      f"config.rows_per_microbatch is {rows}, which data * fsdp * "
      f"expert of config.mesh = {shards} does not divide. Set it to a multiple."
    )


def _evaluates_something(config: dict[str, Any]) -> Iterator[str]:
  if config["eval_data"]:
    return
  if config["job"] == "evaluate":
    yield "config.eval_data is empty. Name a data set to evaluate on."
  elif config["eval_every_rounds"]:
    yield (
      f"config.eval_every_rounds is {config['eval_every_rounds']}, but "
      "config.eval_data is empty. Set it to 0, or name a data set."
    )


def _evaluation_has_accuracy(config: dict[str, Any]) -> Iterator[str]:
  evaluates = config["job"] == "evaluate" or config["eval_every_rounds"]
  if evaluates and "accuracy" not in config["rewards"]:
    yield (
      "config.rewards has no accuracy, which evaluation measures. Add it, "
      "with weight 0 if nothing is to be earned by it."
    )


def _greedy_once(config: dict[str, Any]) -> Iterator[str]:
  if "eval_modes" in config:
    modes = {f"eval_modes.{k}": v for k, v in config["eval_modes"].items()}
  else:
    modes = {"eval_sampling": config["eval_sampling"]}
  for name, sampling in modes.items():
    samples = sampling["samples_per_question"]
    if sampling["temperature"] == 0 and samples > 1:
      yield (
        f"config.{name}.samples_per_question is {samples} at "
        "temperature 0, where all are the same. Set it to 1."
      )


def _shots_are_there(config: dict[str, Any]) -> Iterator[str]:
  if not config["eval_modes"]:
    yield "config.eval_modes is empty. Give it a way of asking, as sampled."
  shots = [k for k, mode in config["eval_modes"].items() if mode["shots"]]
  for i, suite in enumerate(config["eval_data"]):
    if shots and "shots_from" not in suite:
      yield (
        f"config.eval_modes.{shots[0]} has shots, but config.eval_data[{i}] "
        "has no shots_from, the data set to take them from. Name one."
      )


def _group_has_two(config: dict[str, Any]) -> Iterator[str]:
  name = config["advantage"]["name"]
  if config["samples_per_question"] == 1 and name != "batch_normalized":
    yield (
      f"config.samples_per_question is 1, but config.advantage.name {name} "
      "compares the responses to one question, so every advantage would be "
      "0. Set it to 2 or more."
    )


def _room_for_the_tags(config: dict[str, Any]) -> Iterator[str]:
  tokens = config["max_response_tokens"]
  if tokens < MIN_RESPONSE_TOKENS:
    yield (
      f"config.max_response_tokens is {tokens}, but the think and answer tags "
      f"alone need {MIN_RESPONSE_TOKENS}. Set it to that or more."
    )


def _rows_hold_a_rollout(config: dict[str, Any]) -> Iterator[str]:
  prompt, response = config["max_prompt_tokens"], config["max_response_tokens"]
  if prompt + response > config["row_tokens"]:
    yield (
      f"config.row_tokens is {config['row_tokens']}, too short for "
      f"config.max_prompt_tokens + config.max_response_tokens = {prompt} + "
      f"{response}. Set it to {prompt + response} or more."
    )


def _updates_divide_responses(config: dict[str, Any]) -> Iterator[str]:
  responses = config["questions_per_round"] * config["samples_per_question"]
  updates = config["updates_per_round"]
  if responses % updates:
    yield (
      f"config.updates_per_round is {updates}, which does not divide the "
      f"config.questions_per_round * config.samples_per_question = "
      f"{responses} responses of a round. Set it to a divisor."
    )


def _samples_the_policy(config: dict[str, Any]) -> Iterator[str]:
  """The trainer's logprobs are those of the whole softmax at the sampling
  temperature: whatever cuts it makes the rollout another policy's."""
  sampling = config["sampling"]
  why = "for the rollouts to be samples of the policy that is trained"
  if sampling["temperature"] == 0:
    yield (
      "config.sampling.temperature is 0, but must be above 0 for responses "
      "of a group to differ. Set it to 1.0."
    )
  if sampling["top_p"] < 1:
    yield (
      f"config.sampling.top_p is {sampling['top_p']}, but must be 1.0 {why}."
    )
  if sampling["top_k"] > 0:
    yield f"config.sampling.top_k is {sampling['top_k']}, but must be 0 {why}."


def _samples_at_one(config: dict[str, Any]) -> Iterator[str]:
  temperature = config["divergence"]["temperature"]
  if config["divergence"]["name"] == "sampled_reverse_kl" and temperature != 1:
    yield (
      f"config.divergence.temperature is {temperature}, but "
      "sampled_reverse_kl has the logits as they are. Set it to 1.0."
    )


def _kl_is_used(config: dict[str, Any]) -> Iterator[str]:
  kl, refresh = config["kl"], config["reference_refresh_rounds"]
  if kl["coef"] == 0 and refresh:
    yield (
      f"config.reference_refresh_rounds is {refresh}, but config.kl.coef 0 "
      "leaves no reference to refresh. Set it to 0."
    )
  if kl["where"] == "reward" and kl["importance_weighted"]:
    yield (
      "config.kl.importance_weighted is True, but config.kl.where 'reward' "
      "takes the KL of the policy that sampled, whose weight is 1. Set it "
      "to False."
    )


def _waves_are_used(config: dict[str, Any]) -> Iterator[str]:
  waves = config["dynamic_sampling_max_waves"]
  if config["dynamic_sampling"] and waves == 1:
    yield (
      "config.dynamic_sampling is True, but config.dynamic_sampling_max_waves "
      "1 leaves no second wave. Set it to 2 or more."
    )
  if not config["dynamic_sampling"] and waves > 1:
    yield (
      f"config.dynamic_sampling_max_waves is {waves}, but "
      "config.dynamic_sampling is False. Set it to 1."
    )


def _rewards_count(config: dict[str, Any]) -> Iterator[str]:
  if not any(reward["weight"] for reward in config["rewards"].values()):
    yield (
      "config.rewards has no reward with a weight other than 0, so there is "
      "nothing to learn from. Add one."
    )


def _identifier_is_installed(config: dict[str, Any]) -> Iterator[str]:
  language = config["rewards"].get("language")
  if not language or language["identifier"] == "script":
    return
  if importlib.util.find_spec("lingua") is None:
    yield (
      "config.rewards.language.identifier is 'lingua', which is not "
      "installed. Install r1jax[language], or set it to 'script', which "
      "takes all languages of a script, such as English and French, for one."
    )


def _length_compares_right_ones(config: dict[str, Any]) -> Iterator[str]:
  if "length" not in config["rewards"]:
    return
  if "accuracy" not in config["rewards"]:
    yield (
      "config.rewards.length needs accuracy, to tell right responses from "
      "wrong ones. Add it, with weight 0 if nothing is to be earned by it."
    )
  if config["samples_per_question"] == 1:
    yield (
      "config.rewards.length compares the responses to one question, but "
      "config.samples_per_question is 1. Set it to 2 or more."
    )


def _overlong_is_reached(config: dict[str, Any]) -> Iterator[str]:
  overlong = config["rewards"].get("overlong")
  if not overlong:
    return
  most, cache = overlong["max_tokens"], overlong["cache_tokens"]
  if cache > most:
    yield (
      f"config.rewards.overlong.cache_tokens is {cache}, more than "
      f"max_tokens {most}. Set it to that or less."
    )
  tokens = config["max_response_tokens"]
  if most - cache >= tokens:
    yield (
      f"config.rewards.overlong begins after max_tokens - cache_tokens = "
      f"{most - cache}, which no response of config.max_response_tokens "
      f"{tokens} comes to. Set max_tokens to {tokens}."
    )


def _experts_to_replay(config: dict[str, Any]) -> Iterator[str]:
  if config["routing_replay"] and not config["model"].get("num_experts"):
    yield (
      "config.routing_replay is True, but config.model has no experts. Set "
      "it to False."
    )


def _rounds_or_epochs(config: dict[str, Any]) -> Iterator[str]:
  rounds, epochs = config["rounds"], config["epochs"]
  if bool(rounds) == bool(epochs):
    yield (
      f"config.rounds is {rounds} and config.epochs is {epochs}. Set one of "
      "them above 0 and the other to 0."
    )
  if epochs and config["data"]["name"] != "responses":
    yield (
      f"config.epochs is {epochs}, but config.data {config['data']['name']} "
      "has no end. Set config.rounds instead."
    )


def _mtp_to_train(config: dict[str, Any]) -> Iterator[str]:
  coef = config["mtp_coef"]
  if coef and not config["model"].get("num_mtp_layers"):
    yield (
      f"config.mtp_coef is {coef}, but config.model.num_mtp_layers is 0. Set "
      "it to 0.0, or num_mtp_layers to 1."
    )


def _records_are_held_out(config: dict[str, Any]) -> Iterator[str]:
  every, suites = config["eval_every_rounds"], config["eval_records"]
  if every and not suites:
    yield (
      f"config.eval_every_rounds is {every}, but config.eval_records is "
      "empty. Set it to 0, or name a data set."
    )


def _rows_hold_a_record(config: dict[str, Any]) -> Iterator[str]:
  parts = 2 if config["loss"]["name"] == "pairwise" else 1
  least = parts * config["max_tokens"]
  if config["row_tokens"] < least:
    yield (
      f"config.row_tokens is {config['row_tokens']}, too short for {parts} x "
      f"config.max_tokens {config['max_tokens']} of a record. Set it to "
      f"{least} or more."
    )


def _stages_are_whole(config: dict[str, Any]) -> Iterator[str]:
  yield from chain.problems(config["stages"])
  for stage in config["stages"]:
    try:
      filled = chain.config_of(stage, "WORKDIR", config["seed"])
      found = _problems(schema.plain(filled))
    except ValueError as error:
      found = [str(error)]
    yield from (f"Stage {stage['stage']}: {problem}" for problem in found)


_EVALUATION_RULES = [
  _identifier_is_installed,
  _overlong_is_reached,
  _evaluates_something,
  _evaluation_has_accuracy,
  _greedy_once,
]
RULES: dict[str, list[Callable[[dict[str, Any]], Iterator[str]]]] = {
  "lm": [
    _rounds_or_epochs,
    _mesh_divides_rows,
    _mtp_to_train,
    *_EVALUATION_RULES,
  ],
  "distill": [_rounds_or_epochs, _mesh_divides_rows, *_EVALUATION_RULES],
  "on_policy_distill": [
    _mesh_divides_rows,
    _rows_hold_a_rollout,
    _samples_at_one,
    _samples_the_policy,
    *_EVALUATION_RULES,
  ],
  "grpo": [
    _mesh_divides_rows,
    *_EVALUATION_RULES,
    _group_has_two,
    _room_for_the_tags,
    _rows_hold_a_rollout,
    _updates_divide_responses,
    _samples_the_policy,
    _kl_is_used,
    _waves_are_used,
    _rewards_count,
    _length_compares_right_ones,
    _experts_to_replay,
    *config_kinds.RULES,
  ],
  "reward_model": [
    _mesh_divides_rows,
    _records_are_held_out,
    _rows_hold_a_record,
  ],
  "evaluate": [*_EVALUATION_RULES, _shots_are_there, _room_for_the_tags],
  "generate": [_room_for_the_tags],
  "pipeline": [_stages_are_whole],
}
