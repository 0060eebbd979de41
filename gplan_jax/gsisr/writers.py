"""Writing samples to CSV, JSONL or Parquet; the file appears whole or not at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gplan_jax.foundation.files import atomic_write
from gplan_jax.gsisr.readers import check_suffix, import_parquet
from gplan_jax.gsisr.samples import COLUMNS, Sample

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
    """Yields what writes one sample, for callers that fill several files from one stream.

    The file appears when the block ends well; otherwise an earlier one stays as it was.

    Raises:
        GplanError: the suffix is not .csv, .jsonl or .parquet.
    """
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
