"""A real model learns on a laptop: SmolLM2-135M-Instruct adds small numbers.

  python -m r1jax.main --config=configs/smollm2.py:hub=DIR

DIR is a Hugging Face folder or GGUF file of SmolLM2-135M-Instruct
(https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct); without `hub`
it is models/smollm2-135m. Two commands beside it:

  python -m r1jax.main --config=configs/smollm2.py:hub=DIR,control
  python -m r1jax.main --config=configs/smollm2.py:hub=DIR,think

`control` is the same with a learning rate of 0. `think` asks in the words of
R1-Zero and rewards their format too, for 20 rounds.

Task: sums and differences of two numbers of one digit, reasoning-gym's
chain_sum. Of its 200 questions one in five is held out, by content; graded is
the last number of a response that ended by itself within 32 tokens. At
temperature 1 the base is right 22 % of the time (64 items; the first round of
a run: 20 %).

Hardware: two CPU cores, within 90 minutes. Time and result: EXPERIMENTS.md,
"A real model learns: its first 40 rounds", and the entry above it.
"""

from ml_collections import ConfigDict

from configs import common, zero

PRESET = "smollm2-135m"
SUMS = dict(
  name="reasoning_gym",
  dataset="chain_sum",
  arguments=dict(min_terms=2, max_terms=2, min_digits=1, max_digits=1),
  instruction="Answer with the number alone.",
  answer_format="last_number",
  test_frac=0.2,
  seed=0,
)


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; `control`, `think` and `smoke` are variants.

  `smoke` takes the same task to the bundled base.
  """
  words = (arg or "").split(",")
  own = {word for word in words if word in ("control", "think")}
  rest = ",".join(word for word in words if word not in own)
  preset, smoke, overrides = common.parse(
    rest, "tiny" if "smoke" in words else PRESET
  )
  config = zero.get_config(preset + ",smoke" * smoke).unlock()
  config.name = "-".join(["smollm2", *sorted(own)])
  config.data = dict(SUMS, split="train", size=150)
  config.eval_data = [dict(SUMS, split="test", size=40, suite="sums")]
  config.template = "chat"
  config.max_prompt_tokens = 56
  config.max_response_tokens = 32
  config.overlong = "refuse"  # No prompt is longer.
  if "think" in own:
    config.template = "chat-r1-zero"
    config.max_prompt_tokens = 112
    config.max_response_tokens = 96
    for data in (config.data, *config.eval_data):
      del data["instruction"]
  else:
    del config.rewards.format
  if smoke:
    config.template = "miniature"
    config.max_prompt_tokens = 160
  config.row_tokens = 384  # Of five or six responses, each with its prompt.
  config.rows_per_microbatch = 2
  config.rounds = 3 if smoke else 20 if "think" in own else 100
  config.questions_per_round = config.samples_per_question = 4 if smoke else 8
  config.kl.coef = 0.0  # No reference, which would take 540 MB and a sixth.
  config.reference_refresh_rounds = 0
  config.weighting = dict(name="token_mean")
  config.optimizer.learning_rate = 0.0 if "control" in own else 2e-5
  config.sampling.slots = 16 if smoke else 64
  config.sampling.chunk_tokens = 8
  config.grader.update(workers=1, timeout_secs=60.0)
  config.eval_every_rounds = 0 if smoke else 20
  config.eval_sampling.update(
    temperature=1.0, top_p=1.0, samples_per_question=8, questions=40
  )
  config.checkpoint_every_rounds = 20
  return common.apply(config, overrides)
