from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.gsisr import COLUMNS, IntentLibrary, Plan, Sample, canonical_plan, check_plan
from gplan_jax.gsisr.context_pairs import SHARED_COLUMNS, SPATIOTEMPORAL_COLUMNS
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
from gplan_jax.synthesis.amap.rules import DRIVE_ON, Taste, plan_for, supported_openings, taste_of
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
    links_to,
    openings,
    reasons_for,
)

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


ROW = Sample.from_context({"id": "7", "trigger_1": "酒店", "currenttime": "2026-03-10 12:00:00"})


@pytest.mark.parametrize("column", COLUMNS)
def test_a_taste_is_of_the_shared_columns_never_of_time_and_place(column: str) -> None:
    changed = dataclasses.replace(ROW, **{column: "something else"})
    assert (taste_of(changed) == taste_of(ROW)) is (column not in SHARED_COLUMNS)
    assert not {*SHARED_COLUMNS} & {*SPATIOTEMPORAL_COLUMNS, "raw_labels"}


def test_what_a_history_shows() -> None:
    def taste(short: str = "", long: str = "") -> Taste:
        return taste_of(
            dataclasses.replace(ROW, short_term_behavior_seq=short, long_term_behavior=long)
        )

    assert not taste().drives and taste().likes == frozenset()
    assert not taste(long="加油站的p_1act_8了3次").drives
    assert taste("在3月1日周日8点act_7了位于本地停车场的p_3", "加油站的p_1act_8了3次").drives
    assert taste(long="5A景区的p_1act_8了3次 , 商场的p_2act_8了1次").likes == {"景点", "购物"}


@given(st.binary(min_size=32, max_size=32), st.text(max_size=20))
def test_a_level_is_a_share_and_stays(digest: bytes, question: str) -> None:
    taste = Taste(digest, False, frozenset())
    assert 0 <= taste.level(question) < 1
    assert taste.level(question) == Taste(digest, True, frozenset()).level(question)


def test_options_are_chosen_as_often_as_their_weights_say() -> None:
    options = [("a", 60.0), ("b", 30.0), ("c", 10.0)]
    tastes = [Taste(i.to_bytes(32, "big"), False, frozenset()) for i in range(5000)]
    chosen = Counter(taste.choose("question", options) for taste in tastes)
    for option, weight in options:
        assert chosen[option] / 5000 == pytest.approx(weight / 100, abs=0.03)
    # Another question is another draw.
    other = Counter((t.choose("question", options), t.choose("another", options)) for t in tastes)
    assert other["a", "a"] / 5000 == pytest.approx(0.36, abs=0.03)
