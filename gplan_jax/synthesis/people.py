"""The people of the simulated world: homes, habits and the behaviour sequences these leave behind.

The sequences are written in the text formats of the public columns ``short_term_behavior_seq``
and ``long_term_behavior``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from gplan_jax.synthesis.geography import CITIES, Geography, Place

WEEKDAYS = "一二三四五六日"
SHORT_TERM_ITEMS = 10
# The public codes of what people do about a place.
SEARCH, ROUTE = "act_1了&act_2了", "act_7了&act_4了"
ORDER, VISIT = "act_5了&act_2了", "act_8"
BROWSING_SHARE = 0.4
VISITED_KINDS = ("餐饮", "购物", "枢纽", "休闲", "景点", "加油")


@dataclass(frozen=True, slots=True)
class Person:
    """One user; ``work`` is None for those whose second habitual place is unknown."""

    id: str
    home: Place
    work: Place | None
    drives: bool
    attributes: tuple[str, ...]
    long_term: str


def make_person(number: int, geography: Geography, generator: random.Random) -> Person:
    """Draws a user who lives in one city, works there and has places they go back to."""
    home = generator.choice(geography.find("住宅", city=generator.choice(CITIES)))
    offices = geography.find("办公", city=home.city)
    work = generator.choice(offices) if generator.random() < 0.85 else None
    return Person(
        id=str(number),
        home=home,
        work=work,
        drives=generator.random() < 0.6,
        attributes=_draw_attributes(generator),
        long_term=_long_term(home, work, geography, generator),
    )


def _draw_attributes(generator: random.Random) -> tuple[str, ...]:
    """profile_feat_1..4 and 10..14: codes whose meaning the public set doesn't tell."""
    tastes = sorted(generator.sample(range(1, 90), generator.randint(0, 3)))
    visits = sorted(generator.sample(range(1, 160), generator.randint(0, 2)))
    return (
        generator.choice(("0", "1", "1", "")),
        str(generator.randint(1, 9)),
        generator.choice(("0", "1", "")),
        generator.choice(("0", "1", "")),
        generator.choice(("0", "1")),
        generator.choice(("1", "2", "3", "")),
        generator.choice(("2", "4", "4|2", "4|3", "")),
        "|".join(f"pf_{code}:{generator.choice('高中低')}" for code in tastes),
        "|".join(f"pf_{code}:{generator.randint(2, 7)}" for code in visits),
    )


def _long_term(
    home: Place, work: Place | None, geography: Geography, generator: random.Random
) -> str:
    counts = [(home, VISIT, generator.randint(40, 99))]
    if work is not None:
        counts.append((work, VISIT, generator.randint(20, 80)))
    for kind in generator.sample(VISITED_KINDS, 3):
        place = generator.choice(geography.find(kind, city=home.city))
        counts.append((place, generator.choice(("act_4", "act_7&act_4")), generator.randint(2, 19)))
    counts.sort(key=lambda item: -item[2])
    return " , ".join(
        f"{place.category}的{place.id}{acts}了{times}次" for place, acts, times in counts
    )


@dataclass(frozen=True, slots=True)
class Event:
    """Something the user did: when, with which actions, at or about which place."""

    when: datetime
    acts: str
    place: Place


def recent_events(
    person: Person,
    order_place: Place,
    current_place: Place,
    order_time: datetime,
    now: datetime,
    geography: Geography,
    generator: random.Random,
) -> list[Event]:
    """Up to ten past events that fit the situation, oldest first.

    Everyday places of the home city come first; then the search for the order's place and the
    order itself, sometimes a look at another place, and last the way to where the user is now.
    """
    everyday = [person.home, *([person.work] if person.work else [])]
    everyday += generator.sample(geography.find("餐饮", city=person.home.city), 2)
    events = [
        Event(order_time - timedelta(hours=generator.randint(20, 200)), ROUTE, place)
        for place in everyday
    ]
    events.append(
        Event(order_time - timedelta(minutes=generator.randint(5, 55)), SEARCH, order_place)
    )
    events.append(Event(order_time, ORDER, order_place))
    if generator.random() < BROWSING_SHARE:
        shops = geography.find("购物", city=current_place.city)
        lately = now - timedelta(minutes=generator.randint(41, 60))
        events.append(Event(lately, SEARCH, generator.choice(shops)))
    arrival = now - timedelta(minutes=generator.randint(2, 40))
    if arrival > order_time:
        events.append(Event(arrival, ROUTE, current_place))
    events.sort(key=lambda event: event.when)
    return events[-SHORT_TERM_ITEMS:]


def short_term_text(person: Person, events: list[Event], current_city: str) -> str:
    """Events as the public column writes them; where a place lies is seen from the home city."""
    return ", ".join(
        f"在{event.when.month}月{event.when.day}日周{WEEKDAYS[event.when.weekday()]}"
        f"{event.when.hour}点{event.acts}位于{_whereabouts(person, event.place, current_city)}"
        f"{event.place.category}的{event.place.id}"
        for event in events
    )


def _whereabouts(person: Person, place: Place, current_city: str) -> str:
    if place.city == person.home.city:
        return "本地"
    return "异地行中" if place.city == current_city else "异地行前"
