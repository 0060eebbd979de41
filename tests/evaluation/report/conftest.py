"""The shared results directory, read and scored."""

from __future__ import annotations

from pathlib import Path

import pytest

from gplan_jax.evaluation.comparison.results import ComparisonResults, read_results
from gplan_jax.evaluation.report.row_scores import ArmRowScores, score_results
from gplan_jax.gsisr import IntentLibrary


@pytest.fixture(scope="session")
def library() -> IntentLibrary:
    return IntentLibrary.load()


@pytest.fixture(scope="session")
def results(kept_run: Path) -> ComparisonResults:
    return read_results(kept_run)


@pytest.fixture(scope="session")
def scores(results: ComparisonResults, library: IntentLibrary) -> ArmRowScores:
    return score_results(results, library)
