import contextlib
import functools
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest
from absl.testing import absltest, parameterized

from r1jax.rewards import sandbox

ROOT = str(pathlib.Path(__file__).parents[2])


def run(program, *, active=None, given=b"", **limits):
  return sandbox.run(
    [*sandbox.INTERPRETER, "/box/program.py"],
    {"program.py": program.encode()},
    sandbox.Limits(**{"timeout_secs": 5.0} | limits),
    given=given,
    active=active,
  )


def marked(mark):
  """Processes whose command line or environment holds a text."""
  found = []
  for name in filter(str.isdigit, os.listdir("/proc")):
    with contextlib.suppress(OSError):
      for part in ("cmdline", "environ"):
        data = pathlib.Path(f"/proc/{name}/{part}").read_bytes()
        if mark.encode() in data and int(name) != os.getpid():
          found.append(int(name))
  return found


@functools.cache
def open_layers():
  """What is left where the kernel allows no namespaces."""
  return sandbox.probed(set(sandbox.LAYERS) - {"namespaces"})


# What a program prints if it could do what it must not.
ESCAPES = {
  "repository": f"import os; print(os.listdir({ROOT!r}))",
  "package": f"import sys; sys.path.append({ROOT!r}); import r1jax.data",
  "root's proc": "print(open('/proc/1/environ').read() and 'read')",
  "write outside": "open('/usr/escape', 'w'); print('written')",
  "write to its file": "open('/box/program.py', 'a'); print('written')",
  "ptrace": (
    "import ctypes, os; r = ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)\n"
    "print('traced') if r == 0 else None"
  ),
  "mount": (
    "import ctypes; r = ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, 0)"
    "\nprint('mounted') if r == 0 else None"
  ),
  "unshare": (
    "import ctypes; r = ctypes.CDLL(None).unshare(0x10000000)\n"
    "print('unshared') if r == 0 else None"
  ),
  "be root": "import os; os.setuid(0); print('root')",
  "more memory": (
    "import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1)); print('raised')"
  ),
  "root of another": "import os; print(os.listdir('/proc/1/root'))",
  "files of another": "import os; print(os.listdir('/proc/1/fd'))",
  "memory of another": "print(open('/proc/1/mem', 'rb') and 'open')",
  "host's folders": (
    "import os\nfor path in ('/home', '/work', '/sys', '/var', '/old', '/etc'):"
    "\n  try: found = os.listdir(path)\n  except OSError: continue\n"
    "  if found != ['ld.so.cache']: print(path, found)"
  ),
  "packages": (
    "import sys, glob\nfor path in sys.path + glob.glob('/usr/lib/python3*'):\n"
    "  for file in glob.glob(f'{path}/*-packages/**/*.py', recursive=True):\n"
    "    try: open(file)\n    except OSError: continue\n"
    "    print(file); sys.exit()"
  ),
  "devices": (
    "import os; found = set(os.listdir('/dev')) - {'null', 'zero', 'full', "
    "'random', 'urandom', 'fd', 'stdin', 'stdout', 'stderr', 'shm'}\n"
    "if found: print(found)"
  ),
  "link out of scratch": (
    "import os; os.symlink('/usr/bin', 'x'); open('x/y', 'w'); print('made')"
  ),
  "hard link": "import os; os.link('/usr/bin/env', 'x'); print('linked')",
  "device": (
    "import os; os.mknod('x', 0o20666, os.makedev(1, 1)); print('made')"
  ),
  "mode of its file": "import os; os.chmod('/box', 0o777); print('changed')",
  "chroot": "import os; os.chroot('/tmp'); print('changed')",
  "another namespace": (
    "import ctypes, os; fd = os.open('/proc/self/ns/net', 0)\n"
    "print('entered') if ctypes.CDLL(None).setns(fd, 0) == 0 else None"
  ),
  "clone into namespaces": (
    "import ctypes; r = ctypes.CDLL(None).syscall(56, 0x10000011, 0, 0, 0, 0)\n"
    "print('cloned') if r > 0 else None"
  ),
  "unix socket": "import socket as s; s.socket(s.AF_UNIX); print('made')",
  "raw socket": "import socket as s; s.socket(s.AF_INET, 3, 1); print('made')",
  "uncounted memory": "import os; os.memfd_create('x'); print('made')",
  "kernel's keys": (
    "import ctypes; r = ctypes.CDLL(None).syscall(250, 0, -3, 1)\n"
    "print('got') if r >= 0 else None"
  ),
  "io_uring": (
    "import ctypes; r = ctypes.CDLL(None).syscall(425, 1, bytes(256))\n"
    "print('made') if r >= 0 else None"
  ),
  "another's memory": (
    "import ctypes, os; r = ctypes.CDLL(None).process_vm_readv("
    "os.getppid(), bytes(16), 1, bytes(16), 1, 0)\nprint(r) if r >= 0 else None"
  ),
  "more processes": (
    "import resource as r; r.setrlimit(r.RLIMIT_NPROC, (999, 999)); print(1)"
  ),
  "more files": (
    "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (999, 999)); print(1)"
  ),
  "new privileges": (
    "import re\nfor line in open('/proc/self/status'):\n"
    "  if re.match('Cap...:.*[1-9a-f]|NoNewPrivs:.*0|Uid:.0', line):\n"
    "    print(line)"
  ),
  "set-user-id": (
    "import subprocess, glob\nfor path in glob.glob('/usr/bin/su'):\n"
    "  r = subprocess.run([path, '-c', 'id'], capture_output=True)\n"
    "  if b'uid=0' in r.stdout: print('root')"
  ),
  "kill everyone": (
    "import os\ntry: os.kill(-1, 0)\nexcept OSError: pass\n"
    "else: os.kill(1, 9); print('killed')"
  ),
  "kill its parent": (
    "import os; os.kill(os.getppid(), 9); import time; time.sleep(.2)\n"
    "print('alive')"
  ),
  "inherited files": (
    "import os\nfor fd in range(3, 64):\n  try:\n    os.fstat(fd)\n"
    "  except OSError: continue\n  print(fd)"
  ),
}


class EscapeTest(parameterized.TestCase):
  @parameterized.named_parameters(*((n, p) for n, p in ESCAPES.items()))
  def test_in_namespaces(self, program):
    outcome = run(program)
    self.assertNotRegex(outcome.output.decode(), "[a-z0-9]", outcome)

  def test_network(self):
    with socket.create_server(("127.0.0.1", 0)) as server:
      server.settimeout(0.2)
      port = server.getsockname()[1]
      outcome = run(
        "import socket\n"
        f"socket.create_connection(('127.0.0.1', {port}), 1); print('there')"
      )
      self.assertEqual(outcome.output, b"")
      with self.assertRaises(TimeoutError):
        server.accept()


@pytest.mark.slow
class WithoutNamespacesTest(parameterized.TestCase):
  """The same where the kernel allows none: landlock and seccomp."""

  def setUp(self):
    super().setUp()
    try:
      run("pass", active=open_layers())
    except sandbox.Refused as refused:
      self.skipTest(f"this machine has too few layers: {refused}")

  @parameterized.named_parameters(
    *((n, p) for n, p in ESCAPES.items() if n != "be root")
  )
  def test_escape(self, program):
    outcome = run(program, active=open_layers())
    self.assertNotRegex(outcome.output.decode(), "[a-z0-9]", outcome)

  def test_a_plain_program_runs(self):
    outcome = run("print(input())", given=b"x\n", active=open_layers())
    self.assertEqual(outcome, sandbox.Outcome(b"x\n", ""))

  def test_nothing_is_left(self):
    mark = f"r1jax-left-{os.getpid()}"
    run(
      "import os, subprocess, sys\nfor _ in range(3):\n  subprocess.Popen("
      f"[sys.executable, '-c', 'import time; time.sleep(60) # {mark}'], "
      "start_new_session=True)",
      active=open_layers(),
    )
    self.assertEqual(marked(mark), [])


class LayersTest(absltest.TestCase):
  def test_layers_of_this_machine(self):
    layers = sandbox.layers()
    self.assertEqual(set(layers), set(sandbox.LAYERS))
    self.assertEqual(
      {name for name, gives in layers.items() if gives},
      sandbox.active_layers(),
    )


class LimitTest(parameterized.TestCase):
  def test_time(self):
    start = time.monotonic()
    outcome = run("while True: pass", timeout_secs=0.5)
    self.assertTrue(outcome.is_late)
    self.assertLess(time.monotonic() - start, 5)

  def test_output(self):
    outcome = run("while True: print('x' * 10000)", output_bytes=100_000)
    self.assertEqual(outcome.ending, "too much output")
    self.assertLess(len(outcome.output), 300_000)

  def test_memory(self):
    outcome = run("x = bytearray(600 << 20); print('got')", mem_mb=256)
    self.assertEqual(outcome.output, b"")

  def test_disk(self):
    outcome = run(
      "for i in range(100):\n  with open(f'/tmp/{i}', 'wb') as f:\n"
      "    f.write(bytes(8 << 20))\nprint('all')",
      file_mb=16,
    )
    self.assertEqual(outcome.output, b"")

  @parameterized.named_parameters(
    ("stops itself", "import os; os.kill(os.getpid(), 19)"),
    ("closes its output", "import os, time; os.close(1); time.sleep(60)"),
    ("recursion", "import sys; sys.setrecursionlimit(10**8)\n"
     "def f(): f()\nf()"),
    ("reads for ever", "while True: input()"),
    ("floods errors", "import sys\nfor _ in range(10**5):\n"
     "  sys.stderr.write('x' * 100)"),
  )  # fmt: skip
  def test_ends_in_time(self, program):
    start = time.monotonic()
    run(program, timeout_secs=1.0)
    self.assertLess(time.monotonic() - start, 6)

  def test_no_process_and_no_folder_is_left(self):
    folder = tempfile.gettempdir()
    before = set(os.listdir(folder))
    mark = f"r1jax-left-{os.getpid()}"
    outcome = run(
      "import os, time\nfor _ in range(20):\n  if not os.fork():\n"
      f"    os.setsid(); os.fork(); os.execv({sandbox.INTERPRETER[0]!r}, "
      f"['', '-c', 'import time; time.sleep(60)  # {mark}'])\n"
      "time.sleep(0.5); print(len(os.listdir('/proc')))"
    )
    self.assertGreater(int(outcome.output), 20)
    self.assertEqual(marked(mark), [])
    left = set(os.listdir(folder)) - before
    self.assertEqual([n for n in left if n.startswith("r1jax-sandbox")], [])

  def test_environment(self):
    os.environ["R1JAX_SECRET"] = "secret"
    self.addCleanup(os.environ.pop, "R1JAX_SECRET")
    outcome = run("import os; print(sorted(os.environ))")
    self.assertNotIn(b"SECRET", outcome.output)


@pytest.mark.slow
class OtherUserTest(absltest.TestCase):
  """What root sees is not what users get: they need a user namespace."""

  def test_all_but_a_uid(self):
    if os.geteuid():
      self.skipTest("needs root, to become another user")
    code = (
      f"import sys; sys.path.append({ROOT!r})\n"
      "from r1jax.rewards import sandbox\n"
      "code = 'import os; print(os.getpid(), os.getuid(), len(os.listdir("
      'chr(47) + "proc")))\'\n'
      "print(*sandbox.active_layers(), flush=True)\n"
      "done = sandbox.run([*sandbox.INTERPRETER, '-c', code], {})\n"
      "print(done.ending, done.output.decode())"
    )
    for python in (sandbox.INTERPRETER[0], "/usr/bin/python3"):
      command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
      command += [python, "-B", "-c", code]
      done = subprocess.run(command, capture_output=True, text=True, cwd="/")
      if not done.returncode:
        break
    else:
      self.skipTest(f"no Python for another user: {done.stderr[-200:]}")
    layers, ran = done.stdout.strip().splitlines()
    if "namespaces" not in layers:
      self.skipTest("users may make no namespaces here")
    self.assertEqual(ran.split(), ["2", "1000", "4"])


class EndTest(absltest.TestCase):
  def test_it_dies_with_its_grader(self):
    mark = f"r1jax-orphan-{os.getpid()}"
    program = f"import time; time.sleep(60)  # {mark}"
    code = (
      "from r1jax.rewards import sandbox\n"
      "print('go', flush=True)\n"
      f"sandbox.run([*sandbox.INTERPRETER, '-c', {program!r}], {{}},"
      " sandbox.Limits(timeout_secs=60))"
    )
    grader = subprocess.Popen(
      [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT
    )
    grader.stdout.readline()
    deadline = time.monotonic() + 20
    while len(marked(mark)) < 2 and time.monotonic() < deadline:
      time.sleep(0.05)
    self.assertGreaterEqual(len(marked(mark)), 2)
    grader.send_signal(signal.SIGKILL)
    grader.wait()
    grader.stdout.close()
    deadline = time.monotonic() + 10
    while marked(mark) and time.monotonic() < deadline:
      time.sleep(0.05)
    self.assertEqual(marked(mark), [])


if __name__ == "__main__":
  absltest.main()
