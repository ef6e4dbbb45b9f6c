"""DeepSeek's block-wise FP8: weights in e4m3 with a scale a 128 x 128 block.

DeepSeek-V3 (arXiv:2412.19437), §3.3, and its README_WEIGHTS.md.
"""

from typing import Any, Protocol

import ml_dtypes
import numpy as np

BLOCK = 128
MOST = 448.0  # The largest float8_e4m3fn.
FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
SCALE = "_scale_inv"  # After the name of the weight.
QUANTIZATION = {
  "activation_scheme": "dynamic",
  "fmt": "e4m3",
  "quant_method": "fp8",
  "weight_block_size": [BLOCK, BLOCK],
}
_LEAST_SCALE = np.float32(2.0**-126)  # The smallest normal number.
_KEPT_BITS = np.uint32(0xFFFFFFF0)  # Of a scale: 20 significant ones.


class Source(Protocol):
  """Where tensors are read from, by name."""

  def names(self) -> list[str]:
    """All tensors."""

  def shape(self, name: str) -> tuple[int, ...]:
    """Of a tensor."""

  def dtype(self, name: str) -> np.dtype:
    """Of a tensor."""

  def read(self, name: str) -> np.ndarray:
    """A tensor."""


def quantize(weight_OI: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(float8 weight, float32 scale of each block), the last ones cut short.

    scale = max|w| / 448,  q = round(w / scale)

  The scale is rounded up to 20 significant bits, so that q * scale is
  exact in float32 and quantising it again gives the same bits.

  Raises:
    ValueError: For a weight that is not finite.
  """
  out_OI = np.empty(weight_OI.shape, FLOAT8)
  scale_PQ = np.empty(blocks(weight_OI.shape), np.float32)
  starts = np.arange(0, weight_OI.shape[1], BLOCK)
  for p, scale_Q in enumerate(scale_PQ):
    rows = slice(p * BLOCK, (p + 1) * BLOCK)
    stripe_RI = weight_OI[rows].astype(np.float32)
    most_I = np.max(np.abs(stripe_RI), axis=0)
    most_Q = np.maximum.reduceat(most_I, starts)
    if not np.all(np.isfinite(most_Q)):
      raise ValueError("a weight is not finite, so it has no FP8 form.")
    scale_Q[:] = _rounded_up(most_Q.astype(np.float64) / MOST)
    out_OI[rows] = (stripe_RI / _along(scale_Q, weight_OI)).astype(FLOAT8)
  return out_OI, scale_PQ


def dequantize(weight_OI: np.ndarray, scale_PQ: np.ndarray) -> np.ndarray:
  """weight * scale of its block, float32: the "inverse" scale multiplies.

  Raises:
    ValueError: If the scales are not one a block.
  """
  want = blocks(weight_OI.shape)
  if scale_PQ.shape != want:
    raise ValueError(
      f"{list(scale_PQ.shape)} scales of a weight {list(weight_OI.shape)}, "
      f"whose blocks of {BLOCK} x {BLOCK} need {list(want)}."
    )
  out_OI = weight_OI.astype(np.float32)
  for p, scale_Q in enumerate(scale_PQ.astype(np.float32)):
    out_OI[p * BLOCK : (p + 1) * BLOCK] *= _along(scale_Q, weight_OI)
  return out_OI


def blocks(shape: tuple[int, ...]) -> tuple[int, ...]:
  """Blocks along each axis, those cut short among them."""
  return tuple(-(-size // BLOCK) for size in shape)


def is_quantized(name: str) -> bool:
  """Whether DeepSeek's checkpoints hold the tensor in FP8.

  The projections of attention, MLP and experts; not embedding, head,
  norms, router, nor the projection into the MTP block.
  """
  is_projection = name.endswith(("_proj.weight", "_proj_with_mqa.weight"))
  return is_projection and ".eh_proj." not in name


class Dequantized:
  """A source whose FP8 weights read as float32, their scales taken in."""

  def __init__(self, source: Source):
    self._source = source
    names = set(source.names())
    self._scaled = {n for n in names if n + SCALE in names}
    self._names = sorted(names - {n + SCALE for n in self._scaled})

  def names(self) -> list[str]:
    """All tensors but the scales of weights."""
    return self._names

  def shape(self, name: str) -> tuple[int, ...]:
    """Of a tensor."""
    return self._source.shape(name)

  def dtype(self, name: str) -> np.dtype:
    """Of what `read` gives."""
    if name in self._scaled:
      return np.dtype(np.float32)
    return self._source.dtype(name)

  def read(self, name: str) -> np.ndarray:
    """A tensor, multiplied by its scales if it has some.

    Raises:
      ValueError: For an FP8 tensor without scales, or with the wrong ones.
    """
    array = self._source.read(name)
    if name not in self._scaled:
      if array.dtype == FLOAT8:
        raise ValueError(
          f"{name} is float8 without {name}{SCALE}; only weights with a scale "
          f"for each block of {BLOCK} x {BLOCK} are read."
        )
      return array
    try:
      return dequantize(array, self._source.read(name + SCALE))
    except ValueError as error:
      raise ValueError(f"{name}{SCALE}: {error}") from error

  def __getattr__(self, name: str) -> Any:
    return getattr(self._source, name)


def _along(scale_Q, weight_OI):
  """Each column's scale, [1, I]."""
  return np.repeat(scale_Q, BLOCK)[None, : weight_OI.shape[1]]


def _rounded_up(values: np.ndarray) -> np.ndarray:
  """float32 of 20 significant bits, not below the float64 values."""
  bits = np.maximum(values, _LEAST_SCALE).astype(np.float32).view(np.uint32)
  cut = (bits & _KEPT_BITS).view(np.float32)
  above = ((bits & _KEPT_BITS) + np.uint32(16)).view(np.float32)
  return np.where(cut >= values, cut, above)
