"""The map of the simulated world: invented cities, their districts and the places in them.

Category words are the ones that the public rows use, so that facts derived from a category mean
the same here and there. City and district names are invented; places carry only ids.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

CITIES = ("青岚市", "雾汀市", "曦禾市", "砚溪市", "松屿湾市", "棠浦市", "霁川市", "岚谷市")
DISTRICTS = ("望舒区", "听涛区", "揽月区", "拾翠区", "扶光区", "枕溪区")
DISTRICTS_OF_A_CITY = 3
FIRST_PLACE_NUMBER = 9_000_001

# What a district holds: kind -> categories, one place each.
CATEGORIES: dict[str, tuple[str, ...]] = {
    "住宅": ("住宅区", "住宅区", "住宅区", "商住两用"),
    "办公": ("写字楼", "公司", "工业园区"),
    "酒店": ("经济型", "舒适型", "高档型", "民宿"),
    "景点": ("5A景区", "4A景区", "博物馆", "古镇古村"),
    "餐饮": ("中餐", "小吃快餐", "火锅", "咖啡"),
    "购物": ("商圈", "商场", "超市"),
    "枢纽": ("高铁站", "机场", "火车站"),
    "加油": ("加油站", "加油站"),
    "充电": ("充电站", "充电站"),
    "途中": ("服务区",),
    "休闲": ("足疗", "电影院", "游乐园"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """One place: its id as it stands in the rows (``p_N``), where it lies and what it is."""

    id: str
    city: str
    district: str
    category: str

    @property
    def area(self) -> str:
        """City and district in one word, as the columns of habitual places hold them."""
        return self.city + self.district


@dataclass(frozen=True)
class Geography:
    """All places by city and kind."""

    places: Mapping[tuple[str, str], tuple[Place, ...]]

    def find(self, kind: str, *, city: str, district: str | None = None) -> list[Place]:
        """Places of one kind in a city, or in one of its districts."""
        return [p for p in self.places[city, kind] if district in (None, p.district)]


def build_geography(seed: int) -> Geography:
    """The places of all cities; ids are shuffled by ``seed`` so that they tell nothing."""
    generator = random.Random(f"geography {seed}")
    districts = {city: generator.sample(DISTRICTS, DISTRICTS_OF_A_CITY) for city in CITIES}
    count = sum(map(len, CATEGORIES.values())) * len(CITIES) * DISTRICTS_OF_A_CITY
    ids = iter(generator.sample(range(FIRST_PLACE_NUMBER, FIRST_PLACE_NUMBER + 4 * count), count))
    return Geography(
        {
            (city, kind): tuple(
                Place(f"p_{next(ids)}", city, district, category)
                for district in districts[city]
                for category in categories
            )
            for city in CITIES
            for kind, categories in CATEGORIES.items()
        }
    )
