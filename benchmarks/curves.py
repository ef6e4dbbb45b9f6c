"""Curves and bands of runs that differ in their seed.

  python -m benchmarks.curves --plot=docs/zero.svg runs/seed0 runs/seed1 ...

Reads each run's metrics.jsonl and prints median, least and most of the
held-out evaluation before and after, and of the rollouts.
"""

import os
import statistics
from collections.abc import Sequence

import matplotlib
from absl import app, flags

from r1jax import metrics

_PLOT = flags.DEFINE_string("plot", None, "Where the curves are drawn.")
_SUITE = flags.DEFINE_string("suite", "countdown", "Of config.eval_data.")

# Name in metrics.jsonl, its title in the plot.
CURVES = (
  ("rollout/accuracy_mean", "accuracy"),
  ("rollout/response_tokens_mean", "response tokens"),
  ("rollout/mixed_language_frac", "share of mixed-language answers"),
)
HELD_OUT = (
  "pass@1",
  "pass@8",
  "cons@8",
  "format_mean",
  "response_tokens_mean",
  "mixed_language_frac",
  "truncated_frac",
)


def band(values: Sequence[float]) -> str:
  """`median (least to most)`."""
  middle = statistics.median(values)
  return f"{middle:.3g} ({min(values):.3g} to {max(values):.3g})"


def held_out(runs: list[list[dict]], suite: str) -> list[tuple[str, ...]]:
  """(metric, before, after, after over before) over the runs."""
  out = []
  for name in HELD_OUT:
    key = f"eval/{suite}/{name}"
    pairs = []
    for rows in runs:
      values = [row[key] for row in rows if key in row]
      if len(values) > 1:
        pairs.append((values[0], values[-1]))
    if pairs:
      ratios = [after / before for before, after in pairs if before]
      before, after = zip(*pairs)
      ratio = band(ratios) if len(ratios) == len(pairs) else "-"
      out.append((name, band(before), band(after), ratio))
  return out


def draw(runs: list[list[dict]], path: str) -> None:
  """Draws CURVES, the median as a line and the band shaded."""
  matplotlib.use("Agg")
  from matplotlib import pyplot

  matplotlib.rcParams["svg.hashsalt"] = "r1jax"
  figure, axes = pyplot.subplots(1, len(CURVES), figsize=(12, 3.2))
  for axis, (key, title) in zip(axes, CURVES):
    columns = [[row[key] for row in rows if key in row] for rows in runs]
    rounds = range(1, min(map(len, columns)) + 1)
    points = list(zip(*columns))
    axis.plot(rounds, [statistics.median(p) for p in points], lw=1.5)
    axis.fill_between(
      rounds, [min(p) for p in points], [max(p) for p in points], alpha=0.25
    )
    axis.set(title=title, xlabel="round")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
  figure.tight_layout()
  figure.savefig(path, metadata={"Date": None} if path[-3:] == "svg" else None)


def main(argv: list[str]) -> None:
  """Prints the table, and draws the curves if asked to."""
  if len(argv) < 2:
    raise app.UsageError("Name the work directories.")
  runs = [
    metrics.read_jsonl(os.path.join(workdir, "metrics.jsonl"))
    for workdir in argv[1:]
  ]
  print(f"| held out, {len(runs)} runs | before | after | after/before |")
  print("| --- | --- | --- | --- |")
  for row in held_out(runs, _SUITE.value):
    print(f"| {' | '.join(row)} |")
  seconds = [sum(r.get("time/total_secs", 0) for r in rows) for rows in runs]
  print(f"\nseconds of all rounds: {band(seconds)}")
  if _PLOT.value:
    draw(runs, _PLOT.value)


if __name__ == "__main__":
  app.run(main)
