import contextlib
import io
import json
import os
import pathlib
import shutil
import signal
import tempfile
from unittest import mock

import ml_collections
from absl.testing import absltest, parameterized

from r1jax import experiment, interrupt, jobs, pipeline, report, run_card

WEIGHTS, DATA = "params.safetensors", "data.jsonl"
NAMES = ("first", "made", "second", "measured")


def stage(name, job="lm", init=None, inputs=None, **fields):
  config = ml_collections.ConfigDict(
    dict(
      job=job, seed=0, init=dict(name="random"), rounds=1, data=dict(path="")
    )
  )
  config.update(fields)
  return dict(stage=name, config=config, init=init, inputs=inputs or {})


def config(seed=0, **rounds):
  """A chain of four: weights, data of them, weights of that, a measurement."""
  stages = [
    stage("first"),
    stage("made", "generate", init="first"),
    stage("second", inputs={"data.path": f"made/{DATA}"}),
    stage("measured", "evaluate", init="second"),
  ]
  for each in stages:
    each["config"].rounds = rounds.get(each["stage"], 1)
  return ml_collections.ConfigDict(
    dict(name="c", job="pipeline", seed=seed, stages=stages)
  )


class Job:
  """Stands for jobs.run: what it makes depends on all that it takes."""

  def __init__(self):
    self.ran = []
    self.during = lambda name, step: None

  def __call__(self, config, workdir):
    os.makedirs(workdir, exist_ok=True)
    run_card.claim(config, workdir)
    if "final_digests" in run_card.read(workdir):
      return
    name = os.path.basename(workdir)
    self.ran.append(name)
    self.during(name, "start")
    took = [config.seed, config.rounds, name]
    if config.init.name == "checkpoint":
      took.append(self.checkpoint(config.init.path))
    if config.data.path:
      took.append(pathlib.Path(config.data.path).read_text())
    digest = experiment.digest_of(took)
    if config.job == "evaluate":
      row = {"round": -1, "suite": "countdown", "mode": "sampled", "samples": 1}
      row |= {"pass@1": 0.5, "mean": 2.0}
      pathlib.Path(workdir, "eval.jsonl").write_text(json.dumps(row) + "\n")
      return
    file = DATA if config.job == "generate" else WEIGHTS
    pathlib.Path(workdir, file).write_text(digest)
    if config.job == "lm":
      state = pathlib.Path(workdir, "checkpoints", "9", "state")
      state.mkdir(parents=True)
      state.joinpath("d").write_text(digest)
    self.during(name, "end")
    kind = "data" if config.job == "generate" else "params"
    run_card.write(workdir, {"final_digests": {kind: digest}})

  def checkpoint(self, path):
    return pathlib.Path(path, "checkpoints", "9", "state", "d").read_text()


class PipelineTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = self.enterContext(tempfile.TemporaryDirectory())
    self.job = Job()
    self.enterContext(mock.patch.object(jobs, "run", self.job))

  def run_chain(self, config_=None, workdir=None):
    """The stages that ran."""
    self.job.ran = []
    with contextlib.redirect_stdout(io.StringIO()) as out:
      pipeline.run(config_ or config(), workdir or self.workdir)
    self.shown = out.getvalue()
    return tuple(self.job.ran)

  def path(self, *parts):
    return pathlib.Path(self.workdir, *parts)

  def card(self):
    return json.loads(self.path("chain.json").read_text())["stages"]

  def digests(self, workdir=None):
    return [
      run_card.read(os.path.join(workdir or self.workdir, name)).get(
        "final_digests"
      )
      for name in NAMES
    ]

  def assert_refused(self, message, config_=None):
    before = self.card() if self.path("chain.json").exists() else None
    with self.assertRaisesRegex(ValueError, message) as raised:
      self.run_chain(config_)
    self.assertNotIn("\n", str(raised.exception))
    self.assertEqual(self.job.ran, [])
    if before is not None:
      self.assertEqual(self.card(), before)

  def test_runs_in_order_and_skips_what_is_done(self):
    self.assertEqual(self.run_chain(), NAMES)
    self.assertEqual(self.run_chain(), ())
    self.assertRegex(self.shown, "Countdown +50.0")

  def test_what_it_writes(self):
    self.run_chain()
    card = self.card()
    first, made = self.digests()[:2]
    self.assertEqual(card["first"]["took"], {})
    self.assertEqual(card["made"]["took"], {"first": first["params"]})
    data = experiment.file_digest(self.path("made", DATA))
    self.assertEqual(card["second"]["took"], {f"made/{DATA}": data})
    self.assertEqual(
      card["made"]["gave"], {"run.json:data": made["data"], DATA: data}
    )
    self.assertEqual(
      [*card["first"]["gave"]], ["run.json:params", WEIGHTS, "checkpoints"]
    )
    summary = json.loads(self.path("summary.json").read_text())
    self.assertEqual(tuple(summary["stages"]), NAMES)
    self.assertEqual(
      summary["stages"]["first"]["digests"], {"params": first["params"]}
    )
    scores = {"countdown/sampled/pass@1": 0.5, "countdown/sampled/mean": 2.0}
    self.assertEqual(summary["evaluations"], {"measured": scores})
    self.assertTrue(self.path("report.html").exists())
    self.assertEqual(list(pathlib.Path(self.workdir).rglob("*.new")), [])

  def test_a_failing_report_does_not_end_the_chain(self):
    with (
      mock.patch.object(report, "write_all", side_effect=KeyError("x")),
      self.assertLogs(level="WARNING") as logs,
    ):
      self.run_chain()
    self.assertIn("no report (KeyError('x'))", logs.output[0])
    self.assertTrue(self.path("summary.json").exists())

  def test_the_seed_is_every_stages(self):
    self.run_chain(config(seed=5))
    for name in NAMES:
      card = run_card.read(str(self.path(name)))
      self.assertEqual(card["config"]["seed"], 5)

  @parameterized.product(name=NAMES[:3], step=["start", "end"])
  def test_resumes_after_an_error_anywhere(self, name, step):
    def fail(*where):
      if where == (name, step):
        raise OSError("full")

    with tempfile.TemporaryDirectory() as other:
      self.run_chain(workdir=other)
      want = self.digests(other)
    self.job.during = fail
    with self.assertRaisesRegex(OSError, "full"):
      self.run_chain()
    self.assertFalse(self.path("summary.json").exists())
    done = NAMES[: NAMES.index(name)]
    self.assertEqual(
      [n for n, record in self.card().items() if "gave" in record], [*done]
    )
    self.job.during = lambda *_: None
    shutil.rmtree(self.path(name, "checkpoints"), ignore_errors=True)
    self.assertEqual(self.run_chain(), NAMES[len(done) :])
    self.assertEqual(self.digests(), want)

  def test_a_kill_between_the_end_of_a_stage_and_its_record(self):
    self.run_chain()
    card = self.card()
    for name in NAMES[2:]:
      shutil.rmtree(self.path(name))
      del card[name]
    del card["made"]["gave"]
    self.path("chain.json").write_text(json.dumps({"stages": card}))
    self.assertEqual(self.run_chain(), NAMES[2:])
    self.assertIn("gave", self.card()["made"])

  def test_an_error_names_its_stage(self):
    def fail(name, step):
      if name == "second":
        raise ValueError("No room.")

    self.job.during = fail
    with self.assertRaisesRegex(ValueError, "^Stage second: No room.$"):
      self.run_chain()

  @parameterized.parameters(
    ("first", WEIGHTS), ("made", DATA), ("first", "checkpoints/9/state/d")
  )
  def test_changed_output_is_refused(self, name, file):
    self.run_chain()
    self.path(name, file).write_text("other")
    shown = "checkpoints" if "/" in file else file
    was = self.card()[name]["gave"][shown]
    self.assert_refused(
      f"^Stage {name}: {self.path(name, shown)} is [0-9a-f]{{16}}, but was "
      f"{was} when the stage was done. Delete {name}, .*measured in "
      f"{self.workdir} to make them again, or choose another --workdir.$"
    )

  @parameterized.parameters(
    ("first", WEIGHTS), ("made", DATA), ("second", "checkpoints")
  )
  def test_missing_output_is_refused(self, name, file):
    self.run_chain()
    path = self.path(name, file)
    (shutil.rmtree if path.is_dir() else os.remove)(path)
    self.assert_refused(f"^Stage {name}: {path} is gone, but was [0-9a-f]")

  def test_another_weights_digest_is_refused(self):
    self.run_chain()
    run_card.write(
      str(self.path("second")), {"final_digests": {"params": "abc"}}
    )
    self.assert_refused("^Stage second: .*run.json:params is abc, but was")

  def test_another_config_of_a_done_stage_is_refused(self):
    self.run_chain()
    self.assert_refused(
      "^Stage made: it was made by another config, [0-9a-f]{16}, not "
      r"[0-9a-f]{16} \(config.rounds is 2, was 1\). Delete made, second, "
      "measured in",
      config(made=2),
    )
    self.assert_refused("^Stage first: .*config.seed is 1", config(seed=1))

  def test_another_config_of_a_stage_to_come_is_taken(self):
    self.run_chain()
    shutil.rmtree(self.path("second"))
    shutil.rmtree(self.path("measured"))
    self.assertEqual(self.run_chain(config(second=2)), NAMES[2:])

  def test_a_deleted_stage_and_those_after_it_are_made_again(self):
    self.run_chain()
    want = self.digests()
    for name in NAMES[1:]:
      shutil.rmtree(self.path(name))
    self.assertEqual(self.run_chain(), NAMES[1:])
    self.assertEqual(self.digests(), want)

  def test_a_missing_predecessor_is_refused(self):
    self.run_chain()
    shutil.rmtree(self.path("made"))
    self.assert_refused(
      f"^Stage second: it was made from made/{DATA}, which is gone. Delete "
      "second, measured in"
    )

  def test_a_foreign_predecessor_is_refused(self):
    with tempfile.TemporaryDirectory() as other:
      self.run_chain(config(seed=1), other)
      shutil.copytree(os.path.join(other, "first"), self.path("first"))
    self.assert_refused(
      f"^Stage first: {self.path('first')} is there, but chain.json does not "
      "know it: it is another run's. Delete first in"
    )

  def test_a_predecessor_put_in_later_is_refused(self):
    """A chain that agrees with itself up to what was made from the old one."""
    self.run_chain()
    with tempfile.TemporaryDirectory() as other:
      self.run_chain(config(made=2), other)
      shutil.rmtree(self.path("made"))
      shutil.copytree(os.path.join(other, "made"), self.path("made"))
      theirs = json.loads(pathlib.Path(other, "chain.json").read_text())
    card = self.card() | {"made": theirs["stages"]["made"]}
    self.path("chain.json").write_text(json.dumps({"stages": card}))
    was = self.card()["second"]["took"][f"made/{DATA}"]
    self.assert_refused(
      f"^Stage second: it was made from made/{DATA} {was}, which changed "
      "under it and is [0-9a-f]{16} now. Delete second, measured in",
      config(made=2),
    )

  def test_also_an_unfinished_stage_keeps_what_it_started_from(self):
    self.job.during = lambda *_: (_ for _ in ()).throw(OSError)
    with self.assertRaises(OSError):
      self.run_chain()
    self.job.during = lambda *_: None
    self.run_chain()
    card = self.card()
    del card["second"]["gave"]
    card["second"]["took"][f"made/{DATA}"] = "abc"
    self.path("chain.json").write_text(json.dumps({"stages": card}))
    self.assert_refused("^Stage second: it was made from .* abc, which changed")

  @parameterized.parameters("", '{"stages": {"fi', "[]", '{"stages": 3}')
  def test_a_torn_card_is_refused(self, text):
    self.run_chain()
    self.path("chain.json").write_text(text)
    with self.assertRaisesRegex(
      ValueError, f"^{self.path('chain.json')} cannot be read .*Put a copy back"
    ):
      self.run_chain()

  def test_a_card_that_cannot_be_written_stays_whole(self):
    self.run_chain()
    before = self.path("chain.json").read_text()
    for name in NAMES[2:]:
      shutil.rmtree(self.path(name))
    with (
      mock.patch.object(json, "dump", side_effect=OSError("full")),
      self.assertRaises(OSError),
    ):
      self.run_chain()
    self.assertEqual(self.path("chain.json").read_text(), before)

  def test_a_moved_workdir_goes_on(self):
    self.run_chain()
    with tempfile.TemporaryDirectory() as other:
      moved = os.path.join(other, "moved")
      shutil.copytree(self.workdir, moved)
      self.assertEqual(self.run_chain(workdir=moved), ())

  def test_a_workdir_named_otherwise_goes_on_within_a_stage(self):
    def fail(name, step):
      if name == "second":
        raise OSError("full")

    self.job.during = fail
    with self.assertRaises(OSError):
      self.run_chain(workdir=os.path.relpath(self.workdir))
    self.job.during = lambda *_: None
    self.assertEqual(self.run_chain(), NAMES[2:])

  @parameterized.product(
    number=[signal.SIGTERM, signal.SIGINT], step=["start", "end"]
  )
  def test_a_signal_stops_the_chain(self, number, step):
    """Also one that comes when the stage is as good as done."""

    def stop(*where):
      if where == ("made", step):
        signal.raise_signal(number)

    handler = signal.getsignal(number)
    self.job.during = stop
    with self.assertLogs() as logs:
      self.assertEqual(self.run_chain(), NAMES[:2])
    self.assertIn("Stopped after stage made", logs.output[-1])
    self.assertEqual(signal.getsignal(number), handler)
    self.assertFalse(self.path("summary.json").exists())
    self.assertEqual(self.run_chain(), NAMES[2:])

  def test_a_stage_that_stopped_early_stops_the_chain(self):
    whole = run_card.write

    def write(workdir, fields):
      if os.path.basename(workdir) != "made" or "final_digests" not in fields:
        whole(workdir, fields)

    with (
      mock.patch.object(run_card, "write", write),
      self.assertLogs() as logs,
    ):
      self.assertEqual(self.run_chain(), NAMES[:2])
    self.assertIn("Stopped in stage made", logs.output[-1])
    self.assertNotIn("gave", self.card()["made"])
    self.assertEqual(self.run_chain(), NAMES[1:])

  def test_seconds_add_up_over_restarts(self):
    clock = iter([0.0, 1.0, 10.0, 12.0] + [20.0] * 100)
    self.job.during = lambda *_: (_ for _ in ()).throw(OSError)
    with mock.patch.object(pipeline.time, "monotonic", lambda: next(clock)):
      with self.assertRaises(OSError):
        self.run_chain()
      self.job.during = lambda *_: None
      self.run_chain()
    self.assertEqual(self.card()["first"]["secs"], 3.0)


class WatchTest(parameterized.TestCase):
  def test_an_inner_watch_is_the_outer_one(self):
    with interrupt.watch() as outer:
      handler = signal.getsignal(signal.SIGTERM)
      with interrupt.watch() as inner:
        self.assertIs(signal.getsignal(signal.SIGTERM), handler)
        self.assertFalse(inner())
        signal.raise_signal(signal.SIGTERM)
        self.assertTrue(inner())
      self.assertTrue(outer())
      with interrupt.watch() as again:
        self.assertTrue(again())
    with interrupt.watch() as fresh:
      self.assertFalse(fresh())

  def test_the_second_signal_does_what_it_did_before(self):
    with (
      self.assertRaises(KeyboardInterrupt),
      interrupt.watch() as stopped,
    ):
      signal.raise_signal(signal.SIGINT)
      self.assertTrue(stopped())
      signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
  absltest.main()
