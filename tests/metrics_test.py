import contextlib
import io
import json
import os
import pathlib
import tempfile
from unittest import mock

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from r1jax import metrics


def scalars(workdir):
  """(tag, step, value) of each scalar in a workdir's TensorBoard files."""
  found = []
  for path in sorted((workdir / "tensorboard").iterdir()):
    content = path.read_bytes()
    at = 0
    while at < len(content):
      size = int.from_bytes(content[at : at + 8], "little")
      data = content[at + 12 : at + 12 + size]
      crc = int.from_bytes(content[at + 12 + size :][:4], "little")
      assert crc == masked_crc32c(data)
      event = event_pb2.Event.FromString(data)
      for value in event.summary.value:
        found.append((value.tag, event.step, value.simple_value))
      at += 16 + size
  return found


class MetricsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(
      self.enterContext(tempfile.TemporaryDirectory())
    )

  def test_row_of_every_kind_of_number(self):
    writer = metrics.MetricWriter(self.workdir)
    writer.write(
      3,
      {
        "train/loss": jnp.float32(0.5),
        "train/lr": np.float64(1e-3),
        "rollout/count": np.int32(7),
        "moe/load": jnp.array([1.0, 2.0]),
        "run/digest": "ab",
      },
    )
    writer.close()
    line = (self.workdir / "metrics.jsonl").read_text()
    self.assertStartsWith(line, '{"round": 3, ')
    self.assertEqual(
      json.loads(line),
      {
        "round": 3,
        "train/loss": 0.5,
        "train/lr": 1e-3,
        "rollout/count": 7,
        "moe/load": [1.0, 2.0],
        "run/digest": "ab",
      },
    )
    self.assertEqual(
      [(tag, step) for tag, step, _ in scalars(self.workdir)],
      [("train/loss", 3), ("train/lr", 3), ("rollout/count", 3)],
    )

  def test_numbers_that_are_not_finite_become_null_and_are_counted(self):
    writer = metrics.MetricWriter(self.workdir)
    writer.write(
      0, {"a": jnp.float32(jnp.nan), "b": [1.0, float("inf")], "c": 1.0}
    )
    writer.close()
    (row,) = metrics.read_jsonl(self.workdir / "metrics.jsonl")
    self.assertEqual(
      row,
      {
        "round": 0,
        "a": None,
        "b": [1.0, None],
        "c": 1.0,
        "log/nonfinite_count": 2,
      },
    )

  def test_rows_are_on_disk_before_close(self):
    writer = metrics.MetricWriter(self.workdir)
    writer.write(0, {"a": 1.0})
    self.assertLen(metrics.read_jsonl(self.workdir / "metrics.jsonl"), 1)
    writer.close()

  def test_json_lines_keep_chinese_and_newlines(self):
    path = self.workdir / "rollouts.jsonl"
    lines = metrics.JsonLines(path)
    rows = [
      {
        "round": 0,
        "response": "3 + 4 = 7 不对\nno\u2028",
        "reward": np.float32(1),
      },
      {"round": 0, "response": "half a pair \ud800"},
    ]
    self.assertEqual(lines.write(rows), 0)
    self.assertIn("不对", path.read_text(encoding="utf-8"))
    self.assertEqual(
      [row["response"] for row in metrics.read_jsonl(path)],
      [row["response"] for row in rows],
    )
    self.assertEqual(lines.write([{"round": 1, "reward": np.nan}]), 1)
    lines.close()

  def test_resumed_log_equals_the_unbroken_one(self):
    unbroken, broken = self.workdir / "a", self.workdir / "b"
    writer = metrics.MetricWriter(unbroken)
    for round in range(6):
      writer.write(round, {"x": round / 7})
    writer.close()
    writer = metrics.MetricWriter(broken)
    for round in range(5):  # Killed in round 4; the checkpoint is of 3.
      writer.write(round, {"x": round / 7})
    with open(broken / "metrics.jsonl", "a") as file:
      file.write('{"round": 5, "x"')
    metrics.truncate_from(broken, 3)
    writer = metrics.MetricWriter(broken, first_round=3)
    for round in range(3, 6):
      writer.write(round, {"x": round / 7})
    writer.close()
    self.assertEqual(
      (broken / "metrics.jsonl").read_bytes(),
      (unbroken / "metrics.jsonl").read_bytes(),
    )

  @parameterized.parameters((0, 0), (2, 4), (3, 6), (9, 6))
  def test_truncation_of_every_log(self, round, left):
    for name in metrics.LOGS:
      lines = metrics.JsonLines(self.workdir / name)
      lines.write({"round": i // 2} for i in range(6))
      lines.close()
      with open(self.workdir / name, "ab") as file:
        file.write(b'{"round": 1')
    (self.workdir / "eval.jsonl").unlink()  # A log need not be there.
    metrics.truncate_from(self.workdir, round)
    for name in metrics.LOGS[:2]:
      rows = metrics.read_jsonl(self.workdir / name)
      self.assertEqual(rows, [{"round": i // 2} for i in range(left)])
      content = (self.workdir / name).read_bytes()
      self.assertTrue(content.endswith(b"\n") or not content)

  def test_malformed_line_is_named_and_nothing_is_lost(self):
    path = self.workdir / "metrics.jsonl"
    content = '{"round": 0}\nnonsense\n{"round": 2}\n'
    path.write_text(content)
    with self.assertRaisesRegex(ValueError, f"{path}:2 is not JSON"):
      metrics.read_jsonl(path)
    with self.assertRaisesRegex(ValueError, f"{path}:2 is not JSON"):
      metrics.truncate_from(self.workdir, 2)
    self.assertEqual(path.read_text(), content)

  def test_tensorboard_purges_the_rounds_that_come_again(self):
    metrics.MetricWriter(self.workdir, first_round=4).close()
    (path,) = (self.workdir / "tensorboard").iterdir()
    events, at, content = [], 0, path.read_bytes()
    while at < len(content):
      size = int.from_bytes(content[at : at + 8], "little")
      events.append(
        event_pb2.Event.FromString(content[at + 12 : at + 12 + size])
      )
      at += 16 + size
    starts = [e for e in events if e.HasField("session_log")]
    self.assertEqual([e.step for e in starts], [4])


class ProgressTest(parameterized.TestCase):
  def test_plain_lines_when_not_a_terminal(self):
    out = io.StringIO()
    clock = iter(range(0, 1000, 3))
    with (
      mock.patch.object(metrics.time, "monotonic", lambda: next(clock)),
      contextlib.redirect_stderr(out),
    ):
      self.assertEqual(
        list(metrics.progress("abcdefgh", "letters")), list("abcdefgh")
      )
    lines = out.getvalue().splitlines()
    self.assertNotEmpty(lines)
    self.assertLess(len(lines), 8)
    self.assertRegex(lines[0], r"^letters: \d/8, \d+ s$")
    self.assertStartsWith(lines[-1], "letters: 8/8, ")

  def test_silent_when_it_is_over_at_once(self):
    out = io.StringIO()
    with contextlib.redirect_stderr(out):
      self.assertEqual(list(metrics.progress(iter([1, 2]), "x", 2)), [1, 2])
    self.assertEqual(out.getvalue(), "")

  def test_bar_on_a_terminal(self):
    class Terminal(io.StringIO):
      def isatty(self):
        return True

    out = Terminal()
    with (
      contextlib.redirect_stderr(out),
      mock.patch.dict(os.environ, {"TERM": "xterm"}),
    ):
      self.assertEqual(list(metrics.progress([1, 2], "bar")), [1, 2])
    self.assertIn("bar", out.getvalue())
    self.assertIn("100%", out.getvalue())

  def test_console_line(self):
    self.assertEqual(
      metrics.console_line(
        0,
        40,
        {"rollout/accuracy_mean": jnp.float32(0.25), "time/total_secs": 1.5},
        ["rollout/accuracy_mean", "rollout/absent", "time/total_secs"],
      ),
      "round 1/40  accuracy_mean 0.25  total_secs 1.5",
    )


if __name__ == "__main__":
  absltest.main()
