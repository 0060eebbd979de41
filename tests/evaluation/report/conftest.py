"""A results directory that the tests of a module share, read and scored."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gplan_jax.evaluation.report.results import Results, read_results
from gplan_jax.evaluation.report.scores import Scores, score_results
from gplan_jax.gsisr import IntentLibrary, Sample
from tests.evaluation.report.runs import write_run


@pytest.fixture(scope="session")
def library() -> IntentLibrary:
    return IntentLibrary.load()


@pytest.fixture(scope="session")
def kept_run(tmp_path_factory: pytest.TempPathFactory, world_rows: list[Sample]) -> Path:
    """A directory that no test changes."""
    return write_run(tmp_path_factory.mktemp("runs") / "full", world_rows)


@pytest.fixture
def run_folder(kept_run: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(kept_run, tmp_path / "full")


@pytest.fixture(scope="session")
def results(kept_run: Path) -> Results:
    return read_results(kept_run)


@pytest.fixture(scope="session")
def scores(results: Results, library: IntentLibrary) -> Scores:
    return score_results(results, library)
