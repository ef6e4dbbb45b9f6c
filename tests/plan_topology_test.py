import importlib.util
import os
from unittest import mock

from absl.testing import absltest, parameterized

from r1jax import plan_topology


class ParseTest(parameterized.TestCase):
  @parameterized.parameters(
    ("v5e:2x2", "v5e:2x2", 4),
    ("v5p:8x8x8", "v5p:8x8x8", 512),
    ("v4:2x2x1", "v4:2x2x1", 4),
    ("tpu7x:2x2x1", "tpu7x:2x2x1", 8),  # Two devices a chip.
    ("2*v5e:4x4", "2*v5e:4x4", 32),
    ("h100:8", "h100:8", 8),
    ("h200:64", "h200:64", 64),
    ("h100:4", "h100:4", 4),
  )
  def test_topology(self, name, same, devices):
    target = plan_topology.parse(name)
    self.assertEqual(target.name, same)
    self.assertEqual(target.devices, devices)

  @parameterized.parameters(
    # v4, v5p and tpu7x count cores, two a chip.
    ("v4-8", "v4:2x2x1"),
    ("v4-32", "v4:2x2x4"),
    ("v5p-8", "v5p:2x2x1"),
    ("v5p-16", "v5p:2x2x2"),
    ("v5p-256", "v5p:4x4x8"),
    ("v5p-1024", "v5p:8x8x8"),
    ("tpu7x-8", "tpu7x:2x2x1"),
    # v5e and v6e count chips.
    ("v5litepod-1", "v5e:1x1"),
    ("v5litepod-16", "v5e:4x4"),
    ("v5e-8", "v5e:2x4"),
    ("v6e-256", "v6e:16x16"),
  )
  def test_cloud_name(self, name, topology):
    self.assertEqual(plan_topology.parse(name).name, topology)

  @parameterized.parameters(
    ("v9:2x2", "is unknown"),
    ("", "is unknown"),
    ("v5e", "is unknown"),
    ("v5e:0x2", "is unknown"),
    ("0*v5e:2x2", "is unknown"),
    ("v5e:2x2x2", "has 3 axes where v5e has 2"),
    ("v5p:8x8", "has 2 axes where v5p has 3"),
    ("v5p-7", "has no whole torus of 7 / 2 chips"),
    ("v5p-24", "has no whole torus of 24 / 2 chips"),
    ("h100:12", "does not fill nodes of 8 GPUs"),
    ("2*h100:8", "does not fill nodes of 8 GPUs"),
  )
  def test_unknown_lists_the_known(self, name, problem):
    with self.assertRaises(ValueError) as caught:
      plan_topology.parse(name)
    text = str(caught.exception)
    self.assertIn(f"--plan is {name!r}, which {problem}. Known: v4:A", text)
    self.assertIn("v5p-1024", text)
    self.assertNotIn("\n", text)


class PrepareTest(parameterized.TestCase):
  @parameterized.parameters(
    ("v5e:2x2", "libtpu", "plan"), ("h100:8", "jax_cuda12_plugin", "plan-gpu")
  )
  def test_compiler_missing_says_what_to_install(self, name, package, extra):
    with (
      mock.patch.object(importlib.util, "find_spec", lambda _: None),
      mock.patch.dict(os.environ),
      self.assertRaises(ValueError) as caught,
    ):
      plan_topology.prepare(plan_topology.parse(name))
    self.assertEqual(
      str(caught.exception),
      f"--plan={name} compiles with {package}, which is not installed. "
      f"Install it with: pip install 'r1jax[{extra}]'.",
    )

  def test_environment(self):
    with (
      mock.patch.object(importlib.util, "find_spec", lambda _: True),
      mock.patch.dict(
        os.environ, {"TPU_LIBRARY_PATH": "x", "XLA_FLAGS": "--a=b"}, clear=True
      ),
    ):
      plan_topology.prepare(plan_topology.parse("v5e:2x2"))
      self.assertEqual(os.environ["JAX_PLATFORMS"], "cpu")
      self.assertEqual(os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"], "1")
      self.assertNotIn("TPU_LIBRARY_PATH", os.environ)
      self.assertEqual(os.environ["XLA_FLAGS"], "--a=b")
      plan_topology.prepare(plan_topology.parse("h100:8"))
      self.assertEqual(
        os.environ["XLA_FLAGS"], f"--a=b {plan_topology.GPU_FLAGS}"
      )


if __name__ == "__main__":
  absltest.main()
