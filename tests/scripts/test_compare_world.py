from __future__ import annotations

import dataclasses

import pytest
from compare_world import floor_acc1, oracle_acc1

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan
from gplan_jax.synthesis.world.simulation import simulate_rows
from tests.gsisr.amap_intents import WEATHER, simple


@pytest.fixture(scope="module")
def library() -> IntentLibrary:
    return IntentLibrary.load()


@pytest.fixture(scope="module")
def world_rows() -> list[Sample]:
    return list(simulate_rows(1500, seed=3))


def test_majority_by_hand(library: IntentLibrary) -> None:
    rows = [
        Sample.from_context({"id": str(i), "currenttime": "2026-03-10 12:00:00"}).with_label(
            canonical_plan([simple(WEATHER if i % 4 else "tool_8")])
        )
        for i in range(40)
    ]
    assert floor_acc1(rows, "majority_first_intent", library) == 0.75
    with pytest.raises(GplanError, match="1 users"):
        floor_acc1(rows[:1] * 9, "majority_first_intent", library)


def test_a_user_is_in_one_fold_only(library: IntentLibrary, world_rows: list[Sample]) -> None:
    """Rows doubled under their ids teach nothing; as strangers they would."""
    few = world_rows[:200]
    alone = floor_acc1(few, "trigger_table", library)
    assert floor_acc1([*few, *few], "trigger_table", library) == pytest.approx(alone, abs=0.06)


def test_the_world_is_learnable_as_its_docs_say(
    library: IntentLibrary, world_rows: list[Sample]
) -> None:
    assert 0.74 < oracle_acc1(world_rows) < 0.86
    # The public rows: 0.376 and 0.553.
    assert floor_acc1(world_rows, "majority_first_intent", library) == pytest.approx(
        0.376, abs=0.04
    )
    assert floor_acc1(world_rows, "trigger_table", library) == pytest.approx(0.553, abs=0.05)
    wrong = [dataclasses.replace(row, raw_labels="[]") for row in world_rows[:50]]
    assert oracle_acc1(wrong) == 0.0
