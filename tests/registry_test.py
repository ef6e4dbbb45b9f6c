from absl.testing import absltest, parameterized

from r1jax import registry


def fixed():
  return "fixed"


def scaled(value, *, by, plus=0):
  return value * by + plus


TABLE = {"fixed": fixed, "scaled": scaled}


class RegistryTest(parameterized.TestCase):
  def test_binds_the_arguments(self):
    choice = {"name": "scaled", "by": 3}
    self.assertEqual(registry.make(TABLE, choice, "config.x")(2), 6)
    self.assertEqual(choice, {"name": "scaled", "by": 3})
    choice = {"name": "scaled", "by": 3, "plus": 1}
    self.assertEqual(registry.make(TABLE, choice, "config.x")(2), 7)
    self.assertEqual(registry.make(TABLE, {"name": "fixed"}, "x")(), "fixed")

  @parameterized.parameters(
    ({}, "config.x.name is None. Known: fixed, scaled."),
    ({"name": "scald"}, "config.x.name is 'scald'. .* Did you mean scaled?"),
    (
      {"name": "scaled", "by": 1, "pus": 1},
      "config.x.pus is unknown. Known: by, plus.",
    ),
    # A positional argument is the caller's, not the config's.
    ({"name": "scaled", "by": 1, "value": 1}, "config.x.value is unknown"),
    ({"name": "fixed", "by": 1}, "config.x.by is unknown. Known: none."),
    (
      {"name": "scaled", "plus": 1},
      "config.x.by is missing. Set it. Known: by, plus.",
    ),
  )
  def test_names_what_is_wrong(self, choice, message):
    with self.assertRaisesRegex(ValueError, message) as raised:
      registry.make(TABLE, choice, "config.x")
    self.assertNotIn("\n", str(raised.exception))


if __name__ == "__main__":
  absltest.main()
