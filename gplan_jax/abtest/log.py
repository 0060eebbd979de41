"""Reading an exposure and click log: one row a user, day and arm, with its counts."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.progress import track
from gplan_jax.foundation.row_files import FIRST_INEXACT, read_rows

COLUMNS = ("user", "day", "arm", "impressions", "clicks")
NO_ARM = -1


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
