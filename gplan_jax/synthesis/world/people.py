"""The people of the simulated world: homes, work, where they travel, and the habits they have.

Habits are written in the text format of the public column ``long_term_behavior``, with its quirks:
a third of the lists repeats its entries, and habitual places are often not among them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import NormalDist

from gplan_jax.synthesis.amap.situation import REFUEL_ORDERS
from gplan_jax.synthesis.world.calibration import draw, has, quantile_at, shares, tables
from gplan_jax.synthesis.world.geography import CITIES, Geography, Poi, kind_of

# Columns of the profile whose codes go together in the public rows.
CODES_TOGETHER = (("1",), ("2", "3", "4", "11"), ("10", "12"))
SAME_PLACE_SHARE = 0.04  # Of people whose home and work are one place.
FEW_CODES = 4
LOCAL_HABITS = 0.8  # Of habits, those in the home city.
CAR_SHARE = 0.35  # Of people who own a car, beside those whose orders need one.


@dataclass(frozen=True, slots=True)
class Person:
    """One user on a journey.

    Attributes:
        home, work: None where the columns don't tell; people still have both in ``habits``.
        city: the home city, "" where unknown.
        drives: whether they own a car; only drivers buy fuel.
        destination: the city that they are travelling in.
        attributes: the coded columns of the profile.
        first_order: the type of the order that they are met with first.
        style: how they go about things; keys tables of histories.
    """

    id: str
    home: Poi | None
    work: Poi | None
    city: str
    drives: bool
    destination: str
    first_order: str
    attributes: dict[str, str]
    style: str


def make_person(number: int, geography: Geography, generator: random.Random) -> Person:
    """Draws a user who lives in one city, works there or nearby, and travels to another."""
    city, destination = generator.sample(CITIES, 2)
    home, work = _habitual_places(city, geography, generator)
    known = draw(generator, "known_profile")
    order = draw(generator, "order_types")
    return Person(
        id=str(number),
        home=home if known[5] == "1" else None,
        work=work if known[7] == "1" else None,
        city=city if known[4] == "1" else "",
        drives=order in REFUEL_ORDERS or generator.random() < CAR_SHARE,
        destination=destination,
        first_order=order,
        attributes=_attributes(known, generator),
        style=draw(generator, "styles", order),
    )


def _habitual_places(city: str, geography: Geography, generator: random.Random) -> tuple[Poi, Poi]:
    home_city = city if draw(generator, "home_in_city") == "True" else generator.choice(CITIES)
    home = generator.choice(geography.find(draw(generator, "home_categories"), city=home_city))
    if generator.random() < SAME_PLACE_SHARE:
        return home, home
    near = draw(generator, "work_near")
    work_city = generator.choice(CITIES) if near == "elsewhere" else city
    offices = geography.find(draw(generator, "work_categories"), city=work_city)
    neighbours = [place for place in offices if place.area == home.area]
    return home, generator.choice(neighbours if near == "district" and neighbours else offices)


def _attributes(known: str, generator: random.Random) -> dict[str, str]:
    """profile_feat_1..4 and 10..14: codes whose meaning the public set doesn't tell."""
    values: dict[str, str] = {}
    for group in CODES_TOGETHER:
        drawn = draw(generator, f"profile_feat_{'_'.join(group)}").split("/")
        values |= zip(group, drawn, strict=True)
    visits = _visits(generator) if known[13] == "1" else ""
    values |= {"13": _tastes(len(visits.split("|")) if visits else 0, generator), "14": visits}
    return {
        f"profile_feat_{i}": text if known[int(i) - 1] == "1" else "" for i, text in values.items()
    }


def _tastes(visits: int, generator: random.Random) -> str:
    codes = _codes(
        "profile_feat_13", draw(generator, "profile_feat_13_codes", str(visits)), generator
    )
    levels = shares("profile_feat_13_levels", str(min(len(codes), 4)))
    return "|".join(f"{code}:{levels.draw(generator)}" for code in codes)


def _visits(generator: random.Random) -> str:
    codes = _codes("profile_feat_14", draw(generator, "profile_feat_14_codes"), generator)
    count = int(draw(generator, "profile_feat_14_most"))
    entries = []
    for code in codes:
        entries.append(f"{code}:{count}")
        count = max(2, count - int(generator.expovariate(0.8)))
    return "|".join(entries)


def _codes(name: str, count: str, generator: random.Random) -> list[str]:
    """Different codes of those that users have."""
    key = "few" if int(count) < FEW_CODES else "many"
    wanted = min(int(count), len(shares(f"{name}_code", key).values))
    codes: dict[str, None] = {}
    while len(codes) < wanted:
        codes[draw(generator, f"{name}_code", key)] = None
    return list(codes)


def long_term_text(
    person: Person, regular: list[Poi], geography: Geography, generator: random.Random
) -> str:
    """The habits of a person as the column holds them, ``regular`` places among them."""
    wanted = int(draw(generator, "habits"))
    copies = int(draw(generator, "habit_copies"))
    manner = draw(generator, "habit_manner", "known" if person.home else "unknown")
    distinct = -(-wanted // copies)
    counts = _counts(distinct, generator)
    ranks = generator.sample(range(distinct), min(len(regular), distinct))
    at = dict(zip(ranks, regular, strict=False))
    own = {role: place for role, place in (("home", person.home), ("work", person.work)) if place}
    known: set[Poi] = set()
    usual: tuple[Poi, str] | None = None
    entries: list[str] = []
    for rank, count in enumerate(counts):
        key: str
        role = draw(generator, "habit_role", str(min(rank, 4)))
        if rank in at:
            place, key = at[rank], kind_of(at[rank])
        elif role in own:
            place, key = own.pop(role), role
        else:
            place, key = usual = _usual_place(person, rank, usual, known, geography, generator)
        known.add(place)
        key = f"{key} {manner}"
        acts = (
            "&".join(draw(generator, "habit_actions", key).split())
            if has("habit_actions", key)
            else "act_8"
        )
        entries += [f"{place.category}的{place.id}{acts}了{count}次"] * copies
    return " , ".join(entries[:wanted])


def _usual_place(
    person: Person,
    rank: int,
    before: tuple[Poi, str] | None,
    known: set[Poi],
    geography: Geography,
    generator: random.Random,
) -> tuple[Poi, str]:
    """A place that is not yet among the habits, often of the kind of the one before; its kind."""
    while True:
        kind = draw(generator, "habit_kinds", str(min(rank, 4)))
        if before and generator.random() < tables()["habit_kind_again"]:
            kind = before[1]
        category = draw(generator, "habit_categories", kind)
        city = person.city if person.city and generator.random() < LOCAL_HABITS else None
        place = generator.choice(geography.find(category, city=city or generator.choice(CITIES)))
        if place not in known:
            return place, kind


def _counts(distinct: int, generator: random.Random) -> list[int]:
    """Counts of each rank, none above the one before; neighbours' levels go together."""
    together = tables()["habit_correlation"] ** 0.5  # Sorting takes the rest.
    level, found = generator.gauss(0, 1), list[int]()
    for rank in range(distinct):
        share = NormalDist().cdf(level)
        count = max(round(quantile_at(share, "habit_counts", str(min(rank, 9)))), 1)
        found.append(count)
        level = together * level + (1 - together**2) ** 0.5 * generator.gauss(0, 1)
    return sorted(found, reverse=True)
