"""Worker processes that do fits: one thread of computation each, on an accelerator one worker.

Each worker is a process pool of one process. So a fit can be given to the process that has compiled
its arm's training step, and a process that dies takes no fit but its own with it.

The fits of a comparison are jobs: which there are, which comes next, and how one is done. In each
fold the validation rows choose among an arm's trials; the choice is then fitted to all of the
fold's training rows, once a seed. Whoever predicts gets rows without their labels.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gplan_jax.evaluation.comparison import results
from gplan_jax.evaluation.comparison.setup import ComparisonSetup
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import write_json
from gplan_jax.foundation.streams import end_with_parent
from gplan_jax.gsisr import canonical_plan, parse_plan, score_prediction

LOG = "workers.log"
_ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


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


@dataclass(frozen=True)
class FitResult:
    """What became of a job: with a ``reason`` it failed, else its file is written."""

    job: FitJob
    acc1: float | None = None  # of a trial, on the validation rows
    hardware: str = ""  # "" where its process is dead
    reason: str = ""


def run_jobs(setup: ComparisonSetup, jobs: list[FitJob], workers: int) -> Iterator[FitResult]:
    """Does ``jobs`` in up to ``workers`` processes and yields the results as they come.

    Where a fold's trial or first seed fails, or its process dies, the rest of that fold is dropped,
    so that a cause shows once; all else goes on.
    """
    pending, started = list(jobs), [_Worker(setup)]
    failed: set[tuple[str, int]] = set()
    try:
        try:
            on_cpu = started[0].hardware.result()[0] == "cpu"
        except BrokenProcessPool:
            reason = started[0].end()
            raise GplanError(
                f"A worker could not start: {reason}. {LOG} has what it printed."
            ) from None
        while True:
            # Hand out: each idle worker its favourite among the fits that can be done now.
            running = [worker.job for worker in started if worker.job]
            wanted = min(workers if on_cpu else 1, len(running) + len(pending))
            started += [_Worker(setup) for _ in range(wanted - len(started))]
            for worker in started:
                running = [worker.job for worker in started if worker.job]
                if worker.job is None:
                    busy = {job.arm for job in running}
                    if job := next_job(pending, running, worker.last_arm, busy):
                        pending.remove(job)
                        if job.trial is None:
                            choose_trial(setup, job.arm, job.fold)
                        worker.submit(job)
            if not any(worker.job for worker in started):
                return
            # Collect.
            done, _ = wait([w.fit for w in started if w.job and w.fit], return_when=FIRST_COMPLETED)
            for worker in [worker for worker in started if worker.fit in done]:
                assert worker.job and worker.fit
                try:
                    result = worker.fit.result()
                except BrokenProcessPool:
                    started.remove(worker)
                    reason = f"{worker.end()} ({LOG} has what it printed)"
                    result = FitResult(worker.job, reason=reason)
                worker.job = worker.fit = None
                if result.reason and not result.job.seed:
                    if result.job.place in failed:
                        continue  # Another trial of the fold has said so.
                    failed.add(result.job.place)
                    pending = [job for job in pending if job.place != result.job.place]
                yield result
    finally:
        for worker in started:
            worker.process.kill()
            worker.pool.shutdown()


class _Worker:
    """A process that is started anew (spawn), and what it does.

    Its threads are limited by its environment, which must stand before it imports JAX.
    """

    def __init__(self, setup: ComparisonSetup) -> None:
        setup.out.mkdir(parents=True, exist_ok=True)
        self.pool = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_initialize,
            initargs=(setup, setup.out / LOG),
        )
        others = set(multiprocessing.active_children())
        with one_thread_a_process():
            self.hardware: Future[tuple[str, str]] = self.pool.submit(_hardware)
        # The pool tells neither exit code nor how to end a fit that goes on; the process does.
        [self.process] = set(multiprocessing.active_children()) - others
        self.job: FitJob | None = None
        self.fit: Future[FitResult] | None = None
        self.last_arm: str | None = None

    def submit(self, job: FitJob) -> None:
        """Has the worker do a job; where its process has died meanwhile, ``fit`` says so."""
        self.job, self.last_arm = job, job.arm
        try:
            self.fit = self.pool.submit(_work, job)
        except BrokenProcessPool as error:
            self.fit = Future()
            self.fit.set_exception(error)

    def end(self) -> str:
        """Waits until the process is gone, and says how it went."""
        self.pool.shutdown()
        self.process.join()
        if self.process.exitcode == -signal.SIGKILL:
            return "its process was killed; is the memory short?"
        return f"its process ended with exit code {self.process.exitcode}"


@contextmanager
def one_thread_a_process() -> Iterator[None]:
    """Processes that are started meanwhile compute in one thread each."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    try:
        for name, value in _ONE_THREAD.items():
            flags = before[name] if name == "XLA_FLAGS" else None
            os.environ[name] = f"{flags} {value}" if flags else value
        yield
    finally:
        for name, old in before.items():
            os.environ.pop(name)
            if old is not None:
                os.environ[name] = old


# What follows runs in the worker's process.
_setup: ComparisonSetup


def _initialize(setup: ComparisonSetup, log: Path) -> None:
    global _setup
    _setup = setup
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    become_worker(log)


def become_worker(log: Path) -> None:
    """The process's output goes into the log, and it ends with its parent."""
    end_with_parent()
    with log.open("a", buffering=1, encoding="utf-8") as out:
        os.dup2(out.fileno(), sys.stdout.fileno())
        os.dup2(out.fileno(), sys.stderr.fileno())


def _hardware() -> tuple[str, str]:
    import jax

    return jax.default_backend(), jax.devices()[0].device_kind


def _work(job: FitJob) -> FitResult:
    """Does a job; errors become words here, as some can't be sent to another process."""
    backend, device = _hardware()
    hardware = f"{backend} ({device})"
    try:
        return FitResult(job, run_fit(_setup, job), hardware)
    except Exception as error:
        traceback.print_exc()
        reason = str(error)
        if not isinstance(error, GplanError):
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}, line {place.lineno}"
            reason = f"{type(error).__name__}: {error} ({where})"
        return FitResult(job, hardware=hardware, reason=reason)
