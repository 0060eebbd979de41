from __future__ import annotations

import random
import re

import pytest

from gplan_jax.synthesis.world.geography import CITIES, build_geography
from gplan_jax.synthesis.world.orders import REFUEL_ORDERS
from gplan_jax.synthesis.world.people import Person, make_person

MAP = build_geography(0)


@pytest.fixture(scope="module")
def people() -> list[Person]:
    generator = random.Random(5)
    return [make_person(number, MAP, generator) for number in range(2000)]


def test_people_travel_and_drivers_buy_fuel(people: list[Person]) -> None:
    for person in people:
        assert person.city in ("", *CITIES) and person.destination in CITIES
        assert person.destination != person.city
        assert person.drives or person.first_order not in REFUEL_ORDERS
    assert 0.45 < sum(person.drives for person in people) / len(people) < 0.6


def test_home_and_work_lie_as_the_public_rows_have_them(people: list[Person]) -> None:
    known = [p for p in people if p.home and p.work and p.city]
    in_city = sum(p.home.city == p.city for p in known if p.home) / len(known)
    # Of the public rows that tell: home in the home city 0.91, work in its district 0.4.
    assert in_city == pytest.approx(0.91, abs=0.04)
    assert sum(p.home.area == p.work.area for p in known if p.home and p.work) / len(known) > 0.2


def test_codes_are_written_as_the_public_columns_write_them(people: list[Person]) -> None:
    for person in people:
        tastes, visits = (person.attributes[f"profile_feat_{i}"] for i in (13, 14))
        assert re.fullmatch(r"(pf_\d+:[高中低](\|pf_\d+:[高中低])*)?", tastes)
        assert re.fullmatch(r"(pf_\d+:\d+(\|pf_\d+:\d+)*)?", visits)
        codes = [entry.split(":")[0] for entry in tastes.split("|")]
        assert len(set(codes)) == len(codes)
        counts = [int(entry.split(":")[1]) for entry in visits.split("|") if entry]
        assert counts == sorted(counts, reverse=True)
