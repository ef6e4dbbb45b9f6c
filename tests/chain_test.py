import json
import os
import pathlib
import tempfile

import ml_collections
import pytest
from absl.testing import absltest, parameterized

from configs import r1
from r1jax import chain, config_check, pipeline
from tests import runs


def stage(name, job="lm", init=None, **inputs):
  config = ml_collections.ConfigDict(
    dict(job=job, seed=0, init=dict(name="random"), data=dict(path="x"))
  )
  inputs = {k.replace("__", "."): v for k, v in inputs.items()}
  return dict(stage=name, config=config, init=init, inputs=inputs)


class ProblemsTest(parameterized.TestCase):
  def test_a_good_chain_has_none(self):
    stages = [
      stage("a"),
      stage("b", init="a"),
      stage("c", data__path="a/x.jsonl", init="b"),
    ]
    self.assertEqual(list(chain.problems(stages)), [])

  @parameterized.parameters(
    ([], "config.stages is empty"),
    ([stage("a"), stage("a")], "Stage a: there are two of this name"),
    ([stage("../a")], "Stage '../a': the name is a directory"),
    ([stage("a", init="b"), stage("b")], "takes b, which is a later stage"),
    ([stage("a", init="a")], "takes a, which is a later stage"),
    (
      [stage("a"), stage("b", init="c")],
      "Stage b: it takes c, which is unknown. Before it: a.",
    ),
    ([stage("a", data__path="b/x")], "takes b/x, which is unknown. .*none"),
    (
      [stage("a"), stage("b", data__path="a/../x")],
      "Stage b: 'a/../x' is no STAGE/file",
    ),
    ([stage("a"), stage("b", data__path="a/")], "'a/' is no STAGE/file"),
    (
      [stage("a", "generate"), stage("b", init="a")],
      "Stage b: init is a, whose job generate makes no policy",
    ),
    ([stage("a", "pipeline")], "Stage a: a chain is no stage"),
  )
  def test_problem(self, stages, message):
    found = list(chain.problems(stages))
    self.assertLen(found, 1)
    self.assertRegex(found[0], message)


class ConfigTest(parameterized.TestCase):
  def test_paths_and_seed_are_filled(self):
    made = chain.config_of(
      stage("b", init="a", data__path="c/x.jsonl"), "/runs", 5
    )
    self.assertEqual(
      made.init.to_dict(), dict(name="checkpoint", path="/runs/a")
    )
    self.assertEqual((made.data.path, made.seed), ("/runs/c/x.jsonl", 5))
    self.assertTrue(made.is_locked)

  def test_the_stage_itself_stays_as_it_is(self):
    original = stage("b", init="a", data__path="c/x.jsonl")
    before = original["config"].to_json()
    chain.config_of(original, "/runs", 5)
    self.assertEqual(original["config"].to_json(), before)

  def test_without_init_the_configs_own_stays(self):
    made = chain.config_of(stage("b"), "/runs", 0)
    self.assertEqual(made.init.name, "random")

  @parameterized.parameters("dat__path", "data__pat", "job__path", "seed__a")
  def test_a_field_that_is_not_there_is_named(self, field):
    with self.assertRaisesRegex(
      ValueError, f"config.{field.replace('__', '.')} is unknown, but inputs"
    ):
      chain.config_of(stage("b", **{field: "c/x"}), "/runs", 0)

  def test_made_from(self):
    stages = [
      stage("a"),
      stage("b", init="a"),
      stage("c"),
      stage("d", data__path="b/x", init="c"),
    ]
    self.assertEqual(chain.made_from(stages, "a"), ["b", "d"])
    self.assertEqual(chain.made_from(stages, "c"), ["d"])


class R1Test(parameterized.TestCase):
  def test_every_stages_problems_come_at_once(self):
    config = r1.get_config("smoke").copy_and_resolve_references()
    for name in ("zero", "sft"):
      (found,) = [s for s in config.stages if s["stage"] == name]
      with found["config"].unlocked():
        found["config"].row_tokens = 1
    with self.assertRaises(ValueError) as raised:
      config_check.check(config)
    lines = str(raised.exception).split("\n")
    self.assertLen(lines, 2)
    self.assertRegex(lines[0], "^Stage zero: config.row_tokens is 1, but")
    self.assertRegex(lines[1], "^Stage sft: config.row_tokens is 1, but")

  def test_a_part_has_what_it_needs(self):
    names = [s["stage"] for s in r1.get_config("stages=traces+sft").stages]
    self.assertEqual(
      names,
      [n for n, *_ in r1.STAGES if n in names],
    )
    self.assertContainsSubset(
      ["zero", "traces", "cold_start", "reasoning", "rejection", "sft"], names
    )
    self.assertNotIn("reward_safety", names)
    with self.assertRaisesRegex(ValueError, "config.stages has 'zer'. Known"):
      r1.get_config("stages=zer")

  def test_overrides(self):
    config = r1.get_config("smoke,seed=3,zero.rounds=7")
    self.assertEqual({s["config"].seed for s in config.stages}, {3})
    self.assertEqual(config.stages[0]["config"].rounds, 7)
    for arg in ("zero.round=7", "rounds=7", "zer.rounds=7"):
      with self.assertRaisesRegex(ValueError, "is unknown"):
        r1.get_config(arg)


def tiny():
  """A chain of jobs of a second each."""
  base = runs.config("pretrain", rounds=4, sequences_per_round=2)
  zero = runs.config("zero", rounds=4)
  stages = [
    ("base", base, None),
    ("zero", zero, "base"),
    ("again", runs.config("zero", rounds=3, updates_per_round=2), "zero"),
    ("measured", runs.config("evaluate"), "again"),
  ]
  config = ml_collections.ConfigDict(dict(name="t", job="pipeline", seed=0))
  config.stages = [
    dict(stage=name, config=each, init=init, inputs={})
    for name, each, init in stages
  ]
  return config.lock()


class ChainTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.directory = self.enterContext(tempfile.TemporaryDirectory())

  @pytest.mark.slow
  def test_killed_at_random_moments(self):
    code = (
      "import sys\n"
      "from tests import chain_test, kill_chain\n"
      "want, broken, hit = kill_chain.compare(\n"
      "  chain_test.tiny(), sys.argv[1], 10, 0)\n"
      "assert broken and all(got == want for got in broken), (want, broken)\n"
      "assert len(want) == 4 and len(hit) == 10, (want, hit)\n"
    )
    runs.check(code, self.directory)

  @pytest.mark.slow
  def test_smoke(self):
    workdir = os.path.join(self.directory, "r1")
    child = runs.main("--config=configs/r1.py:smoke", f"--workdir={workdir}")
    _, err = child.communicate(timeout=600)
    self.assertEqual(child.returncode, 0, err)
    records = pipeline.read(workdir)
    self.assertEqual([*records], [name for name, *_ in r1.STAGES])
    for name, record in records.items():
      self.assertNotEmpty(record["gave"], name)
      self.assertTrue(pathlib.Path(workdir, name, "report.html").exists(), name)
    self.assertTrue(pathlib.Path(workdir, "report.html").exists())
    summary = json.loads(pathlib.Path(workdir, "summary.json").read_text())
    for name, scores in summary["evaluations"].items():
      self.assertIn("countdown/sampled/pass@1", scores, name)


if __name__ == "__main__":
  absltest.main()
