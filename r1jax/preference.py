"""Reward models: what they read of a response, and its score.

The model reads a prompt and one of two things: the summary alone, for how
helpful it is, or the whole response with its thoughts, for how safe it is
(DeepSeek-R1, arXiv:2501.12948, §3.1). Its last token is the EOS, always,
and there the score is read.
"""

import bisect
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import checkpoint, distributed, packing, records, run_card
from r1jax.data import templates
from r1jax.data.tokenizer import Tokenizer
from r1jax.models import heads, store
from r1jax.models.attention import packed_context
from r1jax.models.config import ModelConfig
from r1jax.models.layout import SINGLE, Layout
from r1jax.records import Question, Response, Reward
from r1jax.rewards import extract
from r1jax.types import Params

SCORE_ON = ("summary", "response")
NOTE = "reward_model"  # Where run cards and files hold the description.
_WANTED = (
  "Give the workdir of a run of configs/reward_helpful.py or "
  "configs/reward_safety.py, or its params.safetensors."
)
# Of a model's config, what its weights do not depend on.
_EXECUTION = ("compute_dtype", "init_std", "moe_impl", "remat", "scan_unroll")


class RewardModel(NamedTuple):
  """A model that scores.

  Attributes:
    init: key -> (params, buffers), boxed with their logical axes.
    scores: (params, buffers, tokens_BT, segments_BT, positions_BT) ->
      (scores_BT, report); a score is that of what ends at its token.
  """

  init: Callable[[jax.Array], tuple[Params, Params]]
  scores: Callable[..., tuple[jax.Array, Any]]


class Reading(NamedTuple):
  """How a response becomes the tokens that the reward model reads.

  Attributes:
    tokenizer: The policy's too.
    template: Of the prompt; for summaries one without an opening <think>.
    score_on: One of SCORE_ON.
  """

  tokenizer: Tokenizer
  template: str
  score_on: str


# (params, buffers, ids of each response) -> scores_B, float32.
Scorer = Callable[[Params, Params, Sequence[Sequence[int]]], np.ndarray]


def make(
  config: ModelConfig, *, with_balance: bool = False, layout: Layout = SINGLE
) -> RewardModel:
  """The reward model on a decoder of these dimensions."""
  model = heads.RewardModel(config, with_balance, layout)

  def init(key):
    ones_BT = jnp.ones((1, 2), jnp.int32)
    context = packed_context(SINGLE, ones_BT, ones_BT)
    variables = heads.RewardModel(config).init(key, ones_BT, context)
    return variables["params"], variables.get("buffers", {})

  def scores(params, buffers, tokens_BT, segments_BT, positions_BT):
    variables = {"params": params, "buffers": buffers}
    context = packed_context(layout, positions_BT, segments_BT)
    return model.apply(variables, tokens_BT, context)

  return RewardModel(init, scores)


def token_ids(
  reading: Reading,
  question: Question,
  response: Response,
  ids: Sequence[int] | None = None,
) -> list[int] | None:
  """Prompt and what is read of the response; None if it has no summary.

  What a policy sampled is not tokenised again: a whole response is its
  ids, a summary the slice of them that decodes to it. Its text is encoded
  only where there are no ids, where the summary begins or ends inside of a
  token, and where just one of the two prompts opens <think>.

  Args:
    reading: Of the reward model.
    question: What was asked.
    response: Its text, and whether its prompt opened <think>.
    ids: The response's, without EOS.
  """
  tokenizer, text = reading.tokenizer, response.text
  if reading.score_on == "summary":
    found = extract.answer(text, response.think_prefilled)
    if found is None:
      return None
    if ids is not None:
      ids = _slice(tokenizer, ids, text, found)
    text = found.text
  elif templates.get(reading.template).think_prefilled != (
    response.think_prefilled
  ):
    ids = None
    text = (extract.THINK if response.think_prefilled else "") + text
  if ids is None:
    prompt, encoded = templates.document_ids(
      reading.template, question, text, tokenizer
    )
    return [*prompt, *encoded]
  prompt = templates.prompt_ids(reading.template, question, tokenizer)
  end = templates.end_id(reading.template, question, tokenizer)
  return [*prompt, *ids, end]


def make_scorer(
  model: RewardModel, put: Callable[[Any], Any], *, row_tokens: int, rows: int
) -> Scorer:
  """The scores of any number of responses, by one program of one shape.

  They are packed, so a score depends on what else is scored with it by
  rounding alone, and on nothing else if the same are.

  Args:
    model: Of `make`.
    put: Places a microbatch on the mesh.
    row_tokens: Prompt, response and the EOS that a response which was cut
      off lacks fit in.
    rows: Of a microbatch.
  """
  program = jax.jit(lambda *arguments: model.scores(*arguments)[0])

  def score(params, buffers, sequences):
    microbatches, layout = packing.pack(
      [{"tokens_T": np.asarray(ids, np.int32)} for ids in sequences],
      row_tokens=row_tokens,
      rows=rows,
    )
    names = ("tokens_BT", "segments_BT", "positions_BT")
    scores = [
      program(params, buffers, *put([fields[name] for name in names]))
      for fields in microbatches
    ]
    scores = [distributed.fetch(each) for each in scores]
    return np.array(
      [
        scores[slot.microbatch][slot.row, slot.start + slot.length - 1]
        for slot in layout
      ],
      np.float32,
    )

  return score


def reward(
  score: Scorer,
  reading: Reading,
  params: Params,
  buffers: Params,
  questions: Sequence[Question],
  responses: Sequence[Response],
  ids: Sequence[Sequence[int]],
  *,
  floor: float,
  clip: float,
  max_tokens: int,
) -> list[Reward]:
  """The reward of each response, in (0, 1).

    sigmoid(min(max(score, -clip), clip))

  Of a model of labels it is the probability that the response is good, of
  a model of pairs that it would be preferred to one of score 0. So it is
  of the size of format and language, and cannot outweigh them. Beyond the
  clip a response is good, or bad, enough: what is left of a difference is
  the model's noise, which the division by a group's deviation would make
  as large as any.

  Args:
    score: Of `make_scorer`.
    reading: Of the reward model, as `restore` gives it.
    params, buffers: The reward model's.
    questions: One a response.
    responses: As they were graded.
    ids: Of each response, without EOS.
    floor: Of a response with nothing to read: cut off, without a summary,
      or longer than max_tokens.
    clip: Largest score that counts, and smallest.
    max_tokens: Of a prompt and what is read.
  """
  rewards, there = [], []
  for i, one in enumerate(zip(questions, responses, ids, strict=True)):
    why = records.cut_off(one[1])
    read = None if why else token_ids(reading, *one)
    if read is None:
      why = why or "no summary"
    elif len(read) > max_tokens:
      why = f"more than {max_tokens} tokens to read"
    else:
      there.append((i, read))
    rewards.append(Reward(floor, why or "", "unscored"))
  scores_B = score(params, buffers, [read for _, read in there])
  for (i, _), x in zip(there, scores_B.tolist()):
    value = float(1 / (1 + np.exp(-np.clip(x, -clip, clip))))
    rewards[i] = Reward(value, f"score {x:.4g}")
  return rewards


def check(reading: Reading) -> None:
  """Raises ValueError for a template that begins thoughts in a summary."""
  prefilled = templates.get(reading.template).think_prefilled
  if reading.score_on == "summary" and prefilled:
    raise ValueError(
      f"config.template {reading.template!r} opens <think>, but "
      "config.score_on 'summary' reads no thoughts. Choose another template; "
      "it need not be the policy's."
    )


def describe(
  config: ModelConfig, tokenizer_digest: str, reading: Reading
) -> dict[str, Any]:
  """What must be known of a reward model to use it; kept with it."""
  return {
    "model": dataclasses.asdict(config),
    "tokenizer_digest": tokenizer_digest,
    "template": reading.template,
    "score_on": reading.score_on,
  }


def read_description(
  path: str | os.PathLike,
  config: ModelConfig,
  tokenizer: Tokenizer,
  tokenizer_digest: str,
) -> Reading:
  """How a trained reward model reads responses; touches no device.

  Args:
    path: Workdir of the run that trained it, or what it exported.
    config: config.model of the run that wants scores.
    tokenizer: That run's.
    tokenizer_digest: The same, of its file.

  Raises:
    ValueError: If it is no reward model, or another model's or
      tokenizer's.
  """
  if not os.path.exists(path):
    raise ValueError(f"{path} does not exist. {_WANTED}")
  found = _description(path)
  if found is None:
    raise ValueError(f"{path} holds no reward model. {_WANTED}")
  if found["tokenizer_digest"] != tokenizer_digest:
    raise ValueError(
      f"{path} reads tokens of tokenizer {found['tokenizer_digest']}, "
      f"config.tokenizer is {tokenizer_digest}. Train a reward model with "
      "the tokenizer of the policy."
    )
  for name, wanted in dataclasses.asdict(config).items():
    has = found["model"].get(name)
    if name not in _EXECUTION and has != wanted:
      raise ValueError(
        f"{path} is a reward model whose {name} is {has}, config.model has "
        f"{wanted}. Train one with the model of the policy."
      )
  return Reading(tokenizer, found["template"], found["score_on"])


def restore(
  path: str | os.PathLike,
  config: ModelConfig,
  tokenizer: Tokenizer,
  tokenizer_digest: str,
  abstract: tuple[Params, Params],
) -> tuple[Params, Params, Reading]:
  """A trained reward model, and how it reads responses.

  Args:
    path, config, tokenizer, tokenizer_digest: As of `read_description`.
    abstract: (params, buffers) of `make(config)`, with shardings.

  Raises:
    ValueError: As `read_description`.
    CheckpointError: If it cannot be read.
  """
  reading = read_description(path, config, tokenizer, tokenizer_digest)
  if os.path.isdir(path):
    weights = checkpoint.restore_weights(path, *abstract)
  else:
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    weights = distributed.place(store.load(path, *abstract), places)
  return *weights, reading


def _description(path: str | os.PathLike) -> Mapping[str, Any] | None:
  if not os.path.isdir(path):
    return store.notes(path).get(NOTE)
  path = os.path.abspath(path)
  if os.path.basename(path) == "checkpoints":
    path = os.path.dirname(path)
  return run_card.read(path).get(NOTE)


def _slice(
  tokenizer: Tokenizer,
  ids: Sequence[int],
  text: str,
  found: extract.Answer,
) -> list[int] | None:
  """The ids that decode to an answer; None if no edge of tokens fits."""
  tag = extract.ANSWER if found.is_tagged else extract.THINK_END
  after = text.rfind(tag) + len(tag) if tag in text else 0
  start = text.find(found.text, after)
  # Characters before token k grow with k but for broken UTF-8, for which
  # the comparison below is.
  places = range(len(ids) + 1)
  before = {"key": lambda k: len(tokenizer.decode(ids[:k]))}
  first = bisect.bisect_right(places, start, **before) - 1
  last = bisect.bisect_left(places, start + len(found.text), **before)
  part = [int(i) for i in ids[first:last]]
  return part if tokenizer.decode(part) == found.text else None
