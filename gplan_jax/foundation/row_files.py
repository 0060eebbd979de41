"""Rows of CSV, JSONL and Parquet files of any length: one strict reader for all commands.

Whatever program wrote the file, a cell is the text that the writer meant, or its row is faulty.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any

from gplan_jax.foundation.errors import GplanError, RowError, load_extra, meant
from gplan_jax.foundation.faulty_rows import SKIP_HINT
from gplan_jax.foundation.files import json_lines

SUFFIXES = (".csv", ".jsonl", ".parquet")
ROW_MEND = f"Mend the row, or {SKIP_HINT}."
# From here on a float no longer tells neighbouring whole numbers apart.
FIRST_INEXACT = 2**53
_PANDAS_INDEX = "; pandas writes its index so: write without it (index=False)"

Row = tuple[int, Mapping[str, str] | RowError]
_Check = Callable[[Sequence[str]], str | None]


def check_suffix(path: Path) -> None:
    """Raises GplanError where the name does not end as a known kind of data file does."""
    if path.suffix not in SUFFIXES:
        raise GplanError(f"{path}: unknown kind of data file; use {', '.join(SUFFIXES)}.")


def import_parquet() -> Any:
    """The pyarrow.parquet module; GplanError says how to install it where it is absent."""
    return load_extra("pyarrow.parquet", "parquet", "Parquet files")


def read_rows(
    path: Path,
    columns: Sequence[str],
    *,
    only: bool = True,
    optional: Collection[str] = (),
    mend: str = ROW_MEND,
) -> Iterator[Row]:
    """Yields each row's number, from 1, and its cells in ``columns`` as texts, or its fault.

    Numbers come as their digits (a whole one without a point, as pandas makes floats of a column of
    integers with holes), times and days as ISO 8601, null as "". ``only`` makes other columns a
    fault; ``optional`` ones may lack, and are "" then. ``mend`` is what a fault tells the user to
    do.

    GplanError at once where the file is missing or of another kind; on reading where it is broken,
    or columns are missing, given twice or unknown (all named).
    """
    _check_file(path)

    def check(found: Sequence[str]) -> str | None:
        """Everything that is wrong with a set of columns in one sentence, None where nothing is."""
        absent = [column for column in columns if column not in found]
        missing = [column for column in absent if column not in optional]
        extra = [c for c in dict.fromkeys(found) if c not in columns] if only else []
        twice = [column for column in columns if found.count(column) > 1]
        problems = []
        if missing:
            problems.append(f"missing columns: {', '.join(missing)}")
        if extra:
            hints = [(c or "one without a name") + meant(c, absent, cutoff=0.8) for c in extra]
            index = any(not column or column.startswith("__index_level_") for column in extra)
            problems.append(f"unknown columns: {', '.join(hints)}{_PANDAS_INDEX * index}")
        if twice:
            problems.append(f"columns given twice: {', '.join(twice)}")
        return "; ".join(problems) or None

    rows: Iterator[Mapping[str, Any] | str]
    match path.suffix:
        case ".csv":
            rows = _csv_rows(path, check)
        case ".jsonl":
            rows = _jsonl_rows(path, check)
        case _:
            rows = _parquet_rows(path, columns, check)
    return _numbered(path, columns, rows, mend)


def count_rows(path: Path) -> int:
    """How many rows a file has, JSONL's blank lines among them; GplanError where it is broken."""
    _check_file(path)
    match path.suffix:
        case ".csv":
            return sum(1 for _ in _csv_rows(path, lambda _: None))
        case ".jsonl":
            with path.open("rb") as lines:
                return sum(1 for _ in lines)
        case _:
            with _parquet_file(path) as file:
                return int(file.metadata.num_rows)


def column_names(path: Path) -> list[str]:
    """The columns of a file; JSONL's are the keys of its first row."""
    _check_file(path)
    if path.suffix == ".parquet":
        with _parquet_file(path) as file:
            return list(file.schema_arrow.names)
    if path.suffix == ".csv":
        found: list[str] = []

        def noted(header: Sequence[str]) -> None:
            found.extend(header)

        next(_csv_rows(path, noted), None)
        return found
    first = next((row for _, row in json_lines(path)), None)
    return list(first) if isinstance(first, dict) else []


def _check_file(path: Path) -> None:
    check_suffix(path)
    if not path.is_file():
        raise GplanError(f"{path} does not exist or is not a file.")


def _numbered(
    path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any] | str], mend: str
) -> Iterator[Row]:
    for number, row in enumerate(rows, start=1):
        if isinstance(row, str):
            yield number, RowError(path, number, None, row, mend)
            continue
        cells: dict[str, str] = {}
        for column in columns:
            try:
                cells[column] = cell_text(row.get(column))
            except ValueError as error:
                yield number, RowError(path, number, column, str(error), mend)
                break
        else:
            yield number, cells


def cell_text(value: Any) -> str:
    """What a cell says, see ``read_rows``; ValueError where it can't be text."""
    match value:
        case str():
            return value
        case None:
            return ""
        case bool():
            pass
        case int():
            return str(value)
        case float() if not isfinite(value):
            raise ValueError(f"{value} is no number; leave the cell empty (null) instead")
        case float() if value.is_integer():
            if abs(value) < FIRST_INEXACT:
                return str(int(value))
            raise ValueError(f"{value!r} has lost its last digits; write it as an integer or text")
        case float():
            return repr(value)
        case Decimal() if value.is_finite():
            return format(value, "f")
        case datetime():
            return value.isoformat(sep=" ")
        case date():
            return value.isoformat()
        case Exception():
            raise ValueError(f"the cell can't be read ({value})")
    raise ValueError(f"expected text or a number but found {value!r}")


# Each reader yields a row's cells as they stand in the file, or what is wrong with all of it.
# ``check`` says what is wrong with its columns, which JSONL has anew in each row.


def _csv_rows(path: Path, check: _Check) -> Iterator[Mapping[str, Any] | str]:
    # Behaviour histories may be longer than the csv module's default limit of 131,072 characters.
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header: list[str] | None = None
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if header is not None:
                    yield f"broken CSV: {error}"
                    continue
                raise GplanError(f"{path}: the header line is broken CSV: {error}.") from None
            except UnicodeDecodeError as error:
                raise GplanError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from None
            if header is None:
                if not cells:
                    raise GplanError(f"{path} is an empty data set: it has no header line.")
                header = cells
                if problem := check(header):
                    raise GplanError(f"{path}: {problem}.")
            elif cells is None:
                return
            elif cells and len(cells) != len(header):
                yield f"{len(cells)} cells under {len(header)} columns"
            elif cells:  # Not a blank line, as some editors leave at the end.
                yield dict(zip(header, cells, strict=True))


def _jsonl_rows(path: Path, check: _Check) -> Iterator[Mapping[str, Any] | str]:
    for _, row in json_lines(path):
        if isinstance(row, ValueError):
            yield f"not UTF-8 JSON: {row}"
        elif not isinstance(row, dict):
            yield "not a JSON object"
        else:
            yield check(list(row)) or row


def _parquet_rows(path: Path, columns: Sequence[str], check: _Check) -> Iterator[Mapping[str, Any]]:
    with _parquet_file(path) as file:
        if problem := check(file.schema_arrow.names):
            raise GplanError(f"{path}: {problem}.")
        there = [column for column in columns if column in file.schema_arrow.names]
        for batch in file.iter_batches(columns=there):
            cells = [_values(batch.column(column)) for column in there]
            for row in zip(*cells, strict=True):
                yield dict(zip(there, row, strict=True))


@contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    """An open pyarrow.parquet.ParquetFile; GplanError where what is read of it is broken."""
    parquet = import_parquet()
    import pyarrow

    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise GplanError(f"{path} is not a readable Parquet file: {error}.") from None


def _values(array: Any) -> list[Any]:
    """The cells of a Parquet column as Python values; the error in the place of one that has none.

    Nanoseconds, which Spark and pandas write, are cut to the microseconds that Python knows.
    """
    import pyarrow

    kind = array.type
    if pyarrow.types.is_timestamp(kind) and kind.unit == "ns":
        array = array.cast(pyarrow.timestamp("us", kind.tz), safe=False)
    try:
        found: list[Any] = array.to_pylist()
    except (ValueError, ArithmeticError, LookupError):
        found = []
        for cell in array:  # A time beyond the year 9999, bytes that are no UTF-8, a zone unknown.
            try:
                found.append(cell.as_py())
            except (ValueError, ArithmeticError, LookupError) as error:
                found.append(error)
    return found
