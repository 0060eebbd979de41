"""The people of the simulated world: homes, work, cars, profiles, and where they travel."""

from __future__ import annotations

import random
from dataclasses import dataclass

from gplan_jax.synthesis.world.calibration import draw, shares
from gplan_jax.synthesis.world.geography import CITIES, Geography, Place
from gplan_jax.synthesis.world.orders import REFUEL_ORDERS

# Columns of the profile whose codes go together in the public rows.
CODES_TOGETHER = (("1",), ("2", "3", "4", "11"), ("10", "12"))
SAME_PLACE_SHARE = 0.04  # Of people whose home and work are one place.
FEW_CODES = 4
CAR_SHARE = 0.35  # Of people who own a car, beside those whose orders need one.


@dataclass(frozen=True, slots=True)
class Person:
    """One user on a journey."""

    id: str
    home: Place | None  # None where the columns don't tell; so is work.
    work: Place | None
    city: str  # The home city, "" where unknown.
    drives: bool  # Owns a car; only drivers buy fuel.
    destination: str  # The city that they are travelling in.
    first_order: str  # The type of the order in their first row.
    attributes: dict[str, str]  # The coded columns of the profile.
    style: str  # Keys the tables of histories.


def make_person(number: int, geography: Geography, generator: random.Random) -> Person:
    """Draws a user who lives in one city, works there or nearby, and travels to another."""
    city, destination = generator.sample(CITIES, 2)
    home_city = city if draw(generator, "home_in_city") == "True" else generator.choice(CITIES)
    home = generator.choice(geography.find(draw(generator, "home_categories"), city=home_city))
    work = home
    if generator.random() >= SAME_PLACE_SHARE:
        near = draw(generator, "work_near")
        work_city = generator.choice(CITIES) if near == "elsewhere" else city
        offices = geography.find(draw(generator, "work_categories"), city=work_city)
        neighbours = [place for place in offices if place.area == home.area]
        work = generator.choice(neighbours if near == "district" and neighbours else offices)
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


def _attributes(known: str, generator: random.Random) -> dict[str, str]:
    """profile_feat_1..4 and 10..14: codes whose meaning the public set doesn't tell."""
    values: dict[str, str] = {}
    for group in CODES_TOGETHER:
        drawn = draw(generator, f"profile_feat_{'_'.join(group)}").split("/")
        values |= zip(group, drawn, strict=True)
    # Codes with counts that fall, CODE:COUNT.
    visits: list[str] = []
    if known[13] == "1":
        codes = _codes("profile_feat_14", draw(generator, "profile_feat_14_codes"), generator)
        count = int(draw(generator, "profile_feat_14_most"))
        for code in codes:
            visits.append(f"{code}:{count}")
            count = max(2, count - int(generator.expovariate(0.8)))
    # Codes with levels, as many as go with so many visits.
    wanted = draw(generator, "profile_feat_13_codes", str(len(visits)))
    codes = _codes("profile_feat_13", wanted, generator)
    levels = shares("profile_feat_13_levels", str(min(len(codes), 4)))
    values["13"] = "|".join(f"{code}:{levels.draw(generator)}" for code in codes)
    values["14"] = "|".join(visits)
    return {
        f"profile_feat_{i}": text if known[int(i) - 1] == "1" else "" for i, text in values.items()
    }


def _codes(name: str, count: str, generator: random.Random) -> list[str]:
    """Different codes of those that users have."""
    key = "few" if int(count) < FEW_CODES else "many"
    wanted = min(int(count), len(shares(f"{name}_code", key).values))
    codes: dict[str, None] = {}
    while len(codes) < wanted:
        codes[draw(generator, f"{name}_code", key)] = None
    return list(codes)
