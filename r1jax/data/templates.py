"""Prompts: the only place where prompt ids are built."""

from collections.abc import Mapping
from typing import NamedTuple

from r1jax import records, registry
from r1jax.data.tokenizer import Tokenizer
from r1jax.records import Question

_SLOT = "{question}"
_OPEN_THINK = "<think>"


class Template(NamedTuple):
  """The text around a question.

  Attributes:
    text: Has `{question}` once.
    think_prefilled: Whether the text ends with an opening <think>, which
      a response then lacks.
  """

  text: str
  think_prefilled: bool = False


TEMPLATES: dict[str, Template] = {
  # DeepSeek-R1 (arXiv:2501.12948), Table 1.
  "r1-zero": Template(
    "A conversation between User and Assistant. The user asks a question, "
    "and the Assistant solves it. The assistant first thinks about the "
    "reasoning process in the mind and then provides the user with the "
    "answer. The reasoning process and answer are enclosed within <think> "
    "</think> and <answer> </answer> tags, respectively, i.e., <think> "
    "reasoning process here </think> <answer> answer here </answer>. "
    "User: {question}. Assistant:"
  ),
  "miniature": Template("{question}\n"),
  "miniature-think": Template("{question}\n<think>", think_prefilled=True),
}


# The name of one template for all questions, or of one for each kind.
Names = str | Mapping[str, str]


def get(name: str) -> Template:
  """The template of a name.

  Raises:
    ValueError: If there is none.
  """
  return registry.lookup(TEMPLATES, name, "template")


def of(names: Names, question: Question) -> Template:
  """The template of a question's kind.

  Raises:
    ValueError: If there is none.
  """
  if isinstance(names, str):
    return get(names)
  return get(registry.lookup(names, records.kind(question), "kind of question"))


def render(names: Names, question: Question) -> str:
  """The prompt's text."""
  return of(names, question).text.replace(_SLOT, question.question)


def prompt_ids(
  name: Names, question: Question, tokenizer: Tokenizer
) -> list[int]:
  """The prompt's ids: one BOS, then the rendered text, no EOS.

  Raises:
    ValueError: If the question's text holds a BOS or EOS of its own, or
      its kind has no template.
  """
  ids = tokenizer.encode(render(name, question))
  return [tokenizer.bos_id, *_plain(ids, question, tokenizer)]


def document_ids(
  name: Names, question: Question, response: str, tokenizer: Tokenizer
) -> tuple[list[int], list[int]]:
  """Prompt ids, and response ids that end with the only EOS.

  The response is encoded apart, so the boundary is the one that a sampler
  sees. Where the template opens <think>, the response's own is dropped.

  Raises:
    ValueError: If either text holds a BOS or EOS of its own.
  """
  if of(name, question).think_prefilled:
    response = response.removeprefix(_OPEN_THINK)
  ids = _plain(tokenizer.encode(response), question, tokenizer)
  return prompt_ids(name, question, tokenizer), [*ids, tokenizer.eos_id]


def _plain(
  ids: list[int], question: Question, tokenizer: Tokenizer
) -> list[int]:
  if tokenizer.bos_id in ids or tokenizer.eos_id in ids:
    raise ValueError(
      f"question {question.id!r}: the text encodes to a BOS or EOS, which "
      "only the template may add. Remove the control text from the data, "
      "or stop the tokenizer from adding special tokens."
    )
  return ids
