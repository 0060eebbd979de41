"""One job: fit an arm, choose among its trials where it is the first seed, predict the test rows.

Choosing sees the validation rows alone; whoever predicts gets rows without their labels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gplan_jax.baselines.arms import Fitted
from gplan_jax.evaluation.comparison.jobs import Job, folder_of, seed_path, trials_path
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


Tell = Callable[[FitNote], None]


@dataclass(frozen=True)
class _Timed:
    fitted: Fitted
    seconds: float


def run_job(task: Task, job: Job, tell: Tell) -> None:
    """Does a job and writes its files, those of the trials last.

    Args:
        task: the comparison.
        job: which of its jobs.
        tell: called after each fit.
    """
    if job.seed:
        chosen = read_json(trials_path(task.out, job))["chosen"]
        timed = _fit(task, job, chosen)
        tell(FitNote(job, None, None))
        _predict(task, job, chosen, timed)
        return
    trials, chosen, best = _tune(task, job, tell)
    _predict(task, job, chosen, best or _fit(task, job, chosen))
    if task.is_floor(job.arm):  # It has learnt from the validation rows too.
        trials = [{**trial, "acc1": None, "nes": None} for trial in trials]
    write_json(trials_path(task.out, job), {"trials": trials, "chosen": chosen})
    for trial in range(len(trials)):
        _trial_path(task, job, trial).unlink(missing_ok=True)


def _tune(task: Task, job: Job, tell: Tell) -> tuple[list[dict[str, Any]], int, _Timed | None]:
    """All trials, the index of the best, and its fit, None where an earlier run made it.

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
    records: list[dict[str, Any]] = []
    best: tuple[tuple[float, float], int, _Timed | None] | None = None
    for trial, overrides in enumerate(declared[:count]):
        path = _trial_path(task, job, trial)
        timed = None
        if not path.exists():
            timed = _fit(task, job, trial)
            write_json(path, {"overrides": overrides, **_validated(task, job, timed)})
        records.append(read_json(path))
        tell(FitNote(job, trial, records[-1]["acc1"]))
        score = (records[-1]["acc1"], records[-1]["nes"])
        if best is None or score > best[0]:
            best = score, trial, timed
    assert best is not None, "every arm has a trial"
    return records, best[1], best[2]


def _fit(task: Task, job: Job, trial: int) -> _Timed:
    part, settings = task.rows.parts[job.fold], task.settings(job.arm, trial)
    train, validation = (
        [task.rows.learnt[i] for i in rows] for rows in (part.train, part.validation)
    )
    started = time.perf_counter()
    fitted = task.arms[job.arm].fit(train, validation, settings, task.mode, task.library, job.seed)
    return _Timed(fitted, time.perf_counter() - started)


def _validated(task: Task, job: Job, timed: _Timed) -> dict[str, Any]:
    """Acc@1 and NES of the constrained plans for the validation rows."""
    rows = [task.rows.learnt[i] for i in task.rows.parts[job.fold].validation]
    texts = timed.fitted.predictor.predict(_blind(rows), constrained=True)
    scores = [
        score_prediction(text, row.raw_labels, task.library)
        for text, row in zip(texts, rows, strict=True)
    ]
    return {
        "acc1": sum(score.acc1 for score in scores) / len(scores),
        "nes": sum(score.nes for score in scores) / len(scores),
        "validation_loss": timed.fitted.validation_loss,
        "seconds": timed.seconds,
    }


def _predict(task: Task, job: Job, trial: int, timed: _Timed) -> None:
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
            "settings": task.settings(job.arm, trial).model_dump(mode="json"),
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


def _trial_path(task: Task, job: Job, trial: int) -> Any:
    return folder_of(task.out, job) / f"trial_{trial}.json"
