"""What the parent learns of a worker that ends."""

from __future__ import annotations

import multiprocessing
import signal

from gplan_jax.evaluation.comparison.jobs import Job
from gplan_jax.evaluation.comparison.workers import Failed, _news, _Worker


class Dying:
    """A process that dies between the first question whether it lives and the second."""

    exitcode = -signal.SIGKILL

    def __init__(self) -> None:
        self.asked = 0

    def is_alive(self) -> bool:
        self.asked += 1
        return self.asked == 1

    def join(self) -> None:
        pass


def test_a_worker_that_dies_while_it_is_asked_loses_no_job() -> None:
    ours, _theirs = multiprocessing.Pipe()
    job = Job("toy", 1, 0)
    worker = _Worker(Dying(), ours, ready=True, job=job)
    assert list(_news(worker)) == [] and worker.job == job and not worker.ended
    [told] = _news(worker)
    assert told == Failed(job, "its process was killed; is the memory short? (workers.log has what "
                               "it printed)")  # fmt: skip
    assert worker.job is None and worker.ended
