"""Which rows of a log are the test's and which the pre-period's, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np

from gplan_jax.abtest.experiment import AbTest
from gplan_jax.abtest.log import NO_ARM, ExposureLog
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
    _check_duplicates(log, notes, summed=sum_duplicates)
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
    rows = _without_crossovers(rows, notes, drop=on_crossover == "drop")
    for arm in test.arms:
        if arm not in rows.arms or not np.any(rows.arm_R == rows.arms.index(arm)):
            raise GplanError(f"{log.source} has no exposure of arm {arm!r} in the test's days.")
    missing = _missing_days(rows, first, last)
    return Period(rows, log.where(log.day_R < first), first, last, missing, tuple(notes))


def _check_duplicates(log: ExposureLog, notes: list[str], *, summed: bool) -> None:
    keys = (log.arm_R, log.day_R, log.user_R)
    order = np.lexsort(keys)
    same = np.ones(len(log) - 1, bool)
    for key in keys:
        same &= key[order][1:] == key[order][:-1]
    count = int(np.count_nonzero(same))
    if not count:
        return
    if summed:
        notes.append(f"rows summed with another of the same user, day and arm: {count:,}")
        return
    place = int(np.argmax(same))
    one, other = sorted((order[place], order[place + 1]))
    raise GplanError(
        f"{log.source}: rows that repeat the user, day and arm of another: {count}; row "
        f"{log.row_R[other]} repeats row {log.row_R[one]} (user {log.users[log.user_R[one]]!r}). "
        "Remove them, or pass --sum-duplicates where they are parts of one."
    )


def _without_crossovers(rows: ExposureLog, notes: list[str], *, drop: bool) -> ExposureLog:
    lowest_U = np.full(len(rows.users), len(rows.arms))
    highest_U = np.full(len(rows.users), -1)
    np.minimum.at(lowest_U, rows.user_R, rows.arm_R)
    np.maximum.at(highest_U, rows.user_R, rows.arm_R)
    crossed_U = (highest_U >= 0) & (lowest_U < highest_U)
    count = int(np.count_nonzero(crossed_U))
    if not count:
        return rows
    if drop:
        notes.append(f"users in more than one arm, dropped: {count:,}")
        return rows.where(~crossed_U[rows.user_R])
    user = int(np.argmax(crossed_U))
    indices = np.flatnonzero(rows.user_R == user)
    one = indices[0]
    other = indices[rows.arm_R[indices] != rows.arm_R[one]][0]
    raise GplanError(
        f"{rows.source}: users in more than one arm: {count}; {rows.users[user]!r} is in "
        f"{rows.arms[rows.arm_R[one]]} (row {rows.row_R[one]}) and in "
        f"{rows.arms[rows.arm_R[other]]} (row {rows.row_R[other]}). Mend the assignment, or pass "
        "--on-crossover drop to go without them."
    )


def _missing_days(rows: ExposureLog, first: int, last: int) -> tuple[str, ...]:
    seen = set(zip(rows.day_R.tolist(), rows.arm_R.tolist(), strict=True))
    arms = sorted({arm for _, arm in seen})
    missing = list[str]()
    for day in range(first, last + 1):
        without = [rows.arms[arm] for arm in arms if (day, arm) not in seen]
        if len(without) == len(arms):
            missing.append(f"{date.fromordinal(day)} has no rows")
        elif without:
            missing.append(f"{date.fromordinal(day)} has no rows of {', '.join(without)}")
    return tuple(missing)
