"""The training loop: every side effect around the pure step, read from top to bottom."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import NoReturn

import jax
from flax import nnx

from gplan_jax.data.batches import LoadedBatch
from gplan_jax.data.tasks.task import Task
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import atomic_directory
from gplan_jax.foundation.paths import alone_in
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.models import Qwen3, save_model_directory
from gplan_jax.models.checkpoints import adapters
from gplan_jax.models.checkpoints.model_directory import save_shards
from gplan_jax.models.qwen3.lora import merged
from gplan_jax.training.hosts.mesh import put_batch
from gplan_jax.training.hosts.processes import (
    barrier,
    differing,
    is_primary,
    log_once,
)
from gplan_jax.training.loop.metrics_log import (
    MetricsLog,
    StepReporter,
    evaluation_scores,
    require_wandb,
    seconds_before,
)
from gplan_jax.training.loop.reference import with_reference
from gplan_jax.training.loop.run_clock import RunClock, measured_peak, profiled_steps
from gplan_jax.training.loop.watchdog import Watchdog
from gplan_jax.training.resume import run_directory
from gplan_jax.training.resume.checkpoints import RunCheckpoints, abstract, best_steps, named_arrays
from gplan_jax.training.resume.preemption import StopSignals
from gplan_jax.training.resume.run_directory import (
    changed_content,
    digest_arrays,
    fingerprint_inputs,
    make_record,
)
from gplan_jax.training.steps.setup import Run, prepare
from gplan_jax.training.steps.step import Params, TrainState
from gplan_jax.training.steps.train_config import TrainConfig

Evaluate = Callable[[Qwen3, Task, Path], dict[str, float]]
"""Scores a model, writes what it finds under the given new directory, returns the means."""


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    allow_changes: bool = False,
    evaluate: Evaluate | None = None,
) -> Path:
    """Trains as ``config`` says and returns the finished model directory.

    ``resume`` goes on in ``config.output`` from its newest whole checkpoint, with the losses of an
    unbroken run; with ``allow_changes`` also where config, rows or prompt have changed in what the
    weights depend on. ``evaluate`` is called every ``evaluation.every_epochs`` epochs and at the
    end.

    GplanError for bad input (see each module), a directory that already holds a run or that another
    process trains in, or a loss that is not finite; RunStopped on SIGTERM or Ctrl-C, with the
    checkpoint of the last step written; OSError where the disk is full or read-only. Checkpoints
    and logs written so far stay.
    """
    # Also where it resumes: two runs would take back each other's steps.
    with alone_in(config.output) if is_primary() else nullcontext():
        return _train(config, resume, allow_changes, evaluate)


def _train(
    config: TrainConfig, resume: bool, allow_changes: bool, evaluate: Evaluate | None
) -> Path:
    # Prepare. Nothing but counts is written until all input is known to be good.
    if evaluate is not None and jax.process_count() > 1:
        raise GplanError(
            "Evaluation during training runs in one process only; set evaluation.every_epochs=0 "
            "and score the model afterwards with gplan evaluate."
        )
    if config.checkpoint.keep_best and not (evaluate and config.evaluation.every_epochs):
        raise GplanError(
            "checkpoint.keep_best goes by evaluations, and there are none: set data.test=FILE and "
            "evaluation.every_epochs=1, or checkpoint.keep_best=0."
        )
    if config.logging.wandb_project is not None:
        require_wandb()
    directory, changes = run_directory.open_run(config, resume=resume, allow_changes=allow_changes)
    finished = directory / run_directory.MODEL_NAME
    if finished.is_dir():
        return finished
    clock = RunClock()
    if changes.all:
        log_once(changes.describe())
    peak = measured_peak(config.precision.compute)
    run = prepare(config, directory)
    inputs = fingerprint_inputs(run)
    if different := differing(inputs):
        raise GplanError(
            f"The processes of this run read different {' and '.join(different)}; each trains on "
            "its share of the same rows, so give every host the same files."
        )
    changed = changed_content(run_directory.stored_inputs(directory), inputs)
    if changed and not allow_changes:
        raise GplanError(
            f"{directory} was started with other content of: {'; '.join(changed)}. Bring the files "
            "back, start a new run with output=DIR, or go on all the same with --allow-changes."
        )
    if changed:
        log_once(f"warning: going on with other content of: {'; '.join(changed)}")
    barrier("the run's directory is checked")
    with jax.set_mesh(run.mesh):
        # SC-DPO's reference is the policy as it stands now, before the first step.
        run = with_reference(run)
    plan, scores = run.plan, evaluation_scores(directory, config.checkpoint.best_metric)

    with (
        jax.set_mesh(run.mesh),
        RunCheckpoints(
            directory / run_directory.CHECKPOINTS_NAME,
            keep=config.checkpoint.keep,
            keep_best=config.checkpoint.keep_best,
            scores=scores,
        ) as checkpoints,
    ):
        # Restore. What a killed run logged after its checkpoint is taken back.
        state, taken = _first_state(run, checkpoints, inputs)
        for step in [step for step in scores if step > taken]:
            del scores[step]
        earlier = seconds_before(directory, taken)
        if is_primary():
            run_directory.record_run(config, inputs, directory)
        # Vanilla DPO is a loss of the mode scdpo.
        method = config.preference.loss if config.mode == "scdpo" else config.mode

        with (
            MetricsLog(
                directory,
                resume_step=taken,
                wandb_project=config.logging.wandb_project,
                config=config.model_dump(),
            ) as log,
            ProgressBar(f"training {method}", plan.total_steps, start=taken)
            if is_primary()
            else nullcontext() as bar,
            StopSignals() as signals,
            closing(clock),
        ):
            if changes.all:
                log.write({"kind": "resume", "step": taken, "changes": list(changes.all)})
            reporter, train_step = StepReporter(run, log, clock, peak, bar), run.train_step()

            def save_checkpoint() -> None:
                # What is not finite must stop the run before it is checkpointed.
                reporter.flush()
                with clock.spending("checkpoint"):
                    digests = digest_arrays(named_arrays(state))
                    reporter.require_finite(taken, digests)
                    per_epoch = plan.steps_per_epoch
                    record = make_record(
                        config, inputs, step=taken, steps_per_epoch=per_epoch, digests=digests
                    )
                    checkpoints.save(state, record)

            def evaluate_if_due() -> None:
                epoch, rest = divmod(taken, plan.steps_per_epoch)
                every = config.evaluation.every_epochs
                due = epoch > 0 and every > 0 and (epoch % every == 0 or epoch == config.epochs)
                folder = directory / "evaluation" / f"epoch-{epoch:03d}"
                # A run that died in an evaluation makes it up; one that finished it does not.
                if evaluate is None or rest or not due or folder.exists():
                    return
                # Its checkpoint comes first, so that a kill in an evaluation costs no step.
                with clock.spending("evaluation"), signals.interruptible(taken, plan.total_steps):
                    nnx.update(run.model, state.params)
                    found = evaluate(run.model, run.training_set.task, folder)
                clock.idle(clock.now())
                spent = {phase: round(value, 4) for phase, value in clock.seconds.items()}
                log.write(
                    {"kind": "evaluation", "step": taken, "epoch": epoch, **found, "seconds": spent}
                )
                if config.checkpoint.keep_best:
                    metric = config.checkpoint.best_metric
                    if metric not in found:
                        raise GplanError(
                            f"checkpoint.best_metric={metric} is no figure of an evaluation; there "
                            f"are {', '.join(found)}."
                        )
                    scores[taken] = found[metric]

            def stop() -> NoReturn:
                if taken and taken not in checkpoints.steps:
                    save_checkpoint()
                checkpoints.wait()
                raise signals.stopped(taken, plan.total_steps)

            def save_what_can_be() -> None:
                # Only where the state is that of a whole step, and nobody else must take part.
                alone = jax.process_count() == 1 and clock.phase == "data"
                if alone and clock.ended == taken not in {0, *checkpoints.steps}:
                    save_checkpoint()
                checkpoints.wait()

            # Train. The step is only dispatched here: the reporter reads the metrics of the step
            # before, so the device never waits for the host.
            clock.first_step(earlier)
            evaluate_if_due()
            compiled = set()
            with (
                Watchdog(config.watchdog, clock, directory, save_what_can_be),
                profiled_steps(config.logging.profile_steps, directory, reporter.flush) as traced,
                closing(run.batches(taken)) as batches,
            ):
                while taken < plan.total_steps:
                    try:
                        with clock.spending("data"):
                            loaded: LoadedBatch = next(batches)
                            batch = put_batch(loaded.batch, run.mesh)
                    except Exception:
                        if signals.received:  # Reader processes may have got it too, and be gone.
                            stop()
                        raise
                    with traced(taken + 1):
                        begin, shapes = clock.now(), tuple(x.shape for x in jax.tree.leaves(batch))
                        if shapes in compiled:
                            state, metrics = train_step(state, batch)
                        else:
                            compiled.add(shapes)
                            with clock.spending("compile"):
                                state, metrics = train_step(state, batch)
                            begin = clock.now()
                    taken += 1
                    clock.dispatch(taken, begin, metrics)
                    reporter.hold(taken, loaded, metrics)
                    every = config.checkpoint.every_steps
                    if taken % plan.steps_per_epoch == 0 or (every and taken % every == 0):
                        save_checkpoint()
                    if signals.reached(taken):
                        stop()
                    evaluate_if_due()

        # Finish. The last checkpoint was that of the last epoch.
        checkpoints.wait()
        if config.checkpoint.keep_best and not (directory / run_directory.BEST_NAME).is_dir():
            for step in best_steps(checkpoints.steps, scores):
                try:
                    best = checkpoints.restore_params(abstract(state.params), step)
                except GplanError as error:
                    name = run_directory.BEST_NAME
                    log_once(f"warning: the next best checkpoint is taken for {name}/: {error}")
                    continue
                _save_model(run, best, directory / run_directory.BEST_NAME)
                break
        _save_model(run, state.params, finished)
    return finished


def _first_state(
    run: Run, checkpoints: RunCheckpoints, inputs: dict[str, str]
) -> tuple[TrainState, int]:
    """The state to go on from, of the newest checkpoint where there is one, and its step."""
    state = run.initial_state()
    if not checkpoints.steps:
        return state, 0
    like = abstract(state)
    # Two states might not fit beside each other.
    jax.tree.map(lambda x: x.delete(), state)
    found = checkpoints.restore(like, inputs=inputs, steps_per_epoch=run.plan.steps_per_epoch)
    if found is None:
        raise GplanError(f"The checkpoints of {run.directory} went away while they were read.")
    state, record = found
    taken = record["data"]["next_step"]
    if taken > run.plan.total_steps:
        raise GplanError(
            f"{run.directory} has taken {taken} steps, and this config ends after "
            f"{run.plan.total_steps}; set epochs={-(-taken // run.plan.steps_per_epoch)} or more."
        )
    return state, taken


def _save_model(run: Run, params: Params, folder: Path) -> None:
    """Writes weights with all that reads them as a model directory, once for all processes."""
    nnx.update(run.model, params)
    model, adapter, shards = run.model, None, None
    if run.config.lora.rank:
        adapter = adapters.adapter_of(run.model, base=run.config.model)
        model = merged(run.model)
    if jax.process_count() > 1:
        shards = folder.with_name(f"{folder.name}-shards")
        if is_primary():
            # Of a run that was killed while it wrote; Orbax adds a suffix of its own.
            for left in folder.parent.glob(f"{shards.name}*"):
                shutil.rmtree(left)
        barrier(f"{shards.name} is free")
        save_shards(model, shards)
    if is_primary():
        with atomic_directory(folder) as temporary:
            save_model_directory(model, temporary, source_dir=Path(run.config.model), shards=shards)
            run.training_set.task.save(temporary, run.training_set.examples)
            if adapter is not None:
                adapter.write(temporary / adapters.FOLDER)
    barrier(f"{folder.name} is written")
