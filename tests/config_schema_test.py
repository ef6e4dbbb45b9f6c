from absl.testing import absltest, parameterized

from r1jax import config_schema as schema

FIELDS = {
  "seed": schema.integer(0),
  "mesh": {"data": schema.integer(1)},
  "init": schema.Choice({"random": {}, "file": {"path": schema.TEXT}}),
  "loss": schema.Choice({"cispo": None}, {"clip": schema.number(0.0)}),
  "rewards": schema.EachOf(
    schema.Choice(None, {"weight": schema.number()}), ("accuracy",)
  ),
  "suites": schema.EachOf(schema.Choice(None)),
}
GOOD = {
  "seed": 1,
  "mesh": {"data": 1},
  "init": {"name": "file", "path": "x"},
  "loss": {"name": "cispo", "clip": 1, "anything": "checked elsewhere"},
  "rewards": {"accuracy": {"weight": 1.0, "more": 2}},
  "suites": [{"name": "any", "more": 1}],
}


class ConfigSchemaTest(parameterized.TestCase):
  def test_good(self):
    self.assertEqual(list(schema.problems(GOOD, FIELDS, "config")), [])

  @parameterized.parameters(
    ({"seed": True}, "config.seed is True, but must be an integer"),
    ({"mesh": {}}, "config.mesh.data is missing. Set it to an integer of 1"),
    ({"mesh": {"data": 1, "date": 1}}, "Did you mean config.mesh.data?"),
    ({"zzz": 1}, "config.zzz is unknown. Delete it. Known: init, loss, mesh"),
    ({"init": {"name": "random", "path": "x"}}, "config.init.path is unknown"),
    ({"init": {"name": "file"}}, "config.init.path is missing"),
    ({"init": {}}, "config.init.name is None"),
    ({"init": "file"}, "config.init is 'file', but must be a dict."),
    ({"loss": {"name": "cispo"}}, "config.loss.clip is missing"),
    ({"loss": {"name": "cispo", "clip": -1}}, "config.loss.clip is -1"),
    ({"rewards": [1]}, "config.rewards is .1., but must be a dict."),
    (
      {"rewards": {"accuracy": {}}},
      "config.rewards.accuracy.weight is missing",
    ),
    ({"suites": {}}, "config.suites is {}, but must be a list."),
    ({"suites": [{"name": "a"}, 3]}, r"config.suites\[1\] is 3"),
  )
  def test_one_problem(self, changes, message):
    (line,) = schema.problems({**GOOD, **changes}, FIELDS, "config")
    self.assertRegex(line, message)

  @parameterized.parameters(float("nan"), float("inf"), "1", None, True)
  def test_no_number(self, value):
    self.assertFalse(schema.number().accepts(value))

  def test_one_of_tells_true_from_one(self):
    self.assertFalse(schema.one_of(1, 2).accepts(True))
    self.assertTrue(schema.one_of(True, False).accepts(True))

  def test_paths(self):
    self.assertEqual(
      list(schema.paths(FIELDS)),
      ["seed", "mesh.data", "init", "loss", "rewards", "suites"],
    )


if __name__ == "__main__":
  absltest.main()
