"""What tests see of a program that runs in another process.

Plain data arrives as such. A function, class or object of the program is a
Remote: what the tests do with it is done over there. No plain value of the
tests' own ever goes there to be compared or computed with, but as an
argument of a call:

* A Remote never equals a plain value, and has no order with one.
* Arithmetic takes two Remotes, so an object that makes any difference 0
  meets nothing to subtract. Objects that the tests have made themselves,
  from a class that they call by a name with a capital, are exempt.
* `in` looks through what an object yields, here.
* A context manager of the program swallows no error, least of all that of
  an assertion.
"""

import builtins
import weakref
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NoReturn

from r1jax.rewards.inside import plain, values

_MAX_ITEMS = 100_000
_RAISED = (Exception, SystemExit, KeyboardInterrupt, GeneratorExit)


class Gone(Exception):
  """The program's process has ended."""


class Program:
  """Owns the way to the program's process."""

  def __init__(self, requests: BinaryIO, replies: BinaryIO, printed: Any):
    """Keeps the pipes; `printed` gets what the program prints."""
    self._requests, self._replies, self._printed = requests, replies, printed
    self._functions: list[Any] = []
    self._errors: dict[int, type] = {}
    self._remotes = weakref.WeakValueDictionary()

  def ask(self, **request: Any) -> Any:
    """The value of a request; raises what the program raised."""
    text = plain.dumps(request, self._encoded)
    self._requests.write(plain.frame(b"q", text))
    self._requests.flush()
    while True:
      kind, text = plain.read_frame(self._replies)
      if kind == b"x":
        raise Gone
      reply = plain.json.loads(text)
      self._printed(str(reply.get("out", "")))
      if kind == b"r":
        break
      self._call_back(reply)
    if "raise" in reply:
      raise self._error(reply["raise"])
    args = request.get("args", [])
    for index, form in reply.get("changed", []):
      _update(args[index], self._decoded(form))
    return self._decoded(reply["value"])

  def _call_back(self, reply: dict[str, Any]) -> None:
    try:
      function = self._functions[reply["number"]]
      named = self._decoded(reply["named"])
      answer = {"value": function(*self._decoded(reply["args"]), **named)}
      text = plain.dumps(answer, self._encoded)
    except _RAISED as error:
      text = plain.dumps(self._thrown(error), self._encoded)
    self._requests.write(plain.frame(b"a", text))
    self._requests.flush()

  def _thrown(self, error: BaseException) -> dict[str, Any]:
    """An error of a test's function, as the program can raise it."""
    number = vars(error).get("_r1jax_number")
    if number is not None:
      return {"raise": Remote(self, number, ""), "args": []}
    kind = next(k for k in type(error).__mro__ if _is_known_error(k))
    return {"raise": kind, "args": [a for a in error.args if _is_scalar(a)]}

  def _encoded(self, value: Any) -> dict[str, Any] | None:
    if isinstance(value, Remote):
      return {"handle": _number(value), "kind": ""}
    if isinstance(value, type) and "_r1jax_class" in vars(value):
      return {"handle": value._r1jax_class, "kind": ""}
    form = values.form(
      value, lambda v: plain.encoded(v, self._encoded, 1), by_program=False
    )
    if form is not None or isinstance(value, tuple(plain.EXACT)):
      return form
    if callable(value):
      return self._callback(value)
    if isinstance(value, Iterator):
      items = [item for _, item in zip(range(_MAX_ITEMS), value)]
      return {"iterator": plain.encoded(items, self._encoded, 1), "kind": ""}
    return None

  def _callback(self, function: Callable[..., Any]) -> dict[str, Any]:
    if not any(known is function for known in self._functions):
      self._functions.append(function)
    number = [known is function for known in self._functions].index(True)
    name = getattr(function, "__name__", "function")
    return {"callback": number, "name": name if type(name) is str else ""}

  def _decoded(self, form: Any) -> Any:
    return plain.decoded(form, self._other)

  def _other(self, form: dict[str, Any]) -> Any:
    if "callback" in form:
      return self._functions[form["callback"]]
    if "handle" not in form:
      return values.value(form, self._decoded, by_program=True)
    number = form["handle"]
    if form["kind"] == "error":
      return self._error_class(form["mro"])
    if form["kind"] == "coroutine":
      return _awaiting(self, number)
    remote = self._remotes.get(number)
    if remote is None:
      kind = RemoteClass if form["kind"] == "class" else Remote
      remote = kind(self, number, str(form["name"]))
      self._remotes[number] = remote
    return remote

  def _error(self, raised: dict[str, Any]) -> BaseException:
    kind = self._error_class(raised["mro"])
    args = self._decoded(raised["args"])
    if "_r1jax_class" not in vars(kind):
      try:
        return kind(*args)
      except TypeError:  # Such as UnicodeDecodeError with one argument.
        return kind.__base__(*args)
    error = kind.__new__(kind)
    error.args = tuple(args)
    error._r1jax_number, error._r1jax_text = raised["handle"], raised["text"]
    return error

  def _error_class(self, chain: list[list[Any]]) -> type:
    """The class of that name, made here where the program made its own."""
    base = getattr(builtins, str(chain[-1][1]), None)
    if not (isinstance(base, type) and issubclass(base, BaseException)):
      raise ValueError("no error class")
    for number, name in reversed(chain[:-1]):
      if number not in self._errors:
        self._errors[number] = _made_error(self, number, str(name), base)
      base = self._errors[number]
    return base


def _made_error(program: Program, number: int, name: str, base: type) -> type:
  def attribute(error: Any, key: str) -> Any:
    raised = vars(error).get("_r1jax_number")
    if raised is None or key.startswith("__"):
      raise AttributeError(key)
    return getattr(Remote(program, raised, name), key)

  def text(error: Any) -> str:
    found = vars(error).get("_r1jax_text")
    return base.__str__(error) if found is None else found

  members = {
    "_r1jax_class": number,
    "__getattr__": attribute,
    "__init__": lambda error, *args, **named: None,
    "__str__": text,
  }
  return type(name, (base,), members)


def _is_known_error(kind: type) -> bool:
  """Whether the program knows the class too."""
  is_builtin = getattr(builtins, kind.__name__, None) is kind
  return is_builtin or "_r1jax_class" in vars(kind)


async def _awaiting(program: Program, number: int) -> Any:
  """What a coroutine of the program gives; it runs over there, alone."""
  return program.ask(op="await", of=Remote(program, number, "coroutine"))


class Remote:
  """A function or object of the program."""

  __slots__ = (
    "__weakref__",
    "_r1jax_is_own",
    "_r1jax_name",
    "_r1jax_number",
    "_r1jax_program",
  )

  def __init__(self, program: Program, number: int, name: str):
    for key, value in (
      ("_r1jax_program", program),
      ("_r1jax_number", number),
      ("_r1jax_name", name),
      ("_r1jax_is_own", False),
    ):
      object.__setattr__(self, key, value)

  def __getattr__(self, name: str) -> Any:
    return _program(self).ask(op="get", of=self, name=name)

  def __setattr__(self, name: str, value: Any) -> None:
    _program(self).ask(op="set", of=self, name=name, value=value)

  def __call__(self, *args: Any, **named: Any) -> Any:
    """What the call over there gives."""
    return _program(self).ask(op="call", of=self, args=list(args), named=named)

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, Remote):
      return False
    return _apply("eq", self, other) is True

  def __ne__(self, other: object) -> bool:
    if not isinstance(other, Remote):
      return True
    return _apply("ne", self, other) is True

  def __iter__(self) -> Iterator[Any]:
    iterator = _apply("iter", self)
    while True:
      try:
        item = _apply("next", iterator)
      except StopIteration:
        return
      yield item

  def __next__(self) -> Any:
    return _apply("next", self)

  def __contains__(self, item: Any) -> bool:
    if _is_own(self) or isinstance(item, Remote):
      return _apply("contains", self, item) is True
    return any(each is item or each == item for each in self)

  def __getitem__(self, key: Any) -> Any:
    return _apply("getitem", self, key)

  def __setitem__(self, key: Any, value: Any) -> None:
    _apply("setitem", self, key, value)

  def __delitem__(self, key: Any) -> None:
    _apply("delitem", self, key)

  def __enter__(self) -> Any:
    return _program(self).ask(op="get", of=self, name="__enter__")()

  def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
    end = _program(self).ask(op="get", of=self, name="__exit__")
    return end(None, None, None) is True and error is None


class RemoteClass(Remote):
  """A class of the program."""

  __slots__ = ("_r1jax_makes_own",)

  def __init__(self, program: Program, number: int, name: str):
    super().__init__(program, number, name)
    object.__setattr__(self, "_r1jax_makes_own", False)

  def __call__(self, *args: Any, **named: Any) -> Any:
    """The new object of the class."""
    made = super().__call__(*args, **named)
    if isinstance(made, Remote) and object.__getattribute__(
      self, "_r1jax_makes_own"
    ):
      object.__setattr__(made, "_r1jax_is_own", True)
    return made

  def __instancecheck__(self, other: object) -> bool:
    return (
      isinstance(other, Remote) and _apply("isinstance", other, self) is True
    )

  def __subclasscheck__(self, other: object) -> bool:
    return (
      isinstance(other, Remote) and _apply("issubclass", other, self) is True
    )


def named(name: str, value: Any) -> Any:
  """The value, marked if the tests take it for a class by its name."""
  if isinstance(value, RemoteClass) and name[:1].isupper():
    object.__setattr__(value, "_r1jax_makes_own", True)
  return value


def _program(remote: Remote) -> Program:
  return object.__getattribute__(remote, "_r1jax_program")


def _number(remote: Remote) -> int:
  return object.__getattribute__(remote, "_r1jax_number")


def _is_own(remote: Remote) -> bool:
  return object.__getattribute__(remote, "_r1jax_is_own")


def _apply(name: str, *args: Any) -> Any:
  program = next(_program(a) for a in args if isinstance(a, Remote))
  return program.ask(op="apply", name=name, args=list(args))


def _unary(name: str, kind: type | None) -> Callable[..., Any]:
  def method(self: Remote, *digits: int) -> Any:  # That round() takes.
    result = _apply(name, self, *digits)
    if kind is not None and type(result) is not kind:
      raise TypeError(f"{name} gives a {type(result).__name__}")
    return result

  return method


def _binary(name: str, *, is_swapped: bool) -> Callable[[Remote, Any], Any]:
  def method(self: Remote, other: Any) -> Any:
    if not (_is_own(self) or isinstance(other, Remote)):
      _refuse(self, name)
    result = _apply(name, *((other, self) if is_swapped else (self, other)))
    if isinstance(result, Remote) and _is_own(self):
      object.__setattr__(result, "_r1jax_is_own", True)
    return result

  return method


def _refuse(remote: Remote, name: str) -> NoReturn:
  kind = object.__getattribute__(remote, "_r1jax_name")
  raise TypeError(f"{name} of an object of the program ({kind}) and a value")


for _name, _kind in (
  ("bool", bool),
  ("complex", complex),
  ("float", float),
  ("hash", int),
  ("index", int),
  ("int", int),
  ("len", int),
  ("repr", str),
  ("str", str),
  ("abs", None),
  ("neg", None),
  ("pos", None),
  ("reversed", None),
  ("round", None),
):
  setattr(Remote, f"__{_name}__", _unary(_name, _kind))
for _name in (
  *("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod"),
  *("pow", "lshift", "rshift", "and", "or", "xor"),
):
  _verb = f"{_name}_" if _name in ("and", "or") else _name
  setattr(Remote, f"__{_name}__", _binary(_verb, is_swapped=False))
  setattr(Remote, f"__r{_name}__", _binary(_verb, is_swapped=True))
  if _name != "divmod":
    setattr(Remote, f"__i{_name}__", _binary(f"i{_name}", is_swapped=False))
for _name in ["lt", "le", "gt", "ge"]:
  setattr(Remote, f"__{_name}__", _binary(_name, is_swapped=False))


def _is_scalar(value: Any) -> bool:
  return value is None or type(value) in (bool, int, float, str)


def _update(mine: Any, new: Any) -> None:
  """Gives a container of the tests the content that a call left in it."""
  if type(mine) is not type(new):
    return
  if isinstance(mine, (list, bytearray)):
    if isinstance(mine, list):
      new = [_merged(a, b) for a, b in zip(mine, new)] + new[len(mine) :]
    mine[:] = new
  elif isinstance(mine, dict):
    new = {k: _merged(mine.get(k), v) for k, v in new.items()}
    mine.clear()
    mine.update(new)
  elif isinstance(mine, set):
    mine.clear()
    mine.update(new)
  elif isinstance(mine, tuple):
    for a, b in zip(mine, new):
      _update(a, b)


def _merged(mine: Any, new: Any) -> Any:
  """The same container with the new content, if there is one."""
  if type(mine) is type(new) and isinstance(mine, (list, dict, set, bytearray)):
    _update(mine, new)
    return mine
  return new
