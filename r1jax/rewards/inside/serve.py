"""The process of a program whose functions are called from outside.

It loads the program as a module and answers requests for its names, calls
and attributes, with plain data where it can and with handles, numbers of
objects that stay here, where not. Nothing here is trusted by anyone: the
program may change all of it, and can so only choose what it answers.
"""

import _sitebuiltins
import builtins
import contextlib
import importlib.util
import io
import operator
import os
import sys
import types
from typing import Any, BinaryIO

from r1jax.rewards.inside import plain, values

_MAX_PRINTED = 1 << 20
# Ways for a program to raise; another BaseException ends the process.
RAISED = (Exception, SystemExit, KeyboardInterrupt, GeneratorExit)

_APPLY = {
  name: getattr(builtins, name)
  for name in [
    "abs",
    "bool",
    "complex",
    "dir",
    "divmod",
    "float",
    "format",
    "hash",
    "int",
    "isinstance",
    "issubclass",
    "iter",
    "len",
    "next",
    "pow",
    "repr",
    "reversed",
    "round",
    "str",
  ]
} | {
  name: getattr(operator, name)
  for name in [
    "add",
    "and_",
    "concat",
    "contains",
    "delitem",
    "eq",
    "floordiv",
    "ge",
    "getitem",
    "gt",
    "iadd",
    "iand",
    "ifloordiv",
    "ilshift",
    "imatmul",
    "imod",
    "imul",
    "index",
    "inv",
    "ior",
    "ipow",
    "irshift",
    "isub",
    "itruediv",
    "ixor",
    "le",
    "lshift",
    "lt",
    "matmul",
    "mod",
    "mul",
    "ne",
    "neg",
    "or_",
    "pos",
    "rshift",
    "setitem",
    "sub",
    "truediv",
    "xor",
  ]
}


class Server:
  """Owns the objects that have been given out."""

  def __init__(self, requests: BinaryIO, replies: BinaryIO):
    self._requests, self._replies = requests, replies
    self._objects: list[Any] = []
    self._numbers: dict[int, int] = {}
    self._module: Any = None
    self._callbacks: dict[int, Any] = {}
    self._printed = io.TextIOWrapper(
      io.BytesIO(), encoding="utf-8", errors="replace", write_through=True
    )
    sys.stdout = self._printed

  def serve(self) -> None:
    """Answers requests until they end."""
    while True:
      self._answer(plain.read_frame(self._requests)[1])

  def _answer(self, text: bytes) -> None:
    try:
      reply = self._done(plain.loads(text, self._decoded))
    except RAISED as error:
      reply = {"raise": self._raised(error)}
    reply["out"] = self._drain()
    self._send(b"r", reply)

  def _done(self, request: dict[str, Any]) -> dict[str, Any]:
    match request["op"]:
      case "load":
        self._load(request["module"])
        return {"value": None}
      case "fn":
        return self._plain_call(request["fn"], request["args"])
      case "names":
        found = vars(self._module)
        names = request["names"]
        return {"value": {n: found[n] for n in names if n in found}}
      case "module":
        return {"value": self._of_module(request)}
      case "get":
        return {"value": getattr(request["of"], request["name"])}
      case "set":
        setattr(request["of"], request["name"], request["value"])
        return {"value": None}
      case "apply":
        args = request["args"]
        return {"value": _APPLY[request["name"]](*args)}
      case "await":
        return {"value": _awaited(request["of"])}
      case "call":
        args, named = request["args"], request["named"]
        before = [self._text(arg) for arg in args]
        result = request["of"](*args, **named)
        after = [self._text(arg) for arg in args]
        changed = [
          [i, args[i]] for i in range(len(args)) if before[i] != after[i]
        ]
        return {"value": result, "changed": changed}

  def _load(self, name: str) -> None:
    path = f"{os.path.dirname(__file__)}/{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    self._module = importlib.util.module_from_spec(spec)
    sys.modules[name] = self._module
    spec.loader.exec_module(self._module)

  def _of_module(self, request: dict[str, Any]) -> Any:
    name = request["name"]
    if "value" in request:
      return setattr(self._module, name, request["value"])
    if name == "__all__":
      public = [n for n in vars(self._module) if n[:1] != "_"]
      return getattr(self._module, "__all__", public)
    return getattr(self._module, name)

  def _plain_call(self, name: str, args: list[Any]) -> dict[str, Any]:
    function = vars(self._module).get(name)
    if function is None:
      solution = vars(self._module).get("Solution")
      if not hasattr(solution, name):
        return {"error": f"defines no {name}"}
      function = getattr(solution(), name)
    try:
      return {"value": plain.encoded(function(*args)), "plain": True}
    except plain.NotPlain as error:
      return {"error": f"returns what is no plain data: {error}"}

  def _send(self, kind: bytes, reply: dict[str, Any]) -> None:
    try:
      form = reply if reply.pop("plain", False) else self._form(reply)
      text = plain.json.dumps(form).encode()
    except RAISED as error:
      text = plain.json.dumps({"raise": self._raised(error)}).encode()
    self._replies.write(plain.frame(kind, text))
    self._replies.flush()

  def _form(self, reply: dict[str, Any]) -> dict[str, Any]:
    return {
      key: value if key == "raise" else plain.encoded(value, self._encoded)
      for key, value in reply.items()
    }

  def _text(self, value: Any) -> Any:
    """Something to tell whether a call changed an argument."""
    if isinstance(value, (list, dict, set, bytearray, tuple)):
      return plain.dumps(value, self._encoded)
    return None

  def _drain(self) -> str:
    buffer = self._printed.buffer
    data = buffer.getvalue()[:_MAX_PRINTED]
    if data:
      buffer.seek(0)
      buffer.truncate()
    return data.decode(errors="replace")

  def _encoded(self, value: Any) -> dict[str, Any] | None:
    found = values.form(
      value, lambda v: plain.encoded(v, self._encoded, 1), by_program=True
    )
    if found is not None:
      return found
    if isinstance(value, _Callback):
      return {"callback": value.number, "name": ""}
    if isinstance(value, tuple(plain.EXACT)) and not _is_enum(value):
      return None  # Its plain content crosses.
    return self._handle(value)

  def _handle(self, value: Any) -> dict[str, Any]:
    number = self._numbers.get(id(value))
    if number is None:
      number = self._numbers[id(value)] = len(self._objects)
      self._objects.append(value)
    if isinstance(value, types.CoroutineType):
      return {"handle": number, "kind": "coroutine", "name": value.__name__}
    if not isinstance(value, type):
      return {"handle": number, "kind": "object", "name": type(value).__name__}
    if issubclass(value, BaseException):
      return {"handle": number, "kind": "error", "mro": self._mro(value)}
    return {"handle": number, "kind": "class", "name": value.__name__}

  def _mro(self, kind: type) -> list[list[Any]]:
    """Number and name of an error's classes, up to the builtin one."""
    chain = []
    for each in kind.__mro__:
      if getattr(builtins, each.__name__, None) is each:
        return [*chain, [-1, each.__name__]]
      self._numbers.setdefault(id(each), len(self._objects))
      if self._numbers[id(each)] == len(self._objects):
        self._objects.append(each)
      chain.append([self._numbers[id(each)], each.__name__])
    return chain

  def _raised(self, error: BaseException) -> dict[str, Any]:
    try:
      args = plain.encoded(list(error.args), self._encoded)
      text = str(error)[:1000]
    except RAISED:
      args, text = [], ""
    number = self._handle(error)["handle"]
    chain = self._mro(type(error))
    return {"mro": chain, "args": args, "text": text, "handle": number}

  def _decoded(self, form: dict[str, Any]) -> Any:
    if "handle" in form:
      return self._objects[form["handle"]]
    if "callback" in form:
      number = form["callback"]
      if number not in self._callbacks:
        self._callbacks[number] = _Callback(self, number, form["name"])
      return self._callbacks[number]
    if "iterator" in form:
      return iter(plain.decoded(form["iterator"], self._decoded))
    return values.value(
      form, lambda v: plain.decoded(v, self._decoded), by_program=False
    )

  def call_back(self, number: int, args: Any, named: Any) -> Any:
    """Calls a function of the tests."""
    call = {"number": number, "args": list(args), "named": named}
    self._send(b"c", call | {"out": self._drain()})
    while True:
      kind, text = plain.read_frame(self._requests)
      if kind != b"a":
        self._answer(text)
        continue
      answer = plain.loads(text, self._decoded)
      if "raise" not in answer:
        return answer["value"]
      found = answer["raise"]
      raise found(*answer["args"]) if isinstance(found, type) else found


class _Callback:
  """A function of the tests, as the program sees it."""

  def __init__(self, server: Server, number: int, name: str):
    self.number = number
    self.__name__ = self.__qualname__ = name
    self._server = server

  def __call__(self, *args: Any, **named: Any) -> Any:
    return self._server.call_back(self.number, args, named)

  def __get__(self, owner: Any, kind: Any = None) -> Any:
    return self if owner is None else types.MethodType(self, owner)


def _awaited(coroutine: Any) -> Any:
  """Result of a coroutine, run alone to its end."""
  asyncio = importlib.import_module("asyncio")  # Slow, and seldom needed.
  return asyncio.run(coroutine)


def _is_enum(value: Any) -> bool:
  enum = sys.modules.get("enum")
  return enum is not None and isinstance(value, enum.Enum)


def main() -> None:
  """Serves the pipes that are standard input and output at the start."""
  requests, replies = os.dup(0), os.dup(1)
  null = os.open(os.devnull, os.O_RDWR)
  for number in (0, 1):
    os.dup2(null, number)
  for name in ("exit", "quit"):  # The module site, not loaded, has them.
    setattr(builtins, name, _sitebuiltins.Quitter(name, ""))
  server = Server(os.fdopen(requests, "rb"), os.fdopen(replies, "wb"))
  with contextlib.suppress(EOFError):
    server.serve()
  os._exit(0)
