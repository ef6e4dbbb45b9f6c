"""What holds for the source as a whole, read with ast."""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator

from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "r1jax"

# A module may import its own layer and those before it. `rewards` and `data`
# stand apart: text and NumPy, of which nothing before `policy` knows.
LAYERS = {
  "base": "types records registry tree config_schema config_fields chain "
  "config_kinds config_check peers coordinator distributed",
  "arrays": "models sampling losses score_losses divergences advantages "
  "weighting kl packing calibration",
  "text": "rewards data",
  "parts": (
    "policy optim sharding checkpoint metrics memory grading grading_worker "
    "interrupt run_card"
  ),
  "rollout": "rollout judging verdicts preference",
  "assembly": "experiment alignment",
  "stages": "stages generate evaluate search",
  "train": "train",
  "programs": "run training objective jobs pipeline plan plan_topology "
  "plan_programs plan_cost plan_flops plan_hlo plan_read plan_report "
  "plan_table report report_data main stage_table any_model convert chat",
}
APART = {("text", "arrays")}  # (importer, imported) that the order allows.
# What the order forbids, for the one program that stands in its package.
ALLOWED = {("r1jax.rewards.__main__", "r1jax.grading")}
# Imported by grader processes and before a device is touched.
WITHOUT_JAX = (
  "records registry config_schema config_fields chain config_kinds "
  "config_check peers coordinator rewards data"
)
NEVER_IMPORTED = ("tensorflow", "torch")

# What runs text or bytes that a model, a file or a peer may have written.
EVALUATORS = ("eval", "exec", "compile", "__import__")  # Not even by name.
FORBIDDEN_CALLS = (
  *("eval", "exec", "parse_expr", "sympify", "lambdify", "run_path"),
  *("run_module", "system", "popen", "spawn", "getoutput", "getstatusoutput"),
  *("create_subprocess_shell", "read_pickle"),
)
IMPORTERS = ("import_module", "spec_from_file_location", "exec_module")
# Loads the table of rewards that the command line names, no model text; and
# what runs inside a sandbox only, where a program is let loose on purpose.
MAY_IMPORT = (
  "r1jax.rewards.worker",
  *(f"r1jax.rewards.inside.{m}" for m in ("serve", "tester", "values")),
)
PICKLES = ("pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve")
LOADERS = ("joblib", "torch", "yaml")  # Their `load` runs what it finds.
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60

LAYER_OF = {name: k for k, names in LAYERS.items() for name in names.split()}
ORDER = list(LAYERS)


def sources() -> list[pathlib.Path]:
  return sorted(PACKAGE.rglob("*.py"))


def module_name(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> Iterator[str]:
  """Dotted names that a module imports, with what `from` takes."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = "." * node.level + (node.module or "")
      yield from (f"{base}.{alias.name}" for alias in node.names)


def import_problems(module: str, code: str) -> list[str]:
  """Imports that the table does not allow."""
  found = []
  top = module.split(".")[1] if "." in module else ""
  for name in imports(ast.parse(code)):
    parts = name.split(".")
    if name.startswith("."):
      found.append(f"{module} imports {name}: write r1jax.x instead")
    if parts[0] in NEVER_IMPORTED:
      found.append(f"{module} imports {parts[0]}")
    if parts[0] == "jax" and top in WITHOUT_JAX.split():
      found.append(f"{module} imports jax")
    if parts[0] != "r1jax" or len(parts) == 1 or not top:
      continue
    if parts[1].startswith("__"):  # __version__
      continue
    if parts[1] not in LAYER_OF or top not in LAYER_OF:
      found.append(f"{module} imports {name}: add it to LAYERS")
      continue
    if (module, name) in ALLOWED:
      continue
    above, below = LAYER_OF[top], LAYER_OF[parts[1]]
    if ORDER.index(below) > ORDER.index(above) or (above, below) in APART:
      found.append(f"{module} ({above}) imports {name} ({below})")
  return found


def dotted(node: ast.AST) -> str:
  """`a.b.c` of a name or attribute, as far as it is one."""
  if isinstance(node, ast.Attribute):
    return f"{dotted(node.value)}.{node.attr}"
  if isinstance(node, ast.Subscript):
    return dotted(node.value)
  return node.id if isinstance(node, ast.Name) else ""


def name_problem(node: ast.AST) -> str | None:
  """Why a name or an import may not stand in the package, or None."""
  if isinstance(node, ast.Name) and node.id in EVALUATORS:
    return f"names {node.id}"
  if isinstance(node, ast.Import):
    names = [alias.name for alias in node.names]
  elif isinstance(node, ast.ImportFrom):
    names = [f"{node.module}.{alias.name}" for alias in node.names]
  else:
    return None
  for name in names:
    if name.split(".")[0] in PICKLES or name.split(".")[-1] in FORBIDDEN_CALLS:
      return f"imports {name}"
  return None


def call_problem(module: str, node: ast.Call) -> str | None:
  """Why a call may not stand in the module, or None."""
  name = dotted(node.func)
  last, first = name.split(".")[-1], name.split(".")[0]
  keywords = {k.arg: k.value for k in node.keywords}
  is_forbidden = last in FORBIDDEN_CALLS and name not in EVALUATORS
  if (first == "builtins" or is_forbidden) and name != "platform.system":
    return f"calls {name}"
  if last in IMPORTERS and module not in MAY_IMPORT:
    return f"calls {name}"
  if first in LOADERS and last in ("load", "load_all", "unsafe_load"):
    return f"calls {name}"
  if last == "S" or (last == "load" and len(node.args) > 2):
    return f"calls {name}: it evaluates text, or unpickles"
  if last == "getattr" and any(
    isinstance(arg, ast.Constant)
    and arg.value in (*EVALUATORS, *FORBIDDEN_CALLS)
    for arg in node.args
  ):
    return f"calls {name} for what may not be called"
  for keyword in ("shell", "allow_pickle"):
    value = keywords.get(keyword)
    if value is not None and not (
      isinstance(value, ast.Constant) and value.value is False
    ):
      return f"passes {keyword} to {name}"
  has_default = len(node.args) > 1 or "default" in keywords
  if last == "get" and first in ("config", "cfg") and has_default:
    return f"calls {name} with a default: write the value into the config"
  return None


def code_problems(module: str, code: str) -> list[str]:
  """Calls, handlers and lengths that the house style does not allow."""
  found = []
  lines = code.count("\n")
  if lines > MAX_MODULE_LINES:
    found.append(f"{module} has {lines} lines, more than {MAX_MODULE_LINES}")
  for node in ast.walk(ast.parse(code)):
    where = f"{module}:{getattr(node, 'lineno', 0)}"
    problem = name_problem(node)
    if isinstance(node, ast.Call):
      problem = call_problem(module, node)
    if problem:
      found.append(f"{where} {problem}")
    if isinstance(node, ast.ExceptHandler) and (
      node.type is None or dotted(node.type) == "BaseException"
    ):
      found.append(f"{where} catches everything: name what it may be")
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      length = node.end_lineno - node.lineno + 1
      if length > MAX_FUNCTION_LINES:
        found.append(
          f"{where} {node.name} has {length} lines, more than "
          f"{MAX_FUNCTION_LINES}"
        )
  return found


def loaded(modules: list[str], unwanted: tuple[str, ...]) -> str:
  """Which unwanted modules are there once these are imported."""
  code = "import importlib, sys\n"
  code += f"for name in {modules!r}: importlib.import_module(name)\n"
  code += f"print(*[n for n in {unwanted!r} if n in sys.modules])"
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.strip()


class StructureTest(parameterized.TestCase):
  def test_every_module_has_a_layer(self):
    for path in sources():
      parts = module_name(path).split(".")
      if len(parts) > 1:
        self.assertIn(parts[1], LAYER_OF, f"add {path.name} to LAYERS")

  def test_imports_go_downward(self):
    found = [
      problem
      for path in sources()
      for problem in import_problems(
        module_name(path), path.read_text(encoding="utf-8")
      )
    ]
    self.assertEqual(found, [])

  def test_code_keeps_the_house_rules(self):
    found = [
      problem
      for path in sources()
      for problem in code_problems(
        module_name(path), path.read_text(encoding="utf-8")
      )
    ]
    self.assertEqual(found, [])

  def test_graders_start_without_jax(self):
    modules = [
      module_name(path)
      for path in sources()
      if module_name(path).split(".")[1:2]
      and module_name(path).split(".")[1] in WITHOUT_JAX.split()
    ]
    unwanted = ("jax", "flax", "optax", *NEVER_IMPORTED)
    self.assertEqual(loaded(modules, unwanted), "")

  def test_no_module_loads_tensorflow_or_torch(self):
    modules = [module_name(path) for path in sources()]
    self.assertEqual(loaded(modules, NEVER_IMPORTED), "")


class CheckerTest(parameterized.TestCase):
  """The checks above see what they are for."""

  @parameterized.parameters(
    ("r1jax.kl", "from r1jax import losses"),
    ("r1jax.stages.grpo", "from r1jax import policy\nimport jax"),
    ("r1jax.rewards.format", "from r1jax.records import Reward"),
    ("r1jax.grading", "from r1jax.rewards import table"),
    ("r1jax.tree", "import jax\nfrom r1jax import __version__"),
    ("r1jax.rewards.__main__", "from r1jax import grading"),
  )
  def test_allowed_imports(self, module, code):
    self.assertEqual(import_problems(module, code), [])

  @parameterized.parameters(
    ("r1jax.losses", "from r1jax import policy"),
    ("r1jax.losses", "import r1jax.rewards.format"),
    ("r1jax.rewards.format", "from r1jax import losses"),
    ("r1jax.rewards.format", "from r1jax import grading"),
    ("r1jax.rewards.__main__", "from r1jax import rollout"),
    ("r1jax.rewards.format", "def f():\n  import jax.numpy as jnp"),
    ("r1jax.config_check", "from jax import tree"),
    ("r1jax.policy", "from torch import nn"),
    ("r1jax.data.sources", "import tensorflow as tf"),
    ("r1jax.train", "from r1jax.main import run"),
    ("r1jax.kl", "from . import losses"),
    ("r1jax.kl", "from r1jax import unheard_of"),
  )
  def test_forbidden_imports(self, module, code):
    self.assertLen(import_problems(module, code), 1)

  @parameterized.parameters(
    "eval('1')",
    "exec(code)",
    "builtins.eval('1')",
    "builtins.compile('1', '', 'eval')",
    "compile(code, 'x', 'exec')",
    "numbers = map(eval, texts)",
    "run = exec",
    "getattr(module, 'exec')",
    "frame.eval('a + b')",
    "engine.exec('a + b')",
    "__import__(name)",
    "importlib.import_module(name)",
    "import_module(name)",
    "spec.loader.exec_module(module)",
    "importlib.util.spec_from_file_location(name, path)",
    "runpy.run_path(path)",
    "runpy.run_module(name)",
    "sympy.parsing.sympy_parser.parse_expr(text)",
    "from sympy.parsing.sympy_parser import parse_expr as read",
    "sympy.sympify(text)",
    "from sympy import sympify as read",
    "sympy.S(text)",
    "S(text)",
    "sympy.lambdify(x, text)",
    "os.system('ls')",
    "from os import system as call",
    "os.popen('ls')",
    "pty.spawn('sh')",
    "subprocess.getoutput('ls')",
    "subprocess.getstatusoutput('ls')",
    "asyncio.create_subprocess_shell('ls')",
    "subprocess.run('ls', shell=True)",
    "subprocess.run('ls', shell=flag)",
    "import pickle",
    "import cPickle",
    "import cloudpickle as saved",
    "import dill",
    "import shelve",
    "from pickle import loads",
    "from marshal import loads as read",
    "pandas.read_pickle(path)",
    "joblib.load(path)",
    "torch.load(path)",
    "yaml.load(file)",
    "np.load(path, allow_pickle=True)",
    "np.load(path, allow_pickle=flag)",
    "np.load(path, None, True)",
    "config.get('x', 1)",
    "config.optimizer.get('x', default=1)",
    "config['optimizer'].get('x', 1)",
    "try:\n  f()\nexcept:\n  pass",
    "try:\n  f()\nexcept BaseException:\n  pass",
    "def f():\n" + "  g()\n" * 60,
    "g()\n" * 401,
  )
  def test_forbidden_code(self, code):
    self.assertLen(code_problems("r1jax.x", code), 1)

  def test_the_table_of_rewards_may_be_loaded(self):
    code = "importlib.import_module(name)"
    self.assertEqual(code_problems("r1jax.rewards.worker", code), [])

  @parameterized.parameters(
    "jax.eval_shape(f)",
    "config.get('x')",
    "table.get('x', 1)",
    "platform.system()",
    "subprocess.run(['ls'], shell=False)",
    "json.load(file)",
    "np.load(path)",
    "np.load(path, allow_pickle=False)",
    "re.compile('a')",
    "jax.jit(f).lower(x).compile()",
    "ast.literal_eval(text)",
    "sympy.S.One",
    "getattr(module, 'name')",
    "importlib.util.find_spec('lingua')",
    "try:\n  f()\nexcept OSError:\n  pass",
    "def f():\n" + "  g()\n" * 59,
    "g()\n" * 400,
  )
  def test_allowed_code(self, code):
    self.assertEqual(code_problems("r1jax.x", code), [])


if __name__ == "__main__":
  absltest.main()
