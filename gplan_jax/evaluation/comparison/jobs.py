"""The fits of a comparison as a list of jobs, and which of them a worker does next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gplan_jax.evaluation.comparison.layout import ARMS, TRIALS_FILE
from gplan_jax.evaluation.comparison.task import Task
from gplan_jax.foundation.files import read_json


@dataclass(frozen=True)
class Job:
    """An arm in a fold under a seed.

    The job of seed 0 also tries the arm's settings. Those of later seeds take what it chose and so
    come after it.
    """

    arm: str
    fold: int
    seed: int

    @property
    def place(self) -> tuple[str, int]:
        """Arm and fold, which share the chosen trial."""
        return self.arm, self.fold


def all_jobs(task: Task) -> list[Job]:
    """Every job, arm by arm; floors first, as they are done at once."""
    order = sorted(task.names, key=lambda name: not task.is_floor(name))
    return [
        Job(name, fold, seed)
        for name in order
        for seed in range(task.seeds_of(name))
        for fold in range(len(task.rows.parts))
    ]


def fits_of(task: Task, job: Job) -> int:
    """How many fits a job is."""
    return 1 + task.trials_of(job.arm) if job.seed == 0 and task.tries(job.arm) else 1


def is_done(out: Path, job: Job) -> bool:
    """Whether a job's files are there (they appear whole)."""
    tuned = job.seed > 0 or trials_path(out, job).exists()
    return tuned and seed_path(out, job).exists()


def next_job(
    pending: Sequence[Job], unfinished: Collection[Job], last_arm: str | None, busy: Collection[str]
) -> Job | None:
    """What a worker does next: its own arm goes on, for which all is compiled already.

    Args:
        pending: jobs that nobody does, in order.
        unfinished: jobs pending or under way; a later seed waits for seed 0 of its place.
        last_arm: what the worker did before.
        busy: the arms of the other workers; they are left to them while there are others.
    """
    tuning = {job.place for job in unfinished if job.seed == 0}
    ready = [job for job in pending if job.seed == 0 or job.place not in tuning]

    def preference(job: Job) -> int:
        return 0 if job.arm == last_arm else 1 if job.arm not in busy else 2

    return min(ready, key=preference, default=None)


def folder_of(out: Path, job: Job) -> Path:
    """Where the files of an arm and fold lie."""
    return out / ARMS / job.arm / f"fold_{job.fold}"


def seed_path(out: Path, job: Job) -> Path:
    """The predictions of a job."""
    return folder_of(out, job) / f"seed_{job.seed}.json"


def trials_path(out: Path, job: Job) -> Path:
    """What was tried in the job's fold, and the choice."""
    return folder_of(out, job) / TRIALS_FILE


def chosen_trial(out: Path, job: Job) -> dict[str, Any]:
    """What the job's fold has noted of the trial it chose, and under "trial" its index."""
    found = read_json(trials_path(out, job))
    return {**found["trials"][found["chosen"]], "trial": found["chosen"]}
