"""A results directory that the tests of the comparison and of the report share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gplan_jax.gsisr import Sample
from tests.evaluation.report.runs import write_run


@pytest.fixture(scope="session")
def kept_run(tmp_path_factory: pytest.TempPathFactory, world_rows: list[Sample]) -> Path:
    """A directory that no test changes."""
    return write_run(tmp_path_factory.mktemp("runs") / "full", world_rows)


@pytest.fixture
def run_folder(kept_run: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(kept_run, tmp_path / "full")
