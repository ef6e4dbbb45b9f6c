import json
import os
import pathlib
import pty
import signal
import subprocess
import sys
import tempfile

from absl.testing import absltest, parameterized

from r1jax.rewards import __main__ as main

EVIL = "\x1b[2J\x1b]0;owned\x07\u202egnp\r\n\tx"
QUESTION = {
  "id": "a\x1b[31m",
  "question": "reach it",
  "answer": {"numbers": [3, 5, 8], "target": 6},
  "verifier": "countdown",
}
RIGHT = "<think>Three and five are eight.</think><answer>3-5+8</answer>"
AGREES = QUESTION | {
  "response": RIGHT,
  "expect": {"accuracy": True, "format": 1, "language": [0.9, 1]},
  "cls": "sum",
}
DIFFERS = QUESTION | {"response": EVIL, "expect": True}
CASE = {"id": "f", "kind": "format", "input": RIGHT, "expect": True}


class MainTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.file = self.folder / "lines.jsonl"

  def write(self, *rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    self.file.write_text(text, encoding="utf-8")

  def run_main(self, *args, file=None, **kwargs):
    return subprocess.run(
      [sys.executable, "-m", "r1jax.rewards", file or str(self.file), *args],
      env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
      capture_output=True,
      timeout=120,
      check=False,
      **kwargs,
    )

  def test_all_agree(self):
    self.write(AGREES, CASE, AGREES | {"expect": None})
    out = self.folder / "out.json"
    done = self.run_main(f"--json={out}", "--workers=1")
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertIn(b"7 verdicts: 4 agree, 0 disagree, 3 have no", done.stdout)
    got = json.loads(out.read_text())
    self.assertLen(got["rows"], 7)
    first = got["rows"][0]
    self.assertEqual(
      [first[k] for k in ("line", "reward", "value", "reason", "status")],
      [1, "accuracy", 1.0, "gives 6", "ok"],
    )
    self.assertEqual(first["outcome"], "agrees")
    self.assertEqual(
      {row["reward"]: row["rows"] for row in got["summary"] if row["class"]},
      {"accuracy": 2, "format": 2, "language": 2},
    )

  def test_one_differs(self):
    self.write(AGREES, DIFFERS)
    done = self.run_main("--rewards=accuracy", "--quiet", "--workers=1")
    self.assertEqual(done.returncode, 1, done.stderr)
    lines = done.stdout.decode().splitlines()
    self.assertStartsWith(lines[1], "2\ta\\x1b[31m\taccuracy\t0\tok\tdisagrees")
    self.assertIn("\\x1b[2J", lines[1])
    self.assertLen(lines[1].split("\t"), 8)
    self.assertEqual(lines[2], "")  # The one that agrees is not shown.
    text = done.stdout.decode()
    self.assertTrue(all(c.isprintable() or c in "\t\n" for c in text))

  def test_standard_input(self):
    line = json.dumps(CASE).encode()
    done = self.run_main(file="-", input=line)
    self.assertEqual(done.returncode, 0, done.stderr)

  def test_terminal(self):
    self.write(CASE, {**CASE, "input": EVIL})
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
      [sys.executable, "-m", "r1jax.rewards", str(self.file)],
      env=os.environ
      | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "COLUMNS": "160",
        "TERM": "xterm",
      },
      stdout=theirs,
      stdin=subprocess.DEVNULL,
    )
    os.close(theirs)
    text = b""
    try:
      while data := os.read(ours, 1 << 16):
        text += data
    except OSError:  # The other end is closed.
      pass
    os.close(ours)
    self.assertEqual(process.wait(30), 1)
    self.assertIn("┃", text.decode())
    self.assertIn(b"\\x1b[2J", text)
    for raw in (b"\x1b[2J", b"\x1b]0", "\u202e".encode()):
      self.assertNotIn(raw, text)

  def test_late_verdict_and_what_needs_a_harness(self):
    marked = {**CASE, "id": "m", "kind": "math", "gold": "1", "expect": False}
    marked["input"] = "<answer>@CANARY@</answer>"
    self.write(
      CASE | {"also": ["within:0.0000001", "no_orphans"]},
      marked,
    )
    done = self.run_main()
    self.assertEqual(done.returncode, 1, done.stderr)
    late, skipped = done.stdout.decode().splitlines()[1:3]
    self.assertRegex(late, r"disagrees\ttook 0.*harness: no_orphans")
    self.assertRegex(skipped, r"skipped\tnot checked.*: @CANARY@")

  def test_arguments_of_rewards(self):
    response = {"text": "x", "tokens": 95}
    self.write(QUESTION | {"response": response, "expect": -0.5})
    rewards = {"overlong": {"max_tokens": 100, "cache_tokens": 10}}
    done = self.run_main(f"--rewards={json.dumps(rewards)}")
    self.assertEqual(done.returncode, 0, done.stderr)

  @parameterized.named_parameters(
    ("line", [], "{]", "lines.jsonl: line 1: .* is not JSON"),
    ("field", [], '{"a\\u001b": 1, "kind": ""}', r"1: a field is 'a\\x1b'"),
    ("empty", [], "", "has no line that the rewards accuracy, format"),
    ("reward", ["--rewards=acuracy"], "", "--rewards is 'acuracy'. Known: acc"),
    ("no_rewards", ["--rewards="], "", "--rewards is empty"),
    ("arguments", ["--rewards=overlong"], "", "overlong.max_tokens is missing"),
    ("no_object", ['--rewards={"format": 1}'], "", "Give each name an object"),
    ("timeout", ["--timeout-secs=0"], "", "--timeout-secs is 0.0. Set it to"),
    ("workers", ["--workers=0"], "", "--workers is 0. Set it to 1"),
    ("memory", ["--mem-mb=1"], "", "--mem-mb is 1. Set it to"),
    ("flag", ["--nope"], "", "unrecognized arguments: --nope"),
  )
  def test_unusable(self, args, text, message):
    self.file.write_text(text)
    done = self.run_main(*args)
    self.assertEqual(done.returncode, 2)
    self.assertRegex(done.stderr.decode(), message)
    self.assertNotIn(b"Traceback", done.stderr)
    self.assertEqual(done.stdout, b"")

  def test_no_file(self):
    done = self.run_main(file=str(self.folder / "none"))
    self.assertEqual(done.returncode, 2)
    self.assertIn(b"none cannot be read: No such file", done.stderr)

  def test_ctrl_c(self):
    process = subprocess.Popen(
      [sys.executable, "-m", "r1jax.rewards", "-"],
      env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
      stdin=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )
    process.stdin.write(b"\n" * 10)
    process.stdin.flush()
    with self.assertRaises(subprocess.TimeoutExpired):
      process.wait(1.0)  # It waits for more lines.
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    self.assertEqual(process.returncode, 130)
    self.assertEqual(errors, b"")


class ShownTest(parameterized.TestCase):
  @parameterized.parameters(
    ("plain 中文 é", "plain 中文 é"),
    ("a\nb\t\x00\x7f\x9b", "a\\nb\\t\\x00\\x7f\\x9b"),
    ("\x1b[31m", "\\x1b[31m"),
    ("\u202e\u200b\ud800", "\\u202e\\u200b\\ud800"),
  )
  def test_neutral(self, text, expected):
    self.assertEqual(main.shown(text, 100), expected)

  def test_short(self):
    got = main.shown("a" * 1000 + "z" * 1000, 30)
    self.assertEqual(got, "a" * 10 + "…" + "z" * 19)
    self.assertLen(main.shown("\x00" * 10**6, 30), 30)
    self.assertEqual(main.shown("a" * 30, 30), "a" * 30)


if __name__ == "__main__":
  absltest.main()
