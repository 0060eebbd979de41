"""What the parent learns of a worker that ends, and that none outlives it."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import toy_arms

from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.evaluation.comparison import worker_pool
from gplan_jax.evaluation.comparison.setup import ComparisonSetup, rows_of_folds
from gplan_jax.evaluation.comparison.worker_pool import LOG, FitJob, all_jobs, run_jobs
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary

LIBRARY = IntentLibrary.load()


@pytest.fixture
def setup(world_file: Path, tmp_path: Path) -> ComparisonSetup:
    rows = rows_of_folds(world_file, LIBRARY, 2)
    out = tmp_path / "out"
    return ComparisonSetup(rows, toy_arms.ARMS, ("toy",), {}, InputMode.FULL, LIBRARY, 2, 1, out)


def test_a_worker_that_dies_while_it_is_idle_is_told_with_its_next_fit(
    setup: ComparisonSetup,
) -> None:
    worker = worker_pool._Worker(setup)
    worker.process.kill()
    worker.process.join()
    worker.submit(FitJob("toy", 0, trial=0))
    assert worker.fit is not None and worker.fit.exception(timeout=20) is not None
    assert worker.end() == "its process was killed; is the memory short?"


def test_whoever_stops_listening_leaves_no_worker_behind(setup: ComparisonSetup) -> None:
    results = run_jobs(setup, all_jobs(setup), 1)
    next(results)
    results.close()
    assert not multiprocessing.active_children()


def test_a_worker_that_cannot_start_is_named(setup: ComparisonSetup) -> None:
    (setup.out / LOG).mkdir(parents=True)
    with pytest.raises(GplanError, match=r"A worker could not start: .* workers.log has what"):
        list(run_jobs(setup, all_jobs(setup), 1))
