"""Prefill, insert and decode on fixed shapes; pure, to be jitted."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from r1jax.models import transformer
from r1jax.models.attention import Context, packed_context
from r1jax.models.config import ModelConfig
from r1jax.models.layout import SINGLE, Layout
from r1jax.sampling import logits as logits_lib
from r1jax.sampling import spread

RUNNING, EOS, LENGTH, REPETITION = range(4)
CONFIDENT = 0.99  # MiniMax-M1 (arXiv:2506.13585), §5: early truncation.


class Settings(NamedTuple):
  """What of sampling is compiled in.

  Attributes:
    temperature, top_k, top_p: See `logits.sample`.
    eos_id: Ends a response, and belongs to it.
    chunk_tokens: Most tokens a slot decodes between visits of the host.
    min_response_tokens: No end of sequence before this many tokens.
    repetition_tokens: Ends a response after so many tokens in a row with
      probability above 0.99; 0 is off.
    stop_ids: More ids that end a response as eos_id does.
  """

  temperature: float
  top_k: int
  top_p: float
  eos_id: int
  chunk_tokens: int
  min_response_tokens: int
  repetition_tokens: int
  stop_ids: tuple[int, ...] = ()


class Slots(NamedTuple):
  """The rows being decoded.

  Attributes:
    caches: By stack and layer, rows first and columns on axis -2.
    tokens_B: The token to feed next, the last one known.
    positions_B: Its position, which is its cache column.
    steps_B: Response tokens drawn so far.
    limits_B: Response tokens at which the row ends.
    streaks_B: Confident tokens in a row.
    finish_B: RUNNING, or why the row ended; free slots are not running.
    keys_B: Key of the response; token t is drawn with fold_in(key, t).
  """

  caches: Any
  tokens_B: jax.Array
  positions_B: jax.Array
  steps_B: jax.Array
  limits_B: jax.Array
  streaks_B: jax.Array
  finish_B: jax.Array
  keys_B: jax.Array


class Chunk(NamedTuple):
  """What a decode call drew; row b's tokens are the first emitted_B[b]."""

  tokens_BX: jax.Array
  logprobs_BX: jax.Array
  experts_BXLP: jax.Array
  emitted_B: jax.Array
  finish_B: jax.Array
  steps: jax.Array


def response_keys(
  key: jax.Array, questions_B: jax.Array, samples_B: jax.Array
) -> jax.Array:
  """fold_in(fold_in(key, question), sample) of each row."""

  def one(question, sample):
    return jax.random.fold_in(jax.random.fold_in(key, question), sample)

  return jax.vmap(one)(questions_B, samples_B)


def places(layout: Layout, config: ModelConfig, slots: int) -> Slots | None:
  """Where each part of so many slots lies; None on one device."""
  if layout.mesh is None:
    return None
  each_B = layout.place((slots,), "batch")
  cache = spread.cache_place(layout, config, slots)
  return Slots(cache, *[each_B] * (len(Slots._fields) - 1))


def prefill(
  config: ModelConfig,
  params: Any,
  buffers: Any,
  tokens_BT: jax.Array,
  layout: Layout = SINGLE,
) -> tuple[Any, jax.Array]:
  """The prompts' caches, and the experts of their tokens, experts_BTLP.

  Rows may be longer than their prompt: a token sees only those before it,
  and columns behind the prompt are overwritten before they are seen.
  """
  B, T = tokens_BT.shape
  positions_BT = jnp.broadcast_to(jnp.arange(T)[None], (B, T))
  ones_BT = jnp.ones((B, T), jnp.int32)
  tokens_BT = layout.constrain(tokens_BT, "batch", None)
  model = transformer.Transformer(
    config, unrolled=True, keep_cache=True, layout=layout
  )
  context = packed_context(layout, positions_BT, ones_BT)
  variables = {"params": params, "buffers": buffers}
  out = model.apply(variables, tokens_BT, context)
  if out.report is None:
    return out.caches, jnp.zeros((B, T, 0, 0), jnp.int32)
  experts_BTLP = out.report.experts_BTP.transpose(1, 2, 0, 3)
  return out.caches, spread.everywhere(layout, experts_BTLP)


def empty_slots(
  config: ModelConfig, params: Any, buffers: Any, slots: int, columns: int
) -> Slots:
  """Slots that all are free."""
  tokens_B1 = jax.ShapeDtypeStruct((slots, 1), jnp.int32)
  shapes = jax.eval_shape(
    lambda p, b, t: prefill(config, p, b, t)[0], params, buffers, tokens_B1
  )

  def room(one):
    return jnp.zeros((*one.shape[:-2], columns, one.shape[-1]), one.dtype)

  caches = jax.tree.map(room, shapes)

  def zeros_B():  # Each its own buffer, since slots are donated.
    return jnp.zeros((slots,), jnp.int32)

  return Slots(
    caches,
    tokens_B=zeros_B(),
    positions_B=zeros_B(),
    steps_B=zeros_B(),
    limits_B=zeros_B(),
    streaks_B=zeros_B(),
    finish_B=jnp.full((slots,), LENGTH, jnp.int32),
    keys_B=jax.random.split(jax.random.key(0), slots),
  )


def insert(
  slots: Slots,
  prompt_caches: Any,
  chosen_B: jax.Array,
  rows_B: jax.Array,
  last_tokens_B: jax.Array,
  lengths_B: jax.Array,
  limits_B: jax.Array,
  keys_B: jax.Array,
  layout: Layout = SINGLE,
) -> Slots:
  """The slots with new prompts where `chosen_B`; other rows unchanged.

  Args:
    prompt_caches: Of `prefill`.
    rows_B: Which prefilled row goes into the slot.
    last_tokens_B: The prompt's last token; it is fed first, so that the
      first response token comes from the same program as the others.
    lengths_B: Prompt tokens.
    limits_B: Response tokens at which the row ends.
    keys_B: Of `response_keys`.
    layout: Of the slots.
  """
  chosen_B, rows_B = (layout.constrain(a, "batch") for a in (chosen_B, rows_B))

  def place(cache, prompt):
    # Any slot may take any row, so every device sees all of them.
    _, *others = spread.cache_axes(None, prompt.ndim)
    new = spread.everywhere(layout, prompt, *others)[rows_B]
    width = new.shape[-2]
    mask = chosen_B.reshape(-1, *[1] * (cache.ndim - 1))
    head = jnp.where(mask, new, cache[..., :width, :])
    start = (0,) * cache.ndim
    return jax.lax.dynamic_update_slice(cache, head, start)

  def choose(new, old):
    return jnp.where(chosen_B, new, old)

  zeros_B = jnp.zeros_like(slots.steps_B)
  keys_B = jax.random.wrap_key_data(
    jnp.where(
      chosen_B[:, None],
      jax.random.key_data(keys_B),
      jax.random.key_data(slots.keys_B),
    )
  )
  return Slots(
    jax.tree.map(place, slots.caches, prompt_caches),
    tokens_B=choose(last_tokens_B, slots.tokens_B),
    positions_B=choose(lengths_B - 1, slots.positions_B),
    steps_B=choose(zeros_B, slots.steps_B),
    limits_B=choose(limits_B, slots.limits_B),
    streaks_B=choose(zeros_B, slots.streaks_B),
    finish_B=choose(zeros_B + RUNNING, slots.finish_B),
    keys_B=keys_B,
  )


def decode(
  config: ModelConfig,
  settings: Settings,
  params: Any,
  buffers: Any,
  slots: Slots,
  patience: jax.Array,
  layout: Layout = SINGLE,
) -> tuple[Slots, Chunk]:
  """The slots after at most `chunk_tokens` steps, and what was drawn.

  Returns earlier when no row runs, or when `patience` rows that ran at
  the start have ended and may be refilled.
  """
  running = jnp.sum(slots.finish_B == RUNNING)
  start_B = slots.steps_B
  model = transformer.Transformer(
    config, unrolled=True, keep_cache=True, moe_impl="dense", layout=layout
  )
  variables = {"params": params, "buffers": buffers}

  def proceed(carry):
    step, slots, _ = carry
    left = jnp.sum(slots.finish_B == RUNNING)
    return (
      (step < settings.chunk_tokens) & (left > 0) & (running - left < patience)
    )

  def advance(carry):
    step, slots, drawn = carry
    hidden_BD, caches, experts_BLP = _forward(model, variables, slots)
    logits_BV = model.apply(variables, hidden_BD, method="logits")
    logits_BV = layout.constrain(logits_BV, "batch", None)
    slots, token_B, logprob_B = _draw(logits_BV, slots, settings)
    column = (token_B, logprob_B, experts_BLP)
    drawn = jax.tree.map(
      lambda all_BX, new_B: jax.lax.dynamic_update_slice_in_dim(
        all_BX, new_B[:, None], step, axis=1
      ),
      drawn,
      column,
    )
    return step + 1, slots._replace(caches=caches), drawn

  nothing = _nothing_drawn(config, settings, slots)
  step, slots, drawn = jax.lax.while_loop(
    proceed,
    advance,
    (jnp.int32(0), slots, nothing),
  )
  told = (*drawn, slots.steps_B - start_B, slots.finish_B)
  whole = (spread.everywhere(layout, each) for each in told)
  return slots, Chunk(*whole, step)


def _nothing_drawn(config, settings, slots):
  """Room for a chunk's tokens, log-probabilities and experts."""
  shape = (slots.tokens_B.shape[0], settings.chunk_tokens)
  picks = (config.num_moe_layers, config.experts_per_token)
  return (
    jnp.zeros(shape, jnp.int32),
    jnp.zeros(shape, jnp.float32),
    jnp.zeros(shape + picks, jnp.int32),
  )


def _forward(model, variables, slots):
  """Hidden state, caches and picked experts of one token a row."""
  columns = _columns(slots.caches)
  positions_B1 = slots.positions_B[:, None]
  mask_B1S = jnp.arange(columns)[None, None] <= positions_B1[:, :, None]
  out = model.apply(
    variables,
    slots.tokens_B[:, None],
    Context(positions_B1, mask_B1S),
    slots.caches,
  )
  shape = (slots.tokens_B.shape[0], 0, model.config.experts_per_token)
  experts_BLP = jnp.zeros(shape, jnp.int32)
  if out.report is not None:
    experts_BLP = out.report.experts_BTP[:, :, 0].transpose(1, 0, 2)
  return out.hidden_BTD[:, 0], out.caches, experts_BLP


def _columns(caches) -> int:
  return jax.tree.leaves(caches)[0].shape[-2]


def _draw(logits_BV, slots, settings):
  """The slots a token further, that token, and its log-probability."""
  barred_BV = None
  if settings.min_response_tokens:
    early_B = slots.steps_B + 1 < settings.min_response_tokens
    is_eos_V = _ends(jnp.arange(logits_BV.shape[1]), settings)
    barred_BV = early_B[:, None] & is_eos_V[None]
  keys_B = jax.vmap(jax.random.fold_in)(slots.keys_B, slots.steps_B)
  token_B, logprob_B = logits_lib.sample(
    keys_B,
    logits_BV,
    temperature=settings.temperature,
    top_k=settings.top_k,
    top_p=settings.top_p,
    barred_BV=barred_BV,
  )
  running_B = slots.finish_B == RUNNING
  steps_B = slots.steps_B + running_B
  confident_B = logprob_B > jnp.log(CONFIDENT)
  streaks_B = jnp.where(confident_B, slots.streaks_B + 1, 0)
  finish_B = jnp.where(steps_B >= slots.limits_B, LENGTH, RUNNING)
  if settings.repetition_tokens:
    repeats_B = streaks_B >= settings.repetition_tokens
    finish_B = jnp.where(repeats_B, REPETITION, finish_B)
  finish_B = jnp.where(_ends(token_B, settings), EOS, finish_B)
  slots = slots._replace(
    tokens_B=jnp.where(running_B, token_B, slots.tokens_B),
    positions_B=slots.positions_B + running_B,
    steps_B=steps_B,
    streaks_B=streaks_B,
    finish_B=jnp.where(running_B, finish_B, slots.finish_B),
  )
  return slots, token_B, logprob_B


def _ends(tokens_X, settings):
  """Which ids end a response."""
  ends_X = tokens_X == settings.eos_id
  for id in settings.stop_ids:
    ends_X |= tokens_X == id
  return ends_X
