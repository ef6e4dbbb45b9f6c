"""Talk to a model in the terminal.

  python -m r1jax.chat WORKDIR

WORKDIR may also be a params.safetensors, a Hugging Face folder or a GGUF
file. Thoughts are dimmed, and dropped from earlier turns, as DeepSeek-R1's
chat template does. Ctrl-C stops an answer; /reset forgets the conversation;
/exit or Ctrl-D leaves. From a pipe, each line is a turn, and the answers
are plain text.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import rich.console
import rich.text

from r1jax import any_model, policy
from r1jax.data import templates
from r1jax.data import tokenizer as tokenizer_lib
from r1jax.models import config as config_lib
from r1jax.records import Question
from r1jax.sampling import decode

CHUNK_TOKENS = 4  # Drawn between two looks at the terminal.
_FEWEST = 64  # Prompts are prefilled at this width, or doubles of it.
_OPEN, _CLOSE = "<think>", "</think>"

# (prompt ids, turn) -> the response's ids, a chunk at a time.
Stream = Callable[[Sequence[int], int], Iterator[list[int]]]


class Talk(NamedTuple):
  """What a conversation needs.

  Attributes:
    stream: Of `make_stream`.
    tokenizer: The model's.
    template: A name of `templates`. One that is no chat has no turns: each
      question is asked alone.
    max_prompt_tokens: Of a prompt; older turns are dropped over it.
  """

  stream: Stream
  tokenizer: tokenizer_lib.Tokenizer
  template: str
  max_prompt_tokens: int


def make_stream(
  config: config_lib.ModelConfig,
  params: Any,
  buffers: Any,
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  temperature: float,
  top_p: float,
  max_prompt_tokens: int,
  max_tokens: int,
  seed: int,
) -> Stream:
  """The sampler, for one response at a time.

  A response's key is fold_in(key(seed), turn): the same words said in the
  same turn get the same answer.
  """
  programs = policy.make(config, temperature=temperature).programs(
    eos_id=tokenizer.eos_id,
    stop_ids=tokenizer.stop_ids,
    chunk_tokens=CHUNK_TOKENS,
    top_p=top_p,
    slots=1,
    prefill_rows=1,
    max_prompt_tokens=max_prompt_tokens,
    max_response_tokens=max_tokens,
  )
  weights = programs.unstack(params, buffers)
  one_B = np.ones(1, np.int32)

  def stream(prompt: Sequence[int], turn: int) -> Iterator[list[int]]:
    width = _width(len(prompt), max_prompt_tokens)
    tokens_BT = np.zeros((1, width), np.int32)
    tokens_BT[0, : len(prompt)] = prompt
    caches, _ = programs.prefill(*weights, tokens_BT)
    key = jax.random.fold_in(jax.random.key(seed), turn)
    slots = programs.insert(
      programs.empty(*weights),
      caches,
      one_B > 0,
      one_B * 0,
      one_B * prompt[-1],
      one_B * len(prompt),
      one_B * max_tokens,
      programs.keys(key, one_B * 0, one_B * 0),
    )
    finish = decode.RUNNING
    while finish == decode.RUNNING:
      slots, chunk = programs.decode(*weights, slots, np.int32(1))
      chunk = jax.device_get(chunk)
      finish = chunk.finish_B[0]
      yield chunk.tokens_BX[0, : chunk.emitted_B[0]].tolist()

  return stream


def _width(tokens: int, most: int) -> int:
  """The width a prompt is prefilled at; few, so that few are compiled."""
  width = _FEWEST
  while width < tokens:
    width *= 2
  return min(width, most)


class Conversation:
  """The turns so far, answers without their thoughts."""

  def __init__(self, talk: Talk):
    """Begins without any."""
    self._talk = talk
    self._template = templates.get(talk.template)
    self.turn = 0
    self.reset()

  def reset(self) -> None:
    """Forgets the turns."""
    self.messages: list[dict[str, str]] = []
    self.dropped = 0

  def prompt(self, text: str) -> list[int]:
    """Ids that ask `text` after the turns so far.

    The oldest turns are dropped until the prompt fits; `dropped` counts
    them.

    Raises:
      ValueError: If the text alone is too long or holds control tokens.
    """
    talk, most = self._talk, self._talk.max_prompt_tokens
    question = Question("this message", text, None, "none")
    if not self._template.is_chat:
      return self._fitting(
        templates.prompt_ids(talk.template, question, talk.tokenizer), most
      )
    asked = templates.render(talk.template, question)
    while True:
      ids = self._ids([*self.messages, {"role": "user", "content": asked}])
      if len(ids) <= most or not self.messages:
        return self._fitting(ids, most)
      del self.messages[:2]
      self.dropped += 1

  def _ids(self, messages):
    system = self._template.system
    if system:
      messages = [{"role": "system", "content": system}, *messages]
    return templates.chat_ids(
      messages,
      self._talk.tokenizer,
      think_prefilled=self._template.think_prefilled,
    )

  def _fitting(self, ids, most):
    if len(ids) > most:
      raise ValueError(
        f"the message takes {len(ids)} tokens, more than "
        f"--max_prompt_tokens={most}. Shorten it, or raise that."
      )
    return ids

  def answered(self, text: str, answer: str) -> None:
    """Adds a turn; `answer` with its thoughts."""
    question = Question("this message", text, None, "none")
    asked = templates.render(self._talk.template, question)
    self.messages += [
      {"role": "user", "content": asked},
      {"role": "assistant", "content": templates.without_thoughts(answer)},
    ]


def answer(talk: Talk, conversation: Conversation, text: str) -> Iterator[str]:
  """The answer's text so far, growing; a turn more once it ends.

  It has the opening <think> even where the prompt had it. Stopped early,
  it stays as far as it came.

  Raises:
    ValueError: As `Conversation.prompt`.
  """
  prefilled = templates.get(talk.template).think_prefilled
  prompt = conversation.prompt(text)
  ids: list[int] = []
  shown = start = f"{_OPEN}\n" if prefilled else ""
  conversation.turn += 1
  try:
    for chunk in talk.stream(prompt, conversation.turn):
      ids += chunk
      found = start + talk.tokenizer.decode(ids)
      if not found.endswith("\ufffd"):  # Half a character.
        shown = found
        yield shown
    shown = start + talk.tokenizer.decode(ids)
    yield shown
  finally:
    conversation.answered(text, shown)


def thoughts_end(text: str) -> int:
  """Characters of an answer that are its thoughts, the tags with them."""
  if not text.lstrip().startswith(_OPEN):
    return 0
  end = text.find(_CLOSE)
  return len(text) if end < 0 else end + len(_CLOSE)


def show(console: rich.console.Console, texts: Iterator[str]) -> None:
  """Prints an answer as it grows; in a terminal its thoughts are dim."""
  done = 0
  for text in texts:
    begun = text.strip()
    if not begun or (_OPEN.startswith(begun) and begun != _OPEN):
      continue  # May yet become the tag.
    split = min(max(done, thoughts_end(text)), len(text))
    for part, style in ((text[done:split], "dim"), (text[split:], "")):
      clean = part if not console.is_terminal else _printable(part)
      console.print(
        rich.text.Text(clean, style), end="", soft_wrap=True, highlight=False
      )
    done = len(text)
  console.print()


def _printable(text: str) -> str:
  """The text without what would steer a terminal."""
  return "".join(
    c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text
  )


def run(
  talk: Talk, console: rich.console.Console, lines: Iterator[str]
) -> None:
  """Answers lines until there are no more or one is /exit."""
  conversation = Conversation(talk)
  for line in lines:
    text, dropped = line.strip(), conversation.dropped
    if text == "/exit":
      return
    if text == "/reset":
      conversation.reset()
    elif text.startswith("/") and text[1:].isalpha():
      _note(console, f"{text} is unknown. Known: /reset, /exit.")
    elif text:
      texts = answer(talk, conversation, text)
      try:
        with contextlib.closing(texts):
          show(console, texts)
      except KeyboardInterrupt:
        _note(console, "\n(stopped)")
      except ValueError as error:
        _note(console, f"r1jax: {error}")
      if conversation.dropped > dropped:
        _note(console, "(The oldest turns no longer fit.)")


def _note(console, text):
  console.print(rich.text.Text(text, "dim"), soft_wrap=True)


def typed() -> Iterator[str]:
  """Lines of a terminal; Ctrl-C clears one, Ctrl-D ends them."""
  with contextlib.suppress(ImportError):
    import readline  # noqa: F401 - lets input() edit and recall.
  while True:
    try:
      yield input("> ")
    except KeyboardInterrupt:
      print()
    except EOFError:
      print()
      return


def default_template(
  opened: any_model.Opened, tokenizer: tokenizer_lib.Tokenizer
) -> str:
  """The template the model was trained with, or its family's chat."""
  if opened.template:
    return opened.template
  if tokenizer.chat:
    probe = tokenizer.chat.render([{"role": "user", "content": "r1jax"}])
    return "chat-think" if probe.rstrip().endswith(_OPEN) else "chat"
  return "miniature" if tokenizer.vocab_size == 512 else "r1-zero"


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m r1jax.chat",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("model", metavar="WORKDIR")
  # DeepSeek-R1's usage advice: temperature 0.6, top-p 0.95.
  parser.add_argument("--temperature", type=float, default=0.6)
  parser.add_argument("--top_p", type=float, default=0.95)
  parser.add_argument("--max_tokens", type=int, default=1024)
  parser.add_argument("--max_prompt_tokens", type=int, default=1024)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--template", default="", help="a name of templates")
  parser.add_argument("--tokenizer", default="", help="of the model")
  parser.add_argument("--dtype", choices=config_lib.DTYPES)
  return parser


def _check(parsed: argparse.Namespace) -> None:
  """Raises ValueError for a flag out of its range."""
  if parsed.temperature < 0:
    raise ValueError(f"--temperature is {parsed.temperature}; 0 or more.")
  if not 0 < parsed.top_p <= 1:
    raise ValueError(f"--top_p is {parsed.top_p}; above 0, at most 1.")
  for name in ("max_tokens", "max_prompt_tokens"):
    if getattr(parsed, name) < 1:
      raise ValueError(f"--{name} is {getattr(parsed, name)}; 1 or more.")
  if parsed.template:
    templates.get(parsed.template)


def open_talk(parsed: argparse.Namespace) -> Talk:
  """The conversation of a command line.

  Raises:
    ValueError: If the model cannot be read, or a flag does not suit it.
  """
  _check(parsed)
  on_cpu = jax.default_backend() == "cpu"  # Where bfloat16 is slower.
  dtype = parsed.dtype or ("float32" if on_cpu else None)
  opened = any_model.load(parsed.model, dtype=dtype, tokenizer=parsed.tokenizer)
  tokenizer = any_model.read_tokenizer(opened)
  stream = make_stream(
    opened.config,
    opened.params,
    opened.buffers,
    tokenizer,
    temperature=parsed.temperature,
    top_p=parsed.top_p,
    max_prompt_tokens=parsed.max_prompt_tokens,
    max_tokens=parsed.max_tokens,
    seed=parsed.seed,
  )
  template = parsed.template or default_template(opened, tokenizer)
  return Talk(stream, tokenizer, template, parsed.max_prompt_tokens)


def main(arguments: Sequence[str]) -> None:
  """Talks to the model that the command line names."""
  parsed = _parser().parse_args(arguments)
  console = rich.console.Console()
  is_typed = sys.stdin.isatty() and console.is_terminal
  try:
    talk = open_talk(parsed)
    if is_typed:
      _note(console, "/reset forgets, Ctrl-C stops, Ctrl-D ends.")
    run(talk, console, typed() if is_typed else iter(sys.stdin))
  except (ValueError, OSError) as error:
    sys.exit(f"r1jax: {error}")
  except KeyboardInterrupt:
    sys.exit(130)  # As a shell says it.


if __name__ == "__main__":
  main(sys.argv[1:])
