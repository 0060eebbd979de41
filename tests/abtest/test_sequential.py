"""Bounds of daily looks: published ones, spent alpha, and the users' own correlation."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gplan_jax.abtest.estimates import estimate
from gplan_jax.abtest.experiment import AbTest, Metric, read_log
from gplan_jax.abtest.sequential import (
    Sequential,
    bounds,
    course,
    independent,
    inflation,
    sequential_analysis,
    spent,
)
from gplan_jax.abtest.users import courses, divide, user_table
from gplan_jax.foundation import GplanError

FIVE = np.arange(1, 6) / 5


@pytest.mark.parametrize(
    ("spending", "published"),
    [
        # The R package ldbounds (Casper and Perez), two-sided 0.05, five equal looks.
        ("obrien_fleming", [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
        ("pocock", [2.4380, 2.4268, 2.4101, 2.3966, 2.3859]),
    ],
)
def test_published_bounds(spending: Any, published: list[float]) -> None:
    found = bounds(independent(FIVE), FIVE, alpha=0.05, spending=spending)
    assert found == pytest.approx(published, abs=0.02)


@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
def test_all_alpha_is_spent_at_the_end_and_never_more_before(spending: Any) -> None:
    shares = np.linspace(0.01, 1, 50)
    values = [spent(share, 0.05, spending) for share in shares]
    assert values[-1] == pytest.approx(0.05) and np.all(np.diff(values) > 0)
    assert spent(0.5, 0.05, "pocock") == pytest.approx(0.05 * math.log(1 + (math.e - 1) / 2))


def test_one_look_is_the_fixed_test_and_equal_looks_cost_nothing() -> None:
    assert bounds(np.ones((1, 1)), np.ones(1), alpha=0.05, spending="pocock") == pytest.approx(
        1.96, abs=0.01
    )
    same = np.ones((3, 3))
    found = bounds(same, np.array([1 / 3, 2 / 3, 1.0]), alpha=0.05, spending="pocock")
    assert found[-1] == pytest.approx(1.96, abs=0.01)


def test_the_bounds_hold_the_error_rate_on_other_draws() -> None:
    shares = np.arange(1, 15) / 14
    correlation = independent(shares) ** 0.6  # More dependent than independent increments.
    limits = bounds(correlation, shares, alpha=0.05, spending="obrien_fleming")
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    paths = np.random.default_rng(99).standard_normal((100_000, 14)) @ root.T
    crossed = int(np.any(np.abs(paths) >= limits, axis=1).sum())
    assert stats.binomtest(crossed, 100_000, 0.05).pvalue > 1e-4
    peeked = np.any(np.abs(paths) >= 1.96, axis=1).mean()
    assert peeked > 0.1


def test_daily_looks_need_few_more_users_than_one() -> None:
    """East's and gsDesign's inflation for O'Brien-Fleming-like spending is about 1.03 at 5."""
    assert inflation(FIVE, alpha=0.05, power=0.8, spending="obrien_fleming") == pytest.approx(
        1.03, abs=0.015
    )
    assert inflation(FIVE, alpha=0.05, power=0.8, spending="pocock") == pytest.approx(1.2, abs=0.04)


def test_a_fixed_cohorts_looks_are_correlated_by_their_odds() -> None:
    """For "clicked by day t" of the same users corr(s, t) = sqrt(odds_s / odds_t), s < t."""
    rng = np.random.default_rng(3)
    first_click = rng.geometric(rng.beta(2, 20, 200_000))
    clicked = (first_click[:, None] <= np.arange(1, 6)).astype(float)
    found = course(clicked, np.ones_like(clicked), np.arange(200_000) % 2 == 1)
    odds = (rate := clicked.mean(axis=0)) / (1 - rate)
    expected = np.sqrt(np.minimum.outer(odds, odds) / np.maximum.outer(odds, odds))
    assert found.correlation_KxK == pytest.approx(expected, abs=0.01)


TEST = AbTest(
    name="t", arms={"a": 0.5, "b": 0.5}, control="a", planned_days=3, metric=Metric.UV_CTR
)


def looks_of(path: Path, test: AbTest = TEST) -> Sequential:
    return sequential_analysis(divide(read_log(path), test), test, "b", alpha=0.05)


def test_the_last_look_is_the_analysis_of_the_whole_log(users_log: Callable[..., Path]) -> None:
    path = users_log({"a": (60, 20), "b": (60, 28)}, days=(2, 3, 4))
    period = divide(read_log(path), TEST)
    for metric in Metric:
        test = TEST.model_copy(update={"metric": metric})
        last = sequential_analysis(period, test, "b", alpha=0.05).looks[-1]
        table = user_table(period)
        codes = [period.test.arms.index(arm) for arm in ("a", "b")]
        one, other = (table.aggregates(code, metric) for code in codes)
        fixed = estimate(one, other, metric, alpha=0.05)
        assert (last.control, last.treatment) == pytest.approx((fixed.control, fixed.treatment))
        # Who clicks does so from the first day on: three equal looks, which cost nothing.
        assert last.low == pytest.approx(fixed.low, abs=0.01)
    numerator, denominator, arm = courses(period, Metric.UV_CTR)
    assert numerator[:, -1].sum() == 48 and denominator[:, -1].sum() == 120 == len(arm)


@pytest.mark.parametrize(
    ("clicked", "days", "decision"),
    [((10, 55), (2, 3), "stop"), ((20, 22), (2, 3), "go_on"), ((20, 22), (2, 3, 4), "end")],
)
def test_decisions(
    clicked: tuple[int, int], days: tuple[int, ...], decision: str, users_log: Callable[..., Path]
) -> None:
    found = looks_of(users_log({"a": (60, clicked[0]), "b": (60, clicked[1])}, days=days))
    assert found.decision == decision and len(found.looks) == len(days)
    assert (found.stopped_on is not None) == (decision == "stop")


def test_a_day_without_clicks_crosses_nothing(write_log: Callable[..., Path]) -> None:
    lines = [
        f"{arm}{user},2026-11-0{day},{arm},,1,{int(day == 3 and user < 5)}"
        for arm in "ab"
        for user in range(20)
        for day in (2, 3)
    ]
    first, second = looks_of(write_log(*lines)).looks
    assert (first.z, first.crossed, first.low, first.lift) == (0.0, False, None, None)
    assert second.control == 0.25


@pytest.mark.parametrize(
    ("days", "more", "planned", "problem"),
    [
        ((2, 3), (), None, "say how many before it starts"),
        ((2, 3, 4), (), 2, "has 3 days, but 2 were planned"),
        ((2, 4), (), 5, "2026-11-03 has no rows.*complete the log"),
        ((2,), ("a1,2026-11-03,a,general,1,0",), 5, "2026-11-03 has no rows of b"),
    ],
)
def test_looks_that_would_not_be_sound_are_refused(
    days: tuple[int, ...],
    more: tuple[str, ...],
    planned: int | None,
    problem: str,
    users_log: Callable[..., Path],
) -> None:
    path = users_log({"a": (5, 2), "b": (5, 2)}, days=days, more=more)
    with pytest.raises(GplanError, match=problem):
        looks_of(path, TEST.model_copy(update={"planned_days": planned}))
