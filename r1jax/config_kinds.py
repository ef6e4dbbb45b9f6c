"""Rules of config_check on what questions of each kind take; no jax."""

from collections.abc import Iterator
from typing import Any

GENERAL = ("helpful", "safety")  # Also the names of their reward models.
KINDS = ("reasoning", *GENERAL)


def rewards_fit_kinds(config: dict[str, Any]) -> Iterator[str]:
  """config.rewards_by_kind: names that exist, models on their own kind."""
  table, rewards = config["rewards_by_kind"], config["rewards"]
  for kind, names in table.items():
    field = f"config.rewards_by_kind.{kind}"
    if kind not in KINDS:
      yield f"{field} is unknown. Known: {', '.join(KINDS)}."
      continue
    for name in names:
      if name not in rewards:
        known = ", ".join(rewards)
        yield f"{field} has {name!r}, but config.rewards has: {known}."
      elif name in GENERAL and name != kind:
        yield (
          f"{field} has {name!r}, but a reward model rewards the general "
          "prompts of its own set alone. Remove it."
        )
  if not table:
    return
  named = {name for names in table.values() for name in names}
  for name in rewards:
    if name not in named:
      yield (
        f"config.rewards.{name} is in none of config.rewards_by_kind. Add it "
        "to a kind, or delete it."
      )


def reward_models_are_used(config: dict[str, Any]) -> Iterator[str]:
  """A model for each reward by one, and its prompts in some round."""
  models, rewards = config["reward_models"], config["rewards"]
  for name in GENERAL:
    if (name in models) != (name in rewards):
      has, lacks = "reward_models", "rewards"
      if name in rewards:
        has, lacks = lacks, has
      yield (
        f"config.{has} has {name!r}, but config.{lacks} has not. Set both or "
        "neither."
      )
    elif name in models and name not in config["rewards_by_kind"]:
      yield (
        f"config.reward_models has {name!r}, but config.rewards_by_kind does "
        "not say what those prompts take. Add it."
      )
  if models and config["advantage"]["name"] == "batch_normalized":
    yield (
      "config.advantage.name batch_normalized compares responses to questions "
      "of several kinds, whose rewards differ. Choose one that compares the "
      "responses to one question."
    )


def general_prompts_come(config: dict[str, Any]) -> Iterator[str]:
  """General prompts from some round on if there are models, and only then."""
  share, start = config["general_frac"], config["general_from_round"]
  n, rounds = config["questions_per_round"], config["rounds"]
  if bool(share) != bool(config["reward_models"]):
    names = ", ".join(config["reward_models"]) or "none"
    yield (
      f"config.general_frac is {share}, but config.reward_models are: {names}. "
      "General prompts and reward models need each other: set both or neither."
    )
  if share and not round(share * n):
    yield (
      f"config.general_frac is {share}, which of config.questions_per_round "
      f"{n} is not one question. Raise it."
    )
  if round(share * n) == n:
    yield (
      f"config.general_frac is {share}, which leaves no reasoning question of "
      f"config.questions_per_round {n}. Lower it."
    )
  if share and start >= rounds:
    yield (
      f"config.general_from_round is {start}, but the last of config.rounds "
      f"is {rounds - 1}. Lower it."
    )
  if start and not share:
    yield (
      f"config.general_from_round is {start}, but config.general_frac 0 leaves "
      "no general prompts. Set it to 0."
    )


RULES = [rewards_fit_kinds, reward_models_are_used, general_prompts_come]
