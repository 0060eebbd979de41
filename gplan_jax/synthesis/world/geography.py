"""The map of the simulated world: invented cities, their districts, their places and weather.

Category words are the ones that the public rows use, so that facts derived from a category mean
the same here and there. City and district names are invented; places carry only ids, in a range
apart from the public rows', so that both may be in one file.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

from gplan_jax.gsisr.facts import PlaceKind, place_kind
from gplan_jax.synthesis.world.calibration import tables

CITIES = (
    "青岚市", "雾汀市", "曦禾市", "砚溪市", "松屿湾市", "棠浦市", "霁川市", "岚谷市",
    "沐泽市", "澄坞市", "苍梨市", "榆湖市", "澜坪市", "竹陂市", "云簌州", "枫渡市",
)  # fmt: skip
DISTRICTS = (
    "望舒区", "听涛区", "揽月区", "拾翠区", "扶光区", "枕溪区", "观澜区", "栖霞坞区",
    "沉璧县", "采薇县", "鹿鸣市", "蒹葭市",
)  # fmt: skip
DISTRICTS_OF_A_CITY = 4
PLACES_OF_A_DISTRICT = 3
FIRST_PLACE_NUMBER = 9_000_001
RAINY_SHARE = 0.25

# When a place of a kind is open: from the first hour to before the last; others never close.
OPENING_HOURS: Mapping[PlaceKind, tuple[int, int]] = {
    "sights": (6, 23),
    "shopping": (7, 24),
    "food": (6, 24),
    "work": (6, 24),
}


@dataclass(frozen=True, slots=True)
class Place:
    """One place; ``id`` as in the rows, ``p_N``."""

    id: str
    city: str
    district: str
    category: str

    @property
    def area(self) -> str:
        """City and district in one word, as the columns of habitual places hold them."""
        return self.city + self.district

    @property
    def kind(self) -> PlaceKind:
        return place_kind(self.category)


@dataclass(frozen=True)
class Geography:
    """All places by city and category; ``seed`` also decides where it rains."""

    seed: int
    places: Mapping[tuple[str, str], tuple[Place, ...]]

    def find(self, category: str, *, city: str) -> Sequence[Place]:
        return self.places[city, category]

    def rains(self, city: str, day: date) -> bool:
        """Whether it rains. No column holds the weather: rain only moves people indoors."""
        return random.Random(f"rain {self.seed} {city} {day}").random() < RAINY_SHARE


def is_open(kind: str, hour: int) -> bool:
    """Whether places of a kind let people in at this hour."""
    first, last = OPENING_HOURS.get(kind, (0, 24))
    return bool(first <= hour < last)


@lru_cache(maxsize=8)
def build_geography(seed: int) -> Geography:
    """The places of all cities; ids are shuffled by ``seed`` so that they tell nothing.

    Categories of which orders are made, or in which people often are, have places in every
    district; others have one or two in the city.
    """
    # The words of places in every district, then the other words; no word is in both.
    table = tables()
    everywhere = dict.fromkeys(
        word
        for name in ("place_categories", "order_categories")
        for words in table[name].values()
        for word, weight in words.items()
        if name == "order_categories" or weight >= 20
    )
    others = [*table["home_categories"], *table["work_categories"]]
    for name in ("place_categories", "behavior_categories", "habit_categories"):
        others += [word for words in table[name].values() for word in words]
    anywhere = dict.fromkeys(word for word in others if word not in everywhere)

    generator = random.Random(f"geography {seed}")
    most = len(CITIES) * (
        DISTRICTS_OF_A_CITY * PLACES_OF_A_DISTRICT * len(everywhere) + 3 * len(anywhere)
    )
    ids = iter(generator.sample(range(FIRST_PLACE_NUMBER, FIRST_PLACE_NUMBER + 4 * most), most))
    places: dict[tuple[str, str], tuple[Place, ...]] = {}
    for city in CITIES:
        districts = generator.sample(DISTRICTS, DISTRICTS_OF_A_CITY)
        for category in (*everywhere, *anywhere):
            chosen = (
                districts * PLACES_OF_A_DISTRICT
                if category in everywhere
                else generator.sample(districts, generator.randint(2, 3))
            )
            places[city, category] = tuple(
                Place(f"p_{next(ids)}", city, district, category) for district in chosen
            )
    return Geography(seed, places)
