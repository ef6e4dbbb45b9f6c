from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec

from r1jax import sharding
from r1jax.models import layout

AUTO = dict(attention="auto", experts="auto")


class Device(NamedTuple):
  platform: str


class Devices(NamedTuple):
  """As much of a mesh as a layout of many devices reads."""

  devices: np.ndarray
  shape: dict[str, int]
  size: int


def mesh(platform="cpu", data=1, fsdp=1, expert=1, tensor=1):
  sizes = dict(data=data, fsdp=fsdp, expert=expert, tensor=tensor)
  devices = np.empty(tuple(sizes.values()), object)
  devices.fill(Device(platform))
  return Devices(devices, sizes, devices.size)


class LayoutTest(parameterized.TestCase):
  def test_one_processor_is_single(self):
    self.assertEqual(layout.of(mesh(), AUTO), layout.SINGLE)

  @parameterized.parameters("cpu", "cuda", "tpu")
  def test_auto_runs_where_it_is_chosen(self, platform):
    got = layout.of(mesh(platform, fsdp=2), AUTO)
    kind = layout.platform_of(got.mesh)
    self.assertIn(kind, layout.RUNS_ON["attention"][got.attention])
    if got.experts:
      self.assertIn(kind, layout.RUNS_ON["experts"][got.experts])

  def test_the_mesh_decides_not_the_machine(self):
    self.assertEqual(jax.default_backend(), "cpu")
    got = layout.of(mesh("tpu", fsdp=2), AUTO)
    self.assertEqual(got.experts, "megablox")

  def test_config_decides_over_the_mesh(self):
    got = layout.of(mesh("tpu", fsdp=2), AUTO | {"experts": "ragged"})
    self.assertEqual(got.experts, "ragged")

  def test_form_that_does_not_run_there(self):
    with self.assertRaisesRegex(
      ValueError,
      "config.kernels.experts is 'megablox', which does not run on the mesh's "
      "gpu devices. Set it to auto or one of dense, ragged, scanned.",
    ):
      layout.of(mesh("cuda", fsdp=2), AUTO | {"experts": "megablox"})

  def test_spec(self):
    wide = layout.Layout(mesh(data=2, expert=3, tensor=2))
    self.assertEqual(
      wide.spec((12, 5, 4), "batch", None, "heads"),
      PartitionSpec(("data", "expert"), None, ("tensor",)),
    )
    # What is not divided stays whole.
    self.assertEqual(
      wide.spec((4, 5, 3), "batch", None, "heads"),
      PartitionSpec(None, None, None),
    )

  def test_single_changes_nothing(self):
    x_B = jnp.ones(3)
    self.assertIs(layout.SINGLE.constrain(x_B, "batch"), x_B)

  def test_layouts_are_hashable(self):
    sizes = dict(data=1, fsdp=jax.device_count(), expert=1, tensor=1)
    one, same = (layout.Layout(sharding.make_mesh(sizes)) for _ in range(2))
    self.assertLen({one, same, layout.SINGLE}, 2)


if __name__ == "__main__":
  absltest.main()
