"""Samples in CSV, JSONL and Parquet files of any length: read and written one row at a time."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from gplan_jax.foundation.errors import RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import atomic_write
from gplan_jax.foundation.row_files import Row, check_suffix, import_parquet, read_rows
from gplan_jax.foundation.strict_json import json_text
from gplan_jax.gsisr.samples import COLUMNS, Sample


def read_samples(path: str | Path, *, faulty: FaultyRows | None = None) -> Iterator[Sample]:
    """Yields the samples of a .csv, .jsonl or .parquet file without holding it in memory.

    The columns are those of ``Sample``, in any order. GplanError at once where the file is missing
    or of another kind; on reading where columns are missing or unknown (all named), or no row is
    left. RowError where a row is faulty and not left out by ``faulty``.
    """
    return (sample for _, sample in read_numbered_samples(path, faulty=faulty))


def read_numbered_samples(
    path: str | Path,
    *,
    faulty: FaultyRows | None = None,
    limit: int | None = None,
    skip: int = 0,
    optional: Collection[str] = (),
) -> Iterator[tuple[int, Sample]]:
    """As ``read_samples``, each sample after its row number in the file, counted from 1.

    Only the first ``limit`` rows are looked at, faulty ones among them, and the first ``skip`` of
    these are passed over; columns in ``optional`` may lack.
    """
    path = Path(path)
    rows = islice(read_rows(path, COLUMNS, optional=optional), skip, limit)

    def sample(numbered: Row) -> tuple[int, Sample]:
        number, row = numbered
        if isinstance(row, RowError):
            raise row
        return number, Sample(**row)

    return (faulty or FaultyRows()).sound(path, rows, sample)


SampleWriter = Callable[[Sample], object]
_PARQUET_BATCH = 1024


def write_samples(path: str | Path, samples: Iterable[Sample]) -> int:
    """Writes samples in the kind of file that the suffix names and returns their number.

    ``samples`` is consumed as a stream; an earlier file stays as it was when that fails. GplanError
    where the suffix is not .csv, .jsonl or .parquet.
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
        yield lambda sample: file.write(json_text(sample.to_dict()) + "\n")


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
