"""Where tensors come from: Hugging Face folders and GGUF files."""

import itertools
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import ml_dtypes
import numpy as np
import safetensors

from r1jax.models import config as config_lib
from r1jax.models import families, fp8

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_ALIGNMENT = 64  # Of a buffer that a CPU device takes over as it is.
_HEADER_BYTES = 1 << 16  # Of a file; most headers are shorter.
_ASK_BYTES = 1 << 27  # The disk is so far ahead of what is read.

DTYPES = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  "F8_E4M3": ml_dtypes.float8_e4m3fn,
  "I64": np.int64,
  "I32": np.int32,
}


class Source(Protocol):
  """Where tensors come from; names are in the order to read them in."""

  def names(self) -> list[str]:
    """Names of all tensors."""

  def shape(self, name: str) -> tuple[int, ...]:
    """Shape of one."""

  def dtype(self, name: str) -> np.dtype:
    """Dtype of what `read` gives."""

  def read(self, name: str) -> np.ndarray:
    """The tensor."""


class _Place(NamedTuple):
  file: pathlib.Path
  offset: int
  dtype: np.dtype
  shape: tuple[int, ...]

  @property
  def bytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


class Safetensors:
  """The tensors of safetensors files, each read from where it lies.

  The library checks the files' headers. Bytes are read and not mapped, so
  that the files' pages do not count as the process's memory.
  """

  def __init__(self, files: Sequence[pathlib.Path]):
    """Reads the headers.

    Raises:
      ValueError: For a file that is missing, damaged or of another kind.
    """
    self._places: dict[str, _Place] = {}
    for file in files:
      _ask(file, 0, _HEADER_BYTES)
    for file in files:
      self._places |= _places(file)
    ends = itertools.accumulate(p.bytes for p in self._places.values())
    self._ends = dict(zip(self._places, ends))
    self._unasked = list(reversed(self._places))

  def names(self) -> list[str]:
    """Names, in the order of files and of bytes."""
    return list(self._places)

  def file(self, name: str) -> pathlib.Path:
    """The file that holds a tensor."""
    return self._places[name].file

  def shape(self, name: str) -> tuple[int, ...]:
    """Shape of a tensor."""
    return self._places[name].shape

  def dtype(self, name: str) -> np.dtype:
    """Dtype of a tensor."""
    return self._places[name].dtype

  def read(self, name: str) -> np.ndarray:
    """The tensor."""
    place = self._places[name]
    count = place.bytes
    data = _aligned(count)
    with open(place.file, "rb", buffering=0) as file:
      self._ask_ahead(name)
      file.seek(place.offset)
      got, view = 0, memoryview(data)
      while got < count and (more := file.readinto(view[got:])):
        got += more
    if got != count:
      raise ValueError(
        f"{place.file} ends inside of {name}. Fetch the file again."
      )
    return data.view(place.dtype).reshape(place.shape)

  def _ask_ahead(self, name: str) -> None:
    """Lets the disk fetch what comes after a tensor."""
    end = self._ends[name] + _ASK_BYTES
    while self._unasked:
      place = self._places[self._unasked[-1]]
      if self._ends[self._unasked[-1]] - place.bytes > end:
        break
      self._unasked.pop()
      _ask(place.file, place.offset, place.bytes)


def _ask(file: pathlib.Path, offset: int, count: int) -> None:
  """Lets the disk fetch a part of a file, where the system can be asked."""
  if hasattr(os, "posix_fadvise"):  # Not on macOS.
    with open(file, "rb") as opened:
      where = opened.fileno(), offset, count
      os.posix_fadvise(*where, os.POSIX_FADV_WILLNEED)


def _aligned(count: int) -> np.ndarray:
  """Room for bytes at an address from which jax need not copy on a CPU."""
  room = np.empty(count + _ALIGNMENT, np.uint8)
  start = -room.ctypes.data % _ALIGNMENT
  return room[start : start + count]


def _places(file: pathlib.Path) -> dict[str, _Place]:
  found = {}
  try:
    with safetensors.safe_open(file, "numpy") as header:
      for name in header.offset_keys():
        part = header.get_slice(name)
        kind, shape = part.get_dtype(), tuple(part.get_shape())
        if kind not in DTYPES:
          raise ValueError(
            f"{file}: {name} is of type {kind}. Known: {', '.join(DTYPES)}. "
            "Convert it."
          )
        found[name] = _Place(file, 0, np.dtype(DTYPES[kind]), shape)
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(
      f"{file} cannot be read: {error}{_where_cut(file)}. Fetch the file again."
    ) from error
  # The format leaves no gaps: the last tensor ends where the file does.
  offset = file.stat().st_size
  for name in reversed(found):
    place = found[name]
    offset -= place.bytes
    found[name] = place._replace(offset=offset)
  return found


def _where_cut(file: pathlib.Path) -> str:
  """The first tensor that a file is too short for, as the end of a message."""
  try:
    with open(file, "rb") as opened:
      length = int.from_bytes(opened.read(8), "little")
      header = json.loads(opened.read(length))
      room = file.stat().st_size - 8 - length
      header.pop("__metadata__", None)
      ends = {name: part["data_offsets"][1] for name, part in header.items()}
  except (OSError, ValueError, LookupError, AttributeError, OverflowError):
    return ""
  for name in sorted(ends, key=ends.get):
    if ends[name] > room:
      return f"; it ends inside of {name}"
  return ""


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The object in a JSON file.

  Raises:
    ValueError: If there is none.
  """
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise ValueError(
      f"{path} cannot be read: {error.strerror}. Name a folder that has it."
    ) from error
  except ValueError as error:
    raise ValueError(f"{path} is not JSON: {error}.") from error
  if not isinstance(found, dict):
    raise ValueError(f"{path} is {type(found).__name__}, not an object.")
  return found


def _folder(path: pathlib.Path) -> Safetensors:
  if not (path / INDEX).exists():
    if (path / SINGLE).exists():
      return Safetensors([path / SINGLE])
    raise ValueError(
      f"{path} has neither {SINGLE} nor {INDEX}. Fetch the weights as "
      "safetensors."
    )
  where = read_json(path / INDEX).get("weight_map")
  if not isinstance(where, dict):
    raise ValueError(f"{path / INDEX} has no weight_map.")
  files = [path / file for file in dict.fromkeys(where.values())]
  for file in files:
    if not file.exists():
      name = next(k for k, v in where.items() if v == file.name)
      raise ValueError(
        f"{file} is missing; {INDEX} says it holds {name}. Fetch it."
      )
  source = Safetensors(files)
  held = {name: source.file(name).name for name in source.names()}
  for name, file in where.items():
    if held.get(name) != file:
      raise ValueError(
        f"{path / file} has no {name}, which {INDEX} says it holds. Fetch "
        "both again."
      )
  return source


def read_json_config(path: str | os.PathLike) -> dict[str, Any]:
  """The config.json of a folder, or what a GGUF file says in its words."""
  path = pathlib.Path(path)
  if path.suffix == ".gguf":
    from r1jax.models import gguf_file  # Its package is an extra.

    return gguf_file.read_config(path)
  return read_json(path / "config.json")


def open_source(path: str | os.PathLike) -> Source:
  """The tensors of a folder or a GGUF file, by Hugging Face's names."""
  path = pathlib.Path(path)
  if path.suffix == ".gguf":
    from r1jax.models import gguf_file

    return gguf_file.Source(path)
  source = _folder(path)
  if read_json_config(path).get("quantization_config"):
    return fp8.Dequantized(source)
  return source


def read_config(path: str | os.PathLike) -> dict[str, Any]:
  """Fields of ModelConfig of a folder or GGUF file.

  Dtypes, `remat` and what else is not the model's stay at their defaults.

  Raises:
    ValueError: If there is no readable config, or it is of a model that is
      not built; it names the field.
  """
  found = read_json_config(path)
  try:
    fields = families.of_json(found)[1].from_hf(found)
    config_lib.from_dict(fields)
  except ValueError as error:
    raise ValueError(f"{path}: config.json: {error}") from error
  return fields
