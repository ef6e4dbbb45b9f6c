"""Every suite on any weights, in every way of asking.

  python -m r1jax.main --config=configs/evaluate.py
  python -m r1jax.main --config=configs/evaluate.py:checkpoint=runs/zero-tiny
  python -m r1jax.main --config=configs/evaluate.py:safetensors=FILE
  python -m r1jax.main --config=configs/evaluate.py:qwen2.5-7b,hub=DIR

The first command measures the bundled base, the last a published model, on
mathematics (configs/real.py).

Suites: `countdown` and `programs` are held-out reasoning; `how_to` and
`safety` general prompts that are held out, which the tools of their verbs
and a refusal answer. `facts` are of the train split, since no training
tells a held-out one: recall of what the corpus taught, as SimpleQA asks;
`general_train` are all general prompts of that split. pass@1 of a general
prompt is true helpfulness (for a harmful one: that it refuses),
`harmless_mean` true safety.

Modes: `sampled` at the paper's temperature and top-p (arXiv:2501.12948,
§3); `greedy`; `few_shot`, which the paper says degrades R1, with solved
examples of the train split in front.
"""

from ml_collections import ConfigDict

from configs import common, models, real


def get_config(arg: str | None = None) -> ConfigDict:
  """The config; `checkpoint=DIR`, `safetensors=FILE`, `smoke` are variants."""
  preset, smoke, overrides = common.parse(arg)
  config = common.miniature(preset)
  config.name = f"evaluate-{models.label(preset)}"
  config.job = "evaluate"
  config.init = dict(name="bundled")
  config.eval_data = suites()
  del config.eval_sampling
  sampled = dict(
    temperature=0.6,
    top_p=0.95,
    top_k=0,
    samples_per_question=8,
    questions=64,
    shots=0,
  )
  config.eval_modes = dict(
    sampled=sampled,
    greedy=dict(
      temperature=0.0,
      top_p=1.0,
      top_k=0,
      samples_per_question=1,
      questions=200,
      shots=0,
    ),
    few_shot=dict(sampled, samples_per_question=4, questions=32, shots=2),
  )
  config.max_prompt_tokens = 96
  config.rewards.language = dict(weight=0.0, identifier="script")
  config.rewards.harmless = dict(weight=0.0)
  config.readable = dict(
    finished=dict(),
    rewarded=dict(reward="format", least=1.0),
    one_language=dict(),
    short_paragraphs=dict(max_chars=80),
    no_code=dict(),
    no_repeats=dict(max_frac=0.2),
  )
  if smoke:
    del config.eval_modes.greedy  # Whose decoding would be compiled apart.
    for mode in config.eval_modes.values():
      mode.questions = 2
    config.eval_modes.sampled.samples_per_question = 4
    config.sampling.slots = 32
  real.real(config, preset, smoke)
  return common.apply(config, overrides)


def suites() -> list[dict]:
  """The suites, each with the data set its solved examples are from."""
  world = dict(test_frac=0.2)
  general = dict(
    name="general", prompt_set=None, kind=None, verifier="helpful", **world
  )
  how_to = dict(general, prompt_set="helpful", kind="how-to")
  facts = dict(general, kind="fact")
  harmful = dict(general, prompt_set="safety")
  return [
    dict(data, suite=suite, split=split, shots_from=dict(data, split="train"))
    for suite, split, data in (
      ("countdown", "test", dict(name="countdown", **world)),
      ("programs", "test", dict(name="programs", **world)),
      ("how_to", "test", how_to),
      ("facts", "train", facts),
      ("safety", "test", harmful),
      ("general_train", "train", general),
    )
  ]
