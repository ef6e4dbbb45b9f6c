"""The rewards that a config can name.

A reward is a function (question, response, *, arguments) -> Reward of plain
Python and one line in REWARDS. It runs in a worker process
(`rewards.worker`), may raise, and must not keep state from one response to
the next.

A group reward compares the responses to one question: a function
(responses, graded, *, arguments) -> one Reward for each response, where
`graded` holds the rewards of each by name, and one line in GROUP_REWARDS.
It runs in the trainer, once all responses of a rollout are graded, so it
must be quick; what it raises counts as failed.
"""

from r1jax.rewards import (
  accuracy,
  format,
  language,
  length,
  verify_general,
)

REWARDS = {
  "accuracy": accuracy.accuracy,
  "format": format.format_reward,
  "harmless": verify_general.harmless,
  "language": language.consistency,
  "overlong": length.overlong,
  "repetition": length.repetition,
}
GROUP_REWARDS = {
  "length": length.group_length,
}
# Given by the reward model of the same name (config.reward_models) to the
# general prompts of its set.
MODEL_REWARDS = ("helpful", "safety")
# Rewards that read Response.ids, which are sent to the workers for these
# alone: for a response of 32,768 tokens they cost 3.5 ms, the text 0.2 ms.
NEED_IDS = ("repetition",)
