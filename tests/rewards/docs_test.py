"""docs/rewards.md says what is there, and its examples run."""

import inspect
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from absl.testing import absltest

from r1jax.rewards import table, verifiers

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs/rewards.md"
TEXT = PAGE.read_text(encoding="utf-8")

_GRADES = """
import json, sys
from brevity_example import TABLE
from r1jax import grading
from r1jax.records import Question, Response

with grading.Grader(
  {"brevity": {"max_words": 2}}, workers=1, timeout_secs=10,
  table="brevity_example:TABLE"
) as grader:
  for i, text in enumerate(["<think>a b c</think> d e", "a b c"]):
    grader.submit(i, Question("q", "", "", "none"), Response(text, 9, "eos"))
  print(json.dumps([row["brevity"] for row in grader.collect().values()]))
"""


def blocks(language: str) -> list[str]:
  return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.S | re.M)


def rows(heading: str) -> list[list[str]]:
  """The cells of the table below a line, the header left out."""
  part = TEXT.split(heading, 1)[1].split("\n\n", 1)[0]
  lines = [line for line in part.splitlines() if line.startswith("| `")]
  return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def run(folder: str, *command: str) -> subprocess.CompletedProcess:
  path = os.pathsep.join([folder, str(ROOT), *filter(None, sys.path)])
  return subprocess.run(
    [sys.executable, *command],
    cwd=folder,
    env=os.environ | {"PYTHONPATH": path},
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )


class DocsTest(absltest.TestCase):
  def test_lists_the_rewards_and_their_arguments(self):
    there = {
      name: [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
      ]
      for name, function in (table.REWARDS | table.GROUP_REWARDS).items()
    }
    listed = {
      name.strip("`"): re.findall(r"`(\w+)`", arguments)
      for name, arguments, _ in rows("| Reward | Arguments | Value |")
    }
    self.assertEqual(listed, there)

  def test_lists_the_verifiers(self):
    listed = [name for name, _ in rows("| Verifier | Gold answer |")]
    self.assertCountEqual(
      [name.strip("`") for name in listed], verifiers.VERIFIERS
    )

  def test_links_lead_somewhere(self):
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    self.assertNotEmpty(links)
    for link in links:
      self.assertTrue((PAGE.parent / link).exists(), link)

  def test_file_is_graded_as_it_says(self):
    (lines,) = blocks("json")
    (command,) = blocks("sh")
    (end,) = blocks("text")
    with tempfile.TemporaryDirectory() as folder:
      (pathlib.Path(folder) / "answers.jsonl").write_text(lines)
      program, *arguments = command.split()
      self.assertEqual(program, "python")
      done = run(folder, *arguments)
    self.assertEqual(done.returncode, 1, done.stderr)
    self.assertEndsWith(done.stdout, end)

  def test_reward_is_added_as_it_says(self):
    _, function, line = blocks("python")
    code = f"{function}\nTABLE = {{\n{line}}}\n"
    with tempfile.TemporaryDirectory() as folder:
      (pathlib.Path(folder) / "brevity_example.py").write_text(code)
      done = run(folder, "-c", _GRADES)
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertEqual(
      json.loads(done.stdout),
      [[1.0, "2 words of 2", "ok"], [0.0, "3 words of 2", "ok"]],
    )


if __name__ == "__main__":
  absltest.main()
