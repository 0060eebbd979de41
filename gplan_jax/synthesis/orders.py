"""The trigger orders of the simulated world: what was ordered, where, when, and where the user is.

Each draw first decides how the order's time lies to now and how its place lies to the user, then
makes times and places that fit, so that every combination of facts occurs often enough to learn.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from gplan_jax.synthesis.geography import CITIES, Geography, Place
from gplan_jax.synthesis.people import Person
from gplan_jax.synthesis.situation import OrderPlace, Phase

T = TypeVar("T")

# Relative weights of what is drawn; orders of refuelling are timed to the second, those of hotels
# and tickets to the day, as in the public rows.
TYPES = {"酒店": 38, "加油": 20, "门票": 20, "充电桩": 12, "其他": 10}
PLACE_KINDS = {
    "酒店": ("酒店",),
    "加油": ("加油",),
    "门票": ("景点",),
    "充电桩": ("充电",),
    "其他": ("休闲", "餐饮"),
}
IN_HOME_CITY = {"酒店": 0.15, "加油": 0.6, "门票": 0.4, "充电桩": 0.6, "其他": 0.5}
PHASES: Mapping[str, Mapping[Phase, int]] = {
    "酒店": {
        Phase.LATER: 15,
        Phase.THIS_DAY: 45,
        Phase.ACTIVE: 20,
        Phase.LAST_DAY: 12,
        Phase.OVER: 8,
    },
    "门票": {
        Phase.LATER: 20,
        Phase.THIS_DAY: 55,
        Phase.ACTIVE: 10,
        Phase.LAST_DAY: 5,
        Phase.OVER: 10,
    },
    "加油": {Phase.SOON: 25, Phase.LATER_TODAY: 15, Phase.JUST_STARTED: 40, Phase.LONG_STARTED: 20},
    "充电桩": {
        Phase.SOON: 25,
        Phase.LATER_TODAY: 15,
        Phase.JUST_STARTED: 40,
        Phase.LONG_STARTED: 20,
    },
    "其他": {
        Phase.SOON: 25,
        Phase.LATER_TODAY: 20,
        Phase.ACTIVE: 20,
        Phase.LATER: 15,
        Phase.OVER: 20,
    },
}
POSITIONS = {
    OrderPlace.AT: 35,
    OrderPlace.SAME_DISTRICT: 15,
    OrderPlace.SAME_CITY: 28,
    OrderPlace.OTHER_CITY: 22,
}
LOCAL_KINDS = {"住宅": 38, "办公": 24, "餐饮": 10, "购物": 10, "枢纽": 8, "休闲": 6, "景点": 4}
TRAVEL_KINDS = {"枢纽": 28, "酒店": 20, "餐饮": 12, "购物": 12, "景点": 10, "途中": 12, "住宅": 6}
DAY_ORDERS = ("酒店", "门票")
TICKET_DAYS = 30


@dataclass(frozen=True, slots=True)
class Order:
    """A trigger event; ``ordered_at`` and ``end`` may be unknown, as in the public rows."""

    type: str
    place: Place
    ordered_at: datetime | None
    start: datetime
    end: datetime | None


def draw_order(
    person: Person, now: datetime, geography: Geography, generator: random.Random
) -> Order:
    """An order whose time lies to ``now`` in one of the phases that its type knows."""
    order_type = weighted(TYPES, generator)
    local = generator.random() < IN_HOME_CITY[order_type]
    others = [city for city in CITIES if city != person.home.city]
    city = person.home.city if local else generator.choice(others)
    kind = generator.choice(PLACE_KINDS[order_type])
    place = generator.choice(geography.find(kind, city=city))
    phase = weighted(PHASES[order_type], generator)
    draw_times = _days if order_type in DAY_ORDERS else _times
    start, end = draw_times(order_type, phase, now, generator)
    ordered_at = min(start, now) - timedelta(seconds=generator.randint(30, 2 * 86_400))
    known = generator.random() < 0.85
    return Order(order_type, place, ordered_at if known else None, start, end)


def _days(
    order_type: str, phase: Phase, now: datetime, generator: random.Random
) -> tuple[datetime, datetime | None]:
    """Start and end on midnights; ``phase`` holds at any hour of today."""
    today = now.replace(hour=0, minute=0, second=0)
    stay = generator.randint(1, 3) if order_type == "酒店" else TICKET_DAYS
    days_since_start = {
        Phase.LATER: -generator.randint(1, 4),
        Phase.THIS_DAY: 0,
        Phase.ACTIVE: 1,
        Phase.LAST_DAY: stay,
        Phase.OVER: stay + 1,
    }[phase]
    if phase is Phase.ACTIVE:
        stay = max(stay, 2)
    start = today - timedelta(days=days_since_start)
    return start, start + timedelta(days=stay)


def _times(
    order_type: str, phase: Phase, now: datetime, generator: random.Random
) -> tuple[datetime, datetime | None]:
    """Start and end to the second; refuelling orders carry no end."""
    hours = {
        Phase.SOON: generator.uniform(0.2, 2.9),
        Phase.LATER_TODAY: generator.uniform(3.1, 9.0),
        Phase.LATER: generator.uniform(26.0, 80.0),
        Phase.JUST_STARTED: -generator.uniform(0.02, 1.8),
        Phase.ACTIVE: -generator.uniform(0.2, 1.8),
        Phase.LONG_STARTED: -generator.uniform(2.2, 12.0),
        Phase.OVER: -generator.uniform(6.0, 20.0),
    }[phase]
    start = now + timedelta(seconds=round(hours * 3600))
    lasts = timedelta(hours=generator.choice((2, 3, 4)))
    return start, start + lasts if order_type not in ("加油", "充电桩") else None


def draw_position(
    person: Person, order: Order, geography: Geography, generator: random.Random
) -> Place:
    """Where the user is now: at the order's place, near it, elsewhere in its city, or far away."""
    relation = weighted(POSITIONS, generator)
    if relation is OrderPlace.AT:
        return order.place
    if relation is OrderPlace.OTHER_CITY:
        at_home = order.place.city != person.home.city and generator.random() < 0.75
        others = [city for city in CITIES if city not in (order.place.city, person.home.city)]
        return _position_in(
            person, person.home.city if at_home else generator.choice(others), geography, generator
        )
    if relation is OrderPlace.SAME_CITY:
        return _position_in(person, order.place.city, geography, generator)
    kind = weighted(TRAVEL_KINDS, generator)
    there = geography.find(kind, city=order.place.city, district=order.place.district)
    return generator.choice([place for place in there if place != order.place])


def _position_in(
    person: Person, city: str, geography: Geography, generator: random.Random
) -> Place:
    if city != person.home.city:
        return generator.choice(geography.find(weighted(TRAVEL_KINDS, generator), city=city))
    kind = weighted(LOCAL_KINDS, generator)
    if kind == "住宅":
        return person.home
    if kind == "办公" and person.work is not None:
        return person.work
    return generator.choice(geography.find(kind, city=city))


def weighted(weights: Mapping[T, int], generator: random.Random) -> T:
    """Draws a key in proportion to its weight."""
    return generator.choices(list(weights), weights=list(weights.values()))[0]
