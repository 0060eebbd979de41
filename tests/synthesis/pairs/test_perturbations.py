from __future__ import annotations

import dataclasses
import random
import re
from datetime import date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import COLUMNS, Sample
from gplan_jax.synthesis.pairs.perturbations import (
    Catalogue,
    DayShift,
    HomeMove,
    HoursShift,
    OrderMove,
    PerturbationSpec,
    anchor_of,
    category_in_histories,
    harvest,
    load_spec,
    perturbed,
)
from gplan_jax.synthesis.world.geography import Place, build_geography
from gplan_jax.synthesis.world.simulation import simulate_rows

SEED = 11
ROWS = [row.with_label("") for row in simulate_rows(400, seed=SEED)]
SPEC = load_spec()
CATALOGUE = harvest(ROWS)
MAP = {p.id: p for places in build_geography(SEED).places.values() for p in places}

TIME = {"currenttime", "holidayflag", "weekendflag"}
PLACE = {"current_poi_name", "current_tag", "current_city", "current_district"}
MAY_CHANGE = {
    "hours_later": TIME,
    "hours_earlier": TIME,
    "weekday_weekend": TIME,
    "holiday_flag": {"holidayflag"},
    "other_district": PLACE,
    "other_city": PLACE,
    "at_home": PLACE,
    "at_order_place": PLACE,
}

# A guest on a Tuesday: ordered at 9:30, last seen some time between 10:00 and 11:00.
GUEST = Sample.from_context(
    {
        "id": "u1",
        "profile_feat_5": "甲市",
        "profile_feat_6": "p_1",
        "profile_feat_7": "甲市东区",
        "short_term_behavior_seq": "在3月10日周二10点act_3位于异地行前高铁站的p_5",
        "long_term_behavior": "住宅区的p_1act_8了12次",
        "currenttime": "2026-03-10 14:00:00",
        "holidayflag": "0",
        "weekendflag": "0",
        "current_poi_name": "p_5",
        "current_tag": "高铁站",
        "current_city": "乙市",
        "current_district": "南区",
        "trigger_1": "酒店",
        "trigger_2": "乙市",
        "trigger_3": "北区",
        "trigger_4": "p_9",
        "trigger_5": "2026-03-10 09:30:00",
    }
)
NEAR, FAR = Place("p_6", "乙市", "北区", "商场"), Place("p_7", "甲市", "西区", "公园")
TOWN = Catalogue((NEAR, FAR), frozenset({date(2026, 3, 11)}))


def change(
    name: str, sample: Sample, spec: PerturbationSpec = SPEC, town: Catalogue = TOWN, seed: int = 0
) -> Sample | None:
    return perturbed(name, anchor_of(sample), spec, town, random.Random(seed))


def row(**columns: str) -> Sample:
    return dataclasses.replace(GUEST, **columns)


def place_of(sample: Sample) -> Place:
    return Place(
        sample.current_poi_name,
        sample.current_city,
        sample.current_district,
        sample.current_tag,
    )


def last_behaviour(sample: Sample) -> datetime:
    """The latest hour that the short-term history names; all of the world is in 2026."""
    stamps = re.findall(r"在(\d+)月(\d+)日周.(\d+)点", sample.short_term_behavior_seq)
    return max(datetime(2026, int(month), int(day), int(hour)) for month, day, hour in stamps)


@given(st.sampled_from(ROWS), st.sampled_from(sorted(MAY_CHANGE)), st.integers(0, 99))
def test_what_changes_is_consistent_and_all_else_is_identical(
    anchor: Sample, name: str, seed: int
) -> None:
    changed = change(name, anchor, town=CATALOGUE, seed=seed)
    if changed is None:
        return
    differing = {c for c in COLUMNS if getattr(changed, c) != getattr(anchor, c)}
    assert differing and differing <= MAY_CHANGE[name]
    now = datetime.fromisoformat(changed.currenttime)
    before = datetime.fromisoformat(anchor.currenttime)
    assert changed.weekendflag == ("1" if now.strftime("%a") in ("Sat", "Sun") else "0")
    if now.date() != before.date():
        assert changed.holidayflag == str(int(now.date() in CATALOGUE.holidays))
    assert now >= last_behaviour(anchor)
    assert not anchor.trigger_5 or now >= datetime.fromisoformat(anchor.trigger_5)
    there, real = place_of(changed), MAP[changed.current_poi_name]
    # What kind of place it is neither the row nor the file need tell; then it is a usual one.
    untold = (
        not category_in_histories(anchor, now, there.id) and there.id not in CATALOGUE.categories
    )
    assert there == dataclasses.replace(real, category=there.category)
    assert there.category == real.category or (untold and name in ("at_home", "at_order_place"))


@given(st.sampled_from(ROWS), st.integers(0, 99))
def test_each_perturbation_does_what_its_name_says(anchor: Sample, seed: int) -> None:
    before = datetime.fromisoformat(anchor.currenttime)
    found = {name: change(name, anchor, town=CATALOGUE, seed=seed) for name in MAY_CHANGE}
    hours = {
        name: (datetime.fromisoformat(sample.currenttime) - before).total_seconds() / 3600
        for name, sample in found.items()
        if sample
    }
    assert 2 <= hours.get("hours_later", 2) <= 10
    assert -6 <= hours.get("hours_earlier", -0.5) <= -0.5
    assert hours.get("weekday_weekend", 24) % 24 == 0
    assert abs(hours.get("weekday_weekend", 24)) <= 6 * 24
    if day := found["weekday_weekend"]:
        assert day.weekendflag != anchor.weekendflag
    if flag := found["holiday_flag"]:
        assert {flag.holidayflag, anchor.holidayflag} == {"0", "1"}
    if near := found["other_district"]:
        assert near.current_city == anchor.current_city
        assert near.current_district != anchor.current_district
    if far := found["other_city"]:
        assert far.current_city != anchor.current_city
    for strange in (near, far):
        assert strange is None or strange.current_poi_name not in (
            anchor.current_poi_name,
            anchor.profile_feat_6,
            anchor.trigger_4,
        )
    home, ordered = found["at_home"], found["at_order_place"]
    assert (home is None) == (anchor.profile_feat_6 in ("", anchor.current_poi_name))
    told = category_in_histories(anchor, before, anchor.trigger_4) or CATALOGUE.categories.get(
        anchor.trigger_4
    )
    nowhere = not told and anchor.trigger_1 == "其他"
    assert (ordered is None) == (nowhere or anchor.current_poi_name == anchor.trigger_4)
    assert home is None or home.current_poi_name == anchor.profile_feat_6
    assert home is None or home.current_city + home.current_district == anchor.profile_feat_7
    if ordered:
        order = (anchor.trigger_2, anchor.trigger_3, anchor.trigger_4)
        assert order == (
            ordered.current_city,
            ordered.current_district,
            ordered.current_poi_name,
        )


def test_the_same_draws_give_the_same_context() -> None:
    for name in MAY_CHANGE:
        assert change(name, GUEST, seed=5) == change(name, GUEST, seed=5)
    times = {change("hours_later", GUEST, seed=seed) for seed in range(20)}
    assert len(times) > 15


def test_a_span_of_one_length_is_that_length() -> None:
    # In floats 1.1 hours are a little more than 3960 seconds.
    exact = HoursShift(least=1.1, most=1.1)
    later = change("hours_later", GUEST, PerturbationSpec(hours_later=exact))
    earlier = change("hours_earlier", GUEST, PerturbationSpec(hours_earlier=exact))
    assert later is not None and later.currenttime == "2026-03-10 15:06:00"
    assert earlier is not None and earlier.currenttime == "2026-03-10 12:54:00"


def test_time_goes_back_no_further_than_the_latest_behaviour_allows() -> None:
    spec = PerturbationSpec(hours_earlier=HoursShift(least=2.5, most=2.5))
    moved = change("hours_earlier", GUEST, spec)
    assert moved is not None and moved.currenttime == "2026-03-10 11:30:00"
    # The behaviour may have been at 10:59.
    beyond = PerturbationSpec(hours_earlier=HoursShift(least=3.1, most=9))
    assert change("hours_earlier", GUEST, beyond) is None
    wide = PerturbationSpec(hours_earlier=HoursShift(least=0.5, most=9))
    drawn = {change("hours_earlier", GUEST, wide, seed=seed) for seed in range(30)}
    assert all(sample and "11:" <= sample.currenttime[11:] <= "13:30:00" for sample in drawn)


def test_time_goes_back_no_further_than_the_order() -> None:
    spec = PerturbationSpec(hours_earlier=HoursShift(least=1, most=9))
    late = row(short_term_behavior_seq="", trigger_5="2026-03-10 13:30:00")
    assert change("hours_earlier", late, spec) is None
    unknown = row(short_term_behavior_seq="", trigger_5="")
    assert change("hours_earlier", unknown, spec) is not None


def test_a_time_within_the_hour_of_the_latest_behaviour_stays_or_goes_on() -> None:
    spec = PerturbationSpec(hours_earlier=HoursShift(least=0.1, most=9))
    early = row(currenttime="2026-03-10 10:20:00")
    assert change("hours_earlier", early, spec) is None
    assert change("hours_later", early) is not None


def test_clocks_that_disagree_leave_no_time_before_the_order() -> None:
    ordered_later = row(trigger_5="2026-03-10 17:00:00")
    one, four = (PerturbationSpec(hours_later=HoursShift(least=h, most=h)) for h in (1, 4))
    assert change("hours_later", ordered_later, one) is None
    assert change("hours_later", ordered_later, four) is not None


def test_flags_follow_a_date_that_hours_move() -> None:
    spec = PerturbationSpec(hours_later=HoursShift(least=12, most=12))
    moved = change("hours_later", GUEST, spec)
    assert moved is not None
    assert (moved.currenttime, moved.holidayflag) == ("2026-03-11 02:00:00", "1")
    friday = row(currenttime="2026-03-13 14:00:00", holidayflag="1")
    moved = change("hours_later", friday, spec)
    assert moved is not None
    assert (moved.weekendflag, moved.holidayflag) == ("1", "0")


def test_the_same_date_keeps_its_holiday_flag() -> None:
    spec = PerturbationSpec(hours_later=HoursShift(least=1, most=1))
    moved = change("hours_later", row(holidayflag="1"), spec)
    assert moved is not None and moved.holidayflag == "1"


def test_weekday_and_weekend_change_places_within_the_days_allowed() -> None:
    days = {change("weekday_weekend", GUEST, seed=seed) for seed in range(30)}
    assert {sample.currenttime[:10] for sample in days if sample} == {"2026-03-14", "2026-03-15"}
    near = PerturbationSpec(weekday_weekend=DayShift(days=3))
    assert change("weekday_weekend", GUEST, near) is None
    saturday = row(currenttime="2026-03-14 14:00:00", weekendflag="1")
    back = {change("weekday_weekend", saturday, near, seed=seed) for seed in range(30)}
    assert {sample.currenttime[:10] for sample in back if sample} == {
        "2026-03-11",
        "2026-03-12",
        "2026-03-13",
        "2026-03-16",
        "2026-03-17",
    }


def test_a_date_that_would_change_the_year_of_a_behaviour_is_not_taken() -> None:
    year_ago = row(
        short_term_behavior_seq="在3月13日周四10点act_3位于异地行前高铁站的p_5",
        trigger_5="",
    )
    assert anchor_of(year_ago).behaviors[0].when == datetime(2025, 3, 13, 10)
    assert change("weekday_weekend", year_ago) is None
    assert change("hours_later", year_ago) is not None


def test_places_are_those_of_the_town() -> None:
    near, far = change("other_district", GUEST), change("other_city", GUEST)
    assert near is not None and place_of(near) == NEAR
    assert far is not None and place_of(far) == FAR


def test_no_other_place_is_no_perturbation() -> None:
    empty = Catalogue((), frozenset())
    for name in ("other_district", "other_city"):
        assert change(name, GUEST, town=empty) is None
        assert change(name, row(current_city="")) is None
    # The only place there is the order's.
    assert change("other_district", row(trigger_4="p_6")) is None
    assert change("other_city", row(profile_feat_6="p_7")) is None


def test_a_city_of_own_places_alone_leaves_the_other_cities() -> None:
    third = Place("p_8", "丙市", "中区", "公园")
    town = Catalogue((NEAR, FAR, third), frozenset())
    homeward = row(profile_feat_6="p_7")
    found = {change("other_city", homeward, town=town, seed=seed) for seed in range(10)}
    assert {place_of(sample) for sample in found if sample} == {third} and None not in found


def test_home_is_where_the_profile_says_and_what_the_habits_say() -> None:
    home = change("at_home", GUEST)
    assert home is not None and place_of(home) == Place("p_1", "甲市", "东区", "住宅区")
    unknown = row(long_term_behavior="")
    home = change("at_home", unknown)
    assert home is not None and home.current_tag == "住宅区"  # From the spec.
    assert change("at_home", unknown, PerturbationSpec(at_home=HomeMove())) is None
    for column in ("profile_feat_6", "profile_feat_7"):
        assert change("at_home", row(**{column: ""})) is None
    assert change("at_home", row(current_poi_name="p_1")) is None


def test_the_orders_place_takes_the_category_that_is_known_best() -> None:
    def category(sample: Sample, town: Catalogue = TOWN) -> str | None:
        spec = PerturbationSpec(at_order_place=OrderMove(categories={"酒店": "酒店"}))
        found = change("at_order_place", sample, spec, town)
        return found and found.current_tag

    named = row(long_term_behavior="民宿的p_9act_8了2次")
    seen = Catalogue((Place("p_9", "乙市", "北区", "舒适型"),), frozenset())
    assert category(named, seen) == "民宿"
    assert category(GUEST, seen) == "舒适型"
    assert category(GUEST) == "酒店"
    assert category(row(trigger_1="其他")) is None
    assert category(row(trigger_4="")) is None
    assert category(row(trigger_2="")) is None
    assert category(row(current_poi_name="p_9")) is None


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("currenttime", "", "currenttime is empty"),
        ("currenttime", "noon", "currenttime of sample u1 is 'noon'"),
        ("currenttime", "9999-12-31 23:59:59", "write the time of the request"),
        ("trigger_5", "2026-13-01 00:00:00", "trigger_5 of sample u1"),
        ("trigger_7", "never", "trigger_7 of sample u1"),
        ("weekendflag", "1", "weekendflag is 1, but 2026-03-10 is a Tuesday"),
        ("weekendflag", "", "weekendflag is ''; write 0 or 1"),
        ("holidayflag", "yes", "holidayflag is 'yes'; write 0 or 1"),
    ],
)
def test_unreadable_times_and_flags_are_named(column: str, value: str, problem: str) -> None:
    with pytest.raises(GplanError, match=problem):
        anchor_of(row(**{column: value}))


def test_the_label_of_a_row_is_left_behind() -> None:
    assert change("holiday_flag", GUEST.with_label("[]")) == row(holidayflag="1")


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_spec_declares_every_perturbation() -> None:
    spec = load_spec()
    assert list(spec.weights) == list(MAY_CHANGE)
    assert set(spec.weights.values()) == {1.0}
    assert spec == load_spec()


def test_only_the_sections_of_a_spec_are_used(tmp_path: Path) -> None:
    text = "other_city: {weight: 3}\nhours_later: {least: 1, most: 2.5}\nholidays: [2026-05-01]\n"
    spec = load_spec(write(tmp_path, text))
    assert spec.weights == {"hours_later": 1.0, "other_city": 3.0}
    assert spec.hours_later is not None and spec.hours_later.most == 2.5
    assert spec.holidays == [date(2026, 5, 1)]


FAULTS = {
    "other_citi: {}": "other_citi: unknown key; did you mean other_city",
    "hours_later: {least: 1, mots: 2}": "hours_later.mots: unknown key; did you mean most",
    "hours_later: {least: 1}": "hours_later.most: missing",
    "hours_later: {least: 3, most: 2}": r"hours_later: .*least \(3\) must not be above most \(2\)",
    "hours_earlier: {least: 0, most: 2}": "hours_earlier.least: .*greater than 0",
    "hours_later: {least: 1, most: 200}": "hours_later.most: .*less than or equal to 168",
    "hours_later: {least: '1', most: 2}": "hours_later.least: .*valid number",
    "weekday_weekend: {days: 1.5}": "weekday_weekend.days: .*integer",
    "other_city: {weight: 0}": "other_city.weight: .*greater than 0",
    "other_city: true": "other_city: ",
    "at_home: {category: ''}": "at_home.category: ",
    "at_order_place: {categories: [酒店]}": "at_order_place.categories: .*dictionary",
    "{other_city: {}, holidays: [May]}": "holidays.0: .*date",
    "holidays: [2026-05-01]": "declares no perturbation; known ones: hours_later",
    "{}": "declares no perturbation",
    "- other_city": "must be a mapping",
    "other_city: [": "not valid YAML",
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_faulty_spec_names_the_file_and_the_key(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(GplanError, match=FAULTS[text]) as error:
        load_spec(path)
    assert str(path) in str(error.value)


def test_a_missing_spec_is_named(tmp_path: Path) -> None:
    with pytest.raises(GplanError, match=r"none\.yaml does not exist"):
        load_spec(tmp_path / "none.yaml")


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_spec().other_city = None
    assert PerturbationSpec().weights == {}
