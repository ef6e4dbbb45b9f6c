"""Continuous batching: the host side of the sampler.

A fixed number of slots decodes in chunks; between chunks finished slots
are harvested and refilled. A question's prompt is prefilled once and its
cache copied into the slot of each of its samples. What a response is
depends on the weights, its key and its prompt alone: not on the order of
the queue, and on the number of slots only by rounding.
"""

import functools
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax.models import transformer
from r1jax.models.config import ModelConfig
from r1jax.models.layout import BATCH_AXES, SINGLE, Layout
from r1jax.records import FINISH_REASONS
from r1jax.sampling import decode, spread

_NO_REFILL = 1 << 30


class Request(NamedTuple):
  """A response to be sampled; question and sample make its key."""

  question: int
  sample: int


class Sample(NamedTuple):
  """A sampled response.

  Attributes:
    tokens_T: Response ids, with the end of sequence if there is one.
    logprobs_T: The sampler's, float32, at the sampling temperature.
    experts_TLP: The experts of prompt and response tokens, -1 for the
      last one, which is never fed.
    finish_reason: One of records.FINISH_REASONS.
  """

  question: int
  sample: int
  tokens_T: np.ndarray
  logprobs_T: np.ndarray
  experts_TLP: np.ndarray
  finish_reason: str


class Stats(NamedTuple):
  """Decode steps, and response tokens over slots times steps."""

  steps: int
  slot_utilization: float


class Programs(NamedTuple):
  """The jitted programs of one setting, compiled once a run."""

  unstack: Callable[..., Any]
  prefill: Callable[..., Any]
  empty: Callable[..., Any]
  insert: Callable[..., Any]
  decode: Callable[..., Any]
  keys: Callable[..., Any]
  slots: int
  prefill_rows: int
  max_prompt_tokens: int
  max_response_tokens: int


def make_programs(
  config: ModelConfig,
  settings: decode.Settings,
  *,
  slots: int,
  prefill_rows: int,
  max_prompt_tokens: int,
  max_response_tokens: int,
  layout: Layout = SINGLE,
  weights: Any = None,
) -> Programs:
  """The programs for these fixed shapes.

  On a mesh slots, prefilled rows and their caches are spread over the
  devices that share a batch, and what the host reads is on each of them;
  `weights` is where the unstacked (params, buffers) lie.

  Raises:
    ValueError: If the mesh does not divide slots or prefill_rows.
  """
  _check_rows(layout, slots=slots, prefill_rows=prefill_rows)
  columns = max_prompt_tokens + max_response_tokens
  whole = layout.place(())
  places = decode.places(layout, config, slots)
  prompts = spread.cache_place(layout, config, prefill_rows)
  return Programs(
    unstack=jax.jit(
      lambda *trees: tuple(map(transformer.unstack, trees)),
      out_shardings=weights,
    ),
    prefill=jax.jit(
      functools.partial(decode.prefill, config, layout=layout),
      out_shardings=(prompts, whole),
    ),
    empty=jax.jit(
      lambda params, buffers: decode.empty_slots(
        config, params, buffers, slots, columns
      ),
      out_shardings=places,
    ),
    insert=jax.jit(
      functools.partial(decode.insert, layout=layout),
      donate_argnums=0,
      in_shardings=(places, prompts, *[None] * 6),
      out_shardings=places,
    ),
    decode=jax.jit(
      functools.partial(decode.decode, config, settings, layout=layout),
      donate_argnums=2,
      in_shardings=(None, None, places, None),
      out_shardings=(places, whole),
    ),
    keys=jax.jit(decode.response_keys, out_shardings=whole),
    slots=slots,
    prefill_rows=prefill_rows,
    max_prompt_tokens=max_prompt_tokens,
    max_response_tokens=max_response_tokens,
  )


def _check_rows(layout, **rows):
  shards = layout.size(*BATCH_AXES)
  for field, count in rows.items():
    if count % shards:
      axes = " * ".join(f"config.mesh.{axis}" for axis in BATCH_AXES)
      raise ValueError(
        f"config.sampling.{field} is {count}, which {axes} = {shards} does "
        "not divide. Set it to a multiple."
      )


def sample(
  programs: Programs,
  params: Any,
  buffers: Any,
  key: jax.Array,
  prompts: Mapping[int, Sequence[int]],
  requests: Sequence[Request],
  *,
  limits: Sequence[int] | None = None,
  on_finish: Callable[[Sample], None] | None = None,
) -> tuple[list[Sample], Stats]:
  """The requests' samples, in the requests' order.

  Args:
    programs: Of `make_programs`.
    params, buffers: Stacked, as they are trained.
    key: Of the round.
    prompts: Ids of each prompt, by Request.question.
    requests: What to sample, in the order it is queued.
    limits: By request, response tokens at which it ends; by default
      max_response_tokens.
    on_finish: Called with each sample as it ends, while others decode.

  Raises:
    ValueError: If a prompt is empty or longer than max_prompt_tokens, or
      a limit is outside 1 to max_response_tokens.
  """
  _check_prompts(programs, prompts)
  weights = programs.unstack(params, buffers)
  limits = limits or [programs.max_response_tokens] * len(requests)
  if not all(1 <= limit <= programs.max_response_tokens for limit in limits):
    raise ValueError(
      f"limits are {min(limits)} to {max(limits)}, outside 1 to "
      f"max_response_tokens={programs.max_response_tokens}."
    )
  queue = deque(zip(requests, limits, strict=True))
  pool = _Prompts(programs, weights, prompts, requests)
  slots = programs.empty(*weights)
  owners: list[_Owner | None] = [None] * programs.slots
  done: dict[Request, Sample] = {}
  steps = 0
  while queue or any(owners):
    slots = _refill(programs, slots, key, queue, owners, pool)
    patience = max(1, programs.slots // 8) if queue else _NO_REFILL
    slots, chunk = programs.decode(*weights, slots, np.int32(patience))
    chunk = jax.device_get(chunk)
    steps += int(chunk.steps)
    for finished in _harvest(owners, chunk, pool):
      done[Request(finished.question, finished.sample)] = finished
      if on_finish:
        on_finish(finished)
  tokens = sum(len(each.tokens_T) for each in done.values())
  stats = Stats(steps, tokens / max(1, steps * programs.slots))
  return [done[request] for request in requests], stats


class _Owner:
  """Whose tokens a slot holds, and those drawn so far."""

  def __init__(self, request: Request):
    self.request = request
    self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []


class _Prompts:
  """Prefilled prompts, in batches; a batch is dropped with its last use."""

  def __init__(self, programs, weights, prompts, requests):
    self._programs, self._weights = programs, weights
    self._prompts = prompts
    order = list(dict.fromkeys(r.question for r in requests))
    rows = programs.prefill_rows
    self.place = {q: divmod(i, rows) for i, q in enumerate(order)}
    self._batches = [order[i : i + rows] for i in range(0, len(order), rows)]
    self._uses = Counter(self.place[r.question][0] for r in requests)
    self._caches: dict[int, Any] = {}
    self._experts: dict[int, np.ndarray] = {}

  def take(self, batch: int, uses: int) -> Any:
    """The batch's caches, prefilled at its first use."""
    caches = self._caches.pop(batch, None)
    if caches is None:
      shape = (self._programs.prefill_rows, self._programs.max_prompt_tokens)
      tokens_BT = np.zeros(shape, np.int32)
      for row, question in enumerate(self._batches[batch]):
        prompt = self._prompts[question]
        tokens_BT[row, : len(prompt)] = prompt
      caches, experts = self._programs.prefill(*self._weights, tokens_BT)
      experts = np.asarray(experts)
      experts = np.asarray(experts)  # On device, each length would compile.
      for row, question in enumerate(self._batches[batch]):
        length = len(self._prompts[question])
        self._experts[question] = experts[row, : length - 1]
    self._uses[batch] -= uses
    if self._uses[batch]:
      self._caches[batch] = caches
    return caches

  def experts(self, question: int) -> np.ndarray:
    """Experts of the prompt's tokens but the last, which is decoded."""
    return self._experts[question]

  def last_and_length(self, question: int) -> tuple[int, int]:
    """The prompt's last token and its length."""
    prompt = self._prompts[question]
    return prompt[-1], len(prompt)


def _refill(programs, slots, key, queue, owners, pool):
  """The slots after every free one that can be is given a request."""
  free = [i for i, owner in enumerate(owners) if owner is None]
  while free and queue:
    batch = pool.place[queue[0][0].question][0]
    taken = []
    while free and queue and pool.place[queue[0][0].question][0] == batch:
      taken.append((free.pop(0), *queue.popleft()))
    columns = np.zeros((7, programs.slots), np.int32)
    for slot, request, limit in taken:
      owners[slot] = _Owner(request)
      row = pool.place[request.question][1]
      last, length = pool.last_and_length(request.question)
      columns[:, slot] = (1, row, last, length, limit, *request)
    chosen_B, rows_B, last_B, lengths_B, limits_B, *ids = columns
    slots = programs.insert(
      slots,
      pool.take(batch, len(taken)),
      chosen_B.astype(bool),
      rows_B,
      last_B,
      lengths_B,
      limits_B,
      programs.keys(key, *ids),
    )
  return slots


def _harvest(owners, chunk, pool):
  """Samples that ended in the chunk; the others keep their new tokens."""
  for slot, owner in enumerate(owners):
    if owner is None:
      continue
    n = chunk.emitted_B[slot]
    owner.parts.append(
      tuple(
        array[slot, :n].copy()
        for array in (chunk.tokens_BX, chunk.logprobs_BX, chunk.experts_BXLP)
      )
    )
    finish = chunk.finish_B[slot]
    if finish != decode.RUNNING:
      owners[slot] = None
      tokens_T, logprobs_T, experts_TLP = (
        np.concatenate(part) for part in zip(*owner.parts)
      )
      last_TLP = np.full((1, *experts_TLP.shape[1:]), -1, np.int32)
      experts_TLP = np.concatenate(
        [pool.experts(owner.request.question), experts_TLP, last_TLP]
      )
      yield Sample(
        *owner.request,
        tokens_T,
        logprobs_T,
        experts_TLP,
        FINISH_REASONS[finish - 1],
      )


def _check_prompts(programs, prompts):
  for index, prompt in prompts.items():
    if not 1 <= len(prompt) <= programs.max_prompt_tokens:
      raise ValueError(
        f"The prompt of question {index} of the round has {len(prompt)} "
        f"tokens; config.max_prompt_tokens is {programs.max_prompt_tokens}. "
        "Raise it, or remove the question."
      )
