from __future__ import annotations

import re
from datetime import date, timedelta

import pytest

from gplan_jax.synthesis.world.calibration import tables
from gplan_jax.synthesis.world.geography import (
    CITIES,
    DISTRICTS_OF_A_CITY,
    build_geography,
    is_open,
)


def test_every_city_has_every_category_and_what_is_ordered_in_every_district() -> None:
    geography = build_geography(0)
    words = {category for _, category in geography.places}
    for name in ("place_categories", "behavior_categories", "habit_categories"):
        assert {word for kind in tables()[name].values() for word in kind} <= words
    ordered = {word for kind in tables()["order_categories"].values() for word in kind}
    for city in CITIES:
        assert {category for where, category in geography.places if where == city} == words
        for category in ordered:
            places = geography.find(category, city=city)
            assert len({place.district for place in places}) == DISTRICTS_OF_A_CITY
            inside = [place for place in places if place.district == places[0].district]
            # Two of a kind in one district: one to be at, one to have ordered at.
            assert len(inside) >= 2


def test_places_are_what_they_are_filed_under() -> None:
    for (city, category), places in build_geography(0).places.items():
        assert {(place.city, place.category) for place in places} == {(city, category)}


def test_ids_are_unique_and_change_with_the_seed() -> None:
    places = [place for kept in build_geography(0).places.values() for place in kept]
    ids = {place.id for place in places}
    assert len(ids) == len(places)
    # Seven digits that begin with 9: apart from the public rows' ids.
    assert all(re.fullmatch(r"p_9\d{6}", place_id) for place_id in ids)
    build_geography.cache_clear()
    again = build_geography(0)
    assert again.places == build_geography(0).places != build_geography(1).places


def test_it_rains_on_some_days_here_and_on_others_there() -> None:
    geography = build_geography(0)
    days = [date(2026, 3, 2) + timedelta(days=i) for i in range(400)]
    rain = {city: [geography.rains(city, day) for day in days] for city in CITIES[:3]}
    assert all(60 < sum(wet) < 140 for wet in rain.values())
    assert rain[CITIES[0]] != rain[CITIES[1]]


@pytest.mark.parametrize(
    ("kind", "hour", "open_then"),
    [("sights", 5, False), ("sights", 6, True), ("sights", 23, False), ("shopping", 3, False),
     ("food", 23, True), ("hotel", 3, True), ("fuel", 3, True)],
)  # fmt: skip
def test_some_kinds_close_at_night(kind: str, hour: int, open_then: bool) -> None:
    assert is_open(kind, hour) is open_then


def test_kinds_follow_from_the_words() -> None:
    [place, *_] = build_geography(0).find("5A景区", city=CITIES[0])
    assert place.kind == "sights"
