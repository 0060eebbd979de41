"""Home and work from stays."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import pytest

from gplan_jax.synthesis.triggers.events import NOWHERE, Spot
from gplan_jax.synthesis.triggers.habitual import Stays, habitual_spots
from gplan_jax.synthesis.triggers.spec import Habitual, TriggerSpec

MONDAY = datetime(2026, 3, 2)
HOME, OFFICE = Spot("p_h", "住宅区", "甲市", "一区"), Spot("p_o", "公司", "甲市", "二区")
HOTEL, OTHER = Spot("p_x", "酒店", "乙市", "三区"), Spot("p_y", "酒店", "乙市", "三区")


@pytest.fixture
def stays(spec: TriggerSpec) -> Stays:
    assert spec.habitual is not None
    return Stays(spec.habitual, frozenset())


def at(day: int, hour: int) -> datetime:
    return MONDAY + timedelta(days=day, hours=hour)


def test_home_needs_enough_nights(stays: Stays) -> None:
    for day in range(2):
        stays.add(at(day, 23), HOME)
    assert stays.home() == NOWHERE
    # Before six in the morning it is still the same night.
    stays.add(at(2, 5), HOME)
    assert stays.home() == NOWHERE
    stays.add(at(2, 22), HOME)
    assert stays.home() == HOME


def test_home_needs_its_share_of_the_nights_else_the_city_stands(stays: Stays) -> None:
    for day in range(3):
        stays.add(at(day, 23), HOME)
    for day in range(3, 8):
        stays.add(at(day, 23), HOTEL if day % 2 else OTHER)
    assert stays.home() == Spot(city="乙市")


def test_the_day_counts_for_nothing_at_night_and_the_night_for_no_work(stays: Stays) -> None:
    for day in range(5):
        stays.add(at(day, 20), HOME)
        stays.add(at(day, 9), OFFICE)
    assert stays.home() == NOWHERE and stays.work("") == NOWHERE


def test_work_is_where_working_days_are_spent_away_from_home(spec: TriggerSpec) -> None:
    assert spec.habitual is not None
    stays = Stays(spec.habitual, frozenset({date(2026, 3, 4)}))
    for day in (0, 1, 2, 5, 6):  # Wednesday is a holiday, then a weekend.
        stays.add(at(day, 11), OFFICE)
    assert stays.work(HOME.place) == NOWHERE
    stays.add(at(3, 16), OFFICE)
    assert stays.work(HOME.place) == OFFICE
    assert stays.work(OFFICE.place) == NOWHERE


def test_only_the_declared_days_are_held() -> None:
    hours = {"night": {"start": 22, "end": 6}, "work": {"start": 10, "end": 17}}
    stays = Stays(Habitual.model_validate({"days": 10, **hours}), frozenset())
    for day in range(300):
        stays.add(at(day, 23), HOME if day < 200 else HOTEL)
        assert len(stays._nights) <= 10
    assert stays.home() == HOTEL


def test_what_is_told_outweighs_what_is_found(stays: Stays) -> None:
    for day in range(4):
        stays.add(at(day, 23), HOME)
        stays.add(at(day, 12), OFFICE)
    assert habitual_spots({}, stays) == (HOME, OFFICE)
    assert habitual_spots({}, None) == (NOWHERE, NOWHERE)
    told = {"home_place": "B1", "home_city": "丙市", "home_district": "四区"}
    assert habitual_spots(told, stays)[0] == Spot("p_B1", "", "丙市", "四区")
    # A home city elsewhere: the place of the nights is no home.
    assert habitual_spots({"home_city": "丙市"}, stays)[0] == Spot(city="丙市")
    assert habitual_spots({"home_city": "甲市"}, stays)[0] == HOME
