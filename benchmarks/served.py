"""Whether transformers answers as our sampler does, for a trained model.

  python -m r1jax.convert WORKDIR FOLDER
  python -m benchmarks.served WORKDIR FOLDER

Asks both the run's held-out questions, greedily, in float32 on the CPU, and
prints how many answers are the same token for token and how many of ours
are right. Needs the extra `parity`.
"""

import sys
from collections.abc import Callable

from absl import app
from ml_collections import ConfigDict

from r1jax import any_model, chat, experiment, run_card
from r1jax.data import templates
from r1jax.records import Question, Response
from r1jax.rewards import accuracy


def ours(opened, tokenizer, config) -> Callable[[list[int]], list[int]]:
  """Prompt ids -> ids of the greedy answer by our sampler."""
  stream = chat.make_stream(
    *opened[:3],
    tokenizer,
    temperature=0.0,
    top_p=1.0,
    max_prompt_tokens=config.max_prompt_tokens,
    max_tokens=config.max_response_tokens,
    seed=0,
  )
  return lambda ids: [id for part in stream(ids, 0) for id in part]


def theirs(folder, tokenizer, config) -> Callable[[list[int]], list[int]]:
  """The same by transformers, which reads the folder."""
  import torch
  import transformers

  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32
  )

  def answer(ids):
    made = model.generate(
      torch.tensor([ids]),
      max_new_tokens=config.max_response_tokens,
      do_sample=False,
      eos_token_id=[tokenizer.eos_id, *tokenizer.stop_ids],
    )
    return made[0, len(ids) :].tolist()

  return answer


def questions(config: ConfigDict) -> list[Question]:
  """The held-out questions of a run's first suite."""
  data = dict(config.eval_data[0])
  data.pop("suite")
  return experiment.questions(data, "config.eval_data[0]")


def main(argv: list[str]) -> None:
  """Asks both, and prints."""
  if len(argv) != 3:
    sys.exit("Give a workdir and the folder that was exported from it.")
  workdir, folder = argv[1:]
  config = ConfigDict(run_card.read(workdir)["config"])
  opened = any_model.load(workdir)
  tokenizer = any_model.read_tokenizer(opened)
  ask, served = (
    ours(opened, tokenizer, config),
    theirs(folder, tokenizer, config),
  )
  same, right, asked = 0, 0, questions(config)
  for question in asked:
    ids = templates.prompt_ids(config.template, question, tokenizer)
    mine, other = ask(ids), served(ids)
    same += mine == other
    text = tokenizer.decode(mine)
    response = Response(text, len(mine), "eos")
    right += accuracy.accuracy(question, response).value == 1.0
    print(f"{question.question!r:.60} {text!r:.40} {mine == other}")
  print(f"{same} of {len(asked)} answers are the same, {right} are right.")


if __name__ == "__main__":
  app.run(main)
