"""The simulated GSISR world: rows in the public schema whose plans follow from their context.

A row is a traveller with habits, an order and a moment of the journey, and the plan that the rules
derive from these columns. The shares are fitted to the public development rows (calibration.yaml);
docs/world.md says what the world can show and what not.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample
from gplan_jax.gsisr.facts import TIME_FORMAT, DayPart, day_part_of
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from gplan_jax.synthesis.world.calibration import draw, tables
from gplan_jax.synthesis.world.geography import CITIES, Geography, Place, build_geography, is_open
from gplan_jax.synthesis.world.histories import (
    BehaviorEvent,
    Scene,
    long_term_behavior,
    recent_events,
)
from gplan_jax.synthesis.world.orders import REFUEL_ORDERS, draw_times
from gplan_jax.synthesis.world.people import CAR_SHARE, Person, make_person

FIRST_ID = 1_000_001
FIRST_DAY = datetime(2026, 3, 2)
DAYS = 90
HOLIDAYS = {(4, 4), (4, 5), (4, 6), (5, 1), (5, 2), (5, 3), (5, 4), (5, 5)}
RETURNING_SHARE = 0.15
AT_HOME_SHARE = 0.013  # Of rows in the home city.
AT_HABITUAL_SHARE = 0.3  # Of those, at home or at work.
WET_KINDS = ("sights",)  # Where rain keeps people from.


@dataclass(slots=True)
class UserState:
    """A user, the moment of their latest row, and their behaviours up to it."""

    person: Person
    now: datetime | None = None
    recent: list[BehaviorEvent] = field(default_factory=list)
    long_term: str | None = None


def simulate_rows(count: int, seed: int, *, first_id: int = FIRST_ID) -> Iterator[Sample]:
    """Yields ``count`` rows with reasoning and plan; the same arguments give the same rows.

    A longer run starts with the rows of a shorter one. Ids count up from ``first_id``; a user may
    have several rows in a row. GplanError where ``count`` is negative.
    """
    rules = ServiceRules(IntentLibrary.load())
    contexts = simulate_contexts(seed, first_id=first_id, count=count)
    return (context.with_label(rules.label(context)) for context in contexts)


def simulate_contexts(
    seed: int, *, first_id: int = FIRST_ID, count: int | None = None
) -> Iterator[Sample]:
    """Yields the same rows without labels, endlessly where ``count`` is None."""
    if count is not None and count < 0:
        raise GplanError(f"count is {count}; a world has no fewer than 0 rows.")
    return itertools.islice(_contexts(seed, first_id), count)


def _contexts(seed: int, first_id: int) -> Iterator[Sample]:
    geography = build_geography(seed)
    generator = random.Random(f"rows {seed} {first_id}")
    for number in itertools.count(first_id):
        user = UserState(make_person(number, geography, generator))
        yield draw_context(user, geography, generator)
        while generator.random() < RETURNING_SHARE:
            yield draw_context(user, geography, generator)


def draw_context(user: UserState, geography: Geography, generator: random.Random) -> Sample:
    """A row without a label: the next moment of ``user``, whose state is updated to it."""
    person = user.person
    order_type = person.first_order if user.now is None else _next_order(person, generator)
    now = _draw_moment(user.now, order_type, generator)
    times = draw_times(order_type, now, generator)
    place, order_place = _draw_places(person, order_type, now, geography, generator)
    scene = Scene(person, order_type, order_place, place, times.made, now)
    events = recent_events(scene, user.recent, geography, generator)
    if user.long_term is None:
        # Those of the two places where the user has often been.
        regular = [place] if generator.random() < tables()["place_is_habit"] else []
        if order_place != place and generator.random() < tables()["order_is_habit"]:
            regular.append(order_place)
        user.long_term = long_term_behavior(person, regular, geography, generator)
    user.now = now
    user.recent = events[-2:]
    home, work = person.home, person.work
    made, start, end = (
        time.strftime(TIME_FORMAT) if time else "" for time in (times.made, times.start, times.end)
    )
    return Sample.from_context({
        "id": person.id,
        **person.attributes,
        "profile_feat_5": person.city,
        "profile_feat_6": home.id if home else "",
        "profile_feat_7": home.area if home else "",
        "profile_feat_8": work.id if work else "",
        "profile_feat_9": work.area if work else "",
        "short_term_behavior_seq": ", ".join(map(str, events)),
        "long_term_behavior": user.long_term,
        "currenttime": now.strftime(TIME_FORMAT),
        "holidayflag": str(int((now.month, now.day) in HOLIDAYS)),
        "weekendflag": str(int(now.weekday() >= 5)),
        "current_poi_name": place.id,
        "current_tag": place.category,
        "current_city": place.city,
        "current_district": place.district,
        "trigger_1": order_type,
        "trigger_2": order_place.city,
        "trigger_3": order_place.district,
        "trigger_4": order_place.id,
        "trigger_5": made,
        "trigger_6": start,
        "trigger_7": end,
    })  # fmt: skip


def _next_order(person: Person, generator: random.Random) -> str:
    """A user's next order: fuel only with a car, over all users as often as in first orders."""
    weights = tables()["order_types"]
    refuel = sum(weights[kind] for kind in REFUEL_ORDERS) / sum(weights.values())
    of_drivers = refuel / (refuel + (1 - refuel) * CAR_SHARE)
    wanted = person.drives and generator.random() < of_drivers
    while True:
        order = draw(generator, "order_types")
        if (order in REFUEL_ORDERS) is wanted:
            return order


def _draw_moment(latest: datetime | None, order_type: str, generator: random.Random) -> datetime:
    """A time of the season, or one on the same or the next day after ``latest``."""
    hour = int(draw(generator, "hours", order_type))
    clock = timedelta(hours=hour, seconds=generator.randrange(3600))
    if latest is None:
        return FIRST_DAY + timedelta(days=generator.randrange(DAYS)) + clock
    moment = latest.replace(hour=0, minute=0, second=0) + clock
    return moment if moment > latest + timedelta(hours=1) else moment + timedelta(days=1)


def _draw_places(
    person: Person, order_type: str, now: datetime, geography: Geography, generator: random.Random
) -> tuple[Place, Place]:
    """Where the user is and where the order's place is, as far apart as the tables say."""
    distance = draw(generator, "distances", order_type)
    home_city = person.city and generator.random() < AT_HOME_SHARE
    city = person.city if home_city else person.destination
    order_category = draw(generator, "order_categories", order_type)
    if distance == "here":
        place = generator.choice(geography.find(order_category, city=city))
        return place, place
    near = distance in ("district", "city")
    own = [p for p in (person.home, person.work) if p and p.city == city]
    if own and generator.random() < AT_HABITUAL_SHARE:
        place = generator.choice(own)
    else:
        kind = _draw_kind(
            f"{order_type} {'near' if near else 'far'}", city, now, geography, generator
        )
        category = draw(generator, "place_categories", kind)
        place = generator.choice(geography.find(category, city=city))
    if distance == "elsewhere":
        at_home = draw(generator, "order_in_home_city", order_type) == "True"
        others = [name for name in CITIES if name not in (city, person.city)]
        order_city = (
            person.city if at_home and person.city not in ("", city) else generator.choice(others)
        )
        return place, generator.choice(geography.find(order_category, city=order_city))
    same = distance == "district"
    found = [
        p
        for p in geography.find(order_category, city=city)
        if (p.district == place.district) is same and p != place
    ]
    return place, generator.choice(found)


def _draw_kind(
    key: str, city: str, now: datetime, geography: Geography, generator: random.Random
) -> str:
    """The kind of place that the user is at: open, likelier at its hours, drier in the rain."""
    part: DayPart = day_part_of(now.hour)
    wet = geography.rains(city, now.date())
    lifts = tables()["place_kind_lift"]
    while True:
        kind = draw(generator, "place_kinds", key)
        likely = lifts[kind][part] * (0.5 if wet and kind in WET_KINDS else 1.0)
        if is_open(kind, now.hour) and generator.random() < likely / 2:
            return kind
