"""Counting floors on invented rows counted by hand, and on the public rows."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.baselines.fitting.arms import FLOORS
from gplan_jax.baselines.floors.counting import (
    MajorityFirstIntent,
    PopularityList,
    TriggerTable,
)
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import (
    IntentLibrary,
    Sample,
    canonical_plan,
    parse_plan,
    read_samples,
    score_prediction,
    split_by_id,
)

LIBRARY = IntentLibrary.load()
CARD, WEATHER, REMINDER, TRAIN = ({"工具名称": f"tool_{n}"} for n in (6, 9, 8, 3))
RIDE = {"工具名称": "tool_1", "起始位置": "当前位置", "终点位置": "订单目的地"}


def row(plan: list[dict[str, str]], order: str = "酒店", *, here: bool = False) -> Sample:
    return Sample.from_context(
        {
            "id": "u",
            "currenttime": "2026-01-05 08:00:00",
            "current_city": "甲市",
            "current_poi_name": "p_1",
            "trigger_1": order,
            "trigger_2": "甲市",
            "trigger_4": "p_1" if here else "p_2",
            "raw_labels": canonical_plan(plan) if plan else "",
        }
    )


ROWS = [
    row([RIDE, WEATHER, REMINDER]),
    row([RIDE, REMINDER, WEATHER]),
    row([RIDE, REMINDER, WEATHER]),
    row([WEATHER, RIDE, TRAIN]),
    row([CARD, WEATHER], here=True),
    row([CARD, REMINDER, WEATHER], here=True),
    row([TRAIN, WEATHER], "门票"),
]


def test_the_majority_first_intent_is_the_ride() -> None:
    assert MajorityFirstIntent.fit(ROWS, LIBRARY).plan == canonical_plan([RIDE])


def test_the_popularity_list_orders_intents_by_the_plans_they_stand_in() -> None:
    # Weather stands in 7 plans, the reminder and the ride in 4 each, the card and the train in 2.
    floor = PopularityList.fit(ROWS, LIBRARY, k=3)
    # Equal counts go by text, where the ride's name, tool_1, comes before tool_8.
    assert parse_plan(floor.plan) == [WEATHER, RIDE, REMINDER]
    assert parse_plan(PopularityList.fit(ROWS, LIBRARY).plan)[3] == TRAIN
    assert len(parse_plan(PopularityList.fit(ROWS, LIBRARY, k=99).plan)) == 5


def test_a_repeated_intent_counts_once_for_its_plan() -> None:
    rows = [row([WEATHER, WEATHER, WEATHER]), row([RIDE]), row([RIDE])]
    assert parse_plan(PopularityList.fit(rows, LIBRARY, k=1).plan) == [RIDE]


def test_the_table_answers_by_order_type_and_whether_the_user_is_there() -> None:
    floor = TriggerTable.fit(ROWS, LIBRARY)
    assert parse_plan(floor.plan_for(row([]))) == [RIDE, REMINDER, WEATHER]
    assert parse_plan(floor.plan_for(row([], "门票"))) == [TRAIN, WEATHER]
    # Both plans of the cell occur once; "tool_6 tool_8" comes before "tool_6 tool_9" as text.
    assert parse_plan(floor.plan_for(row([], here=True))) == [CARD, REMINDER, WEATHER]
    assert parse_plan(floor.plan_for(row([], "加油"))) == [RIDE, REMINDER, WEATHER]


def test_the_table_prefers_the_majority_first_intent_to_the_majority_plan() -> None:
    # [WEATHER] is the most frequent plan, but three of five begin with the ride.
    rows = [row(p) for p in ([WEATHER], [WEATHER], [RIDE], [RIDE, TRAIN], [RIDE, REMINDER])]
    assert parse_plan(TriggerTable.fit(rows, LIBRARY).plan_for(rows[0])) == [RIDE, TRAIN]


@pytest.mark.parametrize("name", FLOORS)
@given(order=st.permutations(ROWS))
def test_the_order_of_the_rows_does_not_matter(name: str, order: list[Sample]) -> None:
    assert FLOORS[name](order, LIBRARY) == FLOORS[name](ROWS, LIBRARY)


@pytest.mark.parametrize("name", FLOORS)
def test_the_label_of_the_row_to_plan_for_is_not_looked_at(name: str) -> None:
    floor = FLOORS[name](ROWS, LIBRARY)
    assert all(floor.plan_for(r) == floor.plan_for(r.with_label("")) for r in ROWS)


@pytest.mark.parametrize("name", FLOORS)
def test_rows_without_plans_are_left_out_and_nothing_but_them_is_refused(name: str) -> None:
    assert FLOORS[name]([*ROWS, row([])], LIBRARY) == FLOORS[name](ROWS, LIBRARY)
    with pytest.raises(GplanError, match="nothing to fit"):
        FLOORS[name]([row([])], LIBRARY)


def test_a_label_with_reasoning_counts_as_its_plan() -> None:
    thought = "<THOUGHT><CONTEXT>a</CONTEXT><STRATEGY>b</STRATEGY><STEP_1>c</STEP_1></THOUGHT>"
    rows = [r.with_label(thought + r.raw_labels) for r in ROWS]
    assert PopularityList.fit(rows, LIBRARY) == PopularityList.fit(ROWS, LIBRARY)


def test_the_floors_of_the_public_rows(shared: Path) -> None:
    train, test = split_by_id(read_samples(shared / "gsisr" / "gsisr_dev.csv"), 0.5, seed=0)

    def score(name: str, measure: str) -> float:
        floor = FLOORS[name](train, LIBRARY)
        scores = [score_prediction(floor.plan_for(s), s.raw_labels, LIBRARY) for s in test]
        return mean(getattr(score, measure) for score in scores)

    assert 0.33 < score("majority_first_intent", "acc1") < 0.42
    assert 0.73 < score("popularity_list", "ndcg3") < 0.78
    assert 0.48 < score("trigger_table", "acc1") < 0.60
