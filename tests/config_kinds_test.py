import ml_collections
from absl.testing import absltest, parameterized

from configs import alignment, zero
from r1jax import config_check
from tests import config_check_test

MODEL = {"weight": 1.0, "floor": 0.0, "clip": 2.0}


def changed(get_config, changes):
  """The problems of a config with fields set, or deleted where None."""
  config = get_config().to_dict()
  for field, value in changes.items():
    *parents, name = field.split(".")
    holder = config
    for parent in parents:
      holder = holder[parent]
    if value is None:
      del holder[name]
    else:
      holder[name] = value
  return config_check_test.problems(ml_collections.ConfigDict(config))


class KindsTest(parameterized.TestCase):
  def test_the_configs_pass(self):
    for config in (alignment, zero):
      config_check.check(config.get_config())

  @parameterized.parameters(
    (
      {"rewards_by_kind.reasoning": ["accuracy", "language", "safety"]},
      "reasoning has 'safety', but a reward model rewards the general",
    ),
    (
      {"rewards_by_kind.safety": ["safety", "helpful"]},
      "safety has 'helpful', but a reward model .* its own set alone",
    ),
    ({"rewards_by_kind.helpful": ["helpful", "x"]}, "'x', but config.rewards"),
    ({"rewards_by_kind.helpfull": []}, "Known: reasoning, helpful, safety"),
    (
      {
        "rewards.repetition": {"weight": 1.0, "ngram_tokens": 3},
      },
      "rewards.repetition is in none of",
    ),
    ({"reward_models.safety": None}, "rewards has 'safety', but .*models has"),
    (
      {"rewards.safety": None, "rewards_by_kind.safety": ["format"]},
      "reward_models has 'safety', but config.rewards has not",
    ),
    ({"reward_models.safety": {"path": ""}}, "safety.path is '', but must be"),
    ({"reward_models.safety": {}}, "reward_models.safety.path is missing"),
    (
      {"rewards.safety": {"weight": 1.0, "clip": 2.0}},
      "safety.floor is missing",
    ),
    ({"advantage.name": "batch_normalized"}, "of several kinds"),
    ({"general_frac": 0.0, "general_from_round": 0}, "frac is 0.0, but .*need"),
    ({"general_frac": 0.01}, "is not one question. Raise it"),
    ({"general_frac": 1.0}, "leaves no reasoning question"),
    ({"general_from_round": 99}, "the last of config.rounds is"),
    ({"template": {"reasoning": 1}}, "template is .*a dict with one for each"),
  )
  def test_a_contradiction_is_named(self, changes, message):
    (line,) = changed(alignment.get_config, changes)
    self.assertRegex(line, message)

  @parameterized.parameters(
    ({"general_from_round": 5}, "frac 0 leaves no general prompts"),
    ({"general_frac": 0.5}, "config.reward_models are: none"),
    ({"rewards.helpful": MODEL}, "rewards has 'helpful', but config.reward_m"),
  )
  def test_without_models(self, changes, message):
    (line,) = changed(zero.get_config, changes)
    self.assertRegex(line, message)

  def test_a_kind_must_be_in_the_table(self):
    table = {"reasoning": ["accuracy", "format", "language"]}
    table["helpful"] = ["helpful", "format", "language"]
    lines = changed(alignment.get_config, {"rewards_by_kind": table})
    self.assertRegex("".join(lines), "does not say what those prompts take")

  def test_from_the_first_step_is_allowed(self):
    config = alignment.get_config("general_from_round=0")
    config_check.check(config)
    self.assertEqual(config.general_from_round, 0)


if __name__ == "__main__":
  absltest.main()
