from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path

import pytest

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Sample, facts_of, place_kind, read_samples


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
