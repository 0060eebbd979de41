"""Simulated users, and experiments on them: do the tests keep their error rate and their power?"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from gplan_jax.abtest import estimates
from gplan_jax.abtest.experiment import COLUMNS, Metric
from gplan_jax.abtest.sequential import Spending, bounds, course, independent
from gplan_jax.abtest.users import UserTable
from gplan_jax.foundation.buckets import Experiment
from gplan_jax.foundation.files import atomic_write
from gplan_jax.foundation.progress import track

ARMS = ("control", "gplan")
START = date(2026, 11, 2)
# Of each user: chance to come on a day, to click what is shown.
ACTIVITY, CLICKING = (1.5, 2.5), (0.6, 8.0)
MORE_IMPRESSIONS = 2.0


@dataclass(frozen=True)
class Simulated:
    """Users over days: who is in the treatment [U], what they saw and clicked [U, days].

    The first ``before`` days lie before the test; the treatment has no effect on them.
    """

    treated_U: np.ndarray
    impressions_UxD: np.ndarray
    clicks_UxD: np.ndarray
    before: int

    def table(self) -> UserTable:
        """The totals of the users exposed in the test, as ``user_table`` makes them of a log."""
        exposed = self.impressions_UxD[:, self.before :].sum(axis=1) > 0
        totals = _totals(self.impressions_UxD[:, self.before :], self.clicks_UxD[:, self.before :])
        earlier = _totals(self.impressions_UxD[:, : self.before], self.clicks_UxD[:, : self.before])
        totals |= {f"before_{name}": value for name, value in earlier.items()}
        totals["clicked"] = totals["clicks"] > 0
        return UserTable(
            self.treated_U[exposed].astype(int),
            {name: value[exposed] for name, value in totals.items()},
        )

    def courses(self) -> tuple[np.ndarray, np.ndarray]:
        """Whether each user has clicked, and been exposed, up to each day of the test: [U, K]."""
        clicked = np.maximum.accumulate(self.clicks_UxD[:, self.before :] > 0, axis=1)
        exposed = np.maximum.accumulate(self.impressions_UxD[:, self.before :] > 0, axis=1)
        return clicked.astype(float), exposed.astype(float)


def _totals(impressions_UxD: np.ndarray, clicks_UxD: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "impressions": impressions_UxD.sum(axis=1),
        "clicks": clicks_UxD.sum(axis=1),
        "exposed_days": (impressions_UxD > 0).sum(axis=1),
        "clicked_days": (clicks_UxD > 0).sum(axis=1),
    }


def simulate_users(
    treated_U: np.ndarray, days: int, before: int, lift: float, rng: np.random.Generator
) -> Simulated:
    """Draws users who differ in how often they come and click.

    ``lift`` is relative, on a treated user's chance to click an impression during the test.
    """
    users, width = len(treated_U), before + days
    active = rng.random((users, width)) < rng.beta(*ACTIVITY, (users, 1))
    impressions = np.where(active, 1 + rng.poisson(MORE_IMPRESSIONS, (users, width)), 0)
    chance = np.broadcast_to(rng.beta(*CLICKING, (users, 1)), (users, width)).copy()
    chance[treated_U, before:] *= 1 + lift
    clicks = rng.binomial(impressions, np.clip(chance, 0, 1))
    return Simulated(treated_U, impressions, clicks, before)


def draw_arms(salt: str, users: int) -> np.ndarray:
    """Who is in the treatment, by the buckets that the server uses: [users] bool."""
    drawn = Experiment(name=salt, arms=dict.fromkeys(ARMS, 0.5), control=ARMS[0])
    return np.array([drawn.assign(f"u{number}") == ARMS[1] for number in range(users)])


def write_log(path: str | Path, simulated: Simulated) -> int:
    """Writes a simulated log as CSV, atomically; returns the number of its rows."""
    rows = 0
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        for day in range(simulated.impressions_UxD.shape[1]):
            stamp = START + timedelta(days=day - simulated.before)
            for user in np.flatnonzero(simulated.impressions_UxD[:, day]):
                arm = ARMS[int(simulated.treated_U[user])] if day >= simulated.before else ""
                counts = simulated.impressions_UxD[user, day], simulated.clicks_UxD[user, day]
                writer.writerow((f"u{user}", stamp, arm, *map(int, counts)))
                rows += 1
    return rows


def share_with_interval(hits: int, trials: int) -> dict[str, Any]:
    """A share with its exact 95% binomial interval (Clopper and Pearson 1934)."""
    from scipy.stats import binomtest

    interval = binomtest(hits, trials).proportion_ci(0.95)
    share = {"count": hits, "of": trials, "share": hits / trials}
    return share | {"low": float(interval.low), "high": float(interval.high)}


def simulate_aa(
    experiments: int,
    *,
    users: int,
    days: int,
    before: int,
    alpha: float,
    sequential: bool,
    spending: Spending,
    seed: int,
) -> dict[str, Any]:
    """Experiments without an effect: how often each test finds one.

    Every experiment has users of its own, in arms drawn by a salt of its own. The fixed tests run
    as in an analysis; the bounds of the daily looks come from the looks' mean correlation.
    ``peeking`` is the fixed test, looked at daily and stopped at the first p < alpha.
    """
    estimates.import_tea_tasting()
    tests = [*Metric, *([f"{Metric.UV_CTR}_cuped"] if before else []), "sample_ratio"]
    p_values: dict[str, list[float | None]] = {str(name): [] for name in tests}
    saved, rates, looks = [], [], []
    correlation = np.zeros((days, days))
    for number in track(range(experiments), "A/A experiments"):
        rng = np.random.default_rng((seed, number))
        drawn = simulate_users(draw_arms(f"aa{seed}_{number}", users), days, before, 0.0, rng)
        table = drawn.table()
        found = {metric: _compared(table, metric, alpha) for metric in Metric}
        for metric in Metric:
            p_values[metric].append(found[metric].p)
        if before:
            cuped = _compared(table, Metric.UV_CTR, alpha, cuped=True)
            p_values[f"{Metric.UV_CTR}_cuped"].append(cuped.p)
            saved.append(estimates.variance_saved(found[Metric.UV_CTR], cuped) or 0.0)
        counts = {arm: int(np.sum(table.arm_U == code)) for code, arm in enumerate(ARMS)}
        p_values["sample_ratio"].append(estimates.sample_ratio_p(counts, dict.fromkeys(ARMS, 0.5)))
        rates.append(found[Metric.UV_CTR].control)
        if sequential:
            daily = course(*drawn.courses(), drawn.treated_U)
            correlation += daily.correlation_KxK / experiments
            looks.append(daily.z_K)
    false_positives = {
        name: share_with_interval(sum(p is not None and p < alpha for p in values), experiments)
        for name, values in p_values.items()
    }
    if sequential:
        from scipy.stats import norm

        z_ExK = np.abs(np.stack(looks))
        limits = bounds(correlation, np.arange(1, days + 1) / days, alpha=alpha, spending=spending)
        crossed = int(np.any(z_ExK >= limits, axis=1).sum())
        peeked = int(np.any(z_ExK >= norm.isf(alpha / 2), axis=1).sum())
        false_positives["sequential"] = share_with_interval(crossed, experiments)
        false_positives["peeking"] = share_with_interval(peeked, experiments)
    return {
        "false_positives": false_positives,
        "uv_ctr": float(np.mean(rates)),
        "cuped_variance_saved": float(np.mean(saved)) if saved else None,
    }


def _compared(
    table: UserTable, metric: Metric, alpha: float, *, cuped: bool = False
) -> estimates.Estimate:
    control, treatment = (table.aggregates(arm, metric) for arm in (0, 1))
    return estimates.estimate(control, treatment, metric, alpha=alpha, cuped=cuped)


def simulate_power(
    experiments: int,
    *,
    baseline: float,
    lift: float,
    alpha: float,
    power: float,
    days: int,
    sequential: bool,
    spending: Spending,
    seed: int,
) -> dict[str, Any]:
    """Experiments with a planted lift, at the computed sample size: how often it is found.

    Users are alike and come once, the same number each day, so that an arm is a binomial draw a
    day and a million users cost nothing. The fixed test at the end runs as in an analysis.
    """
    estimates.import_tea_tasting()
    rng = np.random.default_rng(seed)
    need = estimates.needed(baseline, lift, alpha=alpha, power=power)
    rates = np.array([baseline, baseline * (1 + lift)])
    found = 0
    clicked_Ex2 = rng.binomial((need.control, need.treatment), rates, (experiments, 2))
    for clicked in track(clicked_Ex2, "Experiments with a lift"):
        control = _binomial_moments(int(clicked[0]), need.control)
        treatment = _binomial_moments(int(clicked[1]), need.treatment)
        result = estimates.estimate(control, treatment, Metric.UV_CTR, alpha=alpha)
        found += result.p is not None and result.p < alpha and result.difference * lift > 0
    answer: dict[str, Any] = {"need": vars(need), "found": share_with_interval(found, experiments)}
    if not sequential:
        return answer
    need = estimates.needed(baseline, lift, alpha=alpha, power=power, looks=days, spending=spending)
    shares = np.arange(1, days + 1) / days
    users_2xK = np.outer((need.control, need.treatment), shares).round().astype(int)
    limits = bounds(independent(shares), shares, alpha=alpha, spending=spending)
    # z of each look at two arms of so many users by then.
    daily_2xK = np.diff(users_2xK, axis=1, prepend=0)
    clicked_Ex2xK = rng.binomial(daily_2xK, rates[:, None], (experiments, *daily_2xK.shape))
    rate_Ex2xK = clicked_Ex2xK.cumsum(axis=2) / users_2xK
    error_ExK = np.sqrt((rate_Ex2xK * (1 - rate_Ex2xK) / users_2xK).sum(axis=1))
    gap_ExK = rate_Ex2xK[:, 1] - rate_Ex2xK[:, 0]
    z_ExK = np.divide(gap_ExK, error_ExK, out=np.zeros_like(gap_ExK), where=error_ExK > 0)
    crossed_ExK = np.abs(z_ExK) >= limits
    first = np.where(crossed_ExK.any(axis=1), crossed_ExK.argmax(axis=1), days - 1)
    right = crossed_ExK.any(axis=1) & (z_ExK[np.arange(experiments), first] * lift > 0)
    return answer | {
        "need_sequential": vars(need),
        "found_sequentially": share_with_interval(int(right.sum()), experiments),
        "mean_days": float(first.mean()) + 1,
    }


def _binomial_moments(clicked: int, users: int) -> Any:
    """``Aggregates`` of so many users of whom ``clicked`` did: what a 0/1 column would give."""
    from tea_tasting.aggr import Aggregates

    mean = clicked / users
    spread = mean * (1 - mean) * users / (users - 1)
    return Aggregates(count_=users, mean_={"clicked": mean}, var_={"clicked": spread})
