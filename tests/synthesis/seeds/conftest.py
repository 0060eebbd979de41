"""Candidates of simulated rows, and what a spreadsheet program makes of a review file."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from gplan_jax.gsisr import IntentLibrary, write_samples
from gplan_jax.synthesis.seeds.draw_candidates import write_review_files
from gplan_jax.synthesis.seeds.seed_candidates import SeedCandidate, candidates_of, read_candidates
from gplan_jax.synthesis.teachers.teacher import RuleTeacher
from gplan_jax.synthesis.world.simulation import simulate_rows

CANDIDATES = 12
Rows = list[dict[str, str]]
Resave = Callable[..., None]


@pytest.fixture
def review(tmp_path: Path, library: IntentLibrary) -> Path:
    """A fresh review file of a dozen candidates."""
    write_samples(tmp_path / "rows.csv", simulate_rows(60, seed=4))
    out = tmp_path / "review.csv"
    write_review_files(
        tmp_path / "rows.csv", out, library, RuleTeacher(library), count=CANDIDATES, seed=1
    )
    return out


@pytest.fixture
def candidates(review: Path, library: IntentLibrary) -> list[SeedCandidate]:
    return read_candidates(candidates_of(review), library)


@pytest.fixture(scope="session")
def resave() -> Resave:
    """Reads a review file as a spreadsheet does, lets ``change`` edit its rows, and saves it."""

    def save(
        path: Path,
        change: Callable[[Rows], object] = lambda rows: None,
        *,
        out: Path | None = None,
        encoding: str = "utf-8-sig",
        delimiter: str = ",",
        quoting: int = csv.QUOTE_MINIMAL,
        end: str = "\r\n",
        spare: int = 0,
    ) -> None:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            names = list(reader.fieldnames or [])
        change(rows)
        with (out or path).open("w", encoding=encoding, newline="") as file:
            writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=end)
            writer.writerow([*names, *[""] * spare])
            for row in rows:
                writer.writerow([*(row[name] for name in names), *[""] * spare])

    return save
