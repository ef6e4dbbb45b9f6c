import importlib.util
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from r1jax.models import dispatch, layout
from tests import apart, dispatch_cases, dispatch_compiled

ROUTINGS = tuple(dispatch_cases.routings())


def cases(which):
  """What dispatch_cases prints."""
  return apart.result("tests.dispatch_cases", which, flags=apart.EIGHT_DEVICES)


class MeshTest(parameterized.TestCase):
  LIMIT = 1e-6  # Rounding of float32 sums in another order.

  def _check(self, which, mesh, routing):
    difference, _ = cases(which)[f"{mesh}, {routing}"]
    self.assertLessEqual(difference, self.LIMIT)

  @parameterized.parameters(*itertools.product(dispatch_cases.QUICK, ROUTINGS))
  def test_equals_one_device(self, mesh, routing):
    self._check("QUICK", mesh, routing)

  def test_fullest_pairs_need_several_passes(self):
    self.assertEqual(cases("QUICK")["fsdp 2 x expert 4, even"][1], 1)
    _, passes = cases("QUICK")["fsdp 2 x expert 4, all to one device"]
    self.assertGreater(passes, 2)

  @parameterized.parameters(*itertools.product(dispatch_cases.MESHES, ROUTINGS))
  @pytest.mark.slow
  def test_every_mesh_equals_one_device(self, mesh, routing):
    self._check("MESHES", mesh, routing)


def on(target):
  """What dispatch_compiled prints."""
  return apart.result("tests.dispatch_compiled", target)


class CompiledTest(parameterized.TestCase):
  """What crosses the mesh in the compiled text."""

  def setUp(self):
    super().setUp()
    for package in ("libtpu", "jax_cuda12_plugin"):
      if importlib.util.find_spec(package) is None:
        self.skipTest(f"{package} is not installed")

  @parameterized.parameters(*dispatch_compiled.SIZES)
  @pytest.mark.slow
  def test_tokens_go_by_all_to_all_and_kernels_by_gather(self, target):
    found = on(target)
    # Forward there and back, backward there and back, and their labels.
    self.assertLen(found["all-to-all"], 7)
    self.assertNotEmpty(found["all-gather"])
    self.assertNotEmpty(found["reduce-scatter"])
    # Only the number of passes is reduced to everyone.
    self.assertEqual(found["all-reduce"], [4])

  @pytest.mark.slow
  def test_every_product_on_a_tpu_is_a_grouped_kernel(self):
    found = on("v5p:2x2x1")
    self.assertEqual(found["kernels"], 11)  # Forward 3, backward 8.
    self.assertEqual(found["products"], [])


class SingleTest(parameterized.TestCase):
  def test_one_device(self):
    arguments = dispatch_cases.values()

    def run(*args):
      return dispatch.experts(layout.SINGLE, "scanned", *args)

    experts_BTP = dispatch_cases.routings()["uneven"]
    got = dispatch_cases.with_gradients(run)(experts_BTP, *arguments)
    want = dispatch_cases.with_gradients(dispatch_cases.dense)(
      experts_BTP, *arguments
    )
    for a, b in zip(got, want):
      self.assertLessEqual(
        np.linalg.norm(a - b), MeshTest.LIMIT * np.linalg.norm(b)
      )

  @parameterized.parameters(
    # 32 tokens of 8 experts: at most 32 copies for a device with one.
    (1, 1, 32, 8, 32),
    # A quarter more than the even 32 * 8 / 4, in tiles of 16.
    (4, 2, 32, 8, 64),
    (4, 64, 320, 8, 800),
    (2, 8, 1, 2, 16),
  )
  def test_room(self, N, E, X, P, want):
    class Sizes:
      def mesh_axes(self, axis):
        return {"experts": ("expert",)}[axis]

      def size(self, axis):
        return {"expert": N}[axis]

    self.assertEqual(dispatch.room(Sizes(), E, X, P), want)

  @parameterized.parameters(
    (8192, 8, 1),
    (8193, 8, 2),
    (33792, 8, 5),  # DeepSeek-V3's longest row.
    (1, 8, 1),
  )
  def test_parts(self, X, P, want):
    self.assertEqual(dispatch.MOST_COPIES, 1 << 16)
    self.assertEqual(dispatch.parts(X, P), want)

  def test_rows_that_do_not_divide(self):
    class Sizes:
      mesh = "some"

      def size(self, *axes):
        return 6

    x_BTD = jnp.zeros((8, 2, 4))
    with self.assertRaisesRegex(
      ValueError, "A batch of 8 rows does not divide among .* = 6 devices"
    ):
      jax.eval_shape(lambda x: dispatch._specs(Sizes(), x.shape[0]), x_BTD)


if __name__ == "__main__":
  absltest.main()
