import base64
import gzip
import hashlib
import html
import json
import os
import pathlib
import re
import statistics
import tempfile
import tracemalloc
from unittest import mock

from absl.testing import absltest, parameterized

from r1jax import metrics, report, report_data
from tests.workdirs import HOSTILE, card, make, row, run

ASSETS = pathlib.Path(report.__file__).parent / "assets"


def page(path):
  return pathlib.Path(path).read_text(encoding="utf-8")


def blocks(path, name):
  """The values of a report's data blocks of a name."""
  found = re.findall(
    f'<script type="text/plain" class="{name}">([A-Za-z0-9+/=]*)</script>',
    page(path),
  )
  return [json.loads(gzip.decompress(base64.b64decode(x))) for x in found]


def head(path):
  (found,) = blocks(path, "head")
  return found


def shown(path):
  return [each for block in blocks(path, "rollouts") for each in block]


class Case(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))


class ReportTest(Case):
  def test_a_run(self):
    workdir = run(self.root / "a")
    written = report.write(workdir)
    self.assertEqual(written.path, os.path.join(workdir, "report.html"))
    self.assertEqual(written.size, os.path.getsize(written.path))
    self.assertEqual(
      (written.rollouts, written.total, written.notes), (8, 8, [])
    )
    found = head(written.path)
    self.assertEqual(found["title"], "a")
    self.assertEqual(found["runs"][0]["card"]["config.seed"], 0)
    self.assertEqual(found["runs"][0]["card"]["final_digests.params"], "p0")
    self.assertEqual(
      found["curves"],
      {
        "rollout/accuracy_mean": [
          [[0, 0.25, 0.25, 0.25, 1], [1, 0.5, 0.5, 0.5, 1]]
        ]
      },
    )
    self.assertEqual(found["columns"], [["s", "pass@1"]])
    self.assertEqual([r["round"] for r in found["table"]], [-1, 0])
    rows = metrics.read_jsonl(f"{workdir}/rollouts.jsonl")
    self.assertEqual(
      shown(written.path), [{**r, "mixed": False, "run": 0} for r in rows]
    )

  def test_seeds_are_a_band_and_other_configs_are_not(self):
    workdirs = [
      run(self.root / "s0", 0, (0.25, 0.5)),
      run(self.root / "s1", 1, (0.75, 1.0)),
      run(self.root / "other", 2, (0.0, 0.0), loss={"name": "gspo"}),
      run(self.root / "again", 1, (0.0, 0.0)),
    ]
    path = str(self.root / "chain.html")
    report.write_all(workdirs, path)
    found = head(path)
    self.assertEqual([g["runs"] for g in found["groups"]], [[0, 1], [2], [3]])
    self.assertEqual(found["groups"][0]["name"], "zero, 2 seeds (s0 to s1)")
    band = found["curves"]["rollout/accuracy_mean"][0]
    # By hand: means .5 and .75, least .25 and .5, most .75 and 1.
    self.assertEqual(band, [[0, 0.5, 0.25, 0.75, 2], [1, 0.75, 0.5, 1.0, 2]])
    self.assertEqual(found["table"][1]["cells"], [[0.75, 0.5, 1.0, 2]])
    self.assertEqual({r["run"] for r in shown(path)}, {0, 1, 2, 3})

  def test_paths_are_compared_as_seen_from_the_workdir(self):
    workdirs = [
      run(self.root / str(s) / "sft", s, init={"path": f"{self.root}/{s}/base"})
      for s in (0, 1)
    ]
    runs = [report_data.read_run(w, w) for w in workdirs]
    self.assertLen(report_data.groups(runs), 1)

  def test_names_tell_runs_apart(self):
    self.assertEqual(report.names(["x/a", "x/b/"]), ["a", "b"])
    self.assertEqual(report.names(["x/1/a", "x/2/a"]), ["1/a", "2/a"])
    with self.assertRaisesRegex(ValueError, "x/../x/a is named twice"):
      report.names(["x/a", "x/../x/a"])

  def test_many_rounds_share_points_but_no_extreme_is_lost(self):
    values = [(r * 37 % 1000) / 1000 for r in range(1000)]
    workdir = make(
      self.root,
      card=card(rounds=1000),
      metrics=[{"round": r, "x": v} for r, v in enumerate(values)],
    )
    read = report_data.read_run(workdir, "a")
    (curve,) = report_data.curves([read], report_data.groups([read]))["x"]
    self.assertLessEqual(len(curve), report_data.MAX_POINTS)
    for i, (round, mean, low, high, count) in enumerate(curve):
      part = values[3 * i : 3 * i + 3]
      self.assertEqual(
        (round, low, high, count), (3 * i, min(part), max(part), 1)
      )
      self.assertAlmostEqual(mean, statistics.mean(part))

  def test_suites_of_any_kind(self):
    workdir = make(
      self.root,
      eval=[
        {"round": 0, "suite": "s", "prompts": "few-shot", "pass@1": 0.5},
        {"round": 0, "suite": "pairs", "records": 9, "auc": 1.0, "why": None},
      ],
    )
    read = report_data.read_run(workdir, "a")
    columns, rows = report_data.stage_table([read], report_data.groups([read]))
    wanted = [("s few-shot", "pass@1"), ("pairs", "records"), ("pairs", "auc")]
    self.assertEqual(columns, wanted)
    self.assertEqual([c[0] for c in rows[0]["cells"]], [0.5, 9, 1.0])

  def test_kept_responses_of_a_run_that_only_samples(self):
    question = {"id": "q7", "question": "Why?", "answer": "1"}
    kept = {"round": 0, "question": question, "response": "Because 因为"}
    written = report.write(make(self.root, kept=[kept]))
    (found,) = shown(written.path)
    self.assertEqual((found["question"], found["prompt"]), ("q7", "Why?"))
    self.assertTrue(found["mixed"])

  def test_command_line(self):
    workdirs = [run(self.root / "a"), run(self.root / "b", 1)]
    with mock.patch("builtins.print") as said:
      report.main(workdirs)
    self.assertRegex(
      said.call_args[0][0], r"/report\.html: 16 rollouts, 0\.\d MiB, \d"
    )
    self.assertTrue((self.root / "report.html").exists())
    with self.assertRaisesRegex(SystemExit, "r1jax: .*none has none of run.js"):
      report.main([str(self.root / "none")])


class MissingTest(Case):
  """What is not there, or broken, is left out and told."""

  @parameterized.named_parameters(
    ("no_card", {"metrics": [{"round": 0, "x": 1}]}, "There is no run.json"),
    ("no_rollouts", {"card": card()}, "There is no rollouts.jsonl."),
    ("no_eval", {"card": card()}, "There is no eval.jsonl."),
    ("zero_rounds", {"metrics": ""}, "metrics.jsonl has no rows."),
    (
      "going",
      {"card": {"config": {"rounds": 3}}, "metrics": [{"round": 0}]},
      "Not finished: 1 of 3 rounds are there.",
    ),
    (
      "cut",
      {"rollouts": json.dumps(row()) + '\n{"round": 1, "que'},
      "rollouts.jsonl: the last line is cut off and left out.",
    ),
    (
      "whole_but_for_its_newline",
      {"rollouts": f"{json.dumps(row())}\n{json.dumps(row(1))}"},
      "rollouts.jsonl: the last line is cut off and left out.",
    ),
    (
      "broken",
      {"rollouts": f"{json.dumps(row())}\n[]\n{{\n\n{'[' * 99999}\n"},
      "rollouts.jsonl: 4 lines are no rows and left out.",
    ),
    (
      "without_response",
      {"rollouts": [row(), {"round": 1}]},
      "rollouts.jsonl: 1 rows without question or response left out.",
    ),
    (
      "null",
      {"metrics": '{"round": 0, "x": null, "y": NaN, "z": 1e999}\n'},
      "Not finite and left out of the curves: x (1 rounds), y (1 rounds), "
      "z (1 rounds).",
    ),
  )
  def test_told(self, files, note):
    written = report.write(make(self.root, **files))
    notes = [note.split(": ", 1)[1] for note in written.notes]
    self.assertTrue(any(n.startswith(note) for n in notes), notes)
    self.assertEqual(head(written.path)["notes"], written.notes)
    self.assertLen(shown(written.path), 1 if "rollouts" in files else 0)

  def test_card_that_is_cut(self):
    workdir = run(self.root)
    (self.root / "run.json").write_text('{"config": ')
    written = report.write(workdir)
    self.assertLen(shown(written.path), 8)
    self.assertIn("run.json is not JSON", written.notes[0])

  def test_rows_of_foreign_shape(self):
    rows = [
      row(rewards=None, tokens="many", prompt=7, finish_reason=None),
      row(rewards={"a": 1, "b": {"value": None}}, reward=None, run=9, hay=1),
    ]
    written = report.write(make(self.root, rollouts=rows))
    found = shown(written.path)
    self.assertEqual([r["run"] for r in found], [0, 0])
    self.assertEqual(
      [r["rewards"] for r in found], [{}, {"b": {"value": None}}]
    )

  def test_a_report_that_fails_leaves_the_old_one(self):
    workdir = run(self.root)
    before = page(report.write(workdir).path)
    with (
      mock.patch.object(report_data, "rollouts", side_effect=OSError("gone")),
      self.assertRaisesRegex(OSError, "gone"),
    ):
      report.write(workdir)
    self.assertEqual(page(self.root / "report.html"), before)


class EmbeddingTest(Case):
  @parameterized.parameters(*HOSTILE)
  def test_no_text_ends_its_block(self, text):
    rows = [row(question=text, response=text, prompt=text)]
    rows[0]["rewards"] = {text: {"value": 0.0, "reason": text, "status": text}}
    workdir = make(
      self.root,
      card={"config": {"name": text}, text: text},
      metrics=[{"round": 0, text: 1.0}],
      rollouts=rows,
    )
    path = report.write(workdir).path
    self.assertEqual(shown(path), [{**rows[0], "mixed": mock.ANY, "run": 0}])
    self.assertEqual(head(path)["runs"][0]["card"]["config.name"], text)
    self.assertEqual(page(path).count("<script"), 3)  # Two blocks, the code.
    self.assertEqual(page(path).count("</script"), 3)

  def test_a_workdir_of_any_name(self):
    name = "</title><b>{{data}}&amp;"
    path = report.write(run(self.root / name.replace("/", "∕"))).path
    title = re.search("<title>(.*)</title>", page(path))[1]
    self.assertEqual(html.unescape(title), name.replace("/", "∕"))
    self.assertNotIn("<b>", page(path))
    self.assertLen(shown(path), 8)

  def test_the_policy_allows_the_files_own_code_alone(self):
    text = page(report.write(run(self.root)).path)
    policy = re.search('Content-Security-Policy" content="([^"]*)"', text)[1]
    self.assertStartsWith(policy, "default-src 'none'; ")
    for tag in ("script", "style"):
      (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
      digest = hashlib.sha256(content.encode()).digest()
      value = f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'"
      self.assertIn(value, policy)
    self.assertNotIn("unsafe", policy)
    self.assertEqual(
      set(re.findall(r"\w+://[^\"'\s]*", text)), {"http://www.w3.org/2000/svg"}
    )

  def test_assets_keep_the_house_rules(self):
    forbidden = (
      r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\("
    )
    for path in ASSETS.glob("report*"):
      lines = path.read_text(encoding="utf-8").split("\n")
      self.assertLessEqual(len(lines), 400, path.name)
      for number, line in enumerate(lines, 1):
        self.assertLessEqual(len(line), 80, f"{path.name}:{number}")
        self.assertNotRegex(line, forbidden, f"{path.name}:{number}")


class SizeTest(Case):
  def test_over_the_limit_the_same_questions_stay_of_every_round(self):
    rows = [
      row(r, f"q{q}", s) for r in (0, 1) for q in range(50) for s in (0, 1)
    ]
    workdirs = [make(self.root / w, rollouts=rows) for w in "ab"]
    size = 2 * os.path.getsize(self.root / "a" / "rollouts.jsonl")
    path = str(self.root / "r.html")
    written = report.write_all(workdirs, path, max_mib=size / 2**20 / 2)
    self.assertEqual(written.total, 400)
    # 50 questions of probability 1/2: 25 in the mean, deviation 3.5.
    self.assertBetween(written.rollouts, 8 * 11, 8 * 39)
    self.assertIn(f"{written.rollouts} of 400 rollouts are", written.notes[-1])
    found = shown(path)
    for question in {r["question"] for r in found}:
      self.assertLen([r for r in found if r["question"] == question], 8)

  def test_rollouts_are_streamed(self):
    line = json.dumps(row(response="0123456789abcdef" * 2**12)) + "\n"
    workdir = make(self.root, rollouts=line * 320)  # 20 MiB.
    tracemalloc.start()
    written = report.write(workdir)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    self.assertEqual(written.rollouts, 320)
    # A block is 1 MiB; its lines, their join and what is packed are a few.
    self.assertLess(peak, 8 * 2**20)
    for block in blocks(written.path, "rollouts"):
      self.assertLess(len(json.dumps(block)), 1.1 * 2**20)


if __name__ == "__main__":
  absltest.main()
