"""The files of a log and their columns, checked against what the spec maps."""

from __future__ import annotations

import csv
import glob
import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr.sample_files import SUFFIXES
from gplan_jax.synthesis.triggers.database import fetch
from gplan_jax.synthesis.triggers.spec import nearest
from gplan_jax.synthesis.triggers.sql import Source, quoted

HEAD_ROWS = 1000
NEEDED = ("log.columns.user", "log.columns.time", "log.columns.event", "users.user")


def log_files(logs: Iterable[str | Path]) -> list[Path]:
    """The files that paths and glob patterns name, each once, in the order of their names.

    Raises:
        GplanError: one names no file, or a file of an unknown kind.
    """
    found: set[Path] = set()
    for log in logs:
        here = [str(log)] if Path(log).is_file() else sorted(glob.glob(str(log), recursive=True))
        files = [Path(path) for path in here if Path(path).is_file()]
        if not files:
            raise GplanError(f"{log} does not exist or names no file.")
        for path in files:
            if path.suffix not in SUFFIXES:
                raise GplanError(f"{path}: unknown kind of log; use {', '.join(SUFFIXES)}.")
        found.update(files)
    return sorted({path.resolve(): path for path in sorted(found)}.values())


def open_source(
    connection: Any, path: Path, number: int, wanted: Mapping[str, str], delimiter: str
) -> Source:
    """A file with its columns.

    Args:
        number: the file's number in the log.
        wanted: key of the spec (``log.columns.user``) -> the column that it maps.

    Raises:
        GplanError: the file can't be read, or lacks wanted columns; all of them are named, with
            near ones and how to map them.
    """
    types = {
        ".csv": lambda: _csv_columns(path, delimiter),
        ".jsonl": lambda: _jsonl_columns(connection, path, set(wanted.values())),
        ".parquet": lambda: _parquet_columns(connection, path),
    }[path.suffix]()
    missing = [(key, column) for key, column in wanted.items() if column not in types]
    if missing:
        lines = [f"{column} ({key}); {nearest(column, types)}" for key, column in missing]
        key = missing[0][0]
        optional = next((key for key, _ in missing if key not in NEEDED), None)
        without = f", or {optional}=null where there is none" if optional else ""
        raise GplanError(
            f"{path} lacks columns that the rules map:\n  " + "\n  ".join(lines) + "\n"
            f"Say what they are called there: --set {key}=COLUMN{without}; or name a file of "
            "rules of your own with --rules."
        )
    return Source(path, number, types)


def _csv_columns(path: Path, delimiter: str) -> dict[str, str]:
    # Only the header is read here; text that is not UTF-8 is found by DuckDB, with its line.
    with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
        header = next(csv.reader(file, delimiter=delimiter), None)
    if not header:
        raise GplanError(f"{path} is empty: it has no header line.")
    if twice := sorted({column for column in header if header.count(column) > 1}):
        raise GplanError(f"{path} has columns twice: {', '.join(twice)}.")
    return dict.fromkeys(header, "VARCHAR")


def _jsonl_columns(connection: Any, path: Path, wanted: set[str]) -> dict[str, str]:
    """The keys of the first rows; of all of them where some wanted one is not among those."""
    keys: dict[str, str] = {}
    with path.open("rb") as lines:
        for line in itertools.islice(lines, HEAD_ROWS):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            keys |= dict.fromkeys(row, "VARCHAR") if isinstance(row, dict) else {}
    if wanted <= keys.keys():
        return keys
    query = (
        "SELECT DISTINCT unnest(json_keys(json)) FROM read_ndjson_objects("
        f"{quoted(glob.escape(str(path)))}, ignore_errors = true)"
    )
    rows = (row for batch in fetch(connection, query) for row in batch)
    return keys | dict.fromkeys(sorted(str(key) for (key,) in rows), "VARCHAR")


def _parquet_columns(connection: Any, path: Path) -> dict[str, str]:
    table = f"read_parquet({quoted(glob.escape(str(path)))})"
    query = f"SELECT column_name, column_type FROM (DESCRIBE FROM {table})"
    return dict(row for batch in fetch(connection, query) for row in batch)
