import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.experimental import pallas as pl
from jax.sharding import Mesh, PartitionSpec

from r1jax import plan_flops

X, D, F, E, L = 4, 8, 16, 3, 5
PRODUCT = 2 * X * D * F


def shape(*dims, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(dims, dtype)


def count(function, *arguments):
  return plan_flops.count(jax.make_jaxpr(function)(*arguments))


class CountTest(parameterized.TestCase):
  def test_one_product(self):
    self.assertEqual(count(jnp.dot, shape(X, D), shape(D, F)), PRODUCT)

  def test_batched_product(self):
    flops = count(
      lambda a, b: jnp.einsum("EXD,EDF->EXF", a, b),
      shape(E, X, D),
      shape(E, D, F),
    )
    self.assertEqual(flops, E * PRODUCT)

  def layers(self, x_XD, kernel_LDD):
    def step(x_XD, kernel_DD):
      return jnp.tanh(x_XD @ kernel_DD), None

    return jax.lax.scan(jax.checkpoint(step), x_XD, kernel_LDD)[0].sum()

  def test_scan_counts_its_length(self):
    flops = count(self.layers, shape(X, D), shape(L, D, D))
    self.assertEqual(flops, L * 2 * X * D * D)

  def test_gradient_counts_what_is_made_again(self):
    gradient = jax.grad(self.layers, (0, 1))
    flops = count(gradient, shape(X, D), shape(L, D, D))
    # Forward, forward again, and two products backward.
    self.assertEqual(flops, 4 * L * 2 * X * D * D)

  def test_loop_of_unknown_length_turns_once(self):
    def loop(x_XD, kernel_DD):
      return jax.lax.while_loop(
        lambda x_XD: x_XD.sum() > 0, lambda x_XD: x_XD @ kernel_DD, x_XD
      )

    flops = count(loop, shape(X, D), shape(D, D))
    self.assertEqual(flops, 2 * X * D * D)

  def test_branch_counts_the_dearest(self):
    def branch(x_XD, kernel_DF):
      return jax.lax.cond(
        x_XD[0, 0] > 0, lambda: x_XD @ kernel_DF, lambda: jnp.zeros((X, F))
      )

    self.assertEqual(count(branch, shape(X, D), shape(D, F)), PRODUCT)

  def test_grouped_product_and_its_gradients(self):
    sizes_E = np.array([1, 2, 1], np.int32)

    def grouped(x_XD, kernel_EDF):
      return jax.lax.ragged_dot(x_XD, kernel_EDF, sizes_E).sum()

    arguments = shape(X, D), shape(E, D, F)
    self.assertEqual(count(grouped, *arguments), PRODUCT)
    gradient = jax.grad(grouped, (0, 1))
    self.assertEqual(count(gradient, *arguments), 3 * PRODUCT)

  def test_under_shard_map_each_device_counts(self):
    mesh = Mesh(np.array(jax.devices()[:1]), "x")
    inside = jax.shard_map(
      jnp.dot,
      mesh=mesh,
      in_specs=PartitionSpec(),
      out_specs=PartitionSpec(),
      check_vma=False,
    )
    self.assertEqual(count(inside, shape(X, D), shape(D, F)), PRODUCT)
    four = jax.sharding.AbstractMesh((4,), "x")
    inside = jax.shard_map(
      jnp.dot,
      mesh=four,
      in_specs=(PartitionSpec("x"), PartitionSpec()),
      out_specs=PartitionSpec("x"),
      check_vma=False,
    )
    self.assertEqual(count(inside, shape(4 * X, D), shape(D, F)), 4 * PRODUCT)

  @parameterized.parameters(None, 77)
  def test_kernel_counts_its_estimate_or_its_grid(self, said):
    def kernel(x_ref, y_ref, out_ref):
      out_ref[...] = x_ref[...] @ y_ref[...]

    def call(x_XD, y_DF):
      return pl.pallas_call(
        kernel,
        out_shape=shape(2 * X, F),
        grid=(2,),
        in_specs=[
          pl.BlockSpec((X, D), lambda i: (i, 0)),
          pl.BlockSpec((D, F), lambda i: (0, 0)),
        ],
        out_specs=pl.BlockSpec((X, F), lambda i: (i, 0)),
        cost_estimate=said
        and pl.CostEstimate(flops=said, transcendentals=0, bytes_accessed=0),
      )(x_XD, y_DF)

    flops = count(call, shape(2 * X, D), shape(D, F))
    self.assertEqual(flops, said or 2 * PRODUCT)


if __name__ == "__main__":
  absltest.main()
