"""Writing samples to CSV, JSONL or Parquet; the file appears whole or not at all."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable
from pathlib import Path

from gplan_jax.foundation.files import atomic_write
from gplan_jax.gsisr.readers import check_suffix, import_parquet
from gplan_jax.gsisr.samples import COLUMNS, Sample

_PARQUET_BATCH = 1024


def write_samples(path: str | Path, samples: Iterable[Sample]) -> int:
    """Writes samples in the kind of file that the suffix names and returns their number.

    ``samples`` is consumed as a stream; an earlier file stays as it was when that fails.

    Raises:
        GplanError: the suffix is not .csv, .jsonl or .parquet.
    """
    path = Path(path)
    check_suffix(path)
    write = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}[path.suffix]
    with atomic_write(path) as temporary:
        return write(temporary, samples)


def _write_csv(path: Path, samples: Iterable[Sample]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(COLUMNS)
        for sample in samples:
            writer.writerow(sample.to_dict().values())
            count += 1
    return count


def _write_jsonl(path: Path, samples: Iterable[Sample]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for sample in samples:
            file.write(json.dumps(sample.to_dict(), ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_parquet(path: Path, samples: Iterable[Sample]) -> int:
    parquet = import_parquet()
    import pyarrow

    schema = pyarrow.schema([(column, pyarrow.string()) for column in COLUMNS])
    stream, count = iter(samples), 0
    with parquet.ParquetWriter(path, schema) as writer:
        while rows := [s.to_dict() for s in itertools.islice(stream, _PARQUET_BATCH)]:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count
