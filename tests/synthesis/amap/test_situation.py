from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from gplan_jax.gsisr import Sample, facts_of, read_samples
from gplan_jax.synthesis.amap import situation as words
from gplan_jax.synthesis.amap.situation import Phase, Situation, situation_of

Truth = Callable[[Sample, str], bool]
ASPECTS = (
    words.Phase,
    words.OrderPlace,
    words.Habitual,
    words.Region,
    words.DayPart,
    words.DayOff,
    words.Surroundings,
    words.Focus,
)


def test_no_phrase_hides_in_another() -> None:
    phrases = [str(phrase) for aspect in ASPECTS for phrase in aspect]
    for one, other in itertools.permutations(phrases, 2):
        assert one not in other


def test_every_phrase_holds_in_the_columns_of_world_rows(
    world_rows: list[Sample], holds: Truth
) -> None:
    said = Counter(phrase for row in world_rows for phrase in _check(row, holds))
    assert all(said[str(part)] for part in words.DayPart)
    assert all(said[str(place)] for place in words.OrderPlace)
    assert [kind for kind in words.Surroundings if not said[str(kind)]] == []


def test_every_phrase_holds_in_the_columns_of_real_rows(shared: Path, holds: Truth) -> None:
    for row in read_samples(shared / "gsisr/gsisr_dev.csv"):
        _check(row, holds)


def _check(row: Sample, holds: Truth) -> tuple[str, ...]:
    phrases = situation_of(facts_of(row)).phrases()
    for phrase in phrases:
        assert holds(row, phrase), f"{phrase} does not hold: {row}"
    return phrases


@pytest.mark.parametrize(
    ("now", "start", "end", "phase"),
    [
        ("2026-03-10 21:30:00", "2026-03-11 00:00:00", "2026-03-12 00:00:00", Phase.LATER),
        ("2026-03-10 23:30:00", "2026-03-11 01:00:00", "", Phase.SOON),
        ("2026-03-10 09:00:00", "2026-03-10 12:00:00", "", Phase.SOON),
        ("2026-03-10 09:00:00", "2026-03-10 12:00:01", "", Phase.LATER_TODAY),
        ("2026-03-10 00:00:00", "2026-03-10 00:00:00", "2026-03-12 00:00:00", Phase.THIS_DAY),
        ("2026-03-10 23:59:59", "2026-03-10 00:00:00", "", Phase.THIS_DAY),
        ("2026-03-10 08:00:00", "2026-03-09 00:00:00", "2026-03-11 00:00:00", Phase.ACTIVE),
        ("2026-03-10 08:07:13", "2026-03-09 00:00:00", "2026-03-10 00:00:00", Phase.LAST_DAY),
        ("2026-03-10 08:07:13", "2026-03-01 10:00:00", "2026-03-10 23:59:59", Phase.LAST_DAY),
        ("2026-03-10 08:00:00", "2026-03-09 00:00:00", "2026-03-09 23:59:59", Phase.OVER),
        ("2026-03-10 08:00:00", "2026-03-10 05:00:00", "2026-03-10 07:00:00", Phase.OVER),
        ("2026-03-10 08:00:00", "2026-03-10 06:00:00", "", Phase.JUST_STARTED),
        ("2026-03-10 08:00:00", "2026-03-10 05:59:59", "", Phase.LONG_STARTED),
        ("2026-03-10 08:00:00", "", "", None),
    ],
)
def test_phases_change_where_they_should(
    now: str, start: str, end: str, phase: Phase | None
) -> None:
    row = Sample.from_context(
        {"trigger_1": "酒店", "currenttime": now, "trigger_6": start, "trigger_7": end}
    )
    assert situation_of(facts_of(row)).phase is phase


def test_unknown_columns_leave_aspects_unsaid() -> None:
    row = Sample.from_context({"trigger_1": "其他", "currenttime": "2026-03-10 08:00:00"})
    assert situation_of(facts_of(row)).phrases() == ("其他订单", "早上")


def test_a_situation_says_one_phrase_an_aspect(world_rows: list[Sample]) -> None:
    fields = len(dataclasses.fields(Situation)) - 1  # The order and its phase are one phrase.
    for row in world_rows[:200]:
        assert len(situation_of(facts_of(row)).phrases()) <= fields
