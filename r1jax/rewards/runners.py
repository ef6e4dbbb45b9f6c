"""How programs of each language are compiled and run in a sandbox.

A new language is one line in RUNNERS.
"""

import os
import shutil
from collections.abc import Mapping
from typing import NamedTuple

from r1jax.rewards import sandbox


class Runner(NamedTuple):
  """One language.

  Attributes:
    tags: Regular expression of how fences name the language, lower case.
    file: What the program's file is called.
    build: Command that makes /tmp/program of /box/<file>; none if empty.
      A first word without a slash is looked for on this machine.
    run: Command that runs the program.
  """

  tags: str
  file: str
  build: tuple[str, ...]
  run: tuple[str, ...]


# Runs a file as __main__, with exit and quit, which come from the module site
# that the interpreter is started without.
_MAIN = """
def start():
  import _sitebuiltins, builtins, importlib.machinery, sys
  builtins.exit = _sitebuiltins.Quitter("exit", "")
  builtins.quit = _sitebuiltins.Quitter("quit", "")
  main = sys.modules["__main__"]
  del main.start  # The program finds no names but its own.
  main.__file__ = sys.argv[0] = sys.argv.pop(1)
  loader = importlib.machinery.SourceFileLoader("__main__", main.__file__)
  loader.exec_module(main)
start()
"""

RUNNERS = {
  "python": Runner(
    r"py(thon)?[\d.]*",
    "program.py",
    (),
    (*sandbox.INTERPRETER, "-c", _MAIN, "/box/program.py"),
  ),
  "cpp": Runner(
    r"c\+\+[\d]*|cpp|cc|cxx",
    "program.cpp",
    ("g++", "-O2", "-std=c++17", "-o", "/tmp/program", "/box/program.cpp"),
    ("/box/program",),
  ),
}

_COMPILE = sandbox.Limits(timeout_secs=30.0, mem_mb=2048, output_bytes=32 << 20)


class NotHere(RuntimeError):
  """This machine lacks what runs the language."""


class NotCompiled(Exception):
  """The program does not compile."""


def prepared(language: str, program: str) -> Mapping[str, bytes]:
  """The files that running a program needs, compiled if it must be.

  Raises:
    NotHere: If the compiler is missing.
    NotCompiled: If the program is no program of the language.
  """
  runner = RUNNERS[language]
  source = {runner.file: program.encode(errors="surrogatepass")}
  if not runner.build:
    return source
  first, *rest = runner.build
  compiler = shutil.which(first)
  if compiler is None:
    raise NotHere(
      f"gold.language is {language!r}, which needs {first}, and there is none "
      "on this machine. Install it, or drop the question."
    )
  command = [os.path.realpath(compiler), *rest]
  # The binary comes back as what a shell prints after the compiler is done.
  script = '"$@" >/dev/null 2>&1 && exec cat /tmp/program'
  outcome = sandbox.run(
    ["/bin/sh", "-c", script, "sh", *command], source, _COMPILE
  )
  if outcome.ending:
    raise NotCompiled(f"does not compile: {outcome.ending}")
  return {"program": outcome.output}
