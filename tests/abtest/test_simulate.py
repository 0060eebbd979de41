"""Simulated experiments: error rates and power within what chance allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from gplan_jax.abtest.experiment import AbTest, Metric, read_log
from gplan_jax.abtest.sequential import bounds, course
from gplan_jax.abtest.simulate import (
    ARMS,
    START,
    draw_arms,
    simulate_aa,
    simulate_power,
    simulate_users,
    write_log,
)
from gplan_jax.abtest.users import courses, divide, user_table

UNLIKELY = 1e-4


def holds(share: dict[str, Any], goal: float) -> bool:
    return bool(binomtest(share["count"], share["of"], goal).pvalue > UNLIKELY)


def aa(experiments: int, **options: Any) -> dict[str, Any]:
    common: dict[str, Any] = {"users": 600, "days": 7, "before": 4, "alpha": 0.05}
    common |= {"sequential": True, "spending": "obrien_fleming", "seed": 4}
    return simulate_aa(experiments, **(common | options))


def test_tests_keep_their_error_rate_and_peeking_does_not() -> None:
    found = aa(100)
    shares = dict(found["false_positives"])
    peeking = shares.pop("peeking")
    assert set(shares) == {*Metric, "uv_ctr_cuped", "sample_ratio", "sequential"}
    assert all(holds(share, 0.05) for share in shares.values())
    assert binomtest(peeking["count"], 100, 0.05, alternative="greater").pvalue < 0.01
    assert 0.05 < found["cuped_variance_saved"] < 0.5
    assert aa(3) == aa(3)


@pytest.mark.slow
@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
def test_a_thousand_experiments_keep_their_error_rate(spending: str) -> None:
    shares = aa(1000, users=2000, days=14, before=7, seed=0, spending=spending)["false_positives"]
    assert shares.pop("peeking")["low"] > 0.1
    assert all(holds(share, 0.05) for share in shares.values())


@pytest.mark.slow
def test_bounds_from_each_log_alone_keep_the_error_rate() -> None:
    """As an analysis has it: the correlation is estimated from the very log that is tested."""
    crossed, shares = 0, np.arange(1, 15) / 14
    for number in range(400):
        rng = np.random.default_rng((8, number))
        drawn = simulate_users(draw_arms(f"own{number}", 1000), 14, 0, 0.0, rng)
        found = course(*drawn.courses(), drawn.treated_U)
        limits = bounds(
            found.correlation_KxK, shares, alpha=0.05, spending="obrien_fleming", paths=100_000
        )
        crossed += bool(np.any(np.abs(found.z_K) >= limits))
    assert binomtest(crossed, 400, 0.05).pvalue > UNLIKELY


def test_the_papers_lift_is_found_with_the_promised_power() -> None:
    found = simulate_power(
        400,
        baseline=0.3,
        lift=0.0087,
        alpha=0.05,
        power=0.8,
        days=14,
        sequential=True,
        spending="obrien_fleming",
        seed=2,
    )
    assert holds(found["found"], 0.8) and holds(found["found_sequentially"], 0.8)
    assert found["need"]["users"] < found["need_sequential"]["users"]
    assert 7 < found["mean_days"] < 13


def test_a_written_log_reads_as_what_was_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    drawn = simulate_users(draw_arms("x", 300), 5, 3, 0.5, rng)
    rows = write_log(tmp_path / "log.csv", drawn)
    test = AbTest(name="x", arms=dict.fromkeys(ARMS, 0.5), control=ARMS[0], start=START)
    log = read_log(tmp_path / "log.csv")
    period = divide(log, test)
    assert rows == len(log) == np.count_nonzero(drawn.impressions_UxD)
    direct, read = drawn.table(), user_table(period)
    for metric in Metric:
        for code, arm in enumerate(ARMS):
            one = direct.aggregates(code, metric)
            other = read.aggregates(log.arms.index(arm), metric)
            assert one.count() == other.count()
            assert one.mean_ == pytest.approx(other.mean_)
            assert one.cov_ == pytest.approx(other.cov_)
    clicked, exposed, arm_U = courses(period, Metric.UV_CTR)
    treated = arm_U == log.arms.index(ARMS[1])
    here, there = course(clicked, exposed, treated), course(*drawn.courses(), drawn.treated_U)
    assert here.z_K == pytest.approx(there.z_K)
    assert here.correlation_KxK == pytest.approx(there.correlation_KxK)
