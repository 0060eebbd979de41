"""Plans as numbers, on the shipped library."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.baselines.rows.atoms import Atoms, padded_plans
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan, parse_plan

LIBRARY = IntentLibrary.load()
ATOMS = Atoms.of(LIBRARY)
CARD, WEATHER, REMINDER, TRAIN = ({"工具名称": f"tool_{n}"} for n in (6, 9, 8, 3))


def row(label: str, user: str = "u") -> Sample:
    return Sample.from_context({"id": user, "raw_labels": label})


def test_the_shipped_library_has_148_atoms() -> None:
    # Rides and journeys 3 x 7 each, 3 x 3 x 10 interests, 10 nearby places, 6 bare tools.
    assert ATOMS.count == ATOMS.END == 2 * 3 * 7 + 3 * 3 * 10 + 10 + 6


@given(st.lists(st.integers(0, ATOMS.count - 1), max_size=9))
def test_numbers_and_plans_are_the_same_thing_twice(ids: list[int]) -> None:
    plan = parse_plan(ATOMS.text(ids), LIBRARY)
    assert ATOMS.ids(plan) == tuple(ids)
    assert canonical_plan(plan, LIBRARY) == ATOMS.text([*ids, ATOMS.END, 0])


def test_the_order_of_keys_does_not_matter() -> None:
    ride = {"终点位置": "家", "起始位置": "当前位置", "工具名称": "tool_1"}
    [number] = ATOMS.ids([ride])
    assert ATOMS.intents[number] == ride


def test_an_intent_outside_the_library_is_named() -> None:
    with pytest.raises(GplanError, match=r"Intent 2, .*tool_11.*amap"):
        ATOMS.ids([WEATHER, {"工具名称": "tool_11"}])


def test_plans_are_filled_up() -> None:
    table = padded_plans([(3, 1), ()], 3, 148)
    np.testing.assert_array_equal(table, [[3, 1, 148], [148, 148, 148]])
    with pytest.raises(GplanError, match="4 intents"):
        padded_plans([(1, 2, 3, 4)], 3, 148)
