"""What the rows of a file tell about the world around them: its places and its holidays."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Sample, long_term, short_term
from gplan_jax.gsisr.facts import request_time
from gplan_jax.synthesis.world.geography import Place


@dataclass(frozen=True)
class Catalogue:
    """The places and holidays of a file."""

    # Every place that a row is at, and every other order's place whose category the row's histories
    # tell, by id.
    places: tuple[Place, ...]
    # The dates that more rows call a holiday than not, and those declared.
    holidays: frozenset[date]

    @cached_property
    def by_city(self) -> Mapping[str, tuple[Place, ...]]:
        """City -> its places."""
        cities: dict[str, list[Place]] = defaultdict(list)
        for place in self.places:
            cities[place.city].append(place)
        return {city: tuple(places) for city, places in cities.items()}

    @cached_property
    def categories(self) -> Mapping[str, str]:
        """Place id -> what kind of place it is."""
        return {place.id: place.category for place in reversed(self.places)}

    @cached_property
    def areas(self) -> Mapping[str, tuple[str, str]]:
        """City and district in one word -> city, district."""
        return {place.area: (place.city, place.district) for place in self.places}

    def split_area(self, area: str, home_city: str) -> tuple[str, str] | None:
        """City and district of an area word, None where no known city begins it.

        A district that has a place in the catalogue decides; otherwise ``home_city`` where the
        word begins with it; otherwise the longest city of the catalogue with which it begins.
        """
        if area in self.areas:
            return self.areas[area]
        cities = [home_city] if home_city and area.startswith(home_city) else self.by_city
        city = max((city for city in cities if area.startswith(city)), key=len, default="")
        return (city, area.removeprefix(city)) if city else None


def harvest(samples: Iterable[Sample], holidays: Sequence[date] = ()) -> Catalogue:
    """Gathers the catalogue of rows in one pass; it does not depend on their order."""
    current: set[Place] = set()
    ordered: set[Place] = set()
    votes: Counter[date] = Counter()
    for sample in samples:
        try:
            now = request_time(sample)
        except GplanError:  # Reported where the row itself is worked on.
            continue
        votes[now.date()] += 1 if sample.holidayflag == "1" else -1
        if sample.current_poi_name and sample.current_city:
            here = sample.current_city, sample.current_district
            current.add(Place(sample.current_poi_name, *here, sample.current_tag))
        category = category_in_histories(sample, now, sample.trigger_4)
        if category and sample.trigger_2:
            ordered.add(Place(sample.trigger_4, sample.trigger_2, sample.trigger_3, category))
    known = {place.id for place in current}
    places = {*current, *(place for place in ordered if place.id not in known)}
    said = {day for day, vote in votes.items() if vote > 0}
    ordered_places = sorted(places, key=lambda p: (p.id, p.city, p.district, p.category))
    return Catalogue(tuple(ordered_places), frozenset({*said, *holidays}))


def category_in_histories(sample: Sample, now: datetime, place: str) -> str:
    """The category of ``place`` in a row's latest behaviour, else in its habits; "" if in none."""
    if place and place in sample.short_term_behavior_seq:
        for behavior in reversed(short_term(sample.short_term_behavior_seq, now)):
            if behavior.place == place:
                return behavior.category
    if place and place in sample.long_term_behavior:
        for habit in long_term(sample.long_term_behavior):
            if habit.place == place:
                return habit.category
    return ""
