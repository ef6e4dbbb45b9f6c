import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from r1jax.models import grouped

Z, I, O = 40, 6, 10
SIZES = {
  "even": [10, 10, 10, 10],
  "one has all": [0, 40, 0, 0],
  "none": [0, 0, 0, 0],
  "empty first and last": [0, 17, 3, 0],
  "rows left over": [1, 8, 2, 9],
}


def megablox():
  """The TPU's form, interpreted."""
  form = grouped.FORMS["megablox"]
  return grouped.Form(*(functools.partial(f, interpret=True) for f in form))


def loops(x_ZI, y_ZO, kernel_EIO, sizes_E):
  """Products group by group, float64."""
  x_ZI, y_ZO, kernel_EIO = map(np.float64, (x_ZI, y_ZO, kernel_EIO))
  product, transposed = np.zeros((Z, O)), np.zeros((Z, I))
  outer, start = np.zeros_like(kernel_EIO), 0
  for e, size in enumerate(sizes_E):
    rows = slice(start, start + size)
    product[rows] = x_ZI[rows] @ kernel_EIO[e]
    transposed[rows] = y_ZO[rows] @ kernel_EIO[e].T
    outer[e] = x_ZI[rows].T @ y_ZO[rows]
    start += size
  return product, transposed, outer


class FormsTest(parameterized.TestCase):
  @parameterized.parameters(
    ("dense", 128), ("ragged", 128), ("scanned", 128), ("scanned", 4)
  )
  def test_equals_loops(self, form, block):
    grouped.BLOCK_ROWS = block
    self.addCleanup(setattr, grouped, "BLOCK_ROWS", 128)
    form = grouped.Form(*(jax.jit(f) for f in grouped.FORMS[form]))
    for sizes in SIZES.values():
      self._check(form, sizes)

  @parameterized.parameters("even", "empty first and last", "rows left over")
  @pytest.mark.slow  # The interpreter takes seconds.
  def test_megablox_equals_loops(self, sizes):
    self._check(megablox(), SIZES[sizes])

  def _check(self, form, sizes):
    rng = np.random.default_rng(0)
    x_ZI, y_ZO, kernel_EIO = (
      rng.standard_normal(shape, np.float32)
      for shape in ((Z, I), (Z, O), (len(sizes), I, O))
    )
    sizes_E, real = jnp.int32(sizes), sum(sizes)
    # What lies behind the groups counts nowhere.
    x_ZI[real:], y_ZO[real:] = 1e6, 1e6
    want = loops(x_ZI, y_ZO, kernel_EIO, sizes)
    got = (
      form.product(x_ZI, kernel_EIO, sizes_E)[:real],
      form.transposed(y_ZO, kernel_EIO, sizes_E)[:real],
      form.outer(x_ZI, y_ZO, sizes_E),
    )
    for a, b in zip(got, (want[0][:real], want[1][:real], want[2])):
      np.testing.assert_allclose(a, b, atol=1e-5)


if __name__ == "__main__":
  absltest.main()
