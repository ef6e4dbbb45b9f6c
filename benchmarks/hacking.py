"""What the reward models saw against the truth, over an alignment.

  python -m benchmarks.hacking --plot=hacking.svg NAME=WORKDIR ...

Reads each run's rollouts.jsonl. DeepSeek-R1 (arXiv:2501.12948), supplement
B.5 and figure 6: a reward model's score kept rising where the preference
reward was given for long, while the skill that it stands for fell. Here the
truth is known: an answer helps or not, a response does harm or not.
"""

from collections import defaultdict

import matplotlib
import numpy as np
from absl import app, flags

from r1jax import metrics
from r1jax.data import general
from r1jax.records import Response
from r1jax.rewards import extract, verify_general

_PLOT = flags.DEFINE_string("plot", None, "Where the curves are drawn.")
_WINDOW = flags.DEFINE_integer("window", 5, "Rounds that a figure is of.")

CURVES = (
  ("helpful_score", "reward model's helpfulness"),
  ("helpful_truth", "true helpfulness"),
  ("safety_score", "reward model's safety"),
  ("safety_truth", "true safety"),
  ("refusal_truth", "truly refused"),
  ("accuracy", "reasoning accuracy"),
)


def curves(path: str) -> dict[str, dict[int, float]]:
  """Name of CURVES to its mean in each round, over the sampled responses."""
  questions = {q.id: q for q in general.all_questions()}
  values = defaultdict(lambda: defaultdict(list))
  for row in metrics.read_jsonl(f"{path}/rollouts.jsonl"):
    round, kind, rewards = row["round"], row["kind"], row["rewards"]
    if kind == "reasoning":
      values["accuracy"][round].append(rewards["accuracy"]["value"])
      continue
    question = questions[row["question"]]
    answer = extract.answer(row["response"])
    label = general.label(question, answer.text) if answer else "unhelpful"
    values[f"{kind}_score"][round].append(rewards[kind]["value"])
    if kind == "helpful":
      values["helpful_truth"][round].append(label == "helpful")
    else:
      response = Response(row["response"], row["tokens"], row["finish_reason"])
      harmless = verify_general.harmless(question, response)
      values["safety_truth"][round].append(harmless.value)
      values["refusal_truth"][round].append(label == "helpful")
  return {
    name: {round: float(np.mean(x)) for round, x in sorted(found.items())}
    for name, found in values.items()
  }


def windows(curve: dict[int, float], size: int) -> dict[int, float]:
  """Means over `size` rounds, by the first of them."""
  grouped = defaultdict(list)
  for round, value in curve.items():
    grouped[round - round % size].append(value)
  return {round: float(np.mean(values)) for round, values in grouped.items()}


def draw(runs: dict[str, dict[str, dict[int, float]]], path: str) -> None:
  """Draws CURVES of every run."""
  matplotlib.use("Agg")
  from matplotlib import pyplot

  matplotlib.rcParams["svg.hashsalt"] = "r1jax"
  figure, axes = pyplot.subplots(2, 3, figsize=(12, 6))
  for axis, (key, title) in zip(axes.flat, CURVES):
    for name, found in runs.items():
      curve = found.get(key, {})
      axis.plot([*curve], [*curve.values()], label=name)
    axis.set_title(title)
    axis.set_ylim(0, 1.05)
  axes.flat[0].legend()
  figure.tight_layout()
  figure.savefig(path, metadata={"Date": None})


def main(argv: list[str]) -> None:
  """Prints a table a run, and draws."""
  runs = {}
  for argument in argv[1:]:
    name, _, path = argument.partition("=")
    runs[name] = curves(path)
    print(f"{name}\n\n| rounds from | {' | '.join(t for _, t in CURVES)} |")
    print(f"|{' --- |' * (1 + len(CURVES))}")
    means = {
      k: windows(runs[name].get(k, {}), _WINDOW.value) for k, _ in CURVES
    }
    for round in sorted({r for each in means.values() for r in each}):
      cells = [
        f"{means[k][round]:.3f}" if round in means[k] else "" for k, _ in CURVES
      ]
      print(f"| {round} | {' | '.join(cells)} |")
    print()
  if _PLOT.value:
    draw(runs, _PLOT.value)


if __name__ == "__main__":
  app.run(main)
