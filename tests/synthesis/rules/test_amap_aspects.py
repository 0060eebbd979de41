from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from gplan_jax.gsisr import Sample, read_samples
from tests.synthesis.situations import AMAP, OF_COLUMNS

Truth = Callable[[Sample, str], bool]


def _phrases(aspect: str) -> list[str]:
    return [case.say for case in AMAP.file.aspects[aspect]]


def test_no_phrase_hides_in_another() -> None:
    phrases = [phrase for aspect in OF_COLUMNS for phrase in _phrases(aspect)]
    for one, other in itertools.permutations(phrases, 2):
        assert one not in other


def test_every_phrase_holds_in_the_columns_of_world_rows(
    world_rows: list[Sample], holds: Truth
) -> None:
    said = Counter(phrase for row in world_rows for phrase in _check(row, holds))
    for aspect in ("day_part", "place", "surroundings"):
        assert [phrase for phrase in _phrases(aspect) if not said[phrase]] == [], aspect


def test_every_phrase_holds_in_the_columns_of_real_rows(shared: Path, holds: Truth) -> None:
    for row in read_samples(shared / "gsisr/gsisr_dev.csv"):
        _check(row, holds)


def _check(row: Sample, holds: Truth) -> tuple[str, ...]:
    phrases = AMAP.context(AMAP.tell(row))
    for phrase in phrases:
        assert holds(row, phrase), f"{phrase} does not hold: {row}"
    return phrases


@pytest.mark.parametrize(
    ("now", "start", "end", "phase"),
    [
        ("2026-03-10 21:30:00", "2026-03-11 00:00:00", "2026-03-12 00:00:00", "later"),
        ("2026-03-10 23:30:00", "2026-03-11 01:00:00", "", "soon"),
        ("2026-03-10 09:00:00", "2026-03-10 12:00:00", "", "soon"),
        ("2026-03-10 09:00:00", "2026-03-10 12:00:01", "", "later_today"),
        ("2026-03-10 00:00:00", "2026-03-10 00:00:00", "2026-03-12 00:00:00", "this_day"),
        ("2026-03-10 23:59:59", "2026-03-10 00:00:00", "", "this_day"),
        ("2026-03-10 08:00:00", "2026-03-09 00:00:00", "2026-03-11 00:00:00", "active"),
        ("2026-03-10 08:07:13", "2026-03-09 00:00:00", "2026-03-10 00:00:00", "last_day"),
        ("2026-03-10 08:07:13", "2026-03-01 10:00:00", "2026-03-10 23:59:59", "last_day"),
        ("2026-03-10 08:00:00", "2026-03-09 00:00:00", "2026-03-09 23:59:59", "over"),
        ("2026-03-10 08:00:00", "2026-03-10 05:00:00", "2026-03-10 07:00:00", "over"),
        ("2026-03-10 08:00:00", "2026-03-10 06:00:00", "", "just_started"),
        ("2026-03-10 08:00:00", "2026-03-10 05:59:59", "", "long_started"),
        ("2026-03-10 08:00:00", "", "", None),
    ],
)
def test_phases_change_where_they_should(now: str, start: str, end: str, phase: str | None) -> None:
    row = Sample.from_context(
        {"trigger_1": "酒店", "currenttime": now, "trigger_6": start, "trigger_7": end}
    )
    assert AMAP.tell(row).known["phase"] == phase


def test_unknown_columns_leave_aspects_unsaid() -> None:
    row = Sample.from_context({"trigger_1": "其他", "currenttime": "2026-03-10 08:00:00"})
    assert AMAP.context(AMAP.tell(row)) == ("其他订单", "早上")


def test_a_context_says_one_phrase_an_aspect(world_rows: list[Sample]) -> None:
    for row in world_rows[:200]:
        said = AMAP.context(AMAP.tell(row))
        # The order and its phase are one phrase.
        assert len(said) == len(set(said)) <= len(OF_COLUMNS)
