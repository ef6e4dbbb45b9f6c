import subprocess
import sys
from unittest import mock

import ml_collections
from absl.testing import absltest, parameterized

from r1jax import (
  advantages,
  config_check,
  config_kinds,
  kl,
  losses,
  optim,
  registry,
  score_losses,
  weighting,
)
from r1jax.rewards import table

SLOTS = {
  "slots": 16,
  "chunk_tokens": 8,
  "prefill_rows": 8,
  "repetition_tokens": 0,
  "weights": "as_trained",
}


def common():
  return {
    "name": "zero-tiny",
    "seed": 0,
    "model": {"num_experts": 8},
    "init": {"name": "bundled"},
    "tokenizer": "bundled",
    "template": "zero",
    "mesh": {"data": 2, "fsdp": 2, "expert": 1, "tensor": 1},
    "kernels": {"attention": "auto", "experts": "auto"},
    "eval_data": [{"name": "countdown", "suite": "countdown"}],
    "eval_sampling": {
      "temperature": 0.6,
      "top_p": 0.95,
      "top_k": 0,
      "samples_per_question": 4,
      "questions": 64,
    },
    "max_prompt_tokens": 64,
    "max_response_tokens": 128,
    "overlong": "refuse",
    "sampling": SLOTS,
    "rewards": {"accuracy": {"weight": 1.0}, "format": {"weight": 1}},
    "grader": {
      "workers": 1,
      "timeout_secs": 5.0,
      "budget_secs": 60.0,
      "worker_mem_mb": 2048,
    },
  }


def training():
  return {
    **common(),
    "rounds": 10,
    "data": {"name": "countdown", "size": 100},
    "row_tokens": 256,
    "rows_per_microbatch": 8,
    "optimizer": {
      "name": "adamw",
      "learning_rate": 1e-3,
      "b1": 0.9,
      "clip_norm": 1.0,
      "schedule": {"name": "constant", "warmup_updates": 0},
    },
    "checkpoint_every_rounds": 5,
    "keep_checkpoints": 2,
    "eval_every_rounds": 5,
    "router_bias_rate": 0.001,
    "balance_coef": 0.0,
  }


def make_config(job):
  config = ml_collections.ConfigDict({"job": job})
  if job == "evaluate":
    fields = common()
    sampling = fields.pop("eval_sampling") | {"shots": 0}
    config.update(
      {
        **fields,
        "eval_modes": {"sampled": sampling},
        "readable": {"finished": {}},
      }
    )
  elif job == "lm":
    config.update(
      {
        **training(),
        "epochs": 0.0,
        "sequences_per_round": 64,
        "loss_on": "all",
        "weighting": {"name": "token_mean"},
        "mtp_coef": 0.0,
      }
    )
  elif job == "reward_model":
    fields = config_check.FIELDS[job]
    config.update(
      {
        **{k: v for k, v in training().items() if k in fields},
        "data": {"name": "miniature_pairs"},
        "loss": {"name": "pairwise"},
        "score_on": "summary",
        "epochs": 1.0,
        "records_per_round": 32,
        "max_tokens": 128,
        "overlong": "refuse",
        "eval_records": [{"name": "miniature_pairs", "suite": "held_out"}],
      }
    )
  else:
    config.update(
      {
        **training(),
        "questions_per_round": 32,
        "samples_per_question": 8,
        "updates_per_round": 4,
        "rewards_by_kind": {},
        "reward_models": {},
        "general_from_round": 0,
        "general_frac": 0.0,
        "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, **SLOTS},
        "loss": {"name": "gspo", "clip_low": 0.2, "clip_high": 0.2},
        "advantage": {"name": "group_normalized"},
        "weighting": {"name": "sequence_mean"},
        "kl": {
          "name": "k3",
          "coef": 0.001,
          "where": "loss",
          "importance_weighted": False,
        },
        "reference_refresh_rounds": 400,
        "dynamic_sampling": False,
        "dynamic_sampling_max_waves": 1,
        "filter_truncated": False,
        "importance": {"name": "none"},
        "routing_replay": False,
      }
    )
  return config


def overlong(max_tokens, cache_tokens):
  return dict(weight=1.0, max_tokens=max_tokens, cache_tokens=cache_tokens)


def problems(config):
  try:
    config_check.check(config)
  except ValueError as error:
    return str(error).splitlines()
  return []


class ConfigCheckTest(parameterized.TestCase):
  @parameterized.parameters("lm", "grpo", "evaluate", "reward_model")
  def test_a_good_config_passes(self, job):
    self.assertEqual(problems(make_config(job)), [])

  @parameterized.parameters(
    (
      None,
      "config.job is None. Known: distill, evaluate, generate, grpo, lm, "
      "on_policy_distill, pipeline, reward_model.",
    ),
    ("grop", "config.job is 'grop'. Known: .* Did you mean grpo?"),
  )
  def test_unknown_job(self, job, message):
    config = ml_collections.ConfigDict({"job": job})
    self.assertRegex(problems(config)[0], message)

  @parameterized.parameters("lm", "grpo", "evaluate", "reward_model")
  def test_every_field_is_asked_for(self, job):
    for path in config_check.paths(job):
      config = make_config(job).to_dict()
      *parents, name = path.split(".")
      holder = config
      for parent in parents:
        holder = holder[parent]
      del holder[name]
      if path == "job":
        continue
      (line,) = problems(ml_collections.ConfigDict(config))
      self.assertStartsWith(line, f"config.{path} is missing. Set it")

  @parameterized.parameters("lm", "grpo", "evaluate", "reward_model")
  def test_a_misspelt_field_is_named_with_the_right_one(self, job):
    for path in config_check.paths(job):
      config = make_config(job)
      *parents, name = path.split(".")
      holder = config
      for parent in parents:
        holder = holder[parent]
      holder[name[:-1] + "_" + name[-1]] = holder[name]
      (line,) = problems(config)
      self.assertRegex(line, r"^config\..* is unknown. Did you mean config\.")

  @parameterized.parameters(
    ("seed", -1, "config.seed is -1, but must be an integer of 0 or more."),
    ("seed", True, "must be an integer"),
    ("rounds", 1.0, "must be an integer"),
    ("tokenizer", "", "must be a text"),
    ("mesh", 4, "config.mesh is 4, but must be a dict."),
    ("mesh.fsdp", 0, "config.mesh.fsdp is 0"),
    ("model", 3, "must be a dict"),
    ("balance_coef", float("nan"), "must be a number"),
    ("balance_coef", "0.1", "must be a number"),
    ("filter_truncated", 1, "must be True or False"),
    ("kl.where", "los", "must be one of loss, reward"),
    ("sampling.top_p", 1.5, "in .0.0, 1.0."),
    ("loss.name", "grpo", "config.loss.name is 'grpo'. Known: cispo"),
    ("loss", {"clip_low": 1}, "config.loss.name is None"),
    ("advantage.name", "leave_one", "Did you mean leave_one_out"),
    ("optimizer.name", "adam", "config.optimizer.name is 'adam'"),
    ("optimizer.clip_norm", -1, "or None"),
    ("optimizer.schedule.name", "cosin", "config.optimizer.schedule.name"),
    ("init.name", "hug", "config.init.name is 'hug'"),
    ("init", {"name": "safetensors"}, "config.init.path is missing"),
    ("init.path", "x", "config.init.path is unknown"),
    ("rewards.language", {"weight": 1}, "identifier is missing. Set it to one"),
    (
      "rewards.language",
      {"weight": 1, "identifier": "auto"},
      "identifier is 'auto', but must be one of script, lingua",
    ),
    (
      "rewards.repetition",
      {"weight": 1, "ngram_words": 3, "ngram_tokens": 3},
      "Did you mean config.rewards.repetition.ngram_tokens",
    ),
    ("rewards.accuracy.weight", None, "rewards.accuracy.weight is None"),
    ("rewards.lenght", {"weight": 1}, "config.rewards.lenght is unknown"),
    ("rewards.format", 0.1, "config.rewards.format is 0.1, but must be a dict"),
    ("eval_data", [{"suite": "x"}], r"config.eval_data\[0\].name is None"),
    ("eval_data", "countdown", "must be a list"),
    ("grader.timeout_secs", 0, "config.grader.timeout_secs is 0"),
    ("grader.budget_secs", None, "config.grader.budget_secs is None"),
    ("grader.worker_mem_mb", 63, "config.grader.worker_mem_mb is 63"),
  )
  def test_a_wrong_value_is_named(self, field, value, message):
    config = make_config("grpo")
    config = config.to_dict()
    *parents, name = field.split(".")
    holder = config
    for parent in parents:
      holder = holder[parent]
    holder[name] = value
    (line,) = problems(ml_collections.ConfigDict(config))
    self.assertRegex(line, message)
    self.assertStartsWith(line, f"config.{field.split('.')[0]}")

  @parameterized.parameters(
    ({"samples_per_question": 1}, "compares the responses to one question"),
    ({"max_response_tokens": 7}, "tags alone need 8"),
    ({"updates_per_round": 7}, "does not divide .* 256 responses"),
    ({"rows_per_microbatch": 6}, "config.mesh = 4 does not divide"),
    ({"row_tokens": 191}, "64 . 128. Set it to 192 or more"),
    ({"sampling.top_p": 0.95}, "config.sampling.top_p is 0.95"),
    ({"sampling.top_k": 50}, "config.sampling.top_k is 50"),
    ({"sampling.temperature": 0}, "config.sampling.temperature is 0"),
    ({"kl.coef": 0.0}, "no reference to refresh"),
    (
      {"kl.where": "reward", "kl.importance_weighted": True},
      "config.kl.importance_weighted is True",
    ),
    ({"routing_replay": True, "model": {}}, "config.model has no experts"),
    ({"rewards": {"accuracy": {"weight": 0.0}}}, "nothing to learn from"),
    (
      {
        "rewards.length": {"weight": 1.0},
        "samples_per_question": 1,
        "advantage.name": "batch_normalized",
      },
      "rewards.length compares the responses .* is 1. Set it to 2",
    ),
    (
      {"rewards": {"length": {"weight": 1.0}}, "eval_every_rounds": 0},
      "config.rewards.length needs accuracy",
    ),
    ({"rewards.overlong": overlong(9, 10)}, "cache_tokens is 10, more than"),
    ({"rewards.overlong": overlong(160, 32)}, "begins after .* = 128, which"),
    ({"eval_data": []}, "config.eval_data is empty. Set it to 0"),
    ({"rewards": {"format": {"weight": 1.0}}}, "has no accuracy"),
    ({"dynamic_sampling": True}, "leaves no second wave"),
    ({"dynamic_sampling_max_waves": 3}, "_max_waves is 3, but .* is False"),
    ({"eval_sampling.temperature": 0.0}, "where all are the same"),
  )
  def test_a_contradiction_is_named(self, changes, message):
    config = make_config("grpo").to_dict()
    for field, value in changes.items():
      *parents, name = field.split(".")
      holder = config
      for parent in parents:
        holder = holder[parent]
      holder[name] = value
    (line,) = problems(ml_collections.ConfigDict(config))
    self.assertRegex(line, message)

  @parameterized.parameters(
    {
      "samples_per_question": 1,
      "advantage": {"name": "batch_normalized"},
      "updates_per_round": 1,
    },
    {"max_response_tokens": 8, "row_tokens": 72},
    {"eval_data": [], "eval_every_rounds": 0},
    {"eval_every_rounds": 0, "rewards": {"format": {"weight": 1.0}}},
    {
      "rewards": {
        "accuracy": {"weight": 0.0},
        "length": {"weight": 1.0},
        "overlong": overlong(159, 32),
        "language": {"weight": 1.0, "identifier": "lingua"},
      }
    },
    {"dynamic_sampling": True, "dynamic_sampling_max_waves": 2},
    {"optimizer": {**training()["optimizer"], "clip_norm": None}},
  )
  def test_the_edge_of_what_is_allowed(self, **changes):
    config = {**make_config("grpo").to_dict(), **changes}
    self.assertEqual(problems(ml_collections.ConfigDict(config)), [])

  @parameterized.parameters(
    ({"row_tokens": 255}, "config.row_tokens is 255, too short for 2 x"),
    (
      {"loss": {"name": "pointwise"}, "row_tokens": 127},
      "too short for 1 x config.max_tokens 128",
    ),
    ({"eval_records": []}, "config.eval_records is empty. Set it to 0"),
    ({"rows_per_microbatch": 6}, "config.mesh = 4 does not divide"),
    ({"score_on": "summaries"}, "must be one of summary, response"),
    ({"overlong": "cut"}, "must be one of refuse, drop"),
    ({"loss": {"name": "pair"}}, "config.loss.name is 'pair'. Known"),
    (
      {"eval_records": [{"name": "miniature_pairs"}]},
      r"config.eval_records\[0\].suite is missing",
    ),
  )
  def test_a_reward_model_is_checked(self, changes, message):
    config = {**make_config("reward_model").to_dict(), **changes}
    (line,) = problems(ml_collections.ConfigDict(config))
    self.assertRegex(line, message)

  @parameterized.parameters(
    {"row_tokens": 256},
    {"loss": {"name": "pointwise"}, "row_tokens": 128},
    {"eval_records": [], "eval_every_rounds": 0},
  )
  def test_the_edge_of_what_a_reward_model_may_be(self, **changes):
    config = {**make_config("reward_model").to_dict(), **changes}
    self.assertEqual(problems(ml_collections.ConfigDict(config)), [])

  def test_an_evaluation_needs_data(self):
    config = make_config("evaluate")
    config.eval_data = []
    (line,) = problems(config)
    self.assertStartsWith(line, "config.eval_data is empty.")

  @parameterized.parameters(
    (
      {"eval_modes.sampled.shots": 2},
      r"sampled has shots, but .*eval_data\[0\]",
    ),
    (
      {"eval_modes.sampled.temperature": 0.0},
      "sampled.samples_per_question is",
    ),
    ({"eval_modes.sampled.shot": 2}, "eval_modes.sampled.shot is unknown"),
    ({"eval_modes.best": {}}, "eval_modes.best is unknown"),
    ({"eval_modes": {}}, "eval_modes is empty"),
    ({"overlong": "truncate"}, "overlong is 'truncate', but must be one of"),
    ({"readable": {"short": {}}}, "readable.short is unknown"),
  )
  def test_modes_of_an_evaluation(self, changes, message):
    config = make_config("evaluate")
    for path, value in changes.items():
      *owners, last = path.split(".")
      owner = config
      for name in owners:
        owner = owner[name]
      if last in owner:
        del owner[last]
      owner[last] = value
    self.assertRegex(problems(config)[0], message)

  def test_all_problems_at_once_one_a_line(self):
    config = make_config("grpo")
    config.seed = -1
    config.sed = 1
    del config.grader
    config.kl.name = "k4"
    self.assertLen(problems(config), 4)
    config = make_config("grpo")
    config.max_response_tokens = 1
    config.sampling.top_k = 3
    self.assertLen(problems(config), 2)

  @parameterized.parameters("grpo", "lm", "evaluate")
  def test_lingua_is_there_when_asked_for(self, job):
    config = make_config(job)
    config.rewards.language = {"weight": 1.0, "identifier": "lingua"}
    with mock.patch("importlib.util.find_spec", return_value=None):
      (line,) = problems(config)
      self.assertRegex(line, r"Install r1jax\[language\], or set it to 'scr")
      config.rewards.language.identifier = "script"
      self.assertEqual(problems(config), [])

  def test_names_are_those_of_the_tables(self):
    fields = config_check.FIELDS["grpo"]
    self.assertContainsSubset(fields["loss"].names, losses.LOSSES)
    self.assertCountEqual(fields["advantage"].names, advantages.ADVANTAGES)
    self.assertCountEqual(fields["weighting"].names, weighting.WEIGHTINGS)
    self.assertCountEqual(
      fields["importance"].names, ["none", *losses.IMPORTANCE]
    )
    graded = [*table.REWARDS, *table.GROUP_REWARDS]
    self.assertCountEqual(
      fields["rewards"].names, [*graded, *table.MODEL_REWARDS]
    )
    self.assertCountEqual(fields["reward_models"].names, table.MODEL_REWARDS)
    self.assertCountEqual(config_kinds.GENERAL, table.MODEL_REWARDS)
    for job in ("lm", "evaluate", "generate"):  # Where there is no model.
      names = config_check.FIELDS[job]["rewards"].names
      self.assertCountEqual(names, graded)
    for name in graded:
      known = fields["rewards"].item.names[name]
      function = (table.REWARDS | table.GROUP_REWARDS)[name]
      registry.check_arguments(function, known, name)
    self.assertCountEqual(fields["optimizer"].names, optim.OPTIMIZERS)
    self.assertCountEqual(
      fields["optimizer"].fields["schedule"].names, optim.SCHEDULES
    )
    fields_of_scores = config_check.FIELDS["reward_model"]
    self.assertCountEqual(fields_of_scores["loss"].names, score_losses.LOSSES)
    for name in kl.KL:
      self.assertTrue(fields["kl"]["name"].accepts(name))

  def test_imports_no_jax(self):
    code = "import sys, r1jax.config_check; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
  absltest.main()
