from __future__ import annotations

import dataclasses

import pytest

from gplan_jax.gsisr import Sample, parse_plan
from gplan_jax.synthesis.factory.duplicates import Duplicates


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, ("exact", 1)),
        ({"raw_labels": "other words for the same plan"}, ("exact", 1)),
        ({"id": "another"}, ("near", 1)),
        ({"currenttime": "2026-04-01 12:59:59"}, ("near", 1)),
        ({"trigger_5": "2026-03-30 08:00:01"}, ("near", 1)),
        ({"long_term_behavior": "  a  b c"}, ("near", 1)),
        ({"currenttime": "2026-04-01 13:00:00"}, None),
        ({"currenttime": "2026-04-02 12:00:00"}, None),
        ({"long_term_behavior": "a b d"}, None),
        ({"profile_feat_5": "重庆市"}, None),
        ({"current_poi_name": "p_1"}, None),
        ({"trigger_4": "p_2"}, None),
        ({"weekendflag": "1"}, None),
    ],
)
def test_which_changes_of_a_context_make_another_row(
    changes: dict[str, str], found: tuple[str, int] | None, world_rows: list[Sample]
) -> None:
    row = dataclasses.replace(
        world_rows[0],
        currenttime="2026-04-01 12:10:00",
        trigger_5="2026-03-30 08:30:00",
        long_term_behavior="a b c",
        weekendflag="0",
    )
    plan = parse_plan(row.raw_labels)
    duplicates = Duplicates()
    assert duplicates.find(1, row, plan) is None
    assert duplicates.find(2, dataclasses.replace(row, **changes), plan) == found


def test_another_plan_in_the_same_context_is_another_row(world_rows: list[Sample]) -> None:
    duplicates, plan = Duplicates(), parse_plan(world_rows[0].raw_labels)
    assert duplicates.find(1, world_rows[0], plan) is None
    assert duplicates.find(2, world_rows[0], plan[:-1]) is None
    assert duplicates.find(3, world_rows[0], plan[:-1]) == ("exact", 2)
    reordered = [dict(reversed(intent.items())) for intent in plan]
    assert duplicates.find(4, world_rows[0], reordered) == ("exact", 1)


def test_different_rows_are_told_apart(world_rows: list[Sample]) -> None:
    duplicates = Duplicates()
    found = [
        duplicates.find(number, row, parse_plan(row.raw_labels))
        for number, row in enumerate([*world_rows, *world_rows])
    ]
    half = len(world_rows)
    assert found[:half] == [None] * half and all(found[half:])
