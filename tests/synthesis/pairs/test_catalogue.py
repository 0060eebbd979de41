from __future__ import annotations

import dataclasses
import random
from datetime import date, datetime

from gplan_jax.gsisr import Sample
from gplan_jax.synthesis.pairs.perturbations import category_in_histories, harvest
from gplan_jax.synthesis.world.geography import CITIES, Place, build_geography

NOW = datetime(2026, 3, 10, 12)
ROW = Sample.from_context(
    {
        "id": "1",
        "currenttime": "2026-03-10 12:00:00",
        "holidayflag": "0",
        "current_poi_name": "p_1",
        "current_tag": "高铁站",
        "current_city": "甲市",
        "current_district": "东区",
        "trigger_2": "乙市",
        "trigger_3": "西区",
        "trigger_4": "p_2",
        "short_term_behavior_seq": (
            "在3月9日周一8点act_1位于本地民宿的p_2, 在3月9日周一9点act_1位于本地舒适型的p_2"
        ),
        "long_term_behavior": "酒店的p_2act_8了3次 , 住宅区的p_3act_8了9次",
    }
)
HERE = Place("p_1", "甲市", "东区", "高铁站")
ORDERED = Place("p_2", "乙市", "西区", "舒适型")


def row(**columns: str) -> Sample:
    return dataclasses.replace(ROW, **columns)


def test_current_places_and_ordered_ones_of_known_category() -> None:
    assert harvest([ROW]).places == (HERE, ORDERED)
    unknown = row(trigger_4="p_7")
    assert harvest([unknown]).places == (HERE,)
    assert harvest([row(current_poi_name="", trigger_2="")]).places == ()


def test_what_a_row_stands_in_counts_more_than_what_a_history_calls_it() -> None:
    guest = row(current_poi_name="p_2", current_tag="经济型", current_city="乙市", trigger_4="")
    places = harvest([ROW, guest]).places
    assert [place.category for place in places if place.id == "p_2"] == ["经济型"]


def test_the_latest_behaviour_names_a_place_else_the_habits_do() -> None:
    assert category_in_histories(ROW, NOW, "p_2") == "舒适型"
    assert category_in_histories(ROW, NOW, "p_3") == "住宅区"
    assert category_in_histories(ROW, NOW, "p_") == ""
    assert category_in_histories(ROW, NOW, "") == ""


def test_a_date_is_a_holiday_where_more_rows_say_so_or_where_it_is_declared() -> None:
    first, second, third = (f"2026-05-0{day} 10:00:00" for day in (1, 2, 3))
    rows = [
        row(currenttime=first, holidayflag="1"),
        row(currenttime=second, holidayflag="1"),
        row(currenttime=second, holidayflag="0"),
        row(currenttime=third, holidayflag="0"),
        row(currenttime="soon", holidayflag="1"),
    ]
    assert harvest(rows).holidays == {date(2026, 5, 1)}
    assert harvest(rows, [date(2026, 10, 1)]).holidays == {date(2026, 5, 1), date(2026, 10, 1)}


def test_an_area_splits_into_city_and_district() -> None:
    rows = [
        row(current_city="海市", current_district="市北区"),
        row(current_poi_name="p_8", current_city="海市市", current_district="南区"),
    ]
    catalogue = harvest(rows)
    assert catalogue.split_area("海市市北区", "别市") == ("海市", "市北区")
    assert catalogue.split_area("海市市西区", "别市") == ("海市市", "西区")
    assert catalogue.split_area("海市市西区", "海市") == ("海市", "市西区")
    assert catalogue.split_area("新市东区", "新市") == ("新市", "东区")
    assert catalogue.split_area("新市东区", "旧市") is None
    assert catalogue.split_area("", "") is None


def test_the_order_of_the_rows_does_not_matter(world_rows: list[Sample]) -> None:
    shuffled = list(world_rows)
    random.Random(1).shuffle(shuffled)
    assert harvest(shuffled) == harvest(world_rows)


def test_the_places_of_the_world_are_found_as_its_map_has_them(world_rows: list[Sample]) -> None:
    geography = build_geography(3)
    known = {place for places in geography.places.values() for place in places}
    found = harvest(world_rows).places
    assert set(found) <= known and len(found) > len(world_rows)
    assert {place.city for place in found} == {*CITIES}
    assert len({place.id for place in found}) == len(found)
