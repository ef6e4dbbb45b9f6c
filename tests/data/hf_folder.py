"""A small Hugging Face tokenizer folder, made by the library itself."""

import json
import pathlib

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

# In the form of the families' own, shortened.
CHATML = (
  "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] "
  "+ '<|im_end|>\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEEPSEEK = (
  "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
  "{{ '<｜User｜>' + m['content'] }}{% elif m['role'] == 'assistant' %}"
  "{{ '<｜Assistant｜>' + m['content'] + eos_token }}{% else %}"
  "{{ m['content'] }}{% endif %}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
THINKING = DEEPSEEK.replace(
  "<｜Assistant｜>' }}", "<｜Assistant｜><think>\n' }}"
)

FAMILIES = {
  "qwen": dict(
    special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    added=("<think>", "</think>"),
    config=dict(
      eos_token="<|im_end|>", pad_token="<|endoftext|>", add_bos_token=False
    ),
    template=CHATML,
    ends=["<|im_end|>", "<|endoftext|>"],
  ),
  # A base model, whose texts end otherwise than its chats.
  "qwen-base": dict(
    special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    added=(),
    config=dict(eos_token="<|endoftext|>", add_bos_token=False),
    template=CHATML,
    ends="<|endoftext|>",
  ),
  # Its user and assistant tokens are added, but not special.
  "deepseek": dict(
    special=("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    added=("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
    config=dict(
      bos_token="<｜begin▁of▁sentence｜>",
      eos_token="<｜end▁of▁sentence｜>",
      add_bos_token=True,
    ),
    template=DEEPSEEK,
    ends=None,
  ),
  # The post-processor says that texts begin with BOS; no chat template
  # writes it. `<think>` is special.
  "llama": dict(
    special=(
      "<|begin_of_text|>",
      *("<|eot_id|>", "<|eom_id|>", "<|im_start|>", "<|im_end|>"),
      "<think>",
    ),
    added=(),
    config=dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>"),
    template=CHATML.replace("<|im_end|>", "<|eot_id|>"),
    ends=["<|eom_id|>", "<|eot_id|>"],
    bos="<|begin_of_text|>",
  ),
}


def write(folder: pathlib.Path, family: str, **more) -> pathlib.Path:
  """The folder with a family's tokenizer; `more` overrides its parts."""
  parts = {**FAMILIES[family], **more}
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  vocab = {piece: i for i, piece in enumerate(alphabet)}
  backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  backend.add_special_tokens([_token(t, True) for t in parts["special"]])
  backend.add_tokens([_token(t, False) for t in parts["added"]])
  if parts.get("bos"):
    backend.post_processor = processors.TemplateProcessing(
      single=f"{parts['bos']} $A",
      special_tokens=[(parts["bos"], backend.token_to_id(parts["bos"]))],
    )
  folder.mkdir(parents=True, exist_ok=True)
  backend.save(str(folder / "tokenizer.json"))
  config = {"tokenizer_class": "PreTrainedTokenizerFast", **parts["config"]}
  dump(folder / "tokenizer_config.json", config)
  if parts["template"]:
    (folder / "chat_template.jinja").write_text(parts["template"], "utf-8")
  if parts["ends"]:
    names = parts["ends"]
    ids = [backend.token_to_id(n) for n in names if isinstance(names, list)]
    found = ids or backend.token_to_id(names)
    dump(folder / "generation_config.json", {"eos_token_id": found})
  return folder


def dump(path: pathlib.Path, values: dict) -> None:
  """Writes values as JSON."""
  path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


def _token(text, special):
  return tokenizers.AddedToken(text, normalized=False, special=special)
