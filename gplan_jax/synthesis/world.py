"""A small simulated GSISR world: rows in the public schema whose plans follow from their context.

A row is drawn in three moves: a user with habits, an order and a position; the columns that they
leave behind; and the rule teacher's answer: the plan that the rules derive from the facts of these
columns, explained by the same facts, so that a model that reads the context right can know it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample
from gplan_jax.synthesis.geography import Geography, Place, build_geography
from gplan_jax.synthesis.orders import Order, draw_order, draw_position
from gplan_jax.synthesis.people import Person, make_person, recent_events, short_term_text
from gplan_jax.synthesis.rules import Rules

FIRST_ID = 1_000_001
FIRST_DAY = datetime(2026, 3, 2)
DAYS = 90
HOLIDAYS = {(4, 4), (4, 5), (4, 6), (5, 1), (5, 2), (5, 3), (5, 4), (5, 5)}
# How often the app is opened in each hour of the day.
HOUR_WEIGHTS = (2, 2, 1, 1, 1, 3, 4, 6, 7, 7, 6, 7, 7, 6, 6, 6, 7, 7, 7, 6, 6, 6, 4, 3)
RETURNING_SHARE = 0.15
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"


def simulate_rows(count: int, seed: int, *, first_id: int = FIRST_ID) -> Iterator[Sample]:
    """Yields ``count`` rows with reasoning and plan; the same arguments give the same rows.

    Args:
        count: rows to yield; a longer run starts with the rows of a shorter one.
        seed: of the map and of everything that happens on it.
        first_id: ids count up from here, and runs with ids apart share no user; a user may have
            several rows in a row.

    Raises:
        GplanError: ``count`` is negative.
    """
    if count < 0:
        raise GplanError(f"count is {count}; a world has no fewer than 0 rows.")
    return _rows(count, seed, first_id)


def _rows(count: int, seed: int, first_id: int) -> Iterator[Sample]:
    rules = Rules(IntentLibrary.load())
    geography = build_geography(seed)
    generator = random.Random(f"rows {seed} {first_id}")
    person = make_person(first_id, geography, generator)
    for row in range(count):
        if row and generator.random() >= RETURNING_SHARE:
            person = make_person(int(person.id) + 1, geography, generator)
        context = draw_context(person, geography, generator)
        yield context.with_label(rules.label(context))


def draw_context(person: Person, geography: Geography, generator: random.Random) -> Sample:
    """A row without a label: one moment in the life of ``person``."""
    now = _draw_time(generator)
    order = draw_order(person, now, geography, generator)
    place = draw_position(person, order, geography, generator)
    ordered_at = order.ordered_at or min(order.start, now) - timedelta(hours=1)
    events = recent_events(person, order.place, place, ordered_at, now, geography, generator)
    return Sample(
        **_profile_columns(person),
        short_term_behavior_seq=short_term_text(person, events, place.city),
        long_term_behavior=person.long_term,
        **_moment_columns(now, place),
        **_order_columns(order),
        raw_labels="",
    )


def _draw_time(generator: random.Random) -> datetime:
    hour = generator.choices(range(24), weights=HOUR_WEIGHTS)[0]
    seconds = generator.randrange(3600)
    return FIRST_DAY + timedelta(days=generator.randrange(DAYS), hours=hour, seconds=seconds)


def _profile_columns(person: Person) -> dict[str, str]:
    names = [f"profile_feat_{i}" for i in (1, 2, 3, 4, 10, 11, 12, 13, 14)]
    return {
        "id": person.id,
        **dict(zip(names, person.attributes, strict=True)),
        "profile_feat_5": person.home.city,
        "profile_feat_6": person.home.id,
        "profile_feat_7": person.home.area,
        "profile_feat_8": person.work.id if person.work else "",
        "profile_feat_9": person.work.area if person.work else "",
    }


def _moment_columns(now: datetime, place: Place) -> dict[str, str]:
    return {
        "currenttime": now.strftime(TIME_FORMAT),
        "holidayflag": str(int((now.month, now.day) in HOLIDAYS)),
        "weekendflag": str(int(now.weekday() >= 5)),
        "current_poi_name": place.id,
        "current_tag": place.category,
        "current_city": place.city,
        "current_district": place.district,
    }


def _order_columns(order: Order) -> dict[str, str]:
    times = (order.ordered_at, order.start, order.end)
    return {
        "trigger_1": order.type,
        "trigger_2": order.place.city,
        "trigger_3": order.place.district,
        "trigger_4": order.place.id,
        **{
            f"trigger_{i}": time.strftime(TIME_FORMAT) if time else ""
            for i, time in enumerate(times, start=5)
        },
    }
