"""The training loop: every side effect around the pure step, read from top to bottom."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn

import jax

from gplan_jax.data.pipeline import Batch
from gplan_jax.data.seek import seek
from gplan_jax.data.task_files import RESPONSES, Task, save_task
from gplan_jax.data.training_set import Mode
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import atomic_directory
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.gsisr.intent_counts import IntentCounts
from gplan_jax.models import Qwen3, save_model_directory
from gplan_jax.models.checkpoints.model_directory import save_shards
from gplan_jax.training.hosts.processes import barrier, differing, is_primary, log_once
from gplan_jax.training.loop.metrics_log import MetricsLog, evaluation_scores
from gplan_jax.training.loop.reference import with_reference
from gplan_jax.training.loop.reporter import StepReporter
from gplan_jax.training.loop.wandb_log import require_wandb
from gplan_jax.training.resume.array_marks import mark_arrays
from gplan_jax.training.resume.checkpoints import RunCheckpoints, abstract, best_steps, named_arrays
from gplan_jax.training.resume.preemption import StopSignals
from gplan_jax.training.resume.run_directory import (
    BEST_NAME,
    CHECKPOINTS_NAME,
    MODEL_NAME,
    describe,
    open_run,
    record_run,
    stored_inputs,
)
from gplan_jax.training.resume.run_record import changed_content, fingerprint_inputs, make_record
from gplan_jax.training.steps.setup import Run, prepare
from gplan_jax.training.steps.state import Params, TrainState
from gplan_jax.training.steps.train_config import TrainConfig

Evaluate = Callable[[Qwen3, Path], dict[str, float]]
"""Scores a model, writes what it finds under the given new directory, returns the means."""


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    allow_changes: bool = False,
    evaluate: Evaluate | None = None,
) -> Path:
    """Trains as ``config`` says and returns the finished model directory.

    Args:
        config: the run.
        resume: continue the run in ``config.output`` from its newest whole checkpoint; the losses
            that follow are those of an unbroken run.
        allow_changes: resume also where config, rows or prompt have changed in what the weights
            depend on.
        evaluate: called every ``evaluation.every_epochs`` epochs and at the end.

    Raises:
        GplanError: bad input (see each room), a directory that already holds a run, or a loss
            that is not finite; checkpoints and logs written so far stay.
        RunStopped: SIGTERM or Ctrl-C; the checkpoint of the last step is written.
        OSError: the disk is full or read-only; earlier checkpoints stay.
    """
    _check_evaluation(config, evaluate)
    if config.logging.wandb_project is not None:
        require_wandb()
    directory, changes = open_run(config, resume=resume, allow_changes=allow_changes)
    finished = directory / MODEL_NAME
    if finished.is_dir():
        return finished
    if changes.all:
        log_once(describe(changes))
    run = prepare(config, directory)
    inputs = fingerprint_inputs(run)
    if different := differing(inputs):
        raise GplanError(
            f"The processes of this run read different {' and '.join(different)}; each trains on "
            "its share of the same rows, so give every host the same files."
        )
    _check_content(directory, inputs, allow_changes=allow_changes)
    barrier("the run's directory is checked")

    with jax.set_mesh(run.mesh):
        run = with_reference(run)
    scores = evaluation_scores(directory, config.checkpoint.best_metric)
    with (
        jax.set_mesh(run.mesh),
        RunCheckpoints(
            directory / CHECKPOINTS_NAME,
            keep=config.checkpoint.keep,
            keep_best=config.checkpoint.keep_best,
            scores=scores,
        ) as checkpoints,
    ):
        state, taken = _first_state(run, checkpoints, inputs)
        for step in [step for step in scores if step > taken]:
            del scores[step]
        if is_primary():
            record_run(config, inputs, directory)
        with (
            MetricsLog(
                directory,
                resume_step=taken,
                wandb_project=config.logging.wandb_project,
                config=config.model_dump(),
            ) as log,
            _bar(run, taken) as bar,
            StopSignals() as signals,
        ):
            if changes.all:
                log.write({"kind": "resume", "step": taken, "changes": list(changes.all)})
            reporter = StepReporter(run, log, bar)
            state = _advance(
                run, state, taken, checkpoints, reporter, signals, inputs, scores, evaluate
            )
        checkpoints.wait()
        if config.checkpoint.keep_best:
            _save_best(run, checkpoints, scores, state.params)
        _save_model(run, state.params, finished)
    return finished


def _advance(
    run: Run,
    state: TrainState,
    taken: int,
    checkpoints: RunCheckpoints,
    reporter: StepReporter,
    signals: StopSignals,
    inputs: dict[str, str],
    scores: dict[int, float],
    evaluate: Evaluate | None,
) -> TrainState:
    """Trains from step ``taken`` to the end; ``scores`` gains that of each evaluation."""
    total, step = run.plan.total_steps, run.train_step()

    def save() -> None:
        # What is not finite must stop the run before it is checkpointed.
        reporter.flush()
        marks = mark_arrays(named_arrays(state))
        reporter.require_finite(taken, marks)
        record = make_record(
            run.config,
            inputs,
            step=taken,
            steps_per_epoch=run.plan.steps_per_epoch,
            marks=marks,
        )
        checkpoints.save(state, record)
        reporter.restart_clock()

    def evaluate_if_due() -> None:
        epoch, rest = divmod(taken, run.plan.steps_per_epoch)
        folder = run.directory / "evaluation" / f"epoch-{epoch:03d}"
        # A run that died in an evaluation makes it up; one that finished it does not.
        if evaluate is None or rest or not _evaluation_is_due(run, epoch) or folder.exists():
            return
        # Its checkpoint comes first, so that a kill in an evaluation costs no step.
        with signals.interruptible(taken, total):
            found = evaluate(run.update_model(state), folder)
        reporter.log.write({"kind": "evaluation", "step": taken, "epoch": epoch, **found})
        if run.config.checkpoint.keep_best:
            scores[taken] = _score(found, run.config.checkpoint.best_metric)
        reporter.restart_clock()

    def stop() -> NoReturn:
        if taken and taken not in checkpoints.steps:
            save()
        checkpoints.wait()
        raise signals.stopped(taken, total)

    evaluate_if_due()
    with closing(seek(run.batches(), taken)) as batches:
        while taken < total:
            try:
                batch: Batch = next(batches)
            except Exception:
                if signals.noted:  # Reader processes may have heard it as well, and be gone.
                    stop()
                raise
            state, metrics = step(state, run.to_devices(batch))
            taken += 1
            reporter.hold(taken, batch, metrics)
            if _checkpoint_is_due(run, taken):
                save()
            if signals.reached(taken):
                stop()
            evaluate_if_due()
    return state


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


def _check_evaluation(config: TrainConfig, evaluate: Evaluate | None) -> None:
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


def _check_content(directory: Path, inputs: dict[str, str], *, allow_changes: bool) -> None:
    changed = changed_content(stored_inputs(directory), inputs)
    if changed and not allow_changes:
        raise GplanError(
            f"{directory} was started with other content of: {'; '.join(changed)}. Bring the files "
            "back, start a new run with output=DIR, or go on all the same with --allow-changes."
        )
    if changed:
        log_once(f"warning: going on with other content of: {'; '.join(changed)}")


def _score(found: dict[str, float], metric: str) -> float:
    if metric not in found:
        raise GplanError(
            f"checkpoint.best_metric={metric} is no figure of an evaluation; there are "
            f"{', '.join(found)}."
        )
    return found[metric]


@contextmanager
def _bar(run: Run, taken: int) -> Iterator[ProgressBar | None]:
    if not is_primary():
        yield None
        return
    with ProgressBar(f"training {run.config.mode}", run.plan.total_steps, start=taken) as bar:
        yield bar


def _checkpoint_is_due(run: Run, taken: int) -> bool:
    every = run.config.checkpoint.every_steps
    return taken % run.plan.steps_per_epoch == 0 or (every > 0 and taken % every == 0)


def _evaluation_is_due(run: Run, epoch: int) -> bool:
    every = run.config.evaluation.every_epochs
    return epoch > 0 and every > 0 and (epoch % every == 0 or epoch == run.config.epochs)


def _save_best(
    run: Run, checkpoints: RunCheckpoints, scores: dict[int, float], like: Params
) -> None:
    """Writes the model of the best evaluation whose checkpoint can be read to RUN/best."""
    if (run.directory / BEST_NAME).is_dir():
        return
    for step in best_steps(checkpoints.steps, scores):
        try:
            best = checkpoints.restore_params(abstract(like), step)
        except GplanError as error:
            log_once(f"warning: the next best checkpoint is taken for {BEST_NAME}/: {error}")
            continue
        _save_model(run, best, run.directory / BEST_NAME)
        return


def _save_model(run: Run, params: Params, folder: Path) -> None:
    """Writes weights with all that reads them as a model directory, once for all processes."""
    model, shards = run.finished_model(params), None
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
            rows = run.training_set
            response = RESPONSES[Mode(run.config.mode)]
            task = Task(rows.template, rows.library, rows.max_length, response)
            save_task(temporary, task, IntentCounts.fit(rows.plans(), rows.library))
    barrier(f"{folder.name} is written")
