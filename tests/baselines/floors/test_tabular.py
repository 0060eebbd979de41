"""Rows as tables of numbers and categories."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gplan_jax.baselines.floors.tabular import MOST_CATEGORIES, TableEncoder
from gplan_jax.baselines.rows.features import CONTEXT_COLUMNS, InputMode
from gplan_jax.gsisr import Sample

BARE = Sample.from_context({"id": "1", "currenttime": "2026-01-05 08:30:00"})


def column(encoder: TableEncoder, rows: list[Sample], name: str) -> list[float]:
    return encoder.encode(rows)[:, encoder.columns.index(name)].tolist()


def test_categories_are_coded_by_frequency_and_others_are_0() -> None:
    hotel, fuel, train = (dataclasses.replace(BARE, trigger_1=t) for t in ("酒店", "加油", "列车"))
    encoder = TableEncoder.fit([fuel, hotel, hotel, BARE], InputMode.FULL)
    codes = column(encoder, [hotel, fuel, train, BARE], "order_type")
    assert codes[:3] == [1, 2, 0] and np.isnan(codes[3])
    assert encoder.categorical[encoder.columns.index("order_type")]
    assert not encoder.categorical[encoder.columns.index("hour")]


def test_few_enough_categories_for_the_trees() -> None:
    rows = [dataclasses.replace(BARE, current_tag=f"类{i}") for i in range(300)]
    encoder = TableEncoder.fit(rows, InputMode.FULL)
    assert max(column(encoder, rows, "place_category")) == MOST_CATEGORIES


def test_missing_values_are_nan_and_flags_are_1_0_or_nan() -> None:
    order = {"trigger_4": "p_1", "profile_feat_6": "p_1", "profile_feat_8": "p_2"}
    row = dataclasses.replace(BARE, **order)
    encoder = TableEncoder.fit([BARE, row], InputMode.FULL)
    assert column(encoder, [row], "order_at_home") == [1.0]
    assert column(encoder, [row], "order_at_work") == [0.0]
    for name in ("order_at_home", "minutes_since_order", "latest_age", "latest_act_1"):
        assert np.isnan(column(encoder, [BARE], name)).all(), name
    assert column(encoder, [BARE], "events") == [0.0]


@pytest.mark.parametrize("mode", InputMode)
def test_the_table_shows_what_the_mode_does(mode: InputMode, world_rows: list[Sample]) -> None:
    encoder = TableEncoder.fit(world_rows, mode)
    table = encoder.encode(world_rows)
    assert table.shape == (len(world_rows), len(encoder.columns)) == (40, len(encoder.categorical))
    unlabelled = [row.with_label("") for row in world_rows]
    np.testing.assert_array_equal(encoder.encode(unlabelled), table)
    emptied = [dataclasses.replace(r, **dict.fromkeys(CONTEXT_COLUMNS, "")) for r in world_rows]
    same = np.array_equal(encoder.encode(emptied), table, equal_nan=True)
    assert same == (mode == InputMode.HISTORY)
    assert TableEncoder.fit(world_rows[::-1], mode) == encoder
    assert encoder.encode([]).shape == (0, len(encoder.columns))
