"""From rows to users, the units that were drawn into arms: totals, moments and daily courses.

``divide`` says which rows of a log are the test's and which the pre-period's, and what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, NamedTuple

import numpy as np

from gplan_jax.abtest.experiment import NO_ARM, AbTest, ExposureLog, Metric
from gplan_jax.foundation.errors import GplanError, RowError


@dataclass(frozen=True)
class Period:
    """The rows of a test, checked."""

    test: ExposureLog  # from the first to the last day
    before: ExposureLog  # exposures of days before the test; their arms mean nothing
    first: int  # as ordinals
    last: int
    missing: tuple[str, ...]  # what days lack, one text each
    notes: tuple[str, ...]  # what was left out or summed


def divide(
    log: ExposureLog,
    test: AbTest,
    *,
    on_crossover: Literal["raise", "drop"] = "raise",
    sum_duplicates: bool = False,
) -> Period:
    """Cuts ``log`` into test and pre-period, and checks both.

    A row without impressions is no exposure and counts nowhere. A user belongs to the arm of
    their exposures during the test.
    """
    notes = list[str]()
    keys = (log.arm_R, log.day_R, log.user_R)
    order = np.lexsort(keys)
    same = np.ones(len(log) - 1, bool)
    for key in keys:
        same &= key[order][1:] == key[order][:-1]
    count = int(np.count_nonzero(same))
    if count and sum_duplicates:
        notes.append(f"rows summed with another of the same user, day and arm: {count:,}")
    elif count:
        place = int(np.argmax(same))
        one, other = sorted((order[place], order[place + 1]))
        raise GplanError(
            f"{log.source}: rows that repeat the user, day and arm of another: {count}; row "
            f"{log.row_R[other]} repeats row {log.row_R[one]} (user "
            f"{log.users[log.user_R[one]]!r}). Remove them, or pass --sum-duplicates where they "
            "are parts of one."
        )
    shown_R = log.impressions_R > 0
    if hidden := int(np.count_nonzero(~shown_R)):
        notes.append(f"rows without impressions, which are no exposures, left out: {hidden:,}")
    log = log.where(shown_R)
    if not len(log):
        raise GplanError(f"{log.source} has no row with an impression.")
    first = test.start.toordinal() if test.start else int(log.day_R.min())
    last = test.end.toordinal() if test.end else int(log.day_R.max())
    if late := int(np.count_nonzero(log.day_R > last)):
        notes.append(f"rows of days after {date.fromordinal(last)} left out: {late:,}")
    rows = log.where((log.day_R >= first) & (log.day_R <= last))
    if not len(rows):
        days = (
            f"{date.fromordinal(int(log.day_R.min()))} to {date.fromordinal(int(log.day_R.max()))}"
        )
        raise GplanError(f"{log.source} has no row of the test's days; its own are {days}.")
    stray_R = ~np.isin(rows.arm_R, [i for i, arm in enumerate(rows.arms) if arm in test.arms])
    if stray_R.any():
        index = int(np.argmax(stray_R))
        code = int(rows.arm_R[index])
        stray = (
            "it is empty" if code == NO_ARM else f"{rows.arms[code]!r} is none of the experiment"
        )
        mend = f"The experiment's arms are {', '.join(test.arms)}."
        raise RowError(rows.source, int(rows.row_R[index]), "arm", stray, mend)
    # Users in several arms.
    lowest_U = np.full(len(rows.users), len(rows.arms))
    highest_U = np.full(len(rows.users), -1)
    np.minimum.at(lowest_U, rows.user_R, rows.arm_R)
    np.maximum.at(highest_U, rows.user_R, rows.arm_R)
    crossed_U = (highest_U >= 0) & (lowest_U < highest_U)
    count = int(np.count_nonzero(crossed_U))
    if count and on_crossover == "drop":
        notes.append(f"users in more than one arm, dropped: {count:,}")
        rows = rows.where(~crossed_U[rows.user_R])
    elif count:
        user = int(np.argmax(crossed_U))
        indices = np.flatnonzero(rows.user_R == user)
        one = indices[0]
        other = indices[rows.arm_R[indices] != rows.arm_R[one]][0]
        raise GplanError(
            f"{rows.source}: users in more than one arm: {count}; {rows.users[user]!r} is in "
            f"{rows.arms[rows.arm_R[one]]} (row {rows.row_R[one]}) and in "
            f"{rows.arms[rows.arm_R[other]]} (row {rows.row_R[other]}). Mend the assignment, or "
            "pass --on-crossover drop to go without them."
        )
    for arm in test.arms:
        if arm not in rows.arms or not np.any(rows.arm_R == rows.arms.index(arm)):
            raise GplanError(f"{log.source} has no exposure of arm {arm!r} in the test's days.")
    # Days that lack the rows of an arm, or all.
    seen = set(zip(rows.day_R.tolist(), rows.arm_R.tolist(), strict=True))
    there = sorted({code for _, code in seen})
    missing = list[str]()
    for day in range(first, last + 1):
        without = [rows.arms[code] for code in there if (day, code) not in seen]
        if len(without) == len(there):
            missing.append(f"{date.fromordinal(day)} has no rows")
        elif without:
            missing.append(f"{date.fromordinal(day)} has no rows of {', '.join(without)}")
    before = log.where(log.day_R < first)
    return Period(rows, before, first, last, tuple(missing), tuple(notes))


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
    """Numerator and denominator [U, K] of each user up to the end of each day, and arms [U]."""
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
