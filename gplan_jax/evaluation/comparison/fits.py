"""One job: fit an arm, choose among its trials where it is the first seed, predict the test rows.

Choosing sees the validation rows alone; whoever predicts gets rows without their labels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gplan_jax.baselines.fitting.arms import Fitted
from gplan_jax.evaluation.comparison.jobs import (
    Job,
    chosen_trial,
    folder_of,
    seed_path,
    trials_path,
)
from gplan_jax.evaluation.comparison.task import Task
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import read_json, write_json
from gplan_jax.gsisr import Sample, score_prediction


@dataclass(frozen=True)
class FitNote:
    """A fit that is done; ``acc1`` on the validation rows where it was a trial."""

    job: Job
    trial: int | None
    acc1: float | None


# trials.json of an arm for which the validation rows choose nothing.
_UNTRIED: dict[str, Any] = {"overrides": {}, "acc1": None, "nes": None, "epochs": None, "curve": []}


Tell = Callable[[FitNote], None]


@dataclass(frozen=True)
class _Timed:
    fitted: Fitted
    seconds: float


def run_job(task: Task, job: Job, tell: Tell) -> None:
    """Does a job and writes its files.

    The first seed tries settings on the fold's training rows without the validation rows. What
    predicts is then fitted on both, with the chosen settings, for as many epochs as were best.

    Args:
        task: the comparison.
        job: which of its jobs.
        tell: called after each fit.
    """
    if not job.seed:
        _try(task, job, tell)
    chosen = chosen_trial(task.out, job)
    settings = task.settings(job.arm, chosen["trial"])
    if chosen["epochs"] is not None:
        settings = settings.model_copy(update={"stop_after": chosen["epochs"]})
    part = task.rows.parts[job.fold]
    _predict(task, job, settings, _fit(task, job, settings, part.train + part.validation, ()))
    tell(FitNote(job, None, None))


def _try(task: Task, job: Job, tell: Tell) -> None:
    """Makes all trials and writes them with the index of the best.

    A trial that is done leaves a file, so that a run that goes on does not do it again.

    Raises:
        GplanError: the arm declares fewer trials than the others have.
    """
    declared, count = task.arms[job.arm].trials, task.trials_of(job.arm)
    if len(declared) < count:
        raise GplanError(
            f"{job.arm} declares {len(declared)} trials; compare with --trials {len(declared)}, so "
            "that all arms have the same number."
        )
    done = trials_path(task.out, job)
    if not task.tries(job.arm):
        write_json(done, {"trials": [_UNTRIED], "chosen": 0})
        return
    paths = [folder_of(task.out, job) / f"trial_{trial}.json" for trial in range(count)]
    records = read_json(done)["trials"] if done.exists() else []
    for trial, path in enumerate(paths):
        if not done.exists():
            if not path.exists():
                write_json(path, _tried(task, job, trial))
            records.append(read_json(path))
        tell(FitNote(job, trial, records[trial]["acc1"]))
    chosen = max(range(count), key=lambda trial: (records[trial]["acc1"], records[trial]["nes"]))
    write_json(done, {"trials": records, "chosen": chosen})
    for path in paths:
        path.unlink(missing_ok=True)


def _fit(
    task: Task, job: Job, settings: Any, train: Sequence[int], validation: Sequence[int]
) -> _Timed:
    learnt, judged = ([task.rows.learnt[i] for i in part] for part in (train, validation))
    started = time.perf_counter()
    fitted = task.arms[job.arm].fit(learnt, judged, settings, task.mode, task.library, job.seed)
    return _Timed(fitted, time.perf_counter() - started)


def _tried(task: Task, job: Job, trial: int) -> dict[str, Any]:
    """A trial's fit, with Acc@1 and NES of the constrained plans for the validation rows."""
    part = task.rows.parts[job.fold]
    timed = _fit(task, job, task.settings(job.arm, trial), part.train, part.validation)
    rows = [task.rows.learnt[i] for i in part.validation]
    texts = timed.fitted.predictor.predict(_blind(rows), constrained=True)
    scores = [
        score_prediction(text, row.raw_labels, task.library)
        for text, row in zip(texts, rows, strict=True)
    ]
    best = timed.fitted.best
    return {
        "overrides": task.arms[job.arm].trials[trial],
        "acc1": sum(score.acc1 for score in scores) / len(scores),
        "nes": sum(score.nes for score in scores) / len(scores),
        "epochs": best["epoch"] if best else None,
        "validation_loss": best["validation_loss"] if best else None,
        "seconds": timed.seconds,
        "curve": timed.fitted.curve if best else [],
    }


def _predict(task: Task, job: Job, settings: Any, timed: _Timed) -> None:
    numbers = list(task.rows.parts[job.fold].test)
    rows = _blind([task.rows.scored[i] for i in numbers])
    predictor = timed.fitted.predictor
    constrained = predictor.predict(rows, constrained=True)
    both = task.arms[job.arm].constrains
    free = predictor.predict(rows, constrained=False) if both else constrained
    for texts in (constrained, free):
        if len(texts) != len(rows):
            raise ValueError(f"{len(texts)} predictions for {len(rows)} rows")
    write_json(
        seed_path(task.out, job),
        {
            "settings": settings.model_dump(mode="json"),
            "parameters": predictor.parameters,
            "seconds": timed.seconds,
            "curve": timed.fitted.curve,
            "rows": numbers,
            "constrained": constrained,
            "free": free,
        },
    )


def _blind(rows: Sequence[Sample]) -> list[Sample]:
    """The rows without their labels."""
    return [row.with_label("") for row in rows]
