"""Tokenizers of Hugging Face folders, and of GGUF files.

transformers builds the tokenizer and renders its chat template; encoding
goes to the `tokenizers` object inside, which takes microseconds.
"""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

FILE = "tokenizer.json"
# Tags a model writes as text, whatever its tokenizer calls them.
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_PROBE = "r1jax"  # Stands in for what a user or a model says.

Messages = Sequence[Mapping[str, str]]


class Chat(NamedTuple):
  """How a family writes a conversation.

  Attributes:
    render: Messages, each with `role` and `content`, to text that ends
      where the assistant begins to speak.
    encode: That text to ids, the family's control tokens read as such, no
      BOS but those that the text has.
    control_ids: Ids that render may write; a user's text may not.
    end_id: Ends an assistant's turn.
    bos: The text of a BOS that every prompt has once; "" for none.
    source: The file or folder, for messages.
  """

  render: Callable[[Messages], str]
  encode: Callable[[str], list[int]]
  control_ids: frozenset[int]
  end_id: int
  bos: str
  source: str


def load(path: pathlib.Path) -> dict[str, Any]:
  """Fields of `tokenizer.Tokenizer`.

  The BOS is None unless tokenizer_config.json or the tokenizer itself says
  that texts begin with one. The EOS is that of tokenizer_config.json, of
  generation_config.json or of config.json, the first that has one; those
  others, and what ends a turn in the chat template, are `stop_ids`.

  Args:
    path: A folder with tokenizer.json, or a GGUF file.

  Raises:
    ValueError: If transformers is missing, the files cannot be read, or
      there is no EOS.
  """
  fast, size = _fast(path)
  backend = fast.backend_tokenizer
  added = backend.get_added_tokens_decoder()
  special = {
    i for i, t in added.items() if t.special and t.content not in _TAGS
  }
  vocabulary = backend.get_vocab(with_added_tokens=True)
  bos = fast.bos_token if _adds_bos(path, fast) else None
  bos_id = None if bos is None else vocabulary[bos]
  ends = _ends(path, fast)
  if not ends:
    raise ValueError(
      f"{path}: neither tokenizer_config.json, generation_config.json nor "
      "config.json has an EOS. Add eos_token to tokenizer_config.json."
    )
  encode, plain = _encoders(backend)
  chat = None
  if fast.chat_template:
    chat = _chat(path, fast, encode, special, bos or "", ends[0])
    ends = list(dict.fromkeys([*ends, chat.end_id]))
  pad = fast.pad_token

  def decode(ids: Sequence[int]) -> str:
    kept = [int(i) for i in ids if int(i) not in special]
    return backend.decode(kept, skip_special_tokens=False)

  return dict(
    encode=plain,
    decode=decode,
    piece=lambda id: backend.id_to_token(int(id)) or "",
    bos_id=bos_id,
    eos_id=ends[0],
    pad_id=ends[0] if pad is None else vocabulary[pad],
    vocab_size=size,
    stop_ids=tuple(ends[1:]),
    chat=chat,
  )


def _fast(path):
  """transformers' tokenizer of a folder or file, and its number of ids."""
  try:
    from transformers import PreTrainedTokenizerFast
  except ImportError as error:
    raise ValueError(_needs(path, "transformers")) from error
  try:
    if path.suffix == ".gguf":
      made, size = _of_gguf(path)
      return PreTrainedTokenizerFast(**made), size
    fast = PreTrainedTokenizerFast.from_pretrained(
      str(path), local_files_only=True
    )
    return fast, max(fast.get_vocab().values()) + 1
  except Exception as error:  # The library raises bare Exception.
    if isinstance(error, ImportError):
      raise ValueError(_needs(path, error.name)) from error
    reason = " ".join(str(error).split())[:200]
    raise ValueError(f"{path} holds no tokenizer: {reason}.") from error


def _needs(path, package):
  return (
    f"tokenizer is {str(path)!r}, which needs {package}. Run pip install "
    "'r1jax[hf]'."
  )


def _of_gguf(path) -> tuple[dict[str, Any], int]:
  """What makes the tokenizer of a GGUF file, and its number of ids.

  Behind those, the library may add an unknown token of its own.
  """
  import gguf
  from transformers.integrations.gguf import gguf_tokenizer_mapping as mapping

  fields = gguf.GGUFReader(path).fields
  has = {k: v for k, v in fields.items() if k.startswith("tokenizer.")}
  found = {
    group: {
      ours: has[f"tokenizer.{name}"].contents()
      for name, ours in names.items()
      if f"tokenizer.{name}" in has
    }
    for group, names in mapping.GGUF_TOKENIZER_MAPPING.items()
  }
  parts, more = found["tokenizer"], found["tokenizer_config"]
  if parts.get("tokenizer_type") == "llama":  # llama.cpp's default for these.
    more.setdefault("add_bos_token", True)
  for name in ("bos", "eos", "unk", "pad"):
    id = parts.get(f"{name}_token_id")
    more[f"{name}_token"] = None if id is None else parts["tokens"][id]
  architecture = fields["general.architecture"].contents()
  backend, _ = mapping.convert_gguf_tokenizer(architecture, parts)
  return {"tokenizer_object": backend, **more}, len(parts["tokens"])


def _adds_bos(path, fast) -> bool:
  """Whether texts of the family begin with a BOS."""
  if fast.bos_token is None:
    return False
  says = fast.init_kwargs.get("add_bos_token")
  if path.is_dir():  # The library reads, but does not keep it.
    says = _json(path / "tokenizer_config.json").get("add_bos_token")
  if says is not None:
    return bool(says)
  bos_id = fast.convert_tokens_to_ids(fast.bos_token)
  return bos_id in fast.backend_tokenizer.encode("").ids[:1]


def _ends(path, fast) -> list[int]:
  """Ids that end a response, the tokenizer's own EOS first."""
  ends = []
  if fast.eos_token is not None:
    ends.append(fast.convert_tokens_to_ids(fast.eos_token))
  if path.is_dir():
    for name in ("generation_config.json", "config.json"):
      ids = _json(path / name).get("eos_token_id")
      ends += ids if isinstance(ids, list) else [] if ids is None else [ids]
  return list(dict.fromkeys(ends))


def _json(file):
  """The object in a file; {} if there is no such file."""
  if not file.is_file():
    return {}
  try:
    return json.loads(file.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(f"{file} is not JSON: {error}.") from error


def _encoders(backend):
  """(control tokens are read, control tokens stay text)."""

  def encode(text: str) -> list[int]:
    backend.encode_special_tokens = False
    return backend.encode(text, add_special_tokens=False).ids

  def plain(text: str) -> list[int]:
    backend.encode_special_tokens = True
    return backend.encode(text, add_special_tokens=False).ids

  return encode, plain


def _chat(path, fast, encode, special, bos, eos_id) -> Chat:
  """The chat template of a tokenizer.

  What ends a turn is the control token that the template writes right
  behind an assistant's words; the EOS if it writes none.

  Raises:
    ValueError: If the template does not render a plain conversation.
  """

  def apply(messages, prompt):
    try:
      return fast.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=prompt
      )
    except Exception as error:  # Whatever a template raises.
      reason = " ".join(str(error).split())[:200]
      raise ValueError(
        f"{path}: the chat template fails: {type(error).__name__}: {reason}. "
        "Mend chat_template.jinja or tokenizer_config.json."
      ) from error

  added = fast.backend_tokenizer.get_added_tokens_decoder()
  user = {"role": "user", "content": _PROBE}
  turns = [user, {"role": "assistant", "content": _PROBE}]
  asked, answered = apply([user], True), apply(turns, False)
  written = {*encode(asked), *encode(answered)} & added.keys()
  tags = {i for i, token in added.items() if token.content in _TAGS}
  control = frozenset((special | written) - tags)
  rest = encode(answered.rpartition(_PROBE)[2])
  end_id = next((i for i in rest if i in control), eos_id)
  return Chat(
    lambda messages: apply(messages, True),
    encode,
    control,
    end_id,
    bos,
    str(path),
  )


def save(path: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes a tokenizer's files into a folder, as transformers reads them.

  Raises:
    ValueError: As `load`.
  """
  _fast(path)[0].save_pretrained(str(folder))
