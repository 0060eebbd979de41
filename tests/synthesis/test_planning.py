from __future__ import annotations

import itertools

import pytest

from gplan_jax.gsisr import IntentLibrary, canonical_plan, check_plan
from gplan_jax.synthesis.intents import (
    ARRIVAL_CARD,
    HERE,
    LONG_DISTANCE,
    ORDER_PLACE,
    REMINDER,
    REVIEW,
    START,
    TOOL,
    WORK,
    interest,
    ride,
    simple,
    travel,
)
from gplan_jax.synthesis.orders import PHASES
from gplan_jax.synthesis.planning import plan_for
from gplan_jax.synthesis.situation import (
    DayOff,
    DayPart,
    Habitual,
    OrderPlace,
    Phase,
    Region,
    Situation,
    Surroundings,
)


def _situation(order: str, phase: Phase, place: OrderPlace, **others: object) -> Situation:
    facts: dict[str, object] = {
        "habitual": None,
        "region": Region.AWAY,
        "day_part": DayPart.AFTERNOON,
        "day_off": None,
        "surroundings": Surroundings.HUB,
        "attention": None,
    }
    return Situation(order, phase, place, **(facts | others))  # type: ignore[arg-type]


def test_every_situation_has_a_plan_that_passes_the_filter(library: IntentLibrary) -> None:
    for order, phases in PHASES.items():
        for phase, place, region, part, day_off, around, habitual in itertools.product(
            phases,
            OrderPlace,
            (*Region, None),
            DayPart,
            (None, DayOff.WEEKEND),
            (None, Surroundings.HUB),
            (None, *Habitual),
        ):
            situation = Situation(
                order, phase, place, habitual, region, part, day_off, around, None
            )
            plan = plan_for(situation)
            assert 3 <= len(plan) <= 7
            assert check_plan(canonical_plan(plan), library) == [], situation


@pytest.mark.parametrize(
    ("situation", "opening"),
    [
        (
            _situation("酒店", Phase.THIS_DAY, OrderPlace.SAME_CITY),
            [ride(ORDER_PLACE), simple(REMINDER)],
        ),
        (
            _situation("酒店", Phase.THIS_DAY, OrderPlace.AT),
            [simple(ARRIVAL_CARD), simple(REMINDER)],
        ),
        (
            _situation("酒店", Phase.LAST_DAY, OrderPlace.AT, day_part=DayPart.MORNING),
            [simple(LONG_DISTANCE), simple(REVIEW)],
        ),
        (
            _situation("酒店", Phase.LAST_DAY, OrderPlace.AT, day_part=DayPart.NIGHT),
            [simple(ARRIVAL_CARD), simple(REMINDER)],
        ),
        (
            _situation("酒店", Phase.LATER, OrderPlace.OTHER_CITY),
            [simple(REMINDER), simple(LONG_DISTANCE)],
        ),
        (
            _situation("门票", Phase.THIS_DAY, OrderPlace.OTHER_CITY),
            [simple(LONG_DISTANCE), simple(REMINDER)],
        ),
        (
            _situation("加油", Phase.JUST_STARTED, OrderPlace.SAME_CITY),
            [travel(ORDER_PLACE), simple(REMINDER)],
        ),
        (
            _situation(
                "加油",
                Phase.LONG_STARTED,
                OrderPlace.SAME_CITY,
                region=Region.HOME_CITY,
                day_part=DayPart.MORNING,
            ),
            [travel(WORK), simple(REVIEW)],
        ),
    ],
)
def test_the_opening_answers_the_most_pressing_need(
    situation: Situation, opening: list[dict[str, str]]
) -> None:
    assert plan_for(situation)[:2] == opening


def test_a_way_to_the_order_moves_the_later_recommendations_there() -> None:
    arriving = _situation("酒店", Phase.THIS_DAY, OrderPlace.SAME_CITY, day_part=DayPart.LUNCH)
    assert interest(ORDER_PLACE, "附近", "美食") in plan_for(arriving)
    there = _situation("酒店", Phase.THIS_DAY, OrderPlace.AT, day_part=DayPart.LUNCH)
    starts = {intent[START] for intent in plan_for(there) if intent[TOOL] == "tool_5"}
    assert starts == {HERE}
