import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from configs import sft, zero
from r1jax import (
  objective,
  plan,
  plan_cost,
  plan_programs,
  plan_read,
  plan_table,
  plan_topology,
)
from r1jax.models import config as model_config
from r1jax.models import layout

ROOT = pathlib.Path(__file__).resolve().parent.parent
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
TINY = "configs/zero.py:tiny,mesh.fsdp=2,mesh.expert=2,init.name=random"


def planned(*flags, config=TINY):
  """A finished `python -m r1jax.main` with the flags."""
  return subprocess.run(
    [sys.executable, "-m", "r1jax.main", f"--config={config}", *flags],
    cwd=ROOT,
    env={**os.environ, "COLUMNS": "200"},
    capture_output=True,
    text=True,
    timeout=900,
    check=False,
  )


def row(name="update", total=50, over=-50, **more):
  return {
    "name": name,
    "calls": 2,
    "total_bytes": total,
    "over_bytes": over,
    "fits": over <= 0,
    **more,
  }


class LedgerTest(parameterized.TestCase):
  def test_bytes_by_hand(self):
    mesh = AbstractMesh((2, 4), ("fsdp", "expert"))

    def leaf(shape, dtype, *axes):
      place = NamedSharding(mesh, PartitionSpec(*axes))
      return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    part = {
      "split": leaf((16, 8), jnp.bfloat16, ("fsdp", "expert")),  # 2 x 8.
      "half": leaf((16, 8), jnp.float32, None, "fsdp"),  # 16 x 4.
      "whole": leaf((3,), jnp.int32),
      "host": jax.ShapeDtypeStruct((5,), jnp.float32),
    }
    self.assertEqual(
      plan.shard_bytes(part), 2 * 8 * 2 + 16 * 4 * 4 + 3 * 4 + 5 * 4
    )

  def test_arguments_that_a_program_reads(self):
    used, unused = (jax.ShapeDtypeStruct((n,), jnp.float32) for n in (4, 8))
    function = jax.jit(lambda a, b: a + 1)
    program = plan_programs.Program(
      "update", function, (used, unused), {"weights": (used, unused)}, {}, 1
    )
    kept, dropped = plan._arguments(program, function.trace(used, unused))
    self.assertEqual((kept, dropped), ({"weights": 16}, {"weights": 32}))


class BatchTest(parameterized.TestCase):
  def test_grpo_has_what_its_loss_reads(self):
    config = zero.get_config()
    dims = model_config.from_dict(config.model.to_dict())
    made = objective.of(config, dims, layout.SINGLE)
    rows, tokens = config.rows_per_microbatch, config.row_tokens
    self.assertEqual(made.batch.tokens_BT.shape, (rows, tokens))
    self.assertEqual(made.batch.experts_BTLP.shape, (rows, tokens, 3, 2))
    self.assertIsNotNone(made.batch.ref_logprobs_BT)
    self.assertIsNone(made.batch.old_logprobs_BT)  # One update a round.
    self.assertEqual(made.scores, ("reference",))
    self.assertTrue(made.with_reference)

  def test_lm_has_neither_advantages_nor_experts(self):
    config = sft.get_config()
    dims = model_config.from_dict(config.model.to_dict())
    made = objective.of(config, dims, layout.SINGLE)
    self.assertIsNone(made.batch.advantages_BT)
    self.assertIsNone(made.batch.experts_BTLP)
    self.assertFalse(made.with_reference)

  def test_microbatches_of_full_rows(self):
    config = zero.get_config()  # 32 x 8 responses, 12 rows a microbatch.
    self.assertEqual(plan_programs.microbatches(config), 22)
    config = sft.get_config()  # 64 documents, 12 rows.
    self.assertEqual(plan_programs.microbatches(config), 6)


class CostTest(parameterized.TestCase):
  TARGET = plan_topology.parse("v5p:2x2x1")
  MEMORY = int(TARGET.chip.hbm_bytes)

  @parameterized.parameters(
    (
      "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory "
      "in memory space hbm. Used 166.50G of 95.74G hbm. Exceeded by 70.76G.",
      166.5,
    ),
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
      "for HLO temporaries (800.00G) exceeds available HBM (95.74G).",
      800.0,
    ),
  )
  def test_what_is_too_large_says_by_how_much(self, text, gib):
    error = jax.errors.JaxRuntimeError(text)
    found = plan_cost.too_large(
      error, {"name": "update", "resident_bytes": {"moments": 100}}, self.TARGET
    )
    needs = int(gib * (1 << 30)) + 100
    self.assertEqual(found["total_bytes"], needs)
    self.assertEqual(found["over_bytes"], needs - self.MEMORY)
    self.assertFalse(found["fits"])

  def test_other_errors_are_one_line(self):
    error = jax.errors.JaxRuntimeError("INTERNAL: no\nsuch thing")
    with self.assertRaisesRegex(
      ValueError, "^--plan: update does not compile for v5p:2x2x1: INTERNAL: no"
    ):
      plan_cost.too_large(
        error, {"name": "update", "resident_bytes": {}}, self.TARGET
      )

  def test_estimate_is_a_range(self):
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("fsdp",))
    chip = self.TARGET.chip
    found = plan_cost.estimate(
      mesh,
      self.TARGET,
      {"flops": 4 * chip.flops, "traffic_bytes": 3 * chip.hbm_rate},
      [plan_read.Collective("all-reduce", "fsdp", 2, 1, chip.link_rate)],
    )
    # Four devices share the products: 1 s; memory 3 s; the links twice half.
    self.assertAlmostEqual(found["products"], 1.0)
    self.assertAlmostEqual(found["links"], 1.0)
    self.assertAlmostEqual(found["low_secs"], 3.0)
    self.assertAlmostEqual(found["high_secs"], 5.0)


class TableTest(parameterized.TestCase):
  PLAN = {
    "name": "zero-x",
    "target": "v5p:2x2x1",
    "mesh": {"data": 1, "fsdp": 4},
    "hbm_bytes": 100e9,
    "expected": ["decode", "update"],
    "shapes": {
      "questions_per_round": 32,
      "samples_per_question": 16,
      "max_response_tokens": 100,
      "row_tokens": 120,
    },
    "programs": [
      row("decode", 40e9, -60e9, estimate={"low_secs": 1.0, "high_secs": 2.0}),
      row("update", 50e9, -50e9, estimate={"low_secs": 3.0, "high_secs": 4.0}),
    ],
  }

  def test_row(self):
    [found] = plan_table.rows([self.PLAN])
    self.assertEqual(
      found,
      (
        *("zero-x", "v5p:2x2x1", "fsdp 4", "50.0 (update)", "100.0", "yes"),
        *("8 to 12", "51,200"),
      ),
    )
    self.assertEqual(plan.round_secs(self.PLAN), (8.0, 12.0))

  def test_what_does_not_fit_or_is_not_there(self):
    programs = [row("update", 150e9, 50e9)]
    [found] = plan_table.rows([{**self.PLAN, "programs": programs}])
    self.assertIn("update is 50.0 GB over; not planned: decode", found)
    self.assertEqual(found[-2], "")
    self.assertIsNone(plan.round_secs({**self.PLAN, "programs": programs}))

  def test_committed_plans_make_the_table(self):
    text = plan_table.text(plan_table.read(str(ROOT / "docs" / "plans")))
    self.assertIn("| config | hardware |", text)

  def test_committed_plans_agree_with_the_hand(self):
    for made in plan_table.read(str(ROOT / "docs" / "plans")):
      for each in made["programs"]:
        # Prefilling needs no MLP of the last layer, which is dropped.
        if "compiler_bytes" not in each or each["name"] == "prefill":
          continue
        hand = sum(each["argument_bytes"].values()) + each["padding_bytes"]
        compiler = each["compiler_bytes"]["arguments"]
        self.assertLessEqual(
          abs(hand - compiler), 0.03 * compiler + 1e6, (made["name"], each)
        )

  def test_folder_without_plans(self):
    with self.assertRaisesRegex(ValueError, "has no plans. Make some"):
      plan_table.read(tempfile.mkdtemp())


class BadInputTest(parameterized.TestCase):
  def test_unknown_topology(self):
    done = planned("--plan=v9:2x2")
    self.assertEqual(done.returncode, 1)
    self.assertIn("r1jax: --plan is 'v9:2x2', which is unknown. ", done.stderr)
    self.assertNotIn("Traceback", done.stderr)

  @absltest.skipIf(HAS_LIBTPU, "libtpu is installed")
  def test_without_libtpu(self):
    done = planned("--plan=v5e:2x2")
    self.assertEqual(
      done.stderr.splitlines()[-1],
      "r1jax: --plan=v5e:2x2 compiles with libtpu, which is not installed. "
      "Install it with: pip install 'r1jax[plan]'.",
    )

  @absltest.skipUnless(HAS_LIBTPU, "libtpu is not installed: r1jax[plan]")
  @parameterized.parameters(
    (
      "--plan=v5e:4x4",
      "config.mesh {'data': 1, 'expert': 2, 'fsdp': 2, 'tensor': 1} has 4 "
      "devices, but there are 16. Its sizes must multiply to that.",
    ),
    (
      "--plan=v5e:3x1",
      "--plan is 'v5e:3x1', which the compiler does not know: ",
    ),
  )
  def test_for_the_compiler(self, flag, line):
    done = planned(flag)
    self.assertIn(f"r1jax: {line}", done.stderr)
    self.assertNotIn("Traceback", done.stderr)

  def test_job_without_programs(self):
    config = zero.get_config()
    with config.unlocked():
      config.job = "pipeline"
    with self.assertRaisesRegex(ValueError, "'pipeline', of which there is no"):
      plan_programs.loop(config, jax.devices())

  def test_unknown_program(self):
    options = plan.Options(programs=("updates",))
    with self.assertRaisesRegex(ValueError, "'updates'. Known: unstack, pre"):
      plan.make(zero.get_config(), plan_topology.parse("v5e:2x2"), options)


@pytest.mark.slow
@absltest.skipUnless(HAS_LIBTPU, "libtpu is not installed: r1jax[plan]")
class TinyTest(parameterized.TestCase):
  def test_every_program_of_the_miniature(self):
    path = f"{tempfile.mkdtemp()}/tiny.json"
    done = planned("--plan=v5e:2x2", f"--plan_json={path}")
    self.assertEqual(done.returncode, 0, done.stderr[-3000:])
    self.assertIn("Every program fits; a device has 16.9 GB.", done.stdout)
    with open(path, encoding="utf-8") as file:
      made = json.load(file)
    self.assertEqual(made["parameters"], 969_984)
    programs = {each["name"]: each for each in made["programs"]}
    self.assertEqual([*programs], [*plan.PROGRAMS])
    del programs["prefill"]  # It drops the MLP of the last layer.
    for each in programs.values():
      hand = sum(each["argument_bytes"].values()) + each["padding_bytes"]
      compiler = each["compiler_bytes"]["arguments"]
      self.assertLessEqual(abs(hand - compiler), 0.03 * compiler, each)
    kinds = [x["kind"] for x in programs["update"]["collectives"]]
    self.assertIn("all-to-all", kinds)
    # Three products forward, made again, and six backward, of each expert:
    # the products of the model are a lower bound of what is counted.
    self.assertGreater(programs["update"]["flops"], 1e9)


if __name__ == "__main__":
  absltest.main()
