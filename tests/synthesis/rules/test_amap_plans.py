from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from gplan_jax.gsisr import IntentLibrary, Plan, Sample, canonical_plan, check_plan
from gplan_jax.synthesis.rules.rule_file import holds
from gplan_jax.synthesis.rules.service_rules import Told
from gplan_jax.synthesis.rules.taste import Draws
from tests.gsisr.amap_intents import (
    ARRIVAL_CARD,
    GUESS,
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
from tests.synthesis.situations import AMAP, OF_COLUMNS, told_in, values

DRIVES, LIKES_SIGHTS = "加油站和停车场", "公园"  # in a history
TASTES = [
    (Draws(bytes([i] * 32)), DRIVES * (i % 2 == 0) + LIKES_SIGHTS * (i % 3 > 0)) for i in range(60)
]
ORDERS = ("酒店", "门票", "加油", "充电桩", "其他", "打车")
DRIVE_ON = [travel(GUESS)]


def _situation(order: str, phase: str, place: str, **others: str | None) -> dict[str, str | None]:
    facts: dict[str, str | None] = {
        "habitual": None,
        "region": "away",
        "day_part": "afternoon",
        "day_off": None,
        "surroundings": "hub",
        "focus": None,
    }
    return facts | {"order_type": order, "phase": phase, "place": place} | others


def _told(aspects: dict[str, str | None], history: str = "") -> Told:
    return told_in(**aspects, history=history)  # type: ignore[arg-type]


def _plan(aspects: dict[str, str | None], taste: tuple[Draws, str]) -> Plan:
    return AMAP.plan(_told(aspects, taste[1]), taste[0])


def _every_situation() -> list[dict[str, str | None]]:
    aspects = [
        ORDERS,
        *([*([] if name == "day_part" else [None]), *values(name)] for name in OF_COLUMNS),
    ]
    every = itertools.product(*aspects)
    names = ("order_type", *OF_COLUMNS)
    return [dict(zip(names, found, strict=True)) for found in itertools.islice(every, 0, None, 211)]


def test_every_situation_and_taste_has_a_plan_that_passes_the_filter(
    library: IntentLibrary,
) -> None:
    generator = random.Random(1)
    lengths: Counter[int] = Counter()
    for situation in _every_situation():
        plan = _plan(situation, generator.choice(TASTES))
        lengths[len(plan)] += 1
        assert check_plan(canonical_plan(plan), library) == [], situation
    assert set(lengths) <= {4, 5, 6}


def test_openings_are_supported_by_facts_wherever_the_rules_have_one() -> None:
    bare = 0
    for situation in _every_situation():
        told = _told(situation)
        found = AMAP.openings(told)
        bare += found == [(DRIVE_ON, 1.0)]
        for opening, weight in found:
            assert weight > 0 and opening
            if opening == DRIVE_ON:
                continue
            for i, intent in enumerate(opening):
                assert AMAP.reasons(intent, told) or AMAP.link(intent, opening[:i])
    assert bare < 0.06 * len(_every_situation())


def test_an_opening_fits_the_others_rules_by_itself(library: IntentLibrary) -> None:
    found = {
        canonical_plan(opening)
        for situation in _every_situation()
        for opening, _ in AMAP.openings(_told(situation))
    }
    for opening in found:
        broken = check_plan(opening, library)
        assert {violation.code for violation in broken} <= {"too_short"}


@pytest.mark.parametrize(
    ("situation", "opening"),
    [
        (
            _situation("酒店", "this_day", "same_city"),
            [ride(ORDER_PLACE), simple(REMINDER)],
        ),
        (_situation("酒店", "this_day", "at"), [simple(ARRIVAL_CARD)]),
        (
            _situation("酒店", "last_day", "at", day_part="morning"),
            [simple(LONG_DISTANCE), simple(REVIEW)],
        ),
        (
            _situation("酒店", "last_day", "at", day_part="night"),
            [simple(ARRIVAL_CARD)],
        ),
        (
            _situation("酒店", "later", "other_city"),
            [simple(REMINDER), simple(LONG_DISTANCE)],
        ),
        (
            _situation("门票", "this_day", "other_city"),
            [simple(LONG_DISTANCE), simple(REMINDER)],
        ),
        (
            _situation(
                "加油",
                "just_started",
                "same_city",
                surroundings=None,
                focus="order_place",
            ),
            [simple(REMINDER), travel(ORDER_PLACE)],
        ),
        (
            _situation(
                "加油",
                "long_started",
                "same_city",
                region="home_city",
                day_part="morning",
            ),
            [travel(WORK)],
        ),
    ],
)
def test_the_opening_answers_the_most_pressing_need(
    situation: dict[str, str | None], opening: Plan
) -> None:
    first, *others = AMAP.openings(_told(situation))
    assert first[0] == opening
    assert first[1] > sum(weight for _, weight in others) / 2
    chosen = Counter(canonical_plan(_plan(situation, taste)[: len(opening)]) for taste in TASTES)
    assert chosen[canonical_plan(opening)] > len(TASTES) / 2


def test_a_way_to_the_order_moves_the_later_recommendations_there() -> None:
    arriving = _situation("酒店", "this_day", "same_city")
    there = _situation("酒店", "this_day", "at")

    def starts(situation: dict[str, str | None]) -> Counter[str]:
        plans = [_plan(situation, taste) for taste in TASTES]
        return Counter(i[START] for plan in plans for i in plan if TAG in i and START in i)

    assert starts(arriving)[ORDER_PLACE] > 0.5 * starts(arriving).total()
    assert starts(there)[ORDER_PLACE] == 0


def test_who_is_near_and_hungry_eats_before_setting_out() -> None:
    def first_food(part: str) -> Counter[str]:
        near = _situation("酒店", "this_day", "same_district", day_part=part)
        plans = [_plan(near, taste) for taste in TASTES]
        return Counter(
            next((i.get(START, "") for i in p if i.get(TAG) == "美食"), "") for p in plans
        )

    assert first_food("afternoon").most_common(1)[0][0] == ORDER_PLACE
    assert first_food("lunch").most_common(1)[0][0] == "当前位置"


def test_late_the_weather_comes_before_what_is_for_tomorrow() -> None:
    def weather_last(part: str) -> int:
        at = _situation("酒店", "this_day", "at", day_part=part)
        return sum(_plan(at, taste)[-1] == simple(WEATHER) for taste in TASTES)

    assert weather_last("afternoon") > weather_last("evening") + 15


def test_days_off_and_nights_change_what_is_recommended() -> None:
    at = _situation("酒店", "this_day", "at")

    def tags(**changes: str) -> Counter[str]:
        situation = _situation("酒店", "this_day", "at", **changes)
        return Counter(i[TAG] for t in TASTES for i in _plan(situation, t) if TAG in i)

    assert tags(day_off="weekend")["购物"] > 2 * tags()["购物"]
    at_night = [_plan(_situation("酒店", "this_day", "at", day_part="night"), t) for t in TASTES]
    by_day = [_plan(at, taste) for taste in TASTES]
    one = one_place("美食")
    assert sum(one in plan for plan in at_night) > 30 > sum(one in plan for plan in by_day)


def test_drivers_go_by_car_more_often() -> None:
    there = _situation("酒店", "this_day", "other_city", surroundings=None)

    def share(drives: bool) -> float:
        found = AMAP.openings(_told(there, DRIVES if drives else ""))
        cars = sum(w for opening, w in found if any(i[TOOL] == TRAVEL for i in opening))
        return cars / sum(weight for _, weight in found)

    assert share(True) > 1.4 * share(False) > 0


def test_nothing_is_recommended_twice() -> None:
    assert interest("当前位置", "附近", "美食") != one_place("美食")
    for situation in _every_situation()[::7]:
        for taste in TASTES[:6]:
            plan = [canonical_plan([intent]) for intent in _plan(situation, taste)]
            assert len(set(plan)) == len(plan)


def test_what_a_history_shows() -> None:
    def liked(recent: str = "", habits: str = "") -> set[str]:
        row = Sample.from_context({
            "id": "7", "trigger_1": "酒店", "currenttime": "2026-03-10 12:00:00",
            "short_term_behavior_seq": recent, "long_term_behavior": habits,
        })  # fmt: skip
        known = AMAP.tell(row).known
        likings = [one for one in AMAP.file.likings if holds(one.when, known)]
        return {text for one in likings for text in one.intents.values()}

    assert liked() == set()
    assert liked(habits="加油站的p_1act_8了3次") == set()
    assert liked("在3月1日周日8点act_7了位于本地停车场的p_3", "加油站的p_1act_8了3次") == {TRAVEL}
    assert liked(habits="5A景区的p_1act_8了3次 , 商场的p_2act_8了1次") == {"景点", "购物"}
