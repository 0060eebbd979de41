"""Samples in CSV, JSONL and Parquet files of any length: read and written one row at a time."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path

from gplan_jax.foundation.errors import RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import atomic_write
from gplan_jax.foundation.row_files import Row, check_suffix, import_parquet, read_rows
from gplan_jax.foundation.strict_json import json_text
from gplan_jax.gsisr.row_form import RowForm, public_form
from gplan_jax.gsisr.samples import Sample


def read_samples(
    path: str | Path, *, form: RowForm | None = None, faulty: FaultyRows | None = None
) -> Iterator[Sample]:
    """Yields the samples of a .csv, .jsonl or .parquet file without holding it in memory.

    The columns are those of ``form``, of the public set where None, in any order; one that lacks is
    empty unless it is required. GplanError at once where the file is missing or of another kind; on
    reading where columns are missing or unknown (all named), or no row is left. RowError where a
    row is faulty and not left out by ``faulty``.
    """
    return (sample for _, sample in read_numbered_samples(path, form=form, faulty=faulty))


def read_numbered_samples(
    path: str | Path,
    *,
    form: RowForm | None = None,
    faulty: FaultyRows | None = None,
    limit: int | None = None,
    skip: int = 0,
) -> Iterator[tuple[int, Sample]]:
    """As ``read_samples``, each sample after its row number in the file, counted from 1.

    Only the first ``limit`` rows are looked at, faulty ones among them, and the first ``skip`` of
    these are passed over.
    """
    path, known = Path(path), form or public_form()
    rows = islice(
        read_rows(
            path,
            tuple(known.columns),
            only=known.others == "error",
            optional=[name for name in known.columns if name not in known.required],
        ),
        skip,
        limit,
    )

    def sample(numbered: Row) -> tuple[int, Sample]:
        number, row = numbered
        if isinstance(row, RowError):
            raise row
        return number, Sample.from_context(row, form)

    return (faulty or FaultyRows()).sound(path, rows, sample)


SampleWriter = Callable[[Sample], object]
_PARQUET_BATCH = 1024


def write_samples(path: str | Path, samples: Iterable[Sample]) -> int:
    """Writes samples in the kind of file that the suffix names and returns their number.

    ``samples`` is consumed as a stream; an earlier file stays as it was when that fails. The
    columns are those of the first sample's service. GplanError where the suffix is not .csv, .jsonl
    or .parquet.
    """
    count, stream = 0, iter(samples)
    check_suffix(Path(path))
    first = next(stream, None)
    with sample_writer(path, first.written if first else None) as write:
        for sample in chain([first] if first else [], stream):
            write(sample)
            count += 1
    return count


@contextmanager
def sample_writer(path: str | Path, form: RowForm | None = None) -> Iterator[SampleWriter]:
    """Yields what writes one sample; the file changes only when the block ends well."""
    path, columns = Path(path), tuple((form or public_form()).columns)
    check_suffix(path)
    kinds = {".csv": _csv_writer, ".jsonl": _jsonl_writer, ".parquet": _parquet_writer}
    with atomic_write(path) as temporary, kinds[path.suffix](temporary, columns) as write:
        yield write


@contextmanager
def _csv_writer(path: Path, columns: Sequence[str]) -> Iterator[SampleWriter]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(columns)
        yield lambda sample: writer.writerow(sample.to_dict().values())


@contextmanager
def _jsonl_writer(path: Path, _: Sequence[str]) -> Iterator[SampleWriter]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda sample: file.write(json_text(sample.to_dict()) + "\n")


@contextmanager
def _parquet_writer(path: Path, columns: Sequence[str]) -> Iterator[SampleWriter]:
    parquet = import_parquet()
    import pyarrow

    schema = pyarrow.schema([(column, pyarrow.string()) for column in columns])
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
