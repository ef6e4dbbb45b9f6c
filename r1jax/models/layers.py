"""Norms, projections, the gated MLP and rotary positions."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models import parallel
from r1jax.models.config import ModelConfig, RopeScaling
from r1jax.models.layout import SINGLE, Layout


class RMSNorm(nn.Module):
  """x / rms(x) * scale, in float32 (arXiv:1910.07467, eq. 4)."""

  eps: float
  axis_name: str = "norm"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """The normalised x, of its own dtype."""
    scale = self.param(
      "scale",
      nn.with_logical_partitioning(nn.initializers.ones, (self.axis_name,)),
      (x.shape[-1],),
      jnp.float32,
    )
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(mean_square + self.eps) * scale).astype(
      x.dtype
    )


class Linear(nn.Module):
  """x @ kernel (+ bias), the kernel of shape [inputs, *outputs].

  Attributes:
    outputs: Widths of the result's last axes.
    axes: Logical axes of the kernel, inputs first.
    inputs: How many of x's last axes are contracted.
  """

  config: ModelConfig
  outputs: tuple[int, ...]
  axes: tuple[str, ...]
  inputs: int = 1
  use_bias: bool = False
  layout: Layout = SINGLE

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x with its last `inputs` axes replaced by `outputs`."""
    c = self.config
    batch, width = x.shape[: -self.inputs], x.shape[-self.inputs :]
    kernel = self.param(
      "kernel",
      nn.with_logical_partitioning(
        nn.initializers.normal(c.init_std), self.axes
      ),
      width + self.outputs,
      jnp.dtype(c.param_dtype),
    )
    dtype = jnp.dtype(c.compute_dtype)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    if self.layout.mesh is not None:
      y = parallel.linear(self.layout, x, kernel, self.axes, self.inputs)
    else:
      # Two axes each, so that no backward matmul needs a transposed copy.
      y_XO = jnp.dot(
        x.reshape(math.prod(batch), math.prod(width)),
        kernel.reshape(math.prod(width), math.prod(self.outputs)),
      )
      y = y_XO.reshape(*batch, *self.outputs)
    if self.use_bias:
      bias = self.param(
        "bias",
        nn.with_logical_partitioning(
          nn.initializers.zeros, self.axes[self.inputs :]
        ),
        self.outputs,
        jnp.dtype(c.param_dtype),
      )
      y = y + jnp.broadcast_to(bias.astype(dtype), y.shape)
    return y


class MLP(nn.Module):
  """down(silu(gate(x)) * up(x))."""

  config: ModelConfig
  d_ff: int
  layout: Layout = SINGLE

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    """The MLP's output, shaped as x_BTD."""
    c, width = self.config, (self.d_ff,)

    def linear(outputs, axes, name):
      return Linear(c, outputs, axes, layout=self.layout, name=name)

    gate_BTF = linear(width, ("embed", "mlp"), "gate")(x_BTD)
    up_BTF = linear(width, ("embed", "mlp"), "up")(x_BTD)
    inner_BTF = nn.silu(gate_BTF) * up_BTF
    return linear((c.d_model,), ("mlp", "embed"), "down")(inner_BTF)


def yarn_mscale(factor: float, mscale: float) -> float:
  """0.1 * mscale * ln(factor) + 1, or 1 without stretching."""
  return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def yarn_ramp_bounds(
  rotary_width: int, theta: float, scaling: RopeScaling
) -> tuple[int, int]:
  """First and last pair of YaRN's ramp (arXiv:2309.00071, eq. 18-20)."""

  def pair(beta):
    turns = scaling.original_max_positions / (2 * math.pi * beta)
    return rotary_width * math.log(turns) / (2 * math.log(theta))

  low = max(math.floor(pair(scaling.beta_fast)), 0)
  high = min(math.ceil(pair(scaling.beta_slow)), rotary_width - 1)
  return low, high


def rope_frequencies(
  rotary_width: int, theta: float, scaling: RopeScaling | None
) -> np.ndarray:
  """Radians a position for each rotated pair, [rotary_width / 2]."""
  exponents = np.arange(0, rotary_width, 2, dtype=np.float64) / rotary_width
  frequencies = theta**-exponents
  if scaling is None:
    return frequencies.astype(np.float32)
  slow = frequencies / scaling.factor
  if scaling.name == "yarn":
    low, high = yarn_ramp_bounds(rotary_width, theta, scaling)
    span = max(high - low, 1e-3)
    ramp = np.clip((np.arange(rotary_width // 2) - low) / span, 0, 1)
    return (ramp * slow + (1 - ramp) * frequencies).astype(np.float32)
  if scaling.name == "llama3":
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = np.clip((turns - low) / (high - low), 0, 1)
    return (keep * frequencies + (1 - keep) * slow).astype(np.float32)
  raise ValueError(
    f"config.model.rope_scaling.name is {scaling.name!r}. Known: llama3, yarn."
  )


def rotary(
  positions_BT: jax.Array, rotary_width: int, config: ModelConfig
) -> tuple[jax.Array, jax.Array]:
  """Cosines and sines of the positions, each [B, T, rotary_width / 2]."""
  scaling = config.rope_scaling
  frequencies = rope_frequencies(rotary_width, config.rope_theta, scaling)
  angles = positions_BT[..., None].astype(jnp.float32) * frequencies
  magnitude = 1.0
  if scaling is not None and scaling.name == "yarn":
    magnitude = yarn_mscale(scaling.factor, scaling.mscale) / yarn_mscale(
      scaling.factor, scaling.mscale_all_dim
    )
  return jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude


def rotate(
  x_BTNR: jax.Array, cos_sin: tuple[jax.Array, jax.Array], interleaved: bool
) -> jax.Array:
  """x with each pair turned by its position's angle.

  Pairs are (0, 1), (2, 3), ... if interleaved (DeepSeek), else (i, i +
  R/2) (Llama, Qwen). The interleaved result is in half order, as both q
  and k are and only their product matters.
  """
  cos_BT1R, sin_BT1R = (a[:, :, None, :] for a in cos_sin)
  wide = x_BTNR.astype(jnp.float32)
  if interleaved:
    first, second = wide[..., 0::2], wide[..., 1::2]
  else:
    first, second = jnp.split(wide, 2, axis=-1)
  cos, sin = jnp.broadcast_arrays(cos_BT1R, first)[0], sin_BT1R
  sin = jnp.broadcast_to(sin, first.shape)
  turned = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(turned, axis=-1).astype(x_BTNR.dtype)
