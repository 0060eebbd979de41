from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from gplan_jax.foundation import RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import Sample, write_samples
from gplan_jax.synthesis.seeds.drawing import draw_rows
from gplan_jax.synthesis.teachers.seed import stratum_of
from gplan_jax.synthesis.world.simulation import simulate_rows

ROWS = list(simulate_rows(400, seed=2))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("draw") / "rows.csv"
    write_samples(path, ROWS)
    return path


def written(tmp_path: Path, rows: list[Sample]) -> Path:
    write_samples(tmp_path / "rows.csv", rows)
    return tmp_path / "rows.csv"


def test_every_stratum_gives_the_same_number_as_far_as_it_goes(data: Path) -> None:
    draw = draw_rows(data, 80, seed=1)
    assert len(draw.rows) == 80
    for number, sample, stratum in draw.rows:
        assert ROWS[number - 1] == sample and stratum_of(sample) == stratum
    drawn = Counter(stratum for _, _, stratum in draw.rows)
    assert {s: drawn[s] for s in draw.strata} == {s: n for s, (n, _) in draw.strata.items()}
    most = max(drawn.values())
    # A stratum with fewer than the others has no user left, but for the last turn.
    assert all(n >= most - 1 or n == there for n, there in draw.strata.values())


def test_a_user_is_drawn_once_at_most(data: Path) -> None:
    draw = draw_rows(data, 1000, seed=1)
    ids = [sample.id for _, sample, _ in draw.rows]
    assert len(ids) == len(set(ids)) == len({row.id for row in ROWS}) < len(ROWS)
    assert sum(there for _, there in draw.strata.values()) == len(ids)


def test_each_stretch_of_a_draw_covers_all_strata(data: Path) -> None:
    draw = draw_rows(data, 60, seed=3)
    count = len(draw.strata)
    assert len({stratum for _, _, stratum in draw.rows[:count]}) == count


def test_the_seed_decides_and_nothing_else(data: Path) -> None:
    first, again, other = (draw_rows(data, 40, seed=s) for s in (1, 1, 2))
    assert first == again
    assert [n for n, _, _ in first.rows] != [n for n, _, _ in other.rows]


def test_a_smaller_draw_is_the_beginning_of_a_larger_one(data: Path) -> None:
    assert draw_rows(data, 90, seed=5).rows[:30] == draw_rows(data, 30, seed=5).rows


def test_faulty_rows_stop_the_draw_or_are_left_out(tmp_path: Path) -> None:
    rows = [*ROWS[:5], dataclasses.replace(ROWS[5], currenttime="2026/3/2 9:05"), *ROWS[6:12]]
    path = written(tmp_path, rows)
    with pytest.raises(RowError, match=r"row 6.*currenttime"):
        draw_rows(path, 5, seed=1)
    faulty = FaultyRows("skip")
    draw = draw_rows(path, 100, seed=1, faulty=faulty)
    assert [error.row for error in faulty.errors] == [6]
    assert 6 not in [number for number, _, _ in draw.rows]
