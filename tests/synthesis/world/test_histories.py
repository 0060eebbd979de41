from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.gsisr.facts import long_term, short_term
from gplan_jax.synthesis.world.geography import build_geography
from gplan_jax.synthesis.world.histories import (
    BehaviorEvent,
    Scene,
    age_class,
    long_term_behavior,
    recent_events,
)
from gplan_jax.synthesis.world.people import make_person

MAP = build_geography(0)
NOW = datetime(2026, 4, 14, 15, 20, 5)


def _scene(seed: int, minutes: int | None) -> Scene:
    generator = random.Random(seed)
    person = make_person(1, MAP, generator)
    order = generator.choice(MAP.find("经济型", city=person.destination))
    place = generator.choice(MAP.find("商圈", city=person.destination))
    made = None if minutes is None else NOW - timedelta(minutes=minutes)
    return Scene(person, "酒店", order, place, made, NOW)


@given(st.integers(0, 10**6), st.none() | st.integers(0, 900))
def test_a_history_is_read_back_as_it_was_meant(seed: int, minutes: int | None) -> None:
    scene = _scene(seed, minutes)
    events = recent_events(scene, [], MAP, random.Random(seed))
    assert 1 <= len(events) <= 10
    assert [event.when for event in events] == sorted(event.when for event in events)
    read = short_term(", ".join(map(str, events)), NOW)
    assert [b.when for b in read] == [event.when for event in events]
    assert [b.place for b in read] == [event.place.id for event in events]
    assert [b.category for b in read] == [event.place.category for event in events]
    assert [b.locality for b in read] == [event.locality for event in events]
    assert all(b.actions for b in read) and max(event.when for event in events) <= NOW


def test_acts_are_written_as_the_public_column_writes_them() -> None:
    place = MAP.find("高铁站", city="青岚市")[0]
    event = BehaviorEvent(datetime(2026, 3, 10, 10), "act_3&act_4了", "异地行前", place)
    assert str(event) == f"在3月10日周二10点act_3&act_4了位于异地行前高铁站的{place.id}"


def test_what_was_lived_before_is_remembered() -> None:
    scene = _scene(3, 60)
    lived = [
        BehaviorEvent(
            NOW - timedelta(hours=1), "act_1了", "本地", MAP.find("高铁站", city="青岚市")[0]
        )
    ]
    assert lived[0] in recent_events(scene, lived, MAP, random.Random(3))


@pytest.mark.parametrize(
    ("minutes", "name"), [(None, "unknown"), (0, "5"), (5, "15"), (719, "720"), (720, "1440")]
)
def test_ages_fall_in_classes(minutes: int | None, name: str) -> None:
    made = None if minutes is None else NOW - timedelta(minutes=minutes)
    assert age_class(made, NOW) == name


@given(st.integers(0, 10**6))
def test_habits_are_read_back_the_most_frequent_first(seed: int) -> None:
    generator = random.Random(seed)
    person = make_person(1, MAP, generator)
    regular = [generator.choice(MAP.find("5A景区", city=person.destination))]
    text = long_term_behavior(person, regular, MAP, generator)
    habits = long_term(text)
    assert len(habits) == len(text.split(" , ")) <= 10
    assert [h.count for h in habits] == sorted((h.count for h in habits), reverse=True)
    assert all(h.count >= 1 for h in habits)
    assert regular[0].id in {h.place for h in habits}
    # One place is one habit, which the column may repeat; home and work may be met again.
    times = Counter(habit.place for habit in set(habits))
    own = {place.id for place in (person.home, person.work) if place}
    assert {place for place, count in times.items() if count > 1} <= own
