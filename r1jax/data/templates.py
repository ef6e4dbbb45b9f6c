"""Prompts: the only place where prompt ids are built."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from r1jax import records, registry
from r1jax.data.tokenizer import Tokenizer
from r1jax.records import Question

_SLOT = "{question}"
_OPEN_THINK, _CLOSE_THINK = "<think>", "</think>"


class Template(NamedTuple):
  """The text around a question.

  Attributes:
    text: Has `{question}` once.
    think_prefilled: Whether a prompt ends with an opening <think>, which
      a response then lacks.
    is_chat: Whether the text is a user's message, which the tokenizer's
      chat template makes the prompt of; otherwise it is the prompt.
    system: The system message of a chat; without one, what the chat
      template does without one.
  """

  text: str
  think_prefilled: bool = False
  is_chat: bool = False
  system: str = ""


# DeepSeek-R1 (arXiv:2501.12948), Table 1, without its first two sentences.
_ZERO = (
  "The reasoning process and answer are enclosed within <think> </think> and "
  "<answer> </answer> tags, respectively, i.e., <think> reasoning process "
  "here </think> <answer> answer here </answer>."
)
_FIRST_THINK = (
  "First think about the reasoning process in the mind and then provide the "
  f"answer. {_ZERO}"
)
# DeepSeek-R1's usage advice: this for math, no system prompt, and the
# output made to begin with "<think>\n".
_BOXED = (
  "{question}\nPlease reason step by step, and put your final answer within "
  "\\boxed{}."
)

TEMPLATES: dict[str, Template] = {
  # DeepSeek-R1 (arXiv:2501.12948), Table 1.
  "r1-zero": Template(
    "A conversation between User and Assistant. The user asks a question, "
    "and the Assistant solves it. The assistant first thinks about the "
    "reasoning process in the mind and then provides the user with the "
    f"answer. {_ZERO} User: {{question}}. Assistant:"
  ),
  "miniature": Template("{question}\n"),
  "miniature-think": Template("{question}\n<think>", think_prefilled=True),
  "chat": Template("{question}", is_chat=True),
  "chat-think": Template("{question}", think_prefilled=True, is_chat=True),
  "chat-r1-zero": Template("{question}\n\n" + _FIRST_THINK, is_chat=True),
  "chat-system-r1-zero": Template(
    "{question}", is_chat=True, system=_FIRST_THINK
  ),
  "chat-boxed": Template(_BOXED, is_chat=True),
  "chat-think-boxed": Template(_BOXED, think_prefilled=True, is_chat=True),
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
  """The prompt's text; of a chat, the user's message."""
  return of(names, question).text.replace(_SLOT, question.question)


def prompt_ids(
  name: Names, question: Question, tokenizer: Tokenizer
) -> list[int]:
  """The prompt's ids: one BOS if the family has it, the text, no EOS.

  Raises:
    ValueError: If the question's text holds a control token of its own,
      its kind has no template, or the tokenizer has no chat template.
  """
  template, text = of(name, question), render(name, question)
  if not template.is_chat:
    ids = _plain(tokenizer.encode(text), question, tokenizer)
    return [*_bos(tokenizer), *ids]
  messages = [{"role": "user", "content": text}]
  if template.system:
    messages.insert(0, {"role": "system", "content": template.system})
  try:
    return chat_ids(
      messages, tokenizer, think_prefilled=template.think_prefilled
    )
  except ValueError as error:
    raise ValueError(f"question {question.id!r}: {error}") from error


def chat_ids(
  messages: Sequence[Mapping[str, str]],
  tokenizer: Tokenizer,
  *,
  think_prefilled: bool = False,
) -> list[int]:
  """Ids of a conversation, up to where the assistant is to speak.

  There is one BOS where the family has one, whether or not its chat
  template writes it.

  Args:
    messages: Each with `role` and `content`, none of it control tokens.
      Earlier answers go in without their thoughts.
    tokenizer: Has a chat template.
    think_prefilled: Whether "<think>\\n" is added, if it is not there.

  Raises:
    ValueError: If there is no chat template, it fails, it opens a <think>
      that is not asked for, or a message holds a control token.
  """
  chat = tokenizer.chat
  if chat is None:
    raise ValueError(
      "the tokenizer has no chat template. Choose a template whose name does "
      "not begin with chat, or a tokenizer with chat_template.jinja."
    )
  for message in messages:
    control = chat.control_ids.intersection(chat.encode(message["content"]))
    if control:
      raise ValueError(
        f"a message of the {message['role']} holds the control token "
        f"{tokenizer.piece(min(control))!r}, which only the chat template of "
        f"{chat.source} may write. Remove it."
      )
  text = chat.render(messages)
  if text.rstrip().endswith(_OPEN_THINK) != think_prefilled:
    if not think_prefilled:
      raise ValueError(
        f"the chat template of {chat.source} opens {_OPEN_THINK}, which the "
        "response then lacks. Choose a template with chat-think in its name."
      )
    text += f"{_OPEN_THINK}\n"
  return [*_bos(tokenizer), *chat.encode(text.removeprefix(chat.bos))]


def without_thoughts(answer: str) -> str:
  """What stays of an answer in later turns: all behind its thoughts.

  As DeepSeek-R1's chat template does it (tokenizer_config.json). A thought
  that never ended leaves nothing.
  """
  if answer.startswith(_OPEN_THINK) and _CLOSE_THINK not in answer:
    return ""
  return answer.rpartition(_CLOSE_THINK)[2].strip()


def document_ids(
  name: Names, question: Question, response: str, tokenizer: Tokenizer
) -> tuple[list[int], list[int]]:
  """Prompt ids, and response ids that end with the only EOS.

  The response is encoded apart, so the boundary is the one that a sampler
  sees. Where the template opens <think>, the response's own is dropped. In
  a chat the EOS is what ends the family's turns.

  Raises:
    ValueError: As `prompt_ids`, of either text.
  """
  template = of(name, question)
  prompt = prompt_ids(name, question, tokenizer)
  if template.think_prefilled:
    response = response.removeprefix(_OPEN_THINK)
    if template.is_chat:  # Its prompt ends with the line's end, too.
      response = response.removeprefix("\n")
  ids = _plain(tokenizer.encode(response), question, tokenizer)
  return prompt, [*ids, end_id(name, question, tokenizer)]


def end_id(name: Names, question: Question, tokenizer: Tokenizer) -> int:
  """What ends a document: the EOS, or what ends the family's turns."""
  if of(name, question).is_chat and tokenizer.chat:
    return tokenizer.chat.end_id
  return tokenizer.eos_id


def _bos(tokenizer: Tokenizer) -> list[int]:
  return [] if tokenizer.bos_id is None else [tokenizer.bos_id]


def _plain(
  ids: list[int], question: Question, tokenizer: Tokenizer
) -> list[int]:
  control = {tokenizer.bos_id, tokenizer.eos_id, *tokenizer.stop_ids}
  if tokenizer.chat:
    control |= tokenizer.chat.control_ids
  for id in ids:
    if id in control:
      raise ValueError(
        f"question {question.id!r}: the text encodes to "
        f"{tokenizer.piece(id)!r}, a BOS, EOS or control token, which only the "
        "template may add. Remove the control text from the data, or stop "
        "the tokenizer from adding special tokens."
      )
  return ids
