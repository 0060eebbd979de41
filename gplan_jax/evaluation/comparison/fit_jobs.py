"""The fits of a comparison as jobs: which there are, which comes next, and how one is done.

In each fold the validation rows choose among an arm's trials; the choice is then fitted to all of
the fold's training rows, once a seed. Whoever predicts gets rows without their labels.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from gplan_jax.evaluation.comparison import results
from gplan_jax.evaluation.comparison.setup import ComparisonSetup
from gplan_jax.foundation.files import write_json
from gplan_jax.gsisr import canonical_plan, parse_plan, score_prediction


@dataclass(frozen=True)
class FitJob:
    """One fit of an arm in a fold: of a trial, or (None) of the chosen trial under a seed."""

    arm: str
    fold: int
    seed: int = 0
    trial: int | None = None

    @property
    def place(self) -> tuple[str, int]:
        """Arm and fold, which share the chosen trial."""
        return self.arm, self.fold

    def path(self, out: Path) -> Path:
        if self.trial is None:
            return results.seed_path(out, self.arm, self.fold, self.seed)
        return results.trials_path(out, self.arm, self.fold).with_name(f"trial_{self.trial}.json")

    def is_done(self, out: Path) -> bool:
        """Whether its file is there; those of trials become one file when a trial is chosen."""
        chosen = results.trials_path(out, self.arm, self.fold).exists()
        if self.trial is None:
            return chosen and self.path(out).exists()
        return chosen or self.path(out).exists()


def all_jobs(setup: ComparisonSetup) -> list[FitJob]:
    """Every job, arm by arm; floors first, as they are done at once."""
    jobs: list[FitJob] = []
    folds = range(len(setup.rows.folds))
    for name in sorted(setup.names, key=lambda name: not setup.is_floor(name)):
        trials = range(setup.trials_of(name) if setup.tries(name) else 0)
        jobs += [FitJob(name, fold, trial=trial) for fold in folds for trial in trials]
        seeds = range(setup.seeds_of(name))
        jobs += [FitJob(name, fold, seed) for seed in seeds for fold in folds]
    return jobs


def next_job(
    pending: Sequence[FitJob],
    running: Collection[FitJob],
    last_arm: str | None,
    busy: Collection[str],
) -> FitJob | None:
    """What a worker does next: its own arm goes on, for which all is compiled already.

    Seeds wait for the trials of their place. Arms of the other, ``busy`` workers are left to them
    while there are others.
    """
    trying = {job.place for job in (*pending, *running) if job.trial is not None}
    ready = [job for job in pending if job.trial is not None or job.place not in trying]

    def preference(job: FitJob) -> int:
        return 0 if job.arm == last_arm else 1 if job.arm not in busy else 2

    return min(ready, key=preference, default=None)


def choose_trial(setup: ComparisonSetup, arm: str, fold: int) -> None:
    """Writes a fold's trials with the index of the best, by Acc@1 and then NES, unless it has."""
    path = results.trials_path(setup.out, arm, fold)
    if path.exists():
        return
    parts: list[Path] = []
    trials = [results.Trial()]
    if setup.tries(arm):
        count = setup.trials_of(arm)
        parts = [FitJob(arm, fold, trial=trial).path(setup.out) for trial in range(count)]
        trials = [results.read_part(results.Trial, part) for part in parts]
    chosen = max(range(len(trials)), key=lambda i: (trials[i].acc1 or 0.0, trials[i].nes or 0.0))
    write_json(path, results.FoldTrials(trials=trials, chosen=chosen).model_dump())
    for part in parts:
        part.unlink()


def run_fit(setup: ComparisonSetup, job: FitJob) -> float | None:
    """Fits, predicts and writes the job's file; returns a trial's Acc@1 on the validation rows."""
    arm, fold = setup.arms[job.arm], setup.rows.folds[job.fold]
    # A trial leaves the validation rows out, which stop it early and judge it. What predicts learns
    # from them too, with the chosen settings, for as many epochs as were best.
    if job.trial is not None:
        settings = setup.settings(job.arm, job.trial)
        train, held = fold.train, fold.validation
    else:
        trials = results.read_part(
            results.FoldTrials, results.trials_path(setup.out, job.arm, job.fold)
        )
        settings = setup.settings(job.arm, trials.chosen)
        if (epochs := trials.trials[trials.chosen].epochs) is not None:
            settings = settings.model_copy(update={"stop_after": epochs})
        train, held = fold.train + fold.validation, ()
    learnt, judged = ([setup.rows.learnt[i] for i in part] for part in (train, held))
    started = time.perf_counter()
    fitted = arm.fit(learnt, judged, settings, setup.mode, setup.library, job.seed)
    seconds = time.perf_counter() - started
    predictor = fitted.predictor

    if job.trial is not None:
        rows = [row.with_label("") for row in judged]
        texts = predictor.predict(rows, constrained=arm.constrains)
        scores = [
            score_prediction(text, row.raw_labels, setup.library)
            for text, row in zip(texts, judged, strict=True)
        ]
        best = fitted.best
        tried = results.Trial(
            overrides=arm.trials[job.trial],
            acc1=sum(score.acc1 for score in scores) / len(scores),
            nes=sum(score.nes for score in scores) / len(scores),
            epochs=best["epoch"] if best else None,
            validation_loss=best["validation_loss"] if best else None,
            seconds=seconds,
            curve=fitted.curve if best else [],
        )
        write_json(job.path(setup.out), tried.model_dump())
        return tried.acc1

    rows = [setup.rows.scored[i].with_label("") for i in fold.test]
    free = predictor.predict(rows, constrained=False)
    if arm.constrains:
        constrained = predictor.predict(rows, constrained=True)
    else:
        plans = (parse_plan(text, setup.library) for text in free)
        constrained = [canonical_plan(plan, setup.library) for plan in plans]
    for texts in (constrained, free):
        if len(texts) != len(rows):
            raise ValueError(f"{len(texts)} predictions for {len(rows)} rows")
    fit = results.SeedFit(
        settings=settings.model_dump(mode="json"),
        parameters=predictor.parameters,
        seconds=seconds,
        curve=fitted.curve,
        rows=list(fold.test),
        constrained=constrained,
        free=free,
    )
    write_json(job.path(setup.out), fit.model_dump())
    return None
