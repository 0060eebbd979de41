"""Worker processes that do jobs: one thread of computation each, on an accelerator one worker.

A worker is started anew (spawn), so that what limits its threads is set before JAX is imported, and
writes what its arms print into a log file. It ends with its parent, whatever ended that.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from gplan_jax.evaluation.comparison.fits import FitNote, run_job
from gplan_jax.evaluation.comparison.jobs import Job, next_job
from gplan_jax.evaluation.comparison.task import Task
from gplan_jax.foundation.errors import GplanError

LOG = "workers.log"
_ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


@dataclass(frozen=True)
class Ready:
    """A worker has started on this hardware."""

    backend: str
    device: str


@dataclass(frozen=True)
class Done:
    """A job whose files are written."""

    job: Job


@dataclass(frozen=True)
class Failed:
    """A job that ended in an error, or whose worker did."""

    job: Job
    reason: str


Event = Ready | FitNote | Done | Failed


@dataclass
class _Worker:
    process: Any
    connection: Connection
    ready: bool = False
    job: Job | None = None
    last_arm: str | None = None
    ended: bool = False


def run_jobs(task: Task, jobs: list[Job], workers: int) -> Iterator[Event]:
    """Does ``jobs`` in up to ``workers`` processes and yields what happens.

    A job that fails, or whose worker dies, is told and the others go on; jobs that wait for it can
    never be done and are not told.

    Raises:
        GplanError: a worker ended before it could do anything.
    """
    pending, staff = list(jobs), [_start(task)]
    try:
        while pending or any(w.job for w in staff):
            idle = [w for w in staff if w.ready and w.job is None]
            for worker in idle:
                _give(worker, pending, staff)
            if all(w.ready for w in staff) and not any(w.job for w in staff):
                return  # What is left waits for jobs that failed.
            for worker in _with_news(staff):
                for event in _news(worker):
                    yield event
                    if isinstance(event, Ready):
                        most = workers if event.backend == "cpu" else 1
                        wanted = min(most, len(pending)) - len(staff)
                        staff += [_start(task) for _ in range(wanted)]
                    if isinstance(event, Failed) and event.job.seed == 0:
                        pending = [job for job in pending if job.place != event.job.place]
                if worker.ended:
                    staff.remove(worker)
                    staff += [_start(task)] if pending else []
    finally:
        for worker in staff:
            worker.process.kill()
            worker.process.join()


def _give(worker: _Worker, pending: list[Job], staff: list[_Worker]) -> None:
    under_way = [other.job for other in staff if other.job]
    busy = {job.arm for job in under_way}
    job = next_job(pending, [*pending, *under_way], worker.last_arm, busy)
    if job is None:
        return
    pending.remove(job)
    worker.job, worker.last_arm = job, job.arm
    worker.connection.send(job)


def _with_news(staff: list[_Worker]) -> list[_Worker]:
    sources = {w.connection: w for w in staff} | {w.process.sentinel: w for w in staff}
    return list({id(sources[source]): sources[source] for source in wait(list(sources))}.values())


def _news(worker: _Worker) -> Iterator[Event]:
    """What a worker has said since, and in what way it ended, where it did.

    Whether it lives is asked before its last words are read: one that ends in between is told of
    the next time, and its job is not lost.
    """
    lives = worker.process.is_alive()
    try:
        while worker.connection.poll():
            event = worker.connection.recv()
            worker.ready = True
            if isinstance(event, Done | Failed):
                worker.job = None
            yield event
        if lives:
            return
    except (EOFError, OSError):
        worker.process.join()
    worker.ended = True
    reason = f"its process ended with exit code {worker.process.exitcode}"
    if worker.process.exitcode == -signal.SIGKILL:
        reason = "its process was killed; is the memory short?"
    if not worker.ready:
        raise GplanError(f"A worker could not start: {reason}. {LOG} has what it printed.")
    job, worker.job = worker.job, None
    if job:
        yield Failed(job, f"{reason} ({LOG} has what it printed)")


def _start(task: Task) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    task.out.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=_work, args=(theirs, task, task.out / LOG), daemon=True)
    with _environment(_ONE_THREAD):
        process.start()
    theirs.close()
    return _Worker(process, ours)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Sets variables for the processes started meanwhile; flags are added to those there are."""
    before = {name: os.environ.get(name) for name in values}
    for name, value in values.items():
        flags = before[name] if name == "XLA_FLAGS" else None
        os.environ[name] = f"{flags} {value}" if flags else value
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                del os.environ[name]
            else:
                os.environ[name] = old


def _work(connection: Connection, task: Task, log: Path) -> None:
    """A worker's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with log.open("a", buffering=1, encoding="utf-8") as out:
        os.dup2(out.fileno(), sys.stdout.fileno())
        os.dup2(out.fileno(), sys.stderr.fileno())
    import jax

    connection.send(Ready(jax.default_backend(), jax.devices()[0].device_kind))
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            run_job(task, job, connection.send)
            connection.send(Done(job))
        except Exception as error:
            traceback.print_exc()
            connection.send(Failed(job, _reason(error)))


def _reason(error: Exception) -> str:
    if isinstance(error, GplanError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is a child process"
    wait([parent.sentinel])
    os._exit(1)
