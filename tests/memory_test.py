import platform
import subprocess
import sys

from absl.testing import absltest

# A large block is freed and taken again: pages kept are not faulted again.
_PROGRAM = """
import resource, sys
import numpy as np
from r1jax import memory
if sys.argv[1] == "keep":
  assert memory.keep_freed()
def faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(1 << 24)
before = faults()
for _ in range(4):
  np.ones(1 << 24)
print(faults() - before)
"""


class MemoryTest(absltest.TestCase):
  def faults(self, mode):
    done = subprocess.run(
      [sys.executable, "-c", _PROGRAM, mode],
      capture_output=True,
      text=True,
      check=True,
    )
    return int(done.stdout)

  def test_a_freed_block_is_not_faulted_again(self):
    if platform.libc_ver()[0] != "glibc":
      self.skipTest("only glibc has mallopt")
    self.assertLess(self.faults("keep"), self.faults("plain") / 4)


if __name__ == "__main__":
  absltest.main()
