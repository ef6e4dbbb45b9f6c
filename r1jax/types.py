"""The arrays that parts of r1jax hand to each other.

The letters at the end of an array's name are its axes:

  B rows              Q questions          G samples of a question
  T tokens            S cached tokens      V vocabulary
  D model width       N query heads        K key/value heads
  H head width        C latent width       R rotary width
  E experts           F hidden width       L layers
  M microbatches      P picked experts     1 an axis that broadcasts
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Params = Any  # A tree of arrays.


class Batch(NamedTuple):
  """The packed rows of one microbatch; entry t describes token t.

  Every microbatch of a run has the same B and T; an update is a list of
  as many microbatches as its tokens need. Fields that an objective does
  not use stay None.

  Attributes:
    tokens_BT: Token ids, int32; anything where segments_BT is 0.
    segments_BT: 0 where the row is padding, else 1, 2, ... by sequence.
    positions_BT: Position inside the sequence, from 0.
    mask_BT: True on the tokens that the loss is about.
    weights_BT: What `weighting` made of the mask; 0 outside of it.
    metric_weights_BT: The same mask as a mean over tokens, for metrics.
    advantages_BT: Advantage of the token's response.
    old_logprobs_BT: Under the policy that sampled, by the trainer.
    sampler_logprobs_BT: Under the policy that sampled, by the sampler.
    ref_logprobs_BT: Under the frozen reference.
    experts_BTLP: Experts the sampler chose; -1 where none was recorded.
    targets_BT: What the label of the response that ends here says, in a
      reward model; of `score_losses`.
    rivals_BT: How many tokens further on the other member of its pair
      ends; negative if before.
    teacher: Frozen (params, buffers) of the model to learn from, the same
      arrays in every microbatch.
  """

  tokens_BT: jax.Array
  segments_BT: jax.Array
  positions_BT: jax.Array
  mask_BT: jax.Array
  weights_BT: jax.Array
  metric_weights_BT: jax.Array
  advantages_BT: jax.Array | None = None
  old_logprobs_BT: jax.Array | None = None
  sampler_logprobs_BT: jax.Array | None = None
  ref_logprobs_BT: jax.Array | None = None
  experts_BTLP: jax.Array | None = None
  targets_BT: jax.Array | None = None
  rivals_BT: jax.Array | None = None
  teacher: tuple[Params, Params] | None = None


class Aux(NamedTuple):
  """What a loss reports; sums add over microbatches, maxima do not."""

  sums: dict[str, jax.Array]
  maxima: dict[str, jax.Array]


class Stage(NamedTuple):
  """A training stage: what a round trains on, and on what loss.

  Attributes:
    collect: (state, round) -> (updates, metrics), on the host; an update
      is the list of its microbatches.
    loss_fn: (params, buffers, batch) -> (loss, Aux), pure; the loss of
      all microbatches of an update is their sum.
  """

  collect: Callable[[Any, int], tuple[list[list[Batch]], dict[str, Any]]]
  loss_fn: Callable[[Params, Any, Batch], tuple[jax.Array, Aux]]
