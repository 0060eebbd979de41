from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from gplan_jax.gsisr import IntentLibrary, Plan, canonical_plan, check_plan
from gplan_jax.synthesis.amap.evidence import links_to, reasons_for
from gplan_jax.synthesis.amap.intents import (
    ARRIVAL_CARD,
    LONG_DISTANCE,
    ORDER_PLACE,
    REMINDER,
    REVIEW,
    START,
    TAG,
    TOOL,
    TRAVEL,
    WEATHER,
    WORK,
    interest,
    one_place,
    ride,
    simple,
    travel,
)
from gplan_jax.synthesis.amap.openings import DRIVE_ON, openings
from gplan_jax.synthesis.amap.rules import plan_for, supported_openings
from gplan_jax.synthesis.amap.situation import (
    DayOff,
    DayPart,
    Focus,
    Habitual,
    OrderPlace,
    Phase,
    Region,
    Situation,
    Surroundings,
)
from gplan_jax.synthesis.amap.taste import Taste

TASTES = [
    Taste(bytes([i] * 32), i % 2 == 0, frozenset(["景点"] if i % 3 else [])) for i in range(60)
]
ORDERS = ("酒店", "门票", "加油", "充电桩", "其他", "打车")


def _situation(order: str, phase: Phase, place: OrderPlace, **others: object) -> Situation:
    facts: dict[str, object] = {
        "habitual": None,
        "region": Region.AWAY,
        "day_part": DayPart.AFTERNOON,
        "day_off": None,
        "surroundings": Surroundings.HUB,
        "focus": None,
    }
    return Situation(order, phase, place, **(facts | others))  # type: ignore[arg-type]


def _every_situation() -> list[Situation]:
    aspects = (
        ORDERS,
        (None, *Phase),
        (None, *OrderPlace),
        (None, *Habitual),
        (None, *Region),
        DayPart,
        (None, *DayOff),
        (None, *Surroundings),
        (None, *Focus),
    )
    every = itertools.product(*aspects)
    return [Situation(*values) for values in itertools.islice(every, 0, None, 211)]


def test_every_situation_and_taste_has_a_plan_that_passes_the_filter(
    library: IntentLibrary,
) -> None:
    generator = random.Random(1)
    lengths: Counter[int] = Counter()
    for situation in _every_situation():
        plan = plan_for(situation, generator.choice(TASTES))
        lengths[len(plan)] += 1
        assert check_plan(canonical_plan(plan), library) == [], situation
    assert set(lengths) <= {4, 5, 6}


def test_openings_are_supported_by_facts_wherever_the_rules_have_one() -> None:
    bare = 0
    for situation in _every_situation():
        found = supported_openings(situation)
        bare += found == [([DRIVE_ON], 1.0)]
        for opening, weight in found:
            assert weight > 0 and opening
            if opening == [DRIVE_ON]:
                continue
            for i, intent in enumerate(opening):
                assert reasons_for(intent, situation) or links_to(intent, opening[:i])
    assert bare < 0.06 * len(_every_situation())


def test_an_opening_fits_the_others_rules_by_itself(library: IntentLibrary) -> None:
    found = {canonical_plan(o) for situation in _every_situation() for o, _ in openings(situation)}
    for opening in found:
        broken = check_plan(opening, library)
        assert {violation.code for violation in broken} <= {"too_short"}


@pytest.mark.parametrize(
    ("situation", "opening"),
    [
        (
            _situation("酒店", Phase.THIS_DAY, OrderPlace.SAME_CITY),
            [ride(ORDER_PLACE), simple(REMINDER)],
        ),
        (_situation("酒店", Phase.THIS_DAY, OrderPlace.AT), [simple(ARRIVAL_CARD)]),
        (
            _situation("酒店", Phase.LAST_DAY, OrderPlace.AT, day_part=DayPart.MORNING),
            [simple(LONG_DISTANCE), simple(REVIEW)],
        ),
        (
            _situation("酒店", Phase.LAST_DAY, OrderPlace.AT, day_part=DayPart.NIGHT),
            [simple(ARRIVAL_CARD)],
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
            _situation(
                "加油",
                Phase.JUST_STARTED,
                OrderPlace.SAME_CITY,
                surroundings=None,
                focus=Focus.ORDER_PLACE,
            ),
            [simple(REMINDER), travel(ORDER_PLACE)],
        ),
        (
            _situation(
                "加油",
                Phase.LONG_STARTED,
                OrderPlace.SAME_CITY,
                region=Region.HOME_CITY,
                day_part=DayPart.MORNING,
            ),
            [travel(WORK)],
        ),
    ],
)
def test_the_opening_answers_the_most_pressing_need(situation: Situation, opening: Plan) -> None:
    first, *others = supported_openings(situation)
    assert first[0] == opening
    assert first[1] > sum(weight for _, weight in others) / 2
    chosen = Counter(canonical_plan(plan_for(situation, taste)[: len(opening)]) for taste in TASTES)
    assert chosen[canonical_plan(opening)] > len(TASTES) / 2


def test_a_way_to_the_order_moves_the_later_recommendations_there() -> None:
    arriving = _situation("酒店", Phase.THIS_DAY, OrderPlace.SAME_CITY)
    there = _situation("酒店", Phase.THIS_DAY, OrderPlace.AT)

    def starts(situation: Situation) -> Counter[str]:
        plans = [plan_for(situation, taste) for taste in TASTES]
        return Counter(i[START] for plan in plans for i in plan if TAG in i and START in i)

    assert starts(arriving)[ORDER_PLACE] > 0.5 * starts(arriving).total()
    assert starts(there)[ORDER_PLACE] == 0


def test_who_is_near_and_hungry_eats_before_setting_out() -> None:
    def first_food(part: DayPart) -> Counter[str]:
        near = _situation("酒店", Phase.THIS_DAY, OrderPlace.SAME_DISTRICT, day_part=part)
        plans = [plan_for(near, taste) for taste in TASTES]
        return Counter(
            next((i.get(START, "") for i in p if i.get(TAG) == "美食"), "") for p in plans
        )

    assert first_food(DayPart.AFTERNOON).most_common(1)[0][0] == ORDER_PLACE
    assert first_food(DayPart.LUNCH).most_common(1)[0][0] == "当前位置"


def test_late_the_weather_comes_before_what_is_for_tomorrow() -> None:
    def weather_last(part: DayPart) -> int:
        at = _situation("酒店", Phase.THIS_DAY, OrderPlace.AT, day_part=part)
        return sum(plan_for(at, taste)[-1] == simple(WEATHER) for taste in TASTES)

    assert weather_last(DayPart.AFTERNOON) > weather_last(DayPart.EVENING) + 15


def test_days_off_and_nights_change_what_is_recommended() -> None:
    at = _situation("酒店", Phase.THIS_DAY, OrderPlace.AT)

    def tags(**changes: object) -> Counter[str]:
        situation = _situation("酒店", Phase.THIS_DAY, OrderPlace.AT, **changes)
        return Counter(i[TAG] for t in TASTES for i in plan_for(situation, t) if TAG in i)

    assert tags(day_off=DayOff.WEEKEND)["购物"] > 2 * tags()["购物"]
    at_night = [
        plan_for(_situation("酒店", Phase.THIS_DAY, OrderPlace.AT, day_part=DayPart.NIGHT), t)
        for t in TASTES
    ]
    by_day = [plan_for(at, taste) for taste in TASTES]
    one = one_place("美食")
    assert sum(one in plan for plan in at_night) > 30 > sum(one in plan for plan in by_day)


def test_drivers_go_by_car_more_often() -> None:
    there = _situation("酒店", Phase.THIS_DAY, OrderPlace.OTHER_CITY, surroundings=None)

    def share(drives: bool) -> float:
        found = supported_openings(there, Taste(bytes(32), drives, frozenset()))
        cars = sum(w for opening, w in found if any(i[TOOL] == TRAVEL for i in opening))
        return cars / sum(weight for _, weight in found)

    assert share(True) > 1.4 * share(False) > 0


def test_nothing_is_recommended_twice() -> None:
    assert interest("当前位置", "附近", "美食") != one_place("美食")
    for situation in _every_situation()[::7]:
        for taste in TASTES[:6]:
            plan = [canonical_plan([intent]) for intent in plan_for(situation, taste)]
            assert len(set(plan)) == len(plan)
