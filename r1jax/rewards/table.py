"""The rewards that a config can name.

A reward is a function (question, response, *, arguments) -> Reward of plain
Python and one line here. It runs in a worker process (`rewards.worker`), may
raise, and must not keep state from one response to the next.
"""

from r1jax.rewards import accuracy, format, language, length

REWARDS = {
  "accuracy": accuracy.accuracy,
  "format": format.format_reward,
  "language": language.consistency,
  "overlong": length.overlong,
  "repetition": length.repetition,
}
