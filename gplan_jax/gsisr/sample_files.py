"""Samples in CSV, JSONL and Parquet files of any length: read and written one row at a time."""

from __future__ import annotations

import csv
import difflib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.extras import load_extra
from gplan_jax.foundation.faulty_rows import SKIP_HINT, FaultyRows
from gplan_jax.foundation.files import atomic_write
from gplan_jax.gsisr.samples import COLUMNS, Sample

Row = tuple[int, Mapping[str, Any] | RowError]

SUFFIXES = (".csv", ".jsonl", ".parquet")
_ROW_MEND = f"Mend the row, or {SKIP_HINT}."


def read_samples(path: str | Path, *, faulty: FaultyRows | None = None) -> Iterator[Sample]:
    """Yields the samples of a .csv, .jsonl or .parquet file without holding it in memory.

    Args:
        path: the file; its columns are those of ``Sample``, in any order.
        faulty: what becomes of faulty rows; the first one ends the reading where None.

    Raises:
        GplanError: at once where the file is missing or of another kind; on reading where columns
            are missing or unknown (all named), or no row is left.
        RowError: a row is faulty and not left out.
    """
    return (sample for _, sample in read_numbered_samples(path, faulty=faulty))


def read_numbered_samples(
    path: str | Path, *, faulty: FaultyRows | None = None, limit: int | None = None
) -> Iterator[tuple[int, Sample]]:
    """As ``read_samples``, each sample after its row number in the file, counted from 1.

    Args:
        limit: only the first so many rows of the file are looked at, faulty ones among them.
    """
    path = Path(path)
    check_suffix(path)
    if not path.is_file():
        raise GplanError(f"{path} does not exist or is not a file.")
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    rows: Iterator[Row] = islice(readers[path.suffix](path), limit)

    def sample(numbered: Row) -> tuple[int, Sample]:
        number, row = numbered
        if isinstance(row, RowError):
            raise row
        cells = {column: _text(path, number, column, row[column]) for column in COLUMNS}
        return number, Sample(**cells)

    return (faulty or FaultyRows()).sound(path, rows, sample)


def check_suffix(path: Path) -> None:
    """Raises GplanError where the name does not end as a known kind of data file does."""
    if path.suffix not in SUFFIXES:
        raise GplanError(f"{path}: unknown kind of data file; use {', '.join(SUFFIXES)}.")


def _text(path: Path, row: int, column: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    problem = f"expected text or a number but found {value!r}"
    raise RowError(path, row, column, problem, _ROW_MEND)


def _check_columns(path: Path, found: Iterable[str]) -> None:
    if problem := _column_problem(list(found)):
        raise GplanError(f"{path}: {problem}.")


def _column_problem(found: list[str]) -> str | None:
    """Everything that is wrong with a set of columns in one sentence, None where nothing is."""
    missing = [column for column in COLUMNS if column not in found]
    extra = [column for column in dict.fromkeys(found) if column not in COLUMNS]
    twice = [column for column in COLUMNS if found.count(column) > 1]
    problems = []
    if missing:
        problems.append(f"missing columns: {', '.join(missing)}")
    if extra:
        near = {c: difflib.get_close_matches(c, missing, n=1, cutoff=0.8) for c in extra}
        hints = [f"{c} (meant {near[c][0]}?)" if near[c] else c for c in extra]
        problems.append(f"unknown columns: {', '.join(hints)}")
    if twice:
        problems.append(f"columns given twice: {', '.join(twice)}")
    return "; ".join(problems) or None


def _csv_rows(path: Path) -> Iterator[Row]:
    # Behaviour histories may be longer than the csv module's default limit of 131,072 characters.
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        lines = _decoded(path, reader)
        header = next((line for line in lines if not isinstance(line, csv.Error)), None)
        if not header:
            raise GplanError(f"{path} is an empty data set: it has no header line.")
        _check_columns(path, header)
        number = 0
        for cells in lines:
            if cells == []:  # A blank line, as some editors leave at the end.
                continue
            number += 1
            if isinstance(cells, csv.Error):
                yield number, RowError(path, number, None, f"broken CSV: {cells}", _ROW_MEND)
            elif len(cells) != len(header):
                problem = f"{len(cells)} cells under {len(header)} columns"
                yield number, RowError(path, number, None, problem, _ROW_MEND)
            else:
                yield number, dict(zip(header, cells, strict=True))


def _decoded(path: Path, reader: Iterator[list[str]]) -> Iterator[list[str] | csv.Error]:
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield error
        except UnicodeDecodeError as error:
            raise GplanError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from None


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        number = 0
        for line in lines:
            if not line.strip():
                continue
            number += 1
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield number, RowError(path, number, None, f"not UTF-8 JSON: {error}", _ROW_MEND)
                continue
            if not isinstance(row, dict):
                yield number, RowError(path, number, None, "not a JSON object", _ROW_MEND)
            elif problem := _column_problem(list(row)):
                yield number, RowError(path, number, None, problem, _ROW_MEND)
            else:
                yield number, row


def _parquet_rows(path: Path) -> Iterator[Row]:
    parquet = import_parquet()
    import pyarrow

    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise GplanError(f"{path} is not a readable Parquet file: {error}.") from None


def import_parquet() -> Any:
    """The pyarrow.parquet module; GplanError says how to install it where it is absent."""
    return load_extra("pyarrow.parquet", "parquet", "Parquet files")


SampleWriter = Callable[[Sample], object]
_PARQUET_BATCH = 1024


def write_samples(path: str | Path, samples: Iterable[Sample]) -> int:
    """Writes samples in the kind of file that the suffix names and returns their number.

    ``samples`` is consumed as a stream; an earlier file stays as it was when that fails.

    Raises:
        GplanError: the suffix is not .csv, .jsonl or .parquet.
    """
    count = 0
    with sample_writer(path) as write:
        for sample in samples:
            write(sample)
            count += 1
    return count


@contextmanager
def sample_writer(path: str | Path) -> Iterator[SampleWriter]:
    """Yields what writes one sample; the file changes only when the block ends well."""
    path = Path(path)
    check_suffix(path)
    kinds = {".csv": _csv_writer, ".jsonl": _jsonl_writer, ".parquet": _parquet_writer}
    with atomic_write(path) as temporary, kinds[path.suffix](temporary) as write:
        yield write


@contextmanager
def _csv_writer(path: Path) -> Iterator[SampleWriter]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(COLUMNS)
        yield lambda sample: writer.writerow(sample.to_dict().values())


@contextmanager
def _jsonl_writer(path: Path) -> Iterator[SampleWriter]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda sample: file.write(json.dumps(sample.to_dict(), ensure_ascii=False) + "\n")


@contextmanager
def _parquet_writer(path: Path) -> Iterator[SampleWriter]:
    parquet = import_parquet()
    import pyarrow

    schema = pyarrow.schema([(column, pyarrow.string()) for column in COLUMNS])
    waiting: list[dict[str, str]] = []

    with parquet.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(waiting, schema=schema))
            waiting.clear()

        def write(sample: Sample) -> None:
            waiting.append(sample.to_dict())
            if len(waiting) == _PARQUET_BATCH:
                flush()

        yield write
        if waiting:
            flush()
