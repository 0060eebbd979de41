"""Reading an exposure and click log: one row a user, day and arm, with its counts."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.files import read_jsonl
from gplan_jax.foundation.progress import track

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
    days: dict[Any, int] = {}
    found: list[tuple[int, ...]] = []
    chunks: list[np.ndarray] = []
    for row, values in track(_rows(path), "Reading the log"):
        given = {name: values.get(name) for name in codes}
        texts = {name: "" if v is None else str(v).strip() for name, v in given.items()}
        if not texts["user"]:
            raise RowError(path, row, "user", "it is empty", "Give every row its user.")
        day = values["day"]
        if day not in days:
            days[day] = _ordinal(path, row, day)
        impressions, clicks = (
            _count(path, row, name, values[name]) for name in ("impressions", "clicks")
        )
        if clicks > impressions:
            problem = f"{clicks} clicks on {impressions} impressions"
            raise RowError(path, row, "clicks", problem, "Count what was shown, then what of it.")
        arm = texts["arm"]
        if arm not in codes["arm"]:
            codes["arm"][arm] = len(codes["arm"]) - 1
        user = codes["user"].setdefault(texts["user"], len(codes["user"]))
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


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if not path.is_file():
        raise GplanError(f"{path} does not exist.")
    match path.suffix:
        case ".csv":
            yield from _csv_rows(path)
        case ".jsonl":
            for row, values in enumerate(read_jsonl(path), start=1):
                if not isinstance(values, dict):
                    mend = "Each line is an object with the log's columns."
                    raise RowError(path, row, None, "not a JSON object", mend)
                _check_columns(path, values)
                yield row, values
        case ".parquet":
            yield from _parquet_rows(path)
        case other:
            raise GplanError(f"{path}: {other or 'no'} suffix; a log is .csv, .jsonl or .parquet.")


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines)
            header = next(reader, [])
            if not header:
                raise GplanError(f"{path} is empty; its first line names {', '.join(COLUMNS)}.")
            _check_columns(path, header)
            row = 0
            for cells in reader:
                if not cells:
                    continue
                row += 1
                if len(cells) != len(header):
                    problem = f"{len(cells)} cells under {len(header)} headings"
                    raise RowError(path, row, None, problem, "Quote cells that hold a comma.")
                yield row, dict(zip(header, cells, strict=True))
    except UnicodeDecodeError as error:
        raise GplanError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from None
    except csv.Error as error:
        raise GplanError(f"{path} is not valid CSV: {error}.") from None


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    from gplan_jax.gsisr.sample_files import import_parquet

    parquet = import_parquet()
    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise GplanError(f"{path} is not a Parquet file: {error}.") from None
    _check_columns(path, file.schema_arrow.names)
    row = 0
    for batch in file.iter_batches(columns=list(COLUMNS)):
        for values in batch.to_pylist():
            row += 1
            yield row, values


def _check_columns(path: Path, given: Any) -> None:
    if missing := [name for name in COLUMNS if name not in given]:
        raise GplanError(
            f"{path} lacks the column {', '.join(missing)}; a log has {', '.join(COLUMNS)}."
        )


def _ordinal(path: Path, row: int, value: Any) -> int:
    if isinstance(value, datetime.date):
        return value.toordinal()
    try:
        return datetime.datetime.fromisoformat(str(value).strip()).toordinal()
    except ValueError:
        problem = f"{value!r} is no day"
        raise RowError(path, row, "day", problem, "Write days as 2026-11-23.") from None


def _count(path: Path, row: int, name: str, value: Any) -> int:
    try:
        number = int(value)
        whole = not isinstance(value, (float, bool)) or number == value
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole or isinstance(value, bool):
        raise RowError(path, row, name, f"{value!r} is no whole number", "Write a count: 0, 1, 2.")
    if number < 0:
        raise RowError(path, row, name, f"{number} is negative", "Write a count: 0, 1, 2.")
    return number
