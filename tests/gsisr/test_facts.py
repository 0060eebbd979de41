from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path

import pytest

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import (
    Behavior,
    Habit,
    Sample,
    facts_of,
    long_term,
    place_kind,
    read_samples,
    short_term,
)


def changed(sample: Sample, **columns: str) -> Sample:
    return dataclasses.replace(sample, **columns)


def test_all_facts_of_an_invented_row(sample: Sample) -> None:
    facts = facts_of(sample)
    assert dataclasses.asdict(facts) == {
        "order_type": "酒店",
        "order_distance": "city",
        "order_in_home_city": False,
        "order_at_home": False,
        "order_at_work": False,
        "minutes_since_order": 60.0,
        "hours_to_start": -10.5,
        "hours_to_end": 13.5,
        "days_to_start": 0,
        "starts_at_midnight": True,
        "phase": "during",
        "order_category": "舒适型",
        "order_recency": 0,
        "order_visits": 2,
        "now": datetime(2026, 3, 4, 10, 30),
        "hour": 10,
        "day_part": "morning",
        "weekend": False,
        "holiday": False,
        "place_category": "高铁站",
        "place_kind": "hub",
        "at_home": False,
        "at_work": False,
        "near_home": False,
        "near_work": False,
        "in_home_city": False,
        "place_recency": 1,
        "place_visits": 0,
        "hours_since_behavior": 1,
        "locality": "未知地点",
        "recent_count": 1,
        "other_category": "",
    }


@pytest.mark.parametrize(
    ("columns", "distance"),
    [
        ({"current_poi_name": "p_9"}, "here"),
        ({"current_district": "北区"}, "district"),
        ({}, "city"),
        ({"current_city": "丙市", "current_district": "北区"}, "elsewhere"),
        ({"trigger_2": ""}, "unknown"),
        ({"current_city": ""}, "unknown"),
        ({"current_poi_name": "", "trigger_4": ""}, "city"),
    ],
)
def test_distance_to_the_order(sample: Sample, columns: dict[str, str], distance: str) -> None:
    assert facts_of(changed(sample, **columns)).order_distance == distance


@pytest.mark.parametrize(
    ("start", "end", "phase"),
    [
        ("2026-03-04 10:30:01", "", "before"),
        ("2026-03-04 10:30:00", "", "started"),
        ("2026-03-04 10:30:00", "2026-03-04 10:30:00", "during"),
        ("2026-03-04 08:00:00", "2026-03-04 10:29:59", "ended"),
        ("", "2026-03-05 00:00:00", "unknown"),
    ],
)
def test_phase_of_the_order(sample: Sample, start: str, end: str, phase: str) -> None:
    facts = facts_of(changed(sample, trigger_6=start, trigger_7=end))
    assert facts.phase == phase


def test_habitual_places(sample: Sample) -> None:
    at_home = facts_of(
        changed(sample, current_poi_name="p_1", current_city="甲市", current_district="东区")
    )
    assert (at_home.at_home, at_home.at_work) == (True, False)
    assert (at_home.near_home, at_home.near_work, at_home.in_home_city) == (True, False, True)
    order_at_work = facts_of(changed(sample, trigger_4="p_2", trigger_2="甲市"))
    assert (order_at_work.order_at_home, order_at_work.order_at_work) == (False, True)
    assert order_at_work.order_in_home_city is True


def test_what_is_not_known_is_none(sample: Sample) -> None:
    bare = facts_of(Sample.from_context({"currenttime": "2026-03-04 23:00:00"}))
    unknown = [
        name
        for name in dataclasses.asdict(bare)
        if name.startswith(
            ("at_", "near_", "in_", "hours_", "minutes_", "days_", "order_at", "order_in")
        )
    ]
    assert len(unknown) == 13
    assert all(getattr(bare, name) is None for name in unknown)
    assert (bare.order_distance, bare.phase, bare.place_kind) == ("unknown", "unknown", "unknown")
    assert bare.day_part == "evening"


def test_where_else_the_user_looked(sample: Sample) -> None:
    elsewhere = (
        ", 在3月4日周三10点act_2了位于本地加油站的p_77, 在3月4日周三10点act_2了位于本地门的p_9"
    )
    facts = facts_of(
        changed(sample, short_term_behavior_seq=sample.short_term_behavior_seq + elsewhere)
    )
    assert facts.other_category == "加油站"
    assert (facts.order_recency, facts.place_recency) == (0, 3)
    assert (facts.recent_count, facts.hours_since_behavior) == (3, 0)


@pytest.mark.parametrize(
    ("category", "kind"),
    [
        ("经济型", "hotel"),
        ("住宿服务,宾馆酒店,宾馆酒店", "hotel"),
        ("加油站", "fuel"),
        ("充电站", "charging"),
        ("5A景区", "sights"),
        ("住宅区", "home"),
        ("商圈", "district"),
        ("便利店", "shopping"),
        ("三甲医院", "other"),
        ("", "unknown"),
    ],
)
def test_kinds_of_places(category: str, kind: str) -> None:
    assert place_kind(category) == kind


@pytest.mark.parametrize("column", ["currenttime", "trigger_5", "trigger_6", "trigger_7"])
def test_a_time_in_another_form_is_named(sample: Sample, column: str) -> None:
    with pytest.raises(GplanError, match=f"{column} of sample u1 is '4 March'"):
        facts_of(changed(sample, **{column: "4 March"}))


def test_a_row_needs_its_time(sample: Sample) -> None:
    with pytest.raises(GplanError, match="currenttime is empty"):
        facts_of(changed(sample, currenttime=" "))


def test_the_public_rows_have_facts(shared: Path) -> None:
    facts = [facts_of(sample) for sample in read_samples(shared / "gsisr/gsisr_dev.csv")]
    assert {f.order_type for f in facts} == {"酒店", "加油", "门票", "充电桩", "其他"}
    assert {f.order_distance for f in facts} == {"here", "district", "city", "elsewhere"}
    others = sum(f.place_kind == "other" for f in facts)
    assert others < 0.1 * len(facts)


NOW = datetime(2026, 3, 4, 10, 30)


def test_short_term_entries() -> None:
    text = (
        "在3月4日周三8点act_7了&act_1了位于本地地级市的p_11, "
        "在3月4日周三9点act_5了&act_3&act_6了位于未知地点足疗的店的p_12, "
        "在3月4日周三10点act_3位于异地行前门的p_13"
    )
    assert short_term(text, NOW) == (
        Behavior(datetime(2026, 3, 4, 8), ("act_7", "act_1"), "本地", "地级市", "p_11"),
        Behavior(
            datetime(2026, 3, 4, 9), ("act_5", "act_3", "act_6"), "未知地点", "足疗的店", "p_12"
        ),
        Behavior(datetime(2026, 3, 4, 10), ("act_3",), "异地行前", "门", "p_13"),
    )


@pytest.mark.parametrize(
    ("month", "day", "year"), [(12, 31, 2025), (3, 4, 2026), (3, 5, 2026), (2, 29, 2024)]
)
def test_the_year_is_the_last_that_fits(month: int, day: int, year: int) -> None:
    (entry,) = short_term(f"在{month}月{day}日周一8点act_1了位于本地门的p_1", NOW)
    assert entry.when == datetime(year, month, day, 8)


def test_long_term_entries() -> None:
    text = "商住两用的p_6act_8了78次 , 米线的p_7act_8&act_7了5次"
    assert long_term(text) == (
        Habit("商住两用", "p_6", ("act_8",), 78),
        Habit("米线", "p_7", ("act_8", "act_7"), 5),
    )


@pytest.mark.parametrize("text", ["", "胡言乱语", "在2月30日周一8点act_1了位于本地门的p_1"])
def test_what_is_no_entry_is_left_out(text: str) -> None:
    assert short_term(text, NOW) == ()
    assert long_term(text) == ()


def test_every_entry_of_the_public_rows_is_read(shared: Path) -> None:
    for sample in read_samples(shared / "gsisr/gsisr_dev.csv"):
        now = datetime.fromisoformat(sample.currenttime)
        entries = [entry for entry in sample.short_term_behavior_seq.split(", ") if entry]
        read = short_term(sample.short_term_behavior_seq, now)
        assert len(read) == len(entries)
        for behavior, entry in zip(read, entries, strict=True):
            assert entry.endswith(f"{behavior.locality}{behavior.category}的{behavior.place}")
        habits = [habit for habit in sample.long_term_behavior.split(" , ") if habit]
        assert len(long_term(sample.long_term_behavior)) == len(habits)
