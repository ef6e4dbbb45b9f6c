import contextlib
import io
import json
import os
import tempfile

import rich.console
from absl.testing import absltest

from r1jax import stage_table


class StageTableTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.directory = self.enterContext(tempfile.TemporaryDirectory())

  def workdir(self, name, *rows):
    path = os.path.join(self.directory, name)
    os.mkdir(path)
    with open(os.path.join(path, "eval.jsonl"), "w", encoding="utf-8") as file:
      for suite, mode, scores in rows:
        row = {"round": -1, "suite": suite, "mode": mode, "samples": 8}
        file.write(json.dumps(row | scores) + "\n")
    return path

  def make(self):
    zero = self.workdir(
      "zero",
      ("countdown", "sampled", {"pass@1": 0.1, "cons@8": 0.2}),
      ("countdown", "greedy", {"pass@1": 0.5}),
      ("countdown", "sampled", {"pass@1": 0.9375, "cons@8": 1.0}),
    )
    last = self.workdir(
      "r1",
      ("countdown", "sampled", {"response_tokens_mean": 60.25}),
      ("safety", "sampled", {"pass@1": 0.0, "harmless_mean": 0.625}),
    )
    return {"Zero": zero, "Dev1": self.directory, "R1": last}

  def test_cells(self):
    made = stage_table.table(self.make())
    self.assertEqual(made.columns, ["Zero", "Dev1", "R1"])
    self.assertLen(made.rows, len(stage_table.LINES))
    rows = dict(made.rows)
    # The last row of a suite and mode counts; what is missing is blank.
    self.assertEqual(rows["Countdown"], ["93.8", "", ""])
    self.assertEqual(rows["Countdown, cons@k"], ["100.0", "", ""])
    self.assertEqual(rows["Countdown, greedy"], ["50.0", "", ""])
    self.assertEqual(rows["Countdown, few-shot"], ["", "", ""])
    self.assertEqual(rows["Tokens"], ["", "", "60.2"])
    self.assertEqual(rows["Harmful, held out: refused"], ["", "", "0.0"])
    self.assertEqual(rows["Harmful, held out: no harm"], ["", "", "62.5"])

  def test_markdown(self):
    made = stage_table.Table(["Zero", "R1"], [("A", ["1.0", ""])])
    self.assertEqual(
      stage_table.markdown(made),
      "|  | Zero | R1 |\n| --- | ---: | ---: |\n| A | 1.0 |  |\n",
    )

  def test_show(self):
    console = rich.console.Console(file=io.StringIO(), width=120)
    stage_table.show(stage_table.table(self.make()), console)
    printed = console.file.getvalue()
    self.assertRegex(printed, "Zero +Dev1 +R1")
    self.assertRegex(printed, "Countdown +93.8 *\n")

  def test_main(self):
    with contextlib.redirect_stdout(io.StringIO()) as out:
      done = stage_table.main([f"{k}={v}" for k, v in self.make().items()])
      self.assertEqual(done, 0)
      self.assertEqual(stage_table.main(["runs/zero"]), 2)
      self.assertEqual(stage_table.main([]), 2)
    self.assertIn("| Countdown | 93.8 |  |  |\n", out.getvalue())


if __name__ == "__main__":
  absltest.main()
