"""Every config is whole: it passes its check, lowers, and is read."""

import importlib
import os
import tempfile
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from configs import models, real
from r1jax import (
  config_check,
  experiment,
  jobs,
  policy,
  preference,
  registry,
  score_losses,
  sharding,
  tree,
  weighting,
)
from r1jax import losses as losses_lib
from r1jax.advantages import ADVANTAGES
from r1jax.data import tokenizer
from r1jax.models import config as model_config
from r1jax.models import hub
from r1jax.stages import distill, grpo, lm, reward_model
from r1jax.types import Batch
from tests import runs

HELPERS = ("__init__", "common", "models", "real")
FILES = sorted(
  ".".join(p.relative_to(runs.ROOT).with_suffix("").parts)
  for p in (runs.ROOT / "configs").rglob("*.py")
  if p.stem not in HELPERS
)


def get_config(name, arg=None):
  return importlib.import_module(name).get_config(arg)


def abstract_batch(model, rows, tokens):
  """A microbatch's shapes, with every field that GRPO fills."""

  def shape(dtype, *more):
    return jax.ShapeDtypeStruct((rows, tokens, *more), dtype)

  floats = {
    name: shape(jnp.float32) for name in Batch._fields if name.endswith("_BT")
  }
  experts = None
  if model.num_experts:
    experts = shape(jnp.int32, model.num_moe_layers, model.experts_per_token)
  return Batch(**floats)._replace(
    tokens_BT=shape(jnp.int32),
    segments_BT=shape(jnp.int32),
    positions_BT=shape(jnp.int32),
    mask_BT=shape(bool),
    rivals_BT=shape(jnp.int32),
    experts_BTLP=experts,
  )


def lower_update(config, model):
  """Lowers the gradient of a config's loss; nothing is allocated."""
  batch = abstract_batch(model, config.rows_per_microbatch, config.row_tokens)
  if config.job == "reward_model":
    made = preference.make(model, with_balance=config.balance_coef > 0)
    loss_fn = reward_model.make(
      made,
      None,
      None,
      loss=registry.make(
        score_losses.LOSSES, config.loss.to_dict(), "config.loss"
      ),
      row_tokens=config.row_tokens,
      rows=config.rows_per_microbatch,
      balance_coef=config.balance_coef,
    ).loss_fn
    return lower(loss_fn, made, batch)
  made = policy.make(
    model, temperature=1.0, with_balance=config.balance_coef > 0
  )
  if config.job == "lm":
    stage = lm.make(
      made,
      None,
      None,
      loss_on=config.loss_on,
      weigh=None,
      row_tokens=config.row_tokens,
      rows=config.rows_per_microbatch,
      balance_coef=config.balance_coef,
    )
    loss_fn = stage.loss_fn
  elif config.job in ("distill", "on_policy_distill"):
    theirs = model_config.from_dict(config.teacher.model.to_dict())
    shapes = jax.eval_shape(
      policy.make(theirs, temperature=1.0).init, jax.random.key(0)
    )
    batch = batch._replace(teacher=nn.unbox(shapes))
    loss_fn = distill.loss_of(config, model, theirs)
  else:
    choices = [
      registry.make(table, config[name].to_dict(), f"config.{name}")
      for name, table in (
        ("loss", losses_lib.LOSSES),
        ("advantage", ADVANTAGES),
        ("weighting", weighting.WEIGHTINGS),
      )
    ]
    loss_fn = grpo.make_loss(made, grpo.settings_of(config, *choices, None))
  return lower(loss_fn, made, batch)


def lower(loss_fn, made, batch):
  """(loss, gradient, parameters), abstract."""
  shapes = nn.unbox(jax.eval_shape(made.init, jax.random.key(0)))
  grad = jax.value_and_grad(loss_fn, has_aux=True)
  lowered = jax.jit(grad).lower(*shapes, batch)
  (loss, _), grads = lowered.out_info
  return loss, grads, shapes[0]


class BuildTest(parameterized.TestCase):
  def test_there_are_configs(self):
    self.assertContainsSubset(["configs.pretrain", "configs.zero"], FILES)

  @parameterized.product(name=FILES, arg=[None, "smoke"])
  def test_passes_its_check(self, name, arg):
    config = get_config(name, arg)
    config_check.check(config)
    self.assertTrue(config.is_locked)
    if config.job == "pipeline":
      return  # Each of its stages is the config of another file.
    if config.tokenizer != "bundled":
      return  # It stands in a folder that is not here.
    made = tokenizer.load(config.tokenizer)
    experiment.dimensions(config, made)

  @parameterized.parameters(*FILES)
  def test_its_docstring_has_its_command(self, name):
    path = name.replace(".", "/") + ".py"
    doc = importlib.import_module(name).__doc__
    self.assertIn(f"python -m r1jax.main --config={path}", doc)

  @parameterized.parameters(*FILES)
  def test_unknown_variants_and_fields_are_named(self, name):
    with self.assertRaisesRegex(ValueError, "'smok' is unknown. Known: smoke"):
      get_config(name, "smok")
    with self.assertRaisesRegex(ValueError, "config.sed is unknown"):
      get_config(name, "sed=1")
    self.assertEqual(get_config(name, "seed=3").seed, 3)

  @parameterized.parameters(*FILES)
  def test_update_lowers_on_abstract_shapes(self, name):
    config = get_config(name)
    if config.job in ("evaluate", "generate", "pipeline"):
      self.skipTest("has no update")
    self.check_update(config, model_config.from_dict(config.model.to_dict()))

  @parameterized.parameters("deepseek-v3", "moonlight-16b")
  def test_published_models_lower(self, preset):
    model = model_config.from_dict(models.get_config(preset).to_dict())
    config = get_config("configs.zero")
    with config.unlocked():
      config.rows_per_microbatch = 2
      config.row_tokens = 128
    self.check_update(config, model)

  def test_a_published_reward_model_lowers(self):
    model = model_config.from_dict(models.get_config("deepseek-v3").to_dict())
    config = get_config("configs.reward_helpful")
    with config.unlocked():
      config.rows_per_microbatch = 2
    self.check_update(config, model)

  def check_update(self, config, model):
    loss, grads, params = lower_update(config, model)
    self.assertEqual((loss.shape, loss.dtype), ((), np.float32))
    self.assertEqual(
      jax.tree.map(lambda x: (x.shape, x.dtype), grads),
      jax.tree.map(lambda x: (x.shape, x.dtype), params),
    )


class RealTest(parameterized.TestCase):
  """Published models in the files that have them."""

  STAGES = (
    *("zero", "traces", "cold_start", "reasoning", "rejection", "sft"),
    *("distill_data", "distill", "student_rl", "evaluate"),
    *("reward_helpful", "reward_safety", "alignment"),
  )

  @parameterized.parameters(*STAGES)
  def test_every_preset_passes_its_check(self, name):
    for preset in real.MACHINES:
      for words in (preset, f"{preset},smoke", f"{preset},hub=DIR"):
        config = get_config(f"configs.{name}", words)
        config_check.check(config)
        folder = "DIR" if "hub" in words else f"models/{preset}"
        self.assertEqual(config.init.to_dict(), dict(name="hub", path=folder))
        self.assertEqual(config.tokenizer, folder)
        self.assertEqual(
          config.model.d_model, models.get_config(preset).d_model
        )

  @parameterized.parameters(*STAGES)
  def test_a_folder_without_a_preset_decides_the_model(self, name):
    for model in ("qwen3-moe", "llama"):
      folder = str(runs.ROOT / "tests/models/golden" / model)
      for words in (f"hub={folder}", f"smoke,hub={folder}"):
        config = get_config(f"configs.{name}", words)
        config_check.check(config)
        self.assertTrue(config.name.endswith(f"-{model}"), config.name)
        self.assertEqual(config.init.to_dict(), dict(name="hub", path=folder))
        self.assertEqual(config.tokenizer, folder)
        dims = model_config.from_dict(config.model.to_dict())
        hub.check(folder, dims, "config.model")

  def test_a_folder_that_is_not_there(self):
    with self.assertRaisesRegex(
      ValueError, "hub=models/none: there is no such folder or file. Name one"
    ):
      get_config("configs.zero", "smoke,hub=models/none")

  def test_the_chain_of_a_published_model(self):
    for words in ("qwen2.5-7b", "qwen2.5-7b,smoke"):
      config = get_config("configs.r1", f"{words},student=qwen2.5-0.5b")
      config_check.check(config)
      by_name = {stage["stage"]: stage for stage in config.stages}
      self.assertNotIn("student_base", by_name)
      for name, stage in by_name.items():
        is_student = name in ("distill", "eval_distill")
        width = 896 if is_student else 3584
        self.assertEqual(stage["config"].model.d_model, width, name)
        self.assertEqual(stage["config"].init.name, "hub")
      self.assertIsNone(by_name["distill"]["init"])
      self.assertEqual(
        by_name["cold_start"]["inputs"],
        {"data.path": "traces/data.jsonl"},
      )

  def test_all_published_presets_have_a_machine(self):
    own = {"tiny", "tiny-dense", "bench-tiny"}
    self.assertEqual({*real.MACHINES}, {*models.PRESETS} - own)

  @parameterized.parameters(  # The largest of each mesh.
    *("qwen3-0.6b", "qwen3-8b", "qwen2.5-14b", "qwen2.5-32b", "llama-3.3-70b"),
    *("moonlight-16b", "qwen3-30b-a3b", "deepseek-v2", "deepseek-v3"),
  )
  def test_its_mesh_fits_its_weights(self, preset):
    model = model_config.from_dict(models.get_config(preset).to_dict())
    sizes = real.MACHINES[preset].mesh
    shape = tuple(sizes[axis] for axis in sharding.MESH_AXES)
    mesh = jax.sharding.AbstractMesh(shape, sharding.MESH_AXES)
    made = policy.make(model, temperature=1.0)
    boxed = jax.eval_shape(made.init, jax.random.key(0))
    sharding.param_shardings(mesh, boxed)
    # In float32: weights, gradient, two moments, reference.
    per_device = 20 * tree.count(nn.unbox(boxed)) / np.prod(shape)
    self.assertLess(per_device, 45e9)

  def test_a_mesh_and_files_of_the_command_line(self):
    config = get_config(
      "configs.zero",
      "qwen2.5-1.5b,mesh.fsdp=2,data.parts.1.path=A,eval_data.0.path=B",
    )
    self.assertEqual(config.mesh.fsdp, 2)
    self.assertEqual(config.data.parts[1]["path"], "A")
    self.assertEqual(config.eval_data[0]["path"], "B")
    for wrong in ("data.parts.9.path=A", "data.parts.x.path=A", "seed.a=1"):
      with self.assertRaisesRegex(ValueError, "config.* is unknown"):
        get_config("configs.zero", f"qwen2.5-1.5b,{wrong}")

  @parameterized.parameters(
    ("qwen2.5-math-1.5b", 1e-4),
    ("qwen2.5-math-7b", 8e-5),
    ("qwen2.5-14b", 7e-5),
    ("qwen2.5-32b", 6e-5),
    ("llama-3.1-8b", 5e-5),
    ("llama-3.3-70b", 2e-5),
  )
  def test_students_of_the_paper(self, preset, learning_rate):
    config = get_config("configs.distill", preset)
    self.assertEqual(config.optimizer.learning_rate, learning_rate)
    self.assertEqual(config.sequences_per_round, 64)
    self.assertEqual(config.optimizer.schedule.final_fraction, 0.1)
    self.assertBetween(config.epochs, 2, 3)

  def test_the_papers_rl(self):
    config = get_config("configs.reasoning", "deepseek-v3")
    responses = config.questions_per_round * config.samples_per_question
    self.assertEqual(responses, 8192)
    self.assertEqual(responses / config.updates_per_round, 32 * 16)
    self.assertEqual(config.rounds * config.updates_per_round, 10_400)
    refresh = config.reference_refresh_rounds * config.updates_per_round
    self.assertEqual(refresh, 400)
    self.assertEqual(config.optimizer.learning_rate, 3e-6)
    self.assertEqual((config.loss.clip_low, config.loss.clip_high), (10, 10))
    self.assertEqual(config.max_response_tokens, 32768)
    self.assertEqual(config.model.param_dtype, "float32")

  def test_the_laptops_control_only_lacks_its_learning_rate(self):
    run, control = (get_config("configs.smollm2", x) for x in ("", "control"))
    with control.unlocked():
      control.name, control.optimizer.learning_rate = "smollm2", 2e-5
    self.assertEqual(run.to_json(), control.to_json())


class Tracked:
  """A config that notes which of its fields are read.

  What becomes a plain dict counts as read below; its reader checks it.
  """

  def __init__(self, config, seen, prefix=""):
    self._config, self._seen, self._prefix = config, seen, prefix

  def _noted(self, name):
    value = self._config[name]
    self._seen.add(self._prefix + name)
    if isinstance(value, ml_collections.ConfigDict):
      return Tracked(value, self._seen, f"{self._prefix}{name}.")
    return value

  def __getattr__(self, name):
    return self._noted(name)

  def __getitem__(self, name):
    return self._noted(name)

  def __contains__(self, name):
    return name in self._config

  def __iter__(self) -> Iterator[str]:
    return iter(self._config)

  def keys(self):
    return self._config.keys()

  def items(self):
    return [(name, self._noted(name)) for name in self._config]

  def to_dict(self):
    self._seen.update(self._prefix + path for path in leaves(self._config))
    return self._config.to_dict()

  def to_json(self):  # For the run card, which uses nothing.
    return self._config.to_json()


def leaves(config, prefix=""):
  for name, value in config.items():
    yield prefix + name
    if isinstance(value, ml_collections.ConfigDict):
      yield from leaves(value, f"{prefix}{name}.")


def unread(config, fields):
  """The fields that a run of the config does not read."""
  config_check.check(config)
  seen = set()
  with tempfile.TemporaryDirectory() as directory:
    jobs.run(Tracked(config, seen), os.path.join(directory, "run"))
  # `name` is the default of --workdir, in main.
  return sorted({*fields} - seen - {"name"})


class StartTest(parameterized.TestCase):
  @parameterized.product(
    name=sorted({*FILES} - {"configs.pretrain", "configs.r1"}),
    kind=("checkpoint", "safetensors"),
  )
  def test_every_stage_starts_from_weights_of_any_kind(self, name, kind):
    config = get_config(name, f"smoke,{kind}=somewhere")
    self.assertEqual(config.init.to_dict(), dict(name=kind, path="somewhere"))
    config_check.check(config)


class ReadTest(parameterized.TestCase):
  def test_every_field_is_read(self):
    config = runs.config(
      rounds=2,
      model=runs.DENSE,
      dynamic_sampling=True,
      dynamic_sampling_max_waves=2,
    )
    # "extra" shows that a field no one reads is found.
    self.assertEqual(
      unread(config, [*config_check.paths("grpo"), "extra"]), ["extra"]
    )

  @pytest.mark.slow
  @parameterized.parameters(
    ("pretrain", dict(rounds=2, sequences_per_round=2)),
    ("evaluate", {}),
    ("reward_helpful", {}),
  )
  def test_every_field_of_other_jobs_is_read(self, name, changes):
    config = runs.config(name, **changes)
    self.assertEqual(unread(config, config_check.paths(config.job)), [])

  def test_reading_is_told_from_passing(self):
    seen = set()
    config = ml_collections.ConfigDict(
      {"a": 1, "b": {"c": 2, "d": 3}, "e": {"f": {"g": 4}}}
    )
    tracked = Tracked(config, seen)
    self.assertEqual(tracked.b.c, 2)
    tracked.to_json()
    self.assertEqual(seen, {"b", "b.c"})
    self.assertEqual(tracked.e.to_dict(), {"f": {"g": 4}})
    self.assertEqual(seen, {"b", "b.c", "e", "e.f", "e.f.g"})
    self.assertEqual(dict(tracked.b), {"c": 2, "d": 3})
    self.assertIn("b.d", seen)
    self.assertNotIn("a", seen)


if __name__ == "__main__":
  absltest.main()
