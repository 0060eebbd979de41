from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import COLUMNS, Sample, split_by_id


def samples_of(ids: list[str]) -> list[Sample]:
    return [Sample.from_context({"id": i, "trigger_1": str(n)}) for n, i in enumerate(ids)]


def test_the_schema_has_the_public_columns(shared) -> None:
    with (shared / "gsisr/gsisr_dev.csv").open(encoding="utf-8-sig") as file:
        assert tuple(file.readline().strip().split(",")) == COLUMNS
    assert len(COLUMNS) == 32


def test_from_context_names_an_unknown_column() -> None:
    with pytest.raises(GplanError, match="curent_city"):
        Sample.from_context({"curent_city": "甲市"})


def test_a_sample_is_immutable_and_takes_a_new_label() -> None:
    sample = Sample.from_context({"id": "7", "raw_labels": "[]"})
    assert sample.with_label("[1]").raw_labels == "[1]"
    assert sample.to_dict() == dict.fromkeys(COLUMNS, "") | {"id": "7", "raw_labels": "[]"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.id = "8"  # type: ignore[misc]


@given(st.lists(st.text("ab1", max_size=3), max_size=30), st.floats(0.05, 0.95), st.integers())
def test_a_split_keeps_every_row_once_and_ids_together(
    ids: list[str], fraction: float, seed: int
) -> None:
    rows = samples_of(ids)
    train, test = split_by_id(rows, fraction, seed)
    assert sorted(train + test, key=rows.index) == rows
    assert not {s.id for s in train} & {s.id for s in test}


def test_the_side_of_a_row_does_not_depend_on_the_others() -> None:
    rows = samples_of([str(i) for i in range(200)])
    _, test = split_by_id(rows, 0.3, seed=4)
    _, of_half = split_by_id(reversed(rows[:100]), 0.3, seed=4)
    assert set(of_half) == {s for s in test if int(s.id) < 100}


def test_seed_and_fraction_move_the_split() -> None:
    rows = samples_of([str(i) for i in range(1000)])
    first, second = (split_by_id(rows, 0.2, seed)[1] for seed in (0, 1))
    assert first != second
    # Binomial with mean 200 and deviation 12.6: five deviations on either side.
    assert 137 <= len(first) <= 263


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_split_needs_two_sides(fraction: float) -> None:
    with pytest.raises(GplanError, match="test_fraction"):
        split_by_id([], fraction)
