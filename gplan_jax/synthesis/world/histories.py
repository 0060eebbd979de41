"""What users did lately and what they often do, in the text formats of the public history columns.

The quirks of ``long_term_behavior`` are kept: a third of the lists repeats its entries, and home
and work are often not among them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import NormalDist

from gplan_jax.gsisr.facts import Habit, long_term_text, short_term_entry
from gplan_jax.synthesis.world.calibration import draw, draw_quantile, has, quantile_at, tables
from gplan_jax.synthesis.world.geography import CITIES, Geography, Place
from gplan_jax.synthesis.world.orders import REFUEL_ORDERS
from gplan_jax.synthesis.world.people import Person

UNMARKED_ACTS = ("act_3",)  # Written without the 了 that follows every other act.
AGES = (5, 15, 30, 60, 120, 240, 480, 720)
MOST_EVENTS = 10
LOCAL, UNKNOWN = "本地", "未知地点"
LOCAL_HABITS = 0.8  # Of habits, those in the home city.


@dataclass(frozen=True, slots=True)
class BehaviorEvent:
    """What the user did in one hour about one place."""

    when: datetime
    acts: str
    locality: str
    place: Place

    def __str__(self) -> str:
        place = self.place
        return short_term_entry(self.when, self.acts, self.locality, place.category, place.id)


@dataclass(frozen=True, slots=True)
class Scene:
    """What the history has to fit: the order, when it was made, the moment and the places."""

    person: Person
    order_type: str
    order_place: Place
    place: Place
    made: datetime | None
    now: datetime


def recent_events(
    scene: Scene, lived: Sequence[BehaviorEvent], geography: Geography, generator: random.Random
) -> list[BehaviorEvent]:
    """Up to ten events, oldest first; ``lived`` are those of the user's earlier rows."""
    count = int(draw(generator, "behaviors"))
    age = age_class(scene.made, scene.now)
    side = "here" if scene.place == scene.order_place else "away"
    ago = _draw_known(generator, "ordering_ago", f"{age} {side}", f"{age} away")
    ordering = int(ago) if ago != "None" and int(ago) < count else None
    hours = _hours(scene, count, ordering, age, generator)
    roles = _roles(scene, count, ordering, generator)
    events: list[BehaviorEvent] = []
    older: Place | None = None
    locality = "none"
    style = scene.person.style
    for when, role in zip(reversed(hours), reversed(roles), strict=True):
        manner = role if role in ("ordering", "order") else "other"
        locality = _draw_known(
            generator, "localities", f"{style} {manner} {locality}", f"{style} {manner} none"
        )
        older = _place(role, older, locality, scene, geography, generator)
        refuel = " refuel" if role == "ordering" and scene.order_type in REFUEL_ORDERS else ""
        group = "unknown" if locality == UNKNOWN else "known"
        acts = _draw_known(
            generator, "actions", f"{style} {manner}{refuel} {group}", f"{style} other known"
        )
        text = "&".join(act if act in UNMARKED_ACTS else f"{act}了" for act in acts.split())
        events.append(BehaviorEvent(when, text, locality, older))
    if lived:
        events = sorted([*lived, *events], key=lambda event: event.when)
    return events[-MOST_EVENTS:]


def age_class(made: datetime | None, now: datetime) -> str:
    """How long ago an order was made, as the tables tell it."""
    if made is None:
        return "unknown"
    minutes = (now - made).total_seconds() / 60
    return str(next((bound for bound in AGES if minutes < bound), 1440))


def _hours(
    scene: Scene, count: int, ordering: int | None, age: str, generator: random.Random
) -> list[datetime]:
    """Full hours, the latest first; none after the order where the order comes first."""
    moment = scene.now.replace(minute=0, second=0)
    made = scene.made.replace(minute=0, second=0) if scene.made else None
    gap = draw(generator, "latest_gap", age)
    found: list[datetime] = []
    for i in range(count):
        moment -= timedelta(hours=round(draw_quantile(generator, "gap_hours", gap)))
        if made and ordering is not None and i <= ordering:
            moment = made if i == ordering else max(moment, made)
        found.append(moment)
        gap = draw(generator, "next_gap", f"{scene.person.style} {gap}")
    return found


def _roles(scene: Scene, count: int, ordering: int | None, generator: random.Random) -> list[str]:
    """What each event is about, the latest first."""
    roles = ["other"] * count

    def order_seen(table: str, key: str, places: range) -> None:
        times = int(draw(generator, table, key))
        for i in generator.sample(places, min(times, len(places))):
            roles[i] = "order"

    if ordering is None:
        order_seen("order_seen_without", scene.order_type, range(count))
    else:
        when = "none" if ordering == 0 else "few" if ordering < 4 else "many"
        order_seen("order_seen_after", when, range(ordering))
        order_seen("order_seen_before", scene.order_type, range(ordering + 1, count))
        roles[ordering] = "ordering"
    if scene.place != scene.order_place:
        seen = draw(generator, "place_seen_ago")
        free = [i for i, role in enumerate(roles) if role == "other"]
        if seen != "None" and free:
            roles[min(free, key=lambda i: abs(i - int(seen)))] = "place"
    share = tables()["home_or_work"] / 2
    for i, role in enumerate(roles):
        if role == "other" and generator.random() < 2 * share:
            roles[i] = generator.choice(("home", "work"))
    return roles


def _place(
    role: str,
    older: Place | None,
    locality: str,
    scene: Scene,
    geography: Geography,
    generator: random.Random,
) -> Place:
    """What an event is about, given what the event before it was about."""
    person = scene.person
    if role in ("order", "ordering"):
        return scene.order_place
    if role == "place":
        return scene.place
    if role == "home" and person.home:
        return person.home
    if role == "work" and person.work:
        return person.work
    city = person.city if person.city and locality == LOCAL else person.destination
    again = draw(generator, "again", person.style) if older else "none"
    if older and again == "place":
        return older
    if older and again == "category":
        category = older.category
    elif older and again == "kind":
        category = draw(generator, "behavior_categories", older.kind)
    else:
        key = f"{scene.order_type} {locality}"
        kind = _draw_known(generator, "behavior_kinds", key, f"{scene.order_type} {LOCAL}")
        category = draw(generator, "behavior_categories", kind)
    return generator.choice(geography.find(category, city=city))


def _draw_known(generator: random.Random, name: str, key: str, otherwise: str) -> str:
    for known in (key, otherwise):
        if has(name, known):
            return draw(generator, name, known)
    return draw(generator, name, next(iter(tables()[name])))


def long_term_behavior(
    person: Person, regular: list[Place], geography: Geography, generator: random.Random
) -> str:
    """The habits of a person as the column holds them, ``regular`` places among them."""
    wanted = int(draw(generator, "habits"))
    copies = int(draw(generator, "habit_copies"))
    manner = draw(generator, "habit_manner", "known" if person.home else "unknown")
    distinct = -(-wanted // copies)
    # Counts of each rank, none above the one before; neighbours' levels go together.
    together = tables()["habit_correlation"] ** 0.5  # Sorting takes the rest.
    level, counts = generator.gauss(0, 1), list[int]()
    for rank in range(distinct):
        share = NormalDist().cdf(level)
        counts.append(max(round(quantile_at(share, "habit_counts", str(min(rank, 9)))), 1))
        level = together * level + (1 - together**2) ** 0.5 * generator.gauss(0, 1)
    counts.sort(reverse=True)
    ranks = generator.sample(range(distinct), min(len(regular), distinct))
    at = dict(zip(ranks, regular, strict=False))
    own = {role: place for role, place in (("home", person.home), ("work", person.work)) if place}
    known: set[Place] = set()
    usual = ""  # The kind of the latest place that is neither regular nor home or work.
    habits: list[Habit] = []
    for rank, count in enumerate(counts):
        key: str
        role = draw(generator, "habit_role", str(min(rank, 4)))
        if rank in at:
            place, key = at[rank], at[rank].kind
        elif role in own:
            place, key = own.pop(role), role
        else:
            # A place that is not yet among the habits, often of the kind of the one before.
            while True:
                key = draw(generator, "habit_kinds", str(min(rank, 4)))
                if usual and generator.random() < tables()["habit_kind_again"]:
                    key = usual
                category = draw(generator, "habit_categories", key)
                local = person.city and generator.random() < LOCAL_HABITS
                city = person.city if local else generator.choice(CITIES)
                place = generator.choice(geography.find(category, city=city))
                if place not in known:
                    break
            usual = key
        known.add(place)
        key = f"{key} {manner}"
        acts = draw(generator, "habit_actions", key) if has("habit_actions", key) else "act_8"
        habits += [Habit(place.category, place.id, tuple(acts.split()), count)] * copies
    return long_term_text(habits[:wanted])
