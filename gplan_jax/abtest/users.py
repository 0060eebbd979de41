"""From rows to users, the units that were drawn into arms: totals, moments and daily courses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gplan_jax.abtest.experiment import Metric
from gplan_jax.abtest.log import ExposureLog
from gplan_jax.abtest.period import Period


class Ratio(NamedTuple):
    """A metric as sum(numerator) / sum(denominator) over users; no denominator counts users."""

    numerator: str
    denominator: str | None


RATIOS = {
    Metric.UV_CTR: Ratio("clicked", None),
    Metric.UV_CTR_DAY: Ratio("clicked_days", "exposed_days"),
    Metric.CTR: Ratio("clicks", "impressions"),
}
# What of the days before the test foretells each metric.
COVARIATES = {
    Metric.UV_CTR: Ratio("before_clicked_days", None),
    Metric.UV_CTR_DAY: Ratio("before_clicked_days", "before_exposed_days"),
    Metric.CTR: Ratio("before_clicks", "before_impressions"),
}


@dataclass(frozen=True)
class UserTable:
    """One entry a user: the arm's code [U] and the totals [U] by name."""

    arm_U: np.ndarray
    totals: Mapping[str, np.ndarray]

    def aggregates(self, arm: int, metric: Metric) -> Any:
        """tea-tasting's ``Aggregates`` of one arm: count, means, variances and covariances."""
        from tea_tasting.aggr import Aggregates

        names = sorted({name for name in (*RATIOS[metric], *COVARIATES[metric]) if name})
        mine_U = self.arm_U == arm
        values = np.stack([self.totals[name][mine_U] for name in names]).astype(float)
        count = values.shape[1]
        spread = np.cov(values) if count > 1 else np.zeros((len(names), len(names)))
        spread = np.atleast_2d(spread)
        return Aggregates(
            count_=count,
            mean_=dict(zip(names, values.mean(axis=1).tolist(), strict=True)),
            var_={name: float(spread[i, i]) for i, name in enumerate(names)},
            cov_={
                (left, right): float(spread[i, j])
                for i, left in enumerate(names)
                for j, right in enumerate(names)
                if i < j
            },
        )


def user_table(period: Period) -> UserTable:
    """The totals of all users with an exposure in the test.

    A user without a pre-period has zeros there, which is no bias: it was so before the draw.
    """
    rows = period.test
    kept = np.unique(rows.user_R)
    arm_of = np.zeros(len(rows.users), np.int64)
    arm_of[rows.user_R] = rows.arm_R
    totals = _totals(rows) | {f"before_{k}": v for k, v in _totals(period.before).items()}
    totals["clicked"] = totals["clicks"] > 0
    return UserTable(arm_of[kept], {name: value[kept] for name, value in totals.items()})


def _totals(rows: ExposureLog) -> dict[str, np.ndarray]:
    """Sums of each user of the whole log, [all users]."""
    users = len(rows.users)
    day_users, clicks = _by_user_day(rows)[::2]
    return {
        "impressions": np.bincount(rows.user_R, rows.impressions_R, users),
        "clicks": np.bincount(rows.user_R, rows.clicks_R, users),
        "exposed_days": np.bincount(day_users, minlength=users).astype(float),
        "clicked_days": np.bincount(day_users, clicks > 0, users),
    }


def _by_user_day(rows: ExposureLog) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """User, day, clicks and impressions of each user-day, [D] each."""
    start = int(rows.day_R.min()) if len(rows) else 0
    width = int(rows.day_R.max()) - start + 1 if len(rows) else 1
    keys, place_R = np.unique(rows.user_R * width + rows.day_R - start, return_inverse=True)
    clicks = np.bincount(place_R, rows.clicks_R, len(keys))
    impressions = np.bincount(place_R, rows.impressions_R, len(keys))
    return keys // width, keys % width + start, clicks, impressions


def courses(period: Period, metric: Metric) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numerator [U, K] and denominator [U, K] of each user up to the end of each day, and arms [U].

    The ratio of their sums over an arm is the metric as a look on that day finds it.
    """
    rows = period.test
    user_D, day_D, clicks_D, impressions_D = _by_user_day(rows)
    kept, place_D = np.unique(user_D, return_inverse=True)
    shape = (len(kept), period.last - period.first + 1)
    cells = (place_D, day_D - period.first)

    def spread(values: np.ndarray | float) -> np.ndarray:
        table = np.zeros(shape)
        table[cells] = values
        return np.cumsum(table, axis=1)

    arm_of = np.zeros(len(rows.users), np.int64)
    arm_of[rows.user_R] = rows.arm_R
    clicked = spread((clicks_D > 0).astype(float))
    exposed = spread(1.0)
    match metric:
        case Metric.UV_CTR:
            both = (clicked > 0).astype(float), (exposed > 0).astype(float)
        case Metric.UV_CTR_DAY:
            both = clicked, exposed
        case Metric.CTR:
            both = spread(clicks_D), spread(impressions_D)
    return *both, arm_of[kept]
