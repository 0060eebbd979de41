"""The training loop: every side effect around the pure step, read from top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax

from gplan_jax.data.task_files import Task, save_task
from gplan_jax.foundation.files import atomic_directory
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.models import Qwen3, save_model_directory
from gplan_jax.training.checkpoints import RunCheckpoints
from gplan_jax.training.config import TrainConfig
from gplan_jax.training.metrics_log import MetricsLog
from gplan_jax.training.reporter import StepReporter
from gplan_jax.training.run import Run, prepare
from gplan_jax.training.run_directory import open_run, record_run

Evaluate = Callable[[Qwen3, Path], dict[str, float]]
"""Scores a model, writes what it finds under the given new directory, returns the means."""


def train(config: TrainConfig, *, resume: bool = False, evaluate: Evaluate | None = None) -> Path:
    """Trains as ``config`` says and returns the finished model directory.

    Args:
        config: the run.
        resume: continue the run in ``config.output`` from its newest checkpoint; the losses that
            follow are those of an unbroken run.
        evaluate: called every ``evaluation.every_epochs`` epochs and at the end.

    Raises:
        GplanError: bad input (see each room), a directory that already holds a run, or a loss
            that is not finite; checkpoints and logs written so far stay.
    """
    directory = open_run(config, resume=resume)
    finished = directory / "model"
    if finished.is_dir():
        return finished
    run = prepare(config, directory)
    if not resume:
        record_run(config, directory)

    with (
        jax.set_mesh(run.mesh),
        RunCheckpoints(directory / "checkpoints", keep=config.checkpoint.keep) as checkpoints,
    ):
        state, iterator, step = run.initial_state(), run.batches(), run.train_step()
        taken = checkpoints.latest_step or 0
        if taken:
            state = checkpoints.restore(state, iterator)
        total = run.plan.total_steps
        with (
            MetricsLog(directory, resume_step=taken) as log,
            ProgressBar(f"training {config.mode}", total, start=taken) as bar,
        ):
            reporter = StepReporter(run, log, bar)

            def evaluate_if_due() -> None:
                epoch, rest = divmod(taken, run.plan.steps_per_epoch)
                folder = directory / "evaluation" / f"epoch-{epoch:03d}"
                # A run that died in an evaluation makes it up; one that finished it does not.
                if evaluate and not rest and _evaluation_is_due(run, epoch) and not folder.exists():
                    scores = evaluate(run.update_model(state), folder)
                    log.write({"kind": "evaluation", "step": taken, "epoch": epoch, **scores})
                    reporter.restart_clock()

            evaluate_if_due()
            while taken < total:
                batch = next(iterator)
                state, metrics = step(state, run.to_devices(batch))
                taken += 1
                reporter.hold(taken, batch, metrics)
                if _checkpoint_is_due(run, taken):
                    # A loss that is not finite must stop the run before it is checkpointed.
                    reporter.flush()
                    checkpoints.save(state, iterator, step=taken)
                    reporter.restart_clock()
                evaluate_if_due()

    with atomic_directory(finished) as folder:
        save_model_directory(run.update_model(state), folder, source_dir=Path(config.model))
        rows = run.training_set
        save_task(folder, Task(rows.template, rows.library, rows.max_length))
    return finished


def _checkpoint_is_due(run: Run, taken: int) -> bool:
    every = run.config.checkpoint.every_steps
    return taken % run.plan.steps_per_epoch == 0 or (every > 0 and taken % every == 0)


def _evaluation_is_due(run: Run, epoch: int) -> bool:
    every = run.config.evaluation.every_epochs
    return epoch > 0 and every > 0 and (epoch % every == 0 or epoch == run.config.epochs)
