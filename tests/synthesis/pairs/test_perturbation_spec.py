from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.synthesis.pairs.perturbation_spec import PerturbationSpec, load_spec

NAMES = [
    "hours_later",
    "hours_earlier",
    "weekday_weekend",
    "holiday_flag",
    "other_district",
    "other_city",
    "at_home",
    "at_order_place",
]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_spec_declares_every_perturbation() -> None:
    spec = load_spec()
    assert list(spec.weights) == NAMES
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
