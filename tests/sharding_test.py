import itertools

import flax.linen as nn
import jax
import optax
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import AbstractMesh, PartitionSpec

from configs import models
from r1jax import optim, policy, sharding
from r1jax.models import config as config_lib
from tests import apart, mesh_gradients, small


def mesh(data=1, fsdp=1, expert=1, tensor=1):
  return AbstractMesh((data, fsdp, expert, tensor), sharding.MESH_AXES)


def boxed(config):
  model = policy.make(config, temperature=1.0)
  return jax.eval_shape(model.init, jax.random.key(0))


class RulesTest(parameterized.TestCase):
  @parameterized.parameters(*models.PRESETS)
  def test_cover_every_parameter(self, preset):
    config = config_lib.from_dict(models.get_config(preset))
    # Sizes that divide: a missing rule or a collision would raise.
    places = sharding.param_shardings(
      mesh(data=2, fsdp=2, expert=2), boxed(config)
    )
    # Every matrix of the model's width is split.
    leaves = jax.tree.leaves(nn.unbox(boxed(config)))
    for leaf, place in zip(leaves, jax.tree.leaves(places), strict=True):
      if config.d_model in leaf.shape and leaf.ndim > 2:
        self.assertIn("fsdp", str(place.spec))

  def test_worked_example(self):
    params, buffers = sharding.param_shardings(
      mesh(fsdp=2, expert=4, tensor=2), boxed(small.mla(q_lora_rank=16))
    )
    spec = params["moe_layers"]["moe"]["gate"].spec
    self.assertEqual(spec, PartitionSpec(None, "expert", "fsdp", "tensor"))
    spec = params["moe_layers"]["moe"]["down"].spec
    self.assertEqual(
      spec, PartitionSpec(None, "expert", ("tensor", "fsdp"), None)
    )
    self.assertEqual(
      params["embedding"].spec, PartitionSpec("tensor", ("fsdp", "expert"))
    )
    self.assertEqual(
      buffers["moe_layers"]["moe"]["router_bias"].spec, PartitionSpec()
    )

  def test_axis_of_size_one_is_left_out(self):
    params, _ = sharding.param_shardings(mesh(fsdp=2), boxed(small.mla()))
    self.assertEqual(params["embedding"].spec, PartitionSpec(None, "fsdp"))

  def test_missing_rule_names_parameter_and_axis(self):
    rules = {k: v for k, v in sharding.RULES.items() if k != "kv_lora"}
    with self.assertRaisesRegex(
      ValueError,
      "Parameter .*dense_layers.attention.kv_down.kernel.* axis 'kv_lora', "
      "which no rule covers. Add it to sharding.RULES. Known: vocab, ",
    ):
      sharding.param_shardings(mesh(fsdp=2), boxed(small.mla()), rules)

  def test_collision_names_parameter_and_axes(self):
    rules = sharding.RULES | {"mlp": "fsdp"}
    with self.assertRaisesRegex(
      ValueError, r"Parameter .*mlp\.\w+\.kernel has the axes .*one mesh axis"
    ):
      sharding.param_shardings(mesh(fsdp=2), boxed(small.gqa()), rules)

  def test_mesh_that_does_not_divide_names_all(self):
    with self.assertRaisesRegex(
      ValueError,
      r"config.mesh.tensor is 4, which does not divide .*key.bias axis "
      "kv_heads of size 2. Choose a divisor",
    ):
      sharding.param_shardings(mesh(tensor=4), boxed(small.gqa()))

  def test_more_expert_shards_than_experts(self):
    with self.assertRaisesRegex(
      ValueError,
      r"config.mesh.expert is 16, which does not divide .*moe.down axis "
      "experts of size 8. Choose a divisor",
    ):
      sharding.param_shardings(
        mesh(expert=16), boxed(small.mla(q_lora_rank=16, kv_lora_rank=16))
      )

  def test_two_mesh_axes_that_do_not_divide(self):
    with self.assertRaisesRegex(
      ValueError,
      r"config.mesh.fsdp \* config.mesh.expert is 6, which does not divide ",
    ):
      sharding.param_shardings(mesh(fsdp=2, expert=3), boxed(small.gqa()))


class MeshTest(parameterized.TestCase):
  def test_sizes_must_multiply_to_the_devices(self):
    sizes = dict(data=3, fsdp=1, expert=5, tensor=1)
    with self.assertRaisesRegex(
      ValueError, f"has 15 devices, but there are {jax.device_count()}"
    ):
      sharding.make_mesh(sizes)

  def test_rows_are_shared_by_all_but_tensor(self):
    sizes = dict(data=2, fsdp=3, expert=5, tensor=7)
    self.assertEqual(
      sharding.rows(mesh(**sizes)).spec,
      PartitionSpec(("data", "fsdp", "expert")),
    )

  def test_moments_lie_where_parameters_do(self):
    params, _ = nn.unbox(boxed(small.gqa()))
    places, _ = sharding.param_shardings(mesh(fsdp=2), boxed(small.gqa()))
    for dtype in optim.MOMENT_DTYPES:
      optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optim.adamw(1.0, moment_dtype=dtype)
      )
      self._check_moments(optimizer, params, places)

  def _check_moments(self, optimizer, params, places):
    state = sharding.optimizer_shardings(optimizer, params, places)
    adam = state[1][0]
    for moments in (adam.mu, adam.nu):
      self.assertEqual(jax.tree.leaves(moments), jax.tree.leaves(places))
    self.assertEqual(adam.count.spec, PartitionSpec())


def gradients(which):
  """What mesh_gradients prints."""
  return apart.result("tests.mesh_gradients", which, flags=apart.EIGHT_DEVICES)


@pytest.mark.slow
class GradientTest(parameterized.TestCase):
  # Rounding of float32 sums in another order; a sequence lost or counted
  # twice moves the gradient by a thirtieth.
  LIMIT = 5e-6

  def test_on_eight_devices(self):
    self.assertEqual(gradients("quick")["devices"], 8)

  def _check(self, which, case):
    difference, microbatches = gradients(which)[case]
    self.assertLessEqual(difference, self.LIMIT)
    self.assertGreater(microbatches, 1)

  @parameterized.parameters(*mesh_gradients.QUICK)
  def test_mesh_gives_the_gradient_of_one_device(self, case):
    self._check("quick", f"moe, {case}")

  @parameterized.parameters(
    *itertools.product(mesh_gradients.CONFIGS, mesh_gradients.MESHES)
  )
  def test_every_mesh_gives_the_gradient_of_one_device(self, kind, case):
    self._check(kind, f"{kind}, {case}")

  @parameterized.parameters(
    ("unpacked, 2 microbatches", 2),
    ("unpacked, 4 microbatches", 4),
    ("packed", 2),
  )
  def test_split_gives_the_gradient_of_one_microbatch(self, case, count):
    self.assertEqual(gradients("quick")["unpacked, 1 microbatch"], [0.0, 1])
    difference, microbatches = gradients("quick")[case]
    self.assertLessEqual(difference, self.LIMIT)
    self.assertEqual(microbatches, count)

  def test_every_parameter_has_a_gradient(self):
    self.assertGreater(gradients("quick")["least"], 0.0)


if __name__ == "__main__":
  absltest.main()
