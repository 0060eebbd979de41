from __future__ import annotations

import re

from gplan_jax.synthesis.geography import CATEGORIES, CITIES, build_geography


def test_every_city_has_every_kind_of_place_in_three_districts() -> None:
    geography = build_geography(0)
    for city in CITIES:
        for kind, categories in CATEGORIES.items():
            places = geography.find(kind, city=city)
            assert len({place.district for place in places}) == 3
            assert {place.category for place in places} == set(categories)
            assert {place.city for place in places} == {city}
            district = places[0].district
            inside = geography.find(kind, city=city, district=district)
            assert inside == [place for place in places if place.district == district]


def test_ids_are_unique_and_change_with_the_seed() -> None:
    places = [place for kept in build_geography(0).places.values() for place in kept]
    ids = {place.id for place in places}
    assert len(ids) == len(places)
    assert all(re.fullmatch(r"p_\d+", place_id) for place_id in ids)
    assert build_geography(0) == build_geography(0) != build_geography(1)
