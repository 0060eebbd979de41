"""Test and pre-period; crossovers, duplicates, missing days, stray arms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.abtest.experiment import AbTest, read_log
from gplan_jax.abtest.users import Period, divide, user_table
from gplan_jax.foundation import GplanError, RowError
from gplan_jax.foundation.config import parse_config
from gplan_jax.foundation.config import parse_yaml as yaml

BASE = ("u1,2026-11-02,a,x,2,1", "u2,2026-11-02,b,x,2,0")


def settings(**changes: Any) -> AbTest:
    values = {"name": "test", "arms": {"a": 0.5, "b": 0.5}, "control": "a"} | changes
    return parse_config(AbTest, values, source="experiment.yaml")


def cut(path: Path, test: AbTest | None = None, **options: Any) -> Period:
    return divide(read_log(path), test or settings(), **options)


def test_rows_before_the_start_are_the_pre_period_whatever_their_arm(
    write_log: Callable[..., Path],
) -> None:
    earlier = ("u1,2026-10-30,b,x,5,4", "u2,2026-10-31,,x,1,1", "u9,2026-10-31,zzz,x,1,1")
    period = cut(write_log(*BASE, *earlier), settings(start=yaml("2026-11-02")))
    assert (len(period.test), len(period.before), period.missing) == (2, 3, ())
    table = user_table(period)
    assert table.totals["before_clicks"].tolist() == [4, 1]
    assert table.totals["before_clicked_days"].tolist() == [1, 1]


def test_users_in_both_arms_are_refused_with_one_example(write_log: Callable[..., Path]) -> None:
    path = write_log(*BASE, "u1,2026-11-03,b,x,1,0", "u2,2026-11-03,b,x,1,0")
    with pytest.raises(
        GplanError, match=r"more than one arm: 1; 'u1' is in a \(row 1\) and in b \(row 3\)"
    ):
        cut(path)


def test_users_in_both_arms_can_be_dropped(write_log: Callable[..., Path]) -> None:
    more = ("u1,2026-11-03,b,x,1,0", "u3,2026-11-02,a,x,1,0", "u3,2026-11-03,a,x,1,0")
    period = cut(write_log(*BASE, *more, "u2,2026-11-03,b,x,1,0"), on_crossover="drop")
    assert {period.test.users[code] for code in period.test.user_R} == {"u2", "u3"}
    assert period.notes == ("users in more than one arm, dropped: 1",)


def test_dropping_everyone_of_an_arm_is_an_error(write_log: Callable[..., Path]) -> None:
    path = write_log(*BASE, "u1,2026-11-03,b,x,1,0")
    with pytest.raises(GplanError, match="no exposure of arm 'a'"):
        cut(path, on_crossover="drop")


def test_duplicates_are_named_or_summed(write_log: Callable[..., Path]) -> None:
    path = write_log(*BASE, "u3,2026-11-02,b,y,1,0", "u2,2026-11-02,b,x,3,1")
    with pytest.raises(GplanError, match=r"of another: 1; row 4 repeats row 2 \(user 'u2'\)"):
        cut(path)
    period = cut(path, sum_duplicates=True)
    table = user_table(period)
    assert table.totals["impressions"].tolist() == [2, 5, 1]
    assert table.totals["exposed_days"].tolist() == [1, 1, 1]
    assert "rows summed with another of the same user, day and arm: 1" in period.notes


def test_missing_days_are_named(write_log: Callable[..., Path]) -> None:
    period = cut(write_log(*BASE, "u1,2026-11-04,a,x,1,0"), settings(end=yaml("2026-11-05")))
    assert period.missing == (
        "2026-11-03 has no rows",
        "2026-11-04 has no rows of b",
        "2026-11-05 has no rows",
    )


def test_rows_without_impressions_and_after_the_end_are_left_out(
    write_log: Callable[..., Path],
) -> None:
    path = write_log(*BASE, "u3,2026-11-02,zzz,x,0,0", "u1,2026-11-09,b,x,1,0")
    period = cut(path, settings(end=yaml("2026-11-02")))
    assert len(period.test) == 2 and period.missing == ()
    assert period.notes == (
        "rows without impressions, which are no exposures, left out: 1",
        "rows of days after 2026-11-02 left out: 1",
    )


@pytest.mark.parametrize(("arm", "problem"), [("", "it is empty"), ("c", "'c' is none of")])
def test_an_arm_that_the_experiment_has_not(
    arm: str, problem: str, write_log: Callable[..., Path]
) -> None:
    with pytest.raises(RowError, match=rf"row 3, column arm: {problem}.*arms are a, b"):
        cut(write_log(*BASE, f"u3,2026-11-02,{arm},x,1,0"))


def test_one_arm_or_no_row_at_all(write_log: Callable[..., Path]) -> None:
    with pytest.raises(GplanError, match="no exposure of arm 'b'"):
        cut(write_log(BASE[0]))
    with pytest.raises(GplanError, match="no row of the test's days; its own are 2026-11-02 to"):
        cut(write_log(*BASE), settings(start=yaml("2026-12-01")))
    with pytest.raises(GplanError, match="no row with an impression"):
        cut(write_log("u1,2026-11-02,a,x,0,0"))
