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

from configs import models
from r1jax import (
  config_check,
  experiment,
  jobs,
  policy,
  preference,
  registry,
  score_losses,
  weighting,
)
from r1jax import losses as losses_lib
from r1jax.advantages import ADVANTAGES
from r1jax.data import tokenizer
from r1jax.models import config as model_config
from r1jax.stages import distill, grpo, lm, reward_model
from r1jax.types import Batch
from tests import runs

HELPERS = ("__init__", "common", "models")
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
