"""Judges that a config can name, and the one that is a policy of r1jax.

A judge is one line in JUDGES: (model, *, arguments) -> judge.Ask, where
`model` is the policy to judge with, for those that need one.

    config.judge = dict(name="http", url=..., model=..., key_env="JUDGE_KEY",
                        temperature=0.0, max_reply_tokens=2048)
    config.judge = dict(name="policy", template="r1-zero")

    ask = judging.make(config.judge, "config.judge", model)
    verdicts = judge.grade(ask, queries, seed=config.seed)
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from r1jax import registry
from r1jax.data import templates
from r1jax.data.tokenizer import Tokenizer
from r1jax.records import Question
from r1jax.rewards import judge, judge_http
from r1jax.sampling import engine
from r1jax.types import Params

_KEY = 0  # A reply's key is that of its prompt's seed under this one.


class Model(NamedTuple):
  """A policy ready to sample.

  Attributes:
    programs: Of the policy, at the temperature and lengths of the judge.
    tokenizer: Its tokenizer.
    params, buffers: Stacked, as they are trained.
  """

  programs: engine.Programs
  tokenizer: Tokenizer
  params: Params
  buffers: Params


def make(
  choice: Mapping[str, Any], field: str, model: Model | None = None
) -> judge.Ask:
  """The judge of a choice.

  Raises:
    ValueError: For a choice that cannot be had, or one that needs a model
      where none is given.
  """
  return registry.make(JUDGES, choice, field)(model)


@functools.wraps(judge_http.connect)
def http(_: Model | None, /, **arguments: Any) -> judge.Ask:
  """`judge_http.connect`; needs no model here."""
  return judge_http.connect(**arguments)


def policy(model: Model | None, *, template: str) -> judge.Ask:
  """Asks a policy; a reply a prompt, in order.

  A reply depends on the weights, its prompt and the prompt's seed alone. A
  prompt that is too long, or that the tokenizer reads control tokens in, has
  failed.

  Args:
    model: What to sample from.
    template: Around a prompt, as around a question.

  Raises:
    ValueError: If there is no model, or no such template.
  """
  templates.get(template)
  if model is None:
    raise ValueError(
      "judge.name is 'policy', but no policy is at hand to judge with. "
      "Name it where one is loaded, or take 'http'."
    )

  def ask(prompts: Sequence[judge.Prompt]) -> list[judge.Reply]:
    return _ask(model, template, prompts)

  return ask


def _ask(
  model: Model, template: str, prompts: Sequence[judge.Prompt]
) -> list[judge.Reply]:
  replies: dict[int, judge.Reply] = {}
  encoded: dict[int, list[int]] = {}
  most = model.programs.max_prompt_tokens
  for i, prompt in enumerate(prompts):
    question = Question(f"prompt {i}", prompt.text, None, "none")
    try:
      ids = templates.prompt_ids(template, question, model.tokenizer)
    except ValueError as error:
      replies[i] = judge.Reply(None, 0, str(error))
      continue
    if len(ids) > most:
      reason = f"the prompt has {len(ids)} tokens, more than {most}"
      replies[i] = judge.Reply(None, 0, reason)
    else:
      encoded[i] = ids
  while encoded:
    # The sampler tells prompts apart by their seed: equal ones take turns.
    batch: dict[int, int] = {}
    for i in encoded:
      batch.setdefault(prompts[i].seed, i)
    ids_of = {seed: encoded.pop(i) for seed, i in batch.items()}
    sampled, _ = engine.sample(
      model.programs,
      model.params,
      model.buffers,
      jax.random.key(_KEY),
      ids_of,
      [engine.Request(seed, 0) for seed in batch],
    )
    for each in sampled:
      replies[batch[each.question]] = _reply(model.tokenizer, each)
  return [replies[i] for i in range(len(prompts))]


def _reply(tokenizer: Tokenizer, sample: engine.Sample) -> judge.Reply:
  finished = sample.finish_reason == "eos"
  text = tokenizer.decode(sample.tokens_T[: len(sample.tokens_T) - finished])
  reason = "" if finished else f"cut off: {sample.finish_reason}"
  return judge.Reply(text, reason=reason)


JUDGES = {"http": http, "policy": policy}
