"""The jobs: each assembles its parts from the config and runs them."""

import contextlib
import os
import time
from collections.abc import Callable

import ml_collections
import rich.console
import rich.table
from absl import logging

from r1jax import (
  alignment,
  distributed,
  evaluate,
  experiment,
  generate,
  memory,
  metrics,
  objective,
  policy,
  registry,
  report,
  rollout,
  run_card,
  sharding,
  train,
  training,
  tree,
  weighting,
)
from r1jax import run as run_lib
from r1jax.data import readable, sources
from r1jax.models import mtp
from r1jax.stages import distill, grpo, lm, reward_model


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Runs config.job in the workdir; the same again resumes.

  Raises:
    ValueError: For what the config asks and cannot be had.
    OSError: If the workdir cannot be written.
  """
  job = registry.lookup(JOBS, config.job, "config.job")
  memory.keep_freed()
  os.makedirs(workdir, exist_ok=True)
  run_card.claim(config, workdir)
  if distributed.agreed(lambda: "final_digests" in run_card.read(workdir)):
    logging.info("%s is finished.", workdir)
    return
  start = time.time()
  with contextlib.ExitStack() as stack, distributed.told():
    job(run_lib.start(config, workdir, stack))
  if distributed.is_first():
    try:
      report.write(workdir)
    except Exception as error:  # The run is whole, whatever its page lacks.
      logging.warning("%s: no report (%r).", workdir, error)
  logging.info("%s: %.0f s.", workdir, time.time() - start)


def _questions(run):
  """The questions of config.data, which fit and are in no suite."""
  config = run.config
  given = experiment.questions(config.data.to_dict(), "config.data")
  data = experiment.within_budget(config, run.tokenizer, given, "config.data")
  run_card.write(run.workdir, {"overlong_prompts": len(given) - len(data)})
  run_lib.note_sandbox(run, data)
  for suite in run.suites.values():
    sources.check_disjoint(data, suite)
  return data


def _grpo(run: run_lib.Run) -> None:
  config = run.config
  settings = objective.grpo_settings(config)
  data = _questions(run)
  alignment.check_kinds(config, data, "config.data")
  model = objective.trained_policy(config, run.dims, run.layout)
  rows = sharding.rows(run.mesh)
  by_kind = config.rewards_by_kind.to_dict()
  models, digests = alignment.model_rewards(
    config, run.tokenizer, run.dims, run.mesh, run.layout
  )

  def make_stage():
    return grpo.make(
      model,
      run_lib.roll(run, config.sampling, by_kind, models),
      alignment.scheduled_questions(config, data),
      run_lib.lines(run, "rollouts.jsonl").write,
      lambda batch: distributed.place(batch, rows),
      settings,
    )

  training.train(
    run,
    model,
    make_stage,
    with_reference=config.kl.coef > 0,
    rounds=config.rounds,
    updates_per_round=config.updates_per_round,
    data_digest=experiment.digest_of(data),
    notes={"reward_models": digests} if digests else {},
  )


def _lm(run: run_lib.Run) -> None:
  config = run.config
  weigh = objective.choice(config, "weighting", weighting.WEIGHTINGS)
  documents = experiment.documents(config, run.tokenizer)
  model = objective.trained_policy(config, run.dims, run.layout)
  rows = sharding.rows(run.mesh)

  def make_stage():
    return lm.make(
      model,
      documents,
      lambda batch: distributed.place(batch, rows),
      loss_on=config.loss_on,
      weigh=weigh,
      row_tokens=config.row_tokens,
      rows=config.rows_per_microbatch,
      balance_coef=config.balance_coef,
      mtp_coef=config.mtp_coef,
    )

  training.train(
    run,
    model,
    make_stage,
    with_reference=False,
    rounds=experiment.rounds(config),
    updates_per_round=1,
    data_digest=experiment.digest_of(documents(0)),
    frozen=() if config.mtp_coef else (mtp.NAME,),
  )


def _distill(run: run_lib.Run) -> None:
  config = run.config
  weigh = objective.choice(config, "weighting", weighting.WEIGHTINGS)
  documents = experiment.documents(config, run.tokenizer)
  teacher_dims, teacher = experiment.teacher(config, run.dims, run.mesh)
  model = policy.make(run.dims, temperature=1.0, layout=run.layout)
  loss_fn = distill.loss_of(config, run.dims, teacher_dims, run.layout)
  rows = sharding.rows(run.mesh)

  def make_stage():
    return distill.make(
      loss_fn,
      teacher,
      documents,
      lambda batch: distributed.place(batch, rows),
      weigh=weigh,
      row_tokens=config.row_tokens,
      rows=config.rows_per_microbatch,
    )

  training.train(
    run,
    model,
    make_stage,
    with_reference=False,
    rounds=experiment.rounds(config),
    updates_per_round=1,
    data_digest=experiment.digest_of(documents(0)),
    notes={"teacher_digest": tree.digest(teacher[0])},
  )


def _on_policy_distill(run: run_lib.Run) -> None:
  config = run.config
  data = _questions(run)
  settings = distill.settings_of(
    config, objective.choice(config, "weighting", weighting.WEIGHTINGS)
  )
  teacher_dims, teacher = experiment.teacher(config, run.dims, run.mesh)
  rows = sharding.rows(run.mesh)
  prepare = distill.preparation(
    config,
    teacher_dims,
    teacher,
    lambda batch: distributed.place(batch, rows),
    run.layout,
  )

  def make_stage():
    return distill.make_on_policy(
      distill.loss_of(config, run.dims, teacher_dims, run.layout),
      prepare,
      run_lib.roll(run, config.sampling),
      experiment.question_order(data, config.seed),
      run_lib.lines(run, "rollouts.jsonl").write,
      settings,
    )

  training.train(
    run,
    policy.make(run.dims, temperature=1.0, layout=run.layout),
    make_stage,
    with_reference=False,
    rounds=config.rounds,
    updates_per_round=1,
    data_digest=experiment.digest_of(data),
    notes={"teacher_digest": tree.digest(teacher[0])},
  )


def _generate(run: run_lib.Run) -> None:
  config, workdir = run.config, run.workdir
  data = _questions(run)
  settings = generate.settings_of(config)
  order = experiment.question_order(data, config.seed)
  n = config.questions_per_round
  rounds = -(-len(data) // n)
  model = policy.make(
    run.dims, temperature=config.sampling.temperature, layout=run.layout
  )
  params, buffers = experiment.weights(config, model, run.mesh)
  run_card.write(
    workdir,
    {
      "machine": run_card.machine(),
      "initial_digest": tree.digest(params),
      "data_digest": experiment.digest_of(data),
    },
  )
  first_round = distributed.agreed(lambda: metrics.next_round(workdir))
  metrics.truncate_from(workdir, first_round)
  writer = metrics.MetricWriter(workdir, first_round)
  run.stack.callback(writer.close)
  roll = run_lib.roll(run, config.sampling)

  def collect(round):
    questions = order(round * n, min(n, len(data) - round * n))
    return generate.collect(roll, params, buffers, questions, round, settings)

  result = generate.run(
    workdir, collect, rounds, settings, writer.write, first_round
  )
  if result is None:  # Stopped by a signal.
    return
  run_card.write(
    workdir,
    {"generated": result, "final_digests": {"data": result["digest"]}},
  )


def _reward_model(run: run_lib.Run) -> None:
  lines = run_lib.lines(run, "eval.jsonl")
  parts = reward_model.assemble(
    run.config,
    run.tokenizer,
    run.dims,
    run.mesh,
    run.layout,
    lambda row: lines.write([row]),
  )
  training.train(
    run,
    parts.model,
    parts.make_stage,
    with_reference=False,
    rounds=parts.rounds,
    updates_per_round=1,
    data_digest=parts.digest,
    load_weights=experiment.reward_weights,
    evaluate=parts.evaluate,
    notes=parts.notes,
  )


def _evaluate(run: run_lib.Run) -> None:
  config = run.config
  suites = {
    mode: evaluate.suites(config, run.tokenizer, mode)
    for mode in config.eval_modes
  }
  run_lib.note_sandbox(
    run, (q for s in suites.values() for x in s.values() for q in x.questions)
  )
  filters = readable.filters(config.readable.to_dict(), "config.readable")
  model = policy.make(run.dims, temperature=1.0, layout=run.layout)
  params, buffers = experiment.weights(config, model, run.mesh)
  state = train.TrainState(params, buffers, None, None, None)
  metrics.truncate_from(run.workdir, -1)
  file, rows = run_lib.lines(run, "eval.jsonl"), []
  rolls = _rolls(run)
  asked = [(mode, suite) for mode in suites for suite in suites[mode]]
  for mode, suite in metrics.progress(asked, "suites"):
    questions, overlong = suites[mode][suite]
    measure = evaluate.make(
      rolls[mode],
      {suite: questions},
      seed=config.seed,
      samples=config.eval_modes[mode].samples_per_question,
      write_row=rows.append,
      filters=filters,
      notes={"mode": mode} | ({"overlong": overlong} if overlong else {}),
    )
    measure(state, -1)
    file.write(rows[-1:])
  digests = {"params": tree.digest(params), "eval": experiment.digest_of(rows)}
  run_card.write(
    run.workdir, {"machine": run_card.machine(), "final_digests": digests}
  )
  headings, lines = evaluate.table(rows)
  if not distributed.is_first():
    return
  shown = rich.table.Table(*headings, box=None, padding=(0, 1, 0, 0))
  for line in lines:
    shown.add_row(*line)
  rich.console.Console().print(shown)


def _rolls(run: run_lib.Run) -> dict[str, rollout.Roll]:
  """The rollout function of each evaluation mode; of the programs only
  decoding depends on how tokens are drawn."""
  config = run.config
  made, rolls = {}, {}
  for mode, settings in config.eval_modes.items():
    drawn = tuple(settings[x] for x in ("temperature", "top_p", "top_k"))
    if drawn not in made:
      model = policy.make(
        run.dims, temperature=settings.temperature, layout=run.layout
      )
      new = experiment.programs(config, model, run.tokenizer, settings)
      first = next(iter(made.values()), new)
      made[drawn] = first._replace(decode=new.decode)
    rolls[mode] = experiment.roll(
      config, run.tokenizer, made[drawn], run.grader, {}, {}
    )
  return rolls


JOBS: dict[str, Callable[[run_lib.Run], None]] = {
  "grpo": _grpo,
  "lm": _lm,
  "distill": _distill,
  "on_policy_distill": _on_policy_distill,
  "reward_model": _reward_model,
  "evaluate": _evaluate,
  "generate": _generate,
}
