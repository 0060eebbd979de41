"""experiment.yaml: who gets which arm, and how the test is judged; both settled beforehand.

Exposures and clicks are read from a log: one row a user, day and arm, with its counts.
"""

from __future__ import annotations

import csv
import datetime
import re
from collections import Counter
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pydantic
from pydantic import Field

from gplan_jax.foundation.buckets import Experiment
from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.files import atomic_write
from gplan_jax.foundation.progress import track
from gplan_jax.foundation.row_files import FIRST_INEXACT, read_rows

NO_PART = "(none)"
COLUMNS = ("user", "day", "arm", "impressions", "clicks")
NO_ARM = -1


class Metric(StrEnum):
    """What arms are compared by; users are the clusters of each.

    UV_CTR is users with a click / users exposed, over the whole test: our reading of the paper's,
    which doesn't say over what time. UV_CTR_DAY counts each day of a user: user-days with a click /
    user-days exposed. CTR is clicks / impressions.
    """

    UV_CTR = "uv_ctr"
    UV_CTR_DAY = "uv_ctr_day"
    CTR = "ctr"


class AbTest(Experiment):
    """An experiment and the plan of its analysis."""

    # First and last day of the test, the log's own where not given. Rows before ``start`` are the
    # pre-period: covariates of CUPED, their arm is not looked at.
    start: date | None = None
    end: date | None = None
    metric: Metric = Field(default=Metric.UV_CTR, strict=False)  # what the verdict is on
    # Two-sided level of tests; intervals have level 1 - alpha
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    power: float = Field(default=0.8, gt=0, lt=1)  # of the minimal detectable effect
    # Whether the verdict is on the adjusted figures where the log has a pre-period.
    cuped: bool = True
    # Over several treatments: ``holm`` (any error at all, under any dependence) or ``fdr`` (share
    # of errors among what holds, Benjamini and Hochberg).
    correction: Literal["holm", "fdr"] = "holm"
    # Below this p-value the sample-ratio check fails and there is no verdict.
    srm_alpha: float = Field(default=0.001, gt=0, lt=0.5)
    planned_days: int | None = Field(default=None, ge=2, le=365)  # how many daily looks spend alpha
    # ``obrien_fleming`` keeps nearly all for the end, ``pocock`` spends early.
    spending: Literal["obrien_fleming", "pocock"] = "obrien_fleming"

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.start and self.end and self.end < self.start:
            raise ValueError(f"end {self.end} lies before start {self.start}")
        return self


def assign_file(experiment: Experiment, users: Path, out: Path) -> Counter[str]:
    """Writes user, arm ("" for NO_PART) and user_hash of each line of ``users``; users by arm."""
    if out.exists():
        raise GplanError(f"{out} exists and is never overwritten; name another or remove it.")
    counts: Counter[str] = Counter()
    try:
        with (
            users.open(encoding="utf-8-sig") as lines,
            atomic_write(out) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as target,
        ):
            writer = csv.writer(target)
            writer.writerow(("user", "arm", "user_hash"))
            for row, line in enumerate(track(lines, "Assigning users"), start=1):
                user = line.strip()
                if not user:
                    raise RowError(users, row, None, "the line is empty", "Remove it.")
                arm = experiment.assign(user)
                counts[arm or NO_PART] += 1
                writer.writerow((user, arm or "", experiment.pseudonym(user)))
    except FileNotFoundError:
        raise GplanError(f"{users} does not exist.") from None
    except UnicodeDecodeError as error:
        raise GplanError(f"{users} is not UTF-8 text: {error}.") from None
    return counts


@dataclass(frozen=True)
class ExposureLog:
    """The rows of a log by column, R of them; texts are codes into the lists of their names."""

    source: Path
    users: list[str]  # names by code, in order of appearance
    arms: list[str]
    user_R: np.ndarray
    day_R: np.ndarray  # ordinals, as ``datetime.date.toordinal``
    arm_R: np.ndarray  # an empty arm is ``NO_ARM``
    impressions_R: np.ndarray
    clicks_R: np.ndarray  # 0 <= clicks <= impressions
    row_R: np.ndarray  # row numbers in the file, from 1

    def __len__(self) -> int:
        return len(self.row_R)

    def where(self, keep_R: np.ndarray) -> ExposureLog:
        """The rows that ``keep_R`` [R] names; the codes stay what they are."""
        arrays = {name: value[keep_R] for name, value in vars(self).items() if name.endswith("_R")}
        return ExposureLog(self.source, self.users, self.arms, **arrays)


def read_log(path: str | Path) -> ExposureLog:
    """Reads a .csv, .jsonl or .parquet log with the columns ``COLUMNS``; others are ignored.

    Rows are read one by one and kept as numbers, some 50 bytes each.
    """
    path = Path(path)
    codes: dict[str, dict[str, int]] = {"user": {}, "arm": {"": NO_ARM}}
    days: dict[str, int] = {}
    found: list[tuple[int, ...]] = []
    chunks: list[np.ndarray] = []
    rows = read_rows(path, COLUMNS, only=False, mend="Mend the row.")
    for row, cells in track(rows, "Reading the log"):
        if isinstance(cells, RowError):
            raise cells
        values = {name: text.strip() for name, text in cells.items()}
        if not values["user"]:
            raise RowError(path, row, "user", "it is empty", "Give every row its user.")
        day, arm = values["day"], values["arm"]
        if day not in days:
            days[day] = _ordinal(path, row, day)
        impressions, clicks = (
            _count(path, row, name, values[name]) for name in ("impressions", "clicks")
        )
        if clicks > impressions:
            problem = f"{clicks} clicks on {impressions} impressions"
            raise RowError(path, row, "clicks", problem, "Count what was shown, then what of it.")
        if arm not in codes["arm"]:
            codes["arm"][arm] = len(codes["arm"]) - 1
        user = codes["user"].setdefault(values["user"], len(codes["user"]))
        found.append((user, days[day], codes["arm"][arm], impressions, clicks, row))
        if len(found) == 65_536:
            chunks.append(np.array(found, np.int64))
            found.clear()
    chunks.append(np.array(found, np.int64).reshape(-1, 6))
    table = np.concatenate(chunks)
    if not len(table):
        raise GplanError(f"{path} has no rows; an exposure log has one a user, day and arm.")
    arms = [arm for arm in codes["arm"] if arm]
    return ExposureLog(path, list(codes["user"]), arms, *np.ascontiguousarray(table.T))


def _ordinal(path: Path, row: int, text: str) -> int:
    try:
        if text[4:5] != "-":  # Milliseconds of an epoch could pass for a day of the year 1762.
            raise ValueError
        return datetime.datetime.fromisoformat(text).toordinal()
    except ValueError:
        problem = f"{text!r} is no day"
        raise RowError(path, row, "day", problem, "Write days as 2026-11-23.") from None


def _count(path: Path, row: int, name: str, text: str) -> int:
    # pandas writes a column of counts with holes as 3.0.
    if not (found := re.fullmatch(r"([-+]?[0-9]+)(\.0*)?", text)):
        problem = f"{text!r} is no whole number"
    elif len(found[1]) > 17 or (number := int(found[1])) >= FIRST_INEXACT:
        problem = f"{text} is more than can be counted exactly (2^53)"
    elif number < 0:
        problem = f"{number} is negative"
    else:
        return number
    raise RowError(path, row, name, problem, "Write a count: 0, 1, 2.")
