"""The sampler on a mesh: where slots lie, and that they sample the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import AbstractMesh, PartitionSpec

from r1jax.models import layout as layout_lib
from r1jax.sampling import decode, engine, logits
from tests import apart, mesh_samples, small

SETTINGS = decode.Settings(1.0, 0, 1.0, 3, 4, 0, 0)


def layout(**sizes):
  shape = tuple(sizes.get(axis, 1) for axis in layout_lib.MESH_AXES)
  return layout_lib.Layout(AbstractMesh(shape, layout_lib.MESH_AXES))


class PlacesTest(parameterized.TestCase):
  @parameterized.parameters(
    ("gqa", (("fsdp", "expert"), ("tensor",), None, None)),
    ("mla", (("fsdp", "expert"), None, None)),
  )
  def test_slots_lie_over_the_batch_and_caches_over_heads(self, kind, spec):
    config = small.CONFIGS[kind]()
    got = decode.places(layout(fsdp=2, expert=2, tensor=2), config, 8)
    self.assertEqual(got.caches.sharding.spec, PartitionSpec(*spec))
    for place in got[1:]:
      self.assertEqual(place.spec, PartitionSpec(("fsdp", "expert")))

  def test_one_device_places_nothing(self):
    self.assertIsNone(decode.places(layout_lib.SINGLE, small.gqa(), 8))

  @parameterized.parameters(("slots", 6, 8), ("prefill_rows", 8, 6))
  def test_mesh_that_does_not_divide_names_both(self, field, slots, rows):
    with self.assertRaisesRegex(
      ValueError,
      rf"config.sampling.{field} is 6, which config.mesh.data \* "
      r"config.mesh.fsdp \* config.mesh.expert = 4 does not divide. Set it "
      "to a multiple.",
    ):
      engine.make_programs(
        small.gqa(),
        SETTINGS,
        slots=slots,
        prefill_rows=rows,
        max_prompt_tokens=2,
        max_response_tokens=2,
        layout=layout(fsdp=4, tensor=2),
      )


class TieTest(absltest.TestCase):
  def test_distance_of_the_draw_from_the_other_token(self):
    logits_V = np.log([0.25, 0.25, 0.5])
    key = jax.random.key(5)
    uniforms_2 = jax.random.uniform(key, (2,))
    drawn = logits.draw(jnp.exp(logits_V)[None], uniforms_2[None]).item()
    self.assertEqual(drawn, np.searchsorted([0.25, 0.5, 1.0], uniforms_2[1]))
    for other in {0, 1, 2} - {drawn}:
      edges = [0.25, 0.5][min(drawn, other) : max(drawn, other)]
      want = min(abs(edge - float(uniforms_2[1])) for edge in edges)
      got = mesh_samples.tie(logits_V, key, drawn, other)
      self.assertAlmostEqual(got, want, places=6)


def samples():
  """What mesh_samples prints."""
  return apart.result("tests.mesh_samples", flags=apart.EIGHT_DEVICES)


@pytest.mark.slow
class SamplesTest(parameterized.TestCase):
  # Rounding of a float32 probability, a few layers deep.
  TIE = 1e-5

  def test_on_eight_devices(self):
    self.assertEqual(samples()["devices"], 8)

  @parameterized.product(
    kind=tuple(mesh_samples.CONFIGS), mesh=tuple(mesh_samples.MESHES)
  )
  def test_mesh_samples_what_one_device_does(self, kind, mesh):
    found = samples()[kind][mesh]
    self.assertLen(found, len(mesh_samples.REQUESTS))
    for each in found:
      if each["at"] >= 0:
        print(f"{kind}, {mesh}: {each}")
      self.assertLess(each["gap"], self.TIE)


if __name__ == "__main__":
  absltest.main()
