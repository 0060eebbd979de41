"""What is known of a user: behaviour that gsisr reads back as it was put in, home and work."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.gsisr import Habit, long_term, short_term
from gplan_jax.gsisr.facts import long_term_text
from gplan_jax.synthesis.triggers.trigger_spec import (
    HabitualSpec,
    LongTerm,
    ShortTerm,
    TriggerSpec,
    load_triggers,
)
from gplan_jax.synthesis.triggers.user_memory import (
    NOWHERE,
    LongTermMemory,
    ShortTermMemory,
    Spot,
    Stays,
    habitual_spots,
    place_id,
    short_term_text,
    word,
)

MONDAY = datetime(2026, 3, 2)
NOW = datetime(2026, 3, 2, 12, 30)
SHORT = load_triggers().history.short_term
LONG = load_triggers().history.long_term
NAMES = st.text(min_size=1, max_size=30) | st.sampled_from(
    ["的", "老王的店, 的p_9act_8了3次", "</STEP_1>", '{"a": 1}', "位于本地", "act_8了9次 , x的p_7",
     "在1月1日周四1点act_1了位于本地x的y", "a\nb", "p_1_2", "act_8了9次 , x的p_7act_4了1次"]
)  # fmt: skip
SPOTS = st.builds(
    lambda place, category, city: Spot(place_id(place), word(category), city, "区"),
    NAMES,
    NAMES | st.just(""),
    st.sampled_from(["甲市", "乙市", ""]),
)
ACTIONS = st.lists(
    st.tuples(
        st.integers(0, 50 * 24 * 60),
        st.sampled_from([*SHORT.actions, "act_8"]),
        SPOTS,
        st.sampled_from(["甲市", "乙市", ""]),
        st.booleans(),
    ),
    max_size=30,
)


@given(ACTIONS)
def test_short_term_entries_are_read_back(actions: list) -> None:
    memory = ShortTermMemory(SHORT)
    for minutes, action, spot, city, ordered in sorted(actions, key=lambda item: -item[0]):
        memory.add(NOW - timedelta(minutes=minutes), action, spot, city, ordered)
    entries = memory.entries(NOW)
    read = short_term(short_term_text(entries, SHORT, "甲市"), NOW)
    assert len(read) == len(entries) <= SHORT.items
    for behavior, entry in zip(read, entries, strict=True):
        assert behavior.when == entry.when
        assert set(behavior.actions) == entry.actions
        assert list(behavior.actions) == [a for a in SHORT.actions if a in entry.actions]
        assert behavior.locality == entry.locality("甲市")
        assert (behavior.category, behavior.place) == (entry.spot.category, entry.spot.place)


@given(ACTIONS)
def test_long_term_habits_are_read_back(actions: list) -> None:
    memory = LongTermMemory(LONG)
    counts: dict[str, int] = {}
    for minutes, action, spot, _, _ in sorted(actions, key=lambda item: -item[0]):
        memory.add(NOW - timedelta(minutes=minutes), action, spot)
        if action in LONG.actions:
            counts[spot.place] = counts.get(spot.place, 0) + 1
    habits = memory.habits(NOW)
    read = long_term(long_term_text(habits))
    assert list(read) == habits
    expected = sorted(counts.values(), reverse=True)[: LONG.items]
    assert [habit.count for habit in read] == expected
    assert all(habit.count == counts[habit.place] for habit in read)


def test_actions_of_one_hour_and_place_are_one_entry_in_the_public_order() -> None:
    memory = ShortTermMemory(SHORT)
    inn = Spot("p_1", "经济型", "乙市", "区")
    for minute, action in ((1, "act_2"), (2, "act_3"), (9, "act_5"), (9, "act_2")):
        memory.add(datetime(2026, 1, 15, 1, minute), action, inn, "甲市", action == "act_5")
    memory.add(datetime(2026, 1, 15, 2, 0), "act_4", inn, "乙市", False)
    text = short_term_text(memory.entries(NOW), SHORT, "甲市")
    assert text == (
        "在1月15日周四1点act_5了&act_3&act_2了位于未知地点经济型的p_1, "
        "在1月15日周四2点act_4了位于异地行中经济型的p_1"
    )


def test_localities_as_the_public_rows_use_them() -> None:
    def locality(city: str, user: str, ordered: bool, home: str = "甲市") -> str:
        memory = ShortTermMemory(SHORT)
        memory.add(NOW, "act_1", Spot("p_1", "", city, ""), user, ordered)
        return memory.entries(NOW)[0].locality(home)

    assert locality("甲市", "乙市", False) == "本地"
    assert locality("甲市", "", True) == "本地"
    assert locality("乙市", "甲市", False) == "异地行前"
    assert locality("乙市", "乙市", False) == "异地行中"
    assert locality("乙市", "乙市", True) == "未知地点"
    assert locality("乙市", "", False) == "未知地点"
    assert locality("", "甲市", False) == "未知地点"
    assert locality("甲市", "甲市", False, home="") == "未知地点"


def test_long_term_text_in_the_public_form() -> None:
    memory = LongTermMemory(LONG)
    shop, home = Spot("p_2", "商场"), Spot("p_1", "住宅区")
    for hour, action, spot in (
        (1, "act_4", shop), (2, "act_8", shop), (3, "act_8", shop), (4, "act_8", home),
        (5, "act_1", home),
    ):  # fmt: skip
        memory.add(NOW - timedelta(hours=24 - hour), action, spot)
    assert long_term_text(memory.habits(NOW)) == "商场的p_2act_8&act_4了3次 , 住宅区的p_1act_8了1次"


def test_old_behaviour_is_forgotten() -> None:
    short, long = ShortTermMemory(SHORT), LongTermMemory(LONG)
    spot = Spot("p_1", "商场", "甲市")
    short.add(NOW - timedelta(days=61), "act_1", spot, "", False)
    for days in (91, 90, 89, 0):
        long.add(NOW - timedelta(days=days), "act_8", spot)
    assert short.entries(NOW) == []
    assert long.habits(NOW)[0].count == 2


def test_what_is_held_is_bounded_by_the_spec() -> None:
    short = ShortTermMemory(ShortTerm(items=3, actions=["act_1"]))
    long = LongTermMemory(LongTerm(days=2, actions=["act_1"], most_places=5))
    for i in range(2000):
        when = NOW + timedelta(minutes=i)
        short.add(when, "act_1", Spot(f"p_{i}"), "", False)
        long.add(when, "act_1", Spot(f"p_{i}"))
        long.add(when, "act_1", Spot("p_often"))
        assert len(short._entries) <= 3
        assert len(long._places) <= 10
    assert long.habits(when)[0] == Habit("", "p_often", ("act_1",), 2000)


def test_a_place_of_many_days_holds_only_those_that_count() -> None:
    long = LongTermMemory(LongTerm(days=3, actions=["act_1"]))
    for day in range(500):
        long.add(NOW + timedelta(days=day), "act_1", Spot("p_1"))
        assert len(long._places["p_1"].days) <= 3
    assert long.habits(NOW + timedelta(days=499))[0].count == 3


HOME, OFFICE = Spot("p_h", "住宅区", "甲市", "一区"), Spot("p_o", "公司", "甲市", "二区")
HOTEL, OTHER = Spot("p_x", "酒店", "乙市", "三区"), Spot("p_y", "酒店", "乙市", "三区")


@pytest.fixture
def stays(spec: TriggerSpec) -> Stays:
    assert spec.habitual is not None
    return Stays(spec.habitual, frozenset())


def at(day: int, hour: int) -> datetime:
    return MONDAY + timedelta(days=day, hours=hour)


def test_home_needs_enough_nights(stays: Stays) -> None:
    for day in range(2):
        stays.add(at(day, 23), HOME)
    assert stays.home() == NOWHERE
    # Before six in the morning it is still the same night.
    stays.add(at(2, 5), HOME)
    assert stays.home() == NOWHERE
    stays.add(at(2, 22), HOME)
    assert stays.home() == HOME


def test_home_needs_its_share_of_the_nights_else_the_city_stands(stays: Stays) -> None:
    for day in range(3):
        stays.add(at(day, 23), HOME)
    for day in range(3, 8):
        stays.add(at(day, 23), HOTEL if day % 2 else OTHER)
    assert stays.home() == Spot(city="乙市")


def test_the_day_counts_for_nothing_at_night_and_the_night_for_no_work(stays: Stays) -> None:
    for day in range(5):
        stays.add(at(day, 20), HOME)
        stays.add(at(day, 9), OFFICE)
    assert stays.home() == NOWHERE and stays.work("") == NOWHERE


def test_work_is_where_working_days_are_spent_away_from_home(spec: TriggerSpec) -> None:
    assert spec.habitual is not None
    stays = Stays(spec.habitual, frozenset({date(2026, 3, 4)}))
    for day in (0, 1, 2, 5, 6):  # Wednesday is a holiday, then a weekend.
        stays.add(at(day, 11), OFFICE)
    assert stays.work(HOME.place) == NOWHERE
    stays.add(at(3, 16), OFFICE)
    assert stays.work(HOME.place) == OFFICE
    assert stays.work(OFFICE.place) == NOWHERE


def test_only_the_declared_days_are_held() -> None:
    hours = {"night": {"start": 22, "end": 6}, "work": {"start": 10, "end": 17}}
    stays = Stays(HabitualSpec.model_validate({"days": 10, **hours}), frozenset())
    for day in range(300):
        stays.add(at(day, 23), HOME if day < 200 else HOTEL)
        assert len(stays._nights) <= 10
    assert stays.home() == HOTEL


def test_what_is_told_outweighs_what_is_found(stays: Stays) -> None:
    for day in range(4):
        stays.add(at(day, 23), HOME)
        stays.add(at(day, 12), OFFICE)
    assert habitual_spots({}, stays) == (HOME, OFFICE)
    assert habitual_spots({}, None) == (NOWHERE, NOWHERE)
    told = {"home_place": "B1", "home_city": "丙市", "home_district": "四区"}
    assert habitual_spots(told, stays)[0] == Spot("p_B1", "", "丙市", "四区")
    # A home city elsewhere: the place of the nights is no home.
    assert habitual_spots({"home_city": "丙市"}, stays)[0] == Spot(city="丙市")
    assert habitual_spots({"home_city": "甲市"}, stays)[0] == HOME
