from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from gplan_jax.gsisr import Behavior, Habit, long_term, read_samples, short_term

NOW = datetime(2026, 3, 4, 10, 30)


def test_short_term_entries() -> None:
    text = (
        "在3月4日周三8点act_7了&act_1了位于本地地级市的p_11, "
        "在3月4日周三9点act_5了&act_3&act_6了位于未知地点足疗的店的p_12, "
        "在3月4日周三10点act_3位于异地行前门的p_13"
    )
    assert short_term(text, NOW) == (
        Behavior(datetime(2026, 3, 4, 8), ("act_7", "act_1"), "本地", "地级市", "p_11"),
        Behavior(
            datetime(2026, 3, 4, 9), ("act_5", "act_3", "act_6"), "未知地点", "足疗的店", "p_12"
        ),
        Behavior(datetime(2026, 3, 4, 10), ("act_3",), "异地行前", "门", "p_13"),
    )


@pytest.mark.parametrize(
    ("month", "day", "year"), [(12, 31, 2025), (3, 4, 2026), (3, 5, 2026), (2, 29, 2024)]
)
def test_the_year_is_the_last_that_fits(month: int, day: int, year: int) -> None:
    (entry,) = short_term(f"在{month}月{day}日周一8点act_1了位于本地门的p_1", NOW)
    assert entry.when == datetime(year, month, day, 8)


def test_long_term_entries() -> None:
    text = "商住两用的p_6act_8了78次 , 米线的p_7act_8&act_7了5次"
    assert long_term(text) == (
        Habit("商住两用", "p_6", ("act_8",), 78),
        Habit("米线", "p_7", ("act_8", "act_7"), 5),
    )


@pytest.mark.parametrize("text", ["", "胡言乱语", "在2月30日周一8点act_1了位于本地门的p_1"])
def test_what_is_no_entry_is_left_out(text: str) -> None:
    assert short_term(text, NOW) == ()
    assert long_term(text) == ()


def test_every_entry_of_the_public_rows_is_read(shared: Path) -> None:
    for sample in read_samples(shared / "gsisr/gsisr_dev.csv"):
        now = datetime.fromisoformat(sample.currenttime)
        entries = [entry for entry in sample.short_term_behavior_seq.split(", ") if entry]
        read = short_term(sample.short_term_behavior_seq, now)
        assert len(read) == len(entries)
        for behavior, entry in zip(read, entries, strict=True):
            assert entry.endswith(f"{behavior.locality}{behavior.category}的{behavior.place}")
        habits = [habit for habit in sample.long_term_behavior.split(" , ") if habit]
        assert len(long_term(sample.long_term_behavior)) == len(habits)
