"""The files of a log in DuckDB: their columns, and one sorted query over all of them."""

from __future__ import annotations

import csv
import glob
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.extras import load_extra
from gplan_jax.foundation.row_files import SUFFIXES
from gplan_jax.synthesis.triggers.trigger_spec import (
    ORDER_TIMES,
    PROFILE_FIELDS,
    LogSpec,
    Times,
    UsersSpec,
    nearest,
)

BATCH = 4096
HEAD_ROWS = 1000
MEND = "Mend the row, or leave faulty rows out with --on-error skip."
NEEDED = ("log.columns.user", "log.columns.time", "log.columns.event", "users.user")
# Times outside of these years are unreadable: 0, "epoch", "infinity", milliseconds as seconds.
FIRST_TIME, LAST_TIME = "1971-01-01", "2200-01-01"
TEXT_FIELDS = (
    "event", "place", "category", "city", "district", "order", "order_type", "order_status",
    "order_place", "order_category", "order_city", "order_district",
)  # fmt: skip


class LogFile(NamedTuple):
    """A file, its number in the log, and its columns with their types, as DuckDB names them."""

    path: Path
    number: int
    types: Mapping[str, str]


def log_files(logs: Iterable[str | Path]) -> list[Path]:
    """The files that paths and glob patterns name, each once, in the order of their names."""
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


def connect(temporary: Path, memory_limit: str, zone: str) -> Any:
    """A connection that spills to ``temporary`` and writes times of ``zone``."""
    duckdb = load_extra("duckdb", "synthesis", "sorting logs")
    config = {"temp_directory": str(temporary), "memory_limit": memory_limit}
    try:
        connection = duckdb.connect(":memory:", config=config)
    except duckdb.Error as error:
        problem = f"DuckDB does not start with the memory limit {memory_limit!r}"
        raise GplanError(f"{problem}: {_gist(error)}. Write it as 500MB or 2GB.") from None
    connection.execute(f"SET TimeZone = {_quoted(zone)}")
    connection.execute("SET enable_progress_bar = false")
    return connection


def fetch(connection: Any, query: str) -> Iterator[list[tuple[Any, ...]]]:
    """Yields the rows of a query in batches; they are never all in memory."""
    duckdb = load_extra("duckdb", "synthesis", "sorting logs")
    try:
        result = connection.execute(query)
        while rows := result.fetchmany(BATCH):
            yield rows
    except duckdb.OutOfMemoryException as error:
        raise GplanError(
            f"DuckDB ran out of memory or disk: {_gist(error)}. Give it more memory "
            "(--memory-limit), or free some space beside the output."
        ) from None
    except duckdb.Error as error:
        raise GplanError(f"The log can't be read: {_gist(error)}. {MEND}") from None


def _gist(error: Exception) -> str:
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    kept = itertools.takewhile(lambda line: not line.startswith("Possible"), lines)
    return ": ".join(itertools.islice(kept, 3))


def open_file(
    connection: Any, path: Path, number: int, wanted: Mapping[str, str], delimiter: str
) -> LogFile:
    """A file with its columns; ``wanted`` maps keys of the spec (``log.columns.user``) to them."""
    if path.suffix == ".csv":
        types = dict.fromkeys(_csv_header(path, delimiter), "VARCHAR")
    elif path.suffix == ".jsonl":
        types = dict.fromkeys(_json_keys(connection, path, set(wanted.values())), "VARCHAR")
    else:
        table = f"read_parquet({_quoted(glob.escape(str(path)))})"
        query = f"SELECT column_name, column_type FROM (DESCRIBE FROM {table})"
        types = dict(row for batch in fetch(connection, query) for row in batch)
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
    return LogFile(path, number, types)


def _csv_header(path: Path, delimiter: str) -> list[str]:
    # Only the header is read here; text that is not UTF-8 is found by DuckDB, with its line.
    with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
        header = next(csv.reader(file, delimiter=delimiter), None)
    if not header:
        raise GplanError(f"{path} is empty: it has no header line.")
    if twice := sorted({column for column in header if header.count(column) > 1}):
        raise GplanError(f"{path} has columns twice: {', '.join(twice)}.")
    return header


def _json_keys(connection: Any, path: Path, wanted: set[str]) -> list[str]:
    """The keys of the first rows; of all of them where some wanted one is not among those."""
    keys: dict[str, None] = {}
    with path.open("rb") as lines:
        for line in itertools.islice(lines, HEAD_ROWS):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            keys |= dict.fromkeys(row if isinstance(row, dict) else ())
    if wanted <= keys.keys():
        return [*keys]
    query = (
        "SELECT DISTINCT unnest(json_keys(json)) FROM read_ndjson_objects("
        f"{_quoted(glob.escape(str(path)))}, ignore_errors = true)"
    )
    rows = (row for batch in fetch(connection, query) for row in batch)
    return [*keys, *sorted(str(key) for (key,) in rows)]


def log_query(files: Sequence[LogFile], spec: LogSpec, *, lenient: bool) -> str:
    """All events of the log, sorted by user, time and then everything else, not by file or row.

    Columns: user, time, ``TEXT_FIELDS``, the three order times, ``PROFILE_FIELDS`` where any is
    mapped, what is wrong with the row (NULL: nothing), file number, row number in it.
    """
    columns: dict[str, str | None] = spec.columns.model_dump()
    profile = PROFILE_FIELDS if any(columns[field] for field in PROFILE_FIELDS) else ()
    parts = []
    for file in files:
        times = {}
        for field in ("time", *ORDER_TIMES):
            column = columns[field]
            kind = file.types[column] if column else ""
            times[field] = _time(column, kind, spec.time) if column else "NULL::TIMESTAMP"
        # The first thing that makes a row unreadable: its field, and what stands there.
        faults = [f"WHEN {_text(columns['user'])} = '' THEN 'user'"]
        for field, time in times.items():
            if columns[field]:
                cell = _text(columns[field])
                filled = "" if field == "time" else f" AND {cell} <> ''"
                faults.append(f"WHEN {time} IS NULL{filled} THEN '{field} ' || left({cell}, 80)")
        table, row = _table(file, spec.delimiter, [*filter(None, columns.values())], lenient)
        cells = [
            _text(columns["user"]),
            times["time"],
            *(_text(columns[field]) for field in TEXT_FIELDS),
            *(times[field] for field in ORDER_TIMES),
            *(_text(columns[field]) for field in profile),
            f"CASE {' '.join(faults)} END",
            f"{file.number}",
            row,
        ]
        parts.append(f"SELECT {', '.join(cells)} FROM {table}")
    # By everything but the file and row number.
    order = ", ".join(str(i) for i in range(1, len(cells) - 1))
    return f"{' UNION ALL '.join(parts)} ORDER BY {order}"


def users_query(file: LogFile, spec: UsersSpec, delimiter: str) -> str:
    """The users of a file sorted by id: id, ``PROFILE_FIELDS``, row number."""
    columns = spec.columns.model_dump()
    cells = ", ".join(_text(columns[field]) for field in PROFILE_FIELDS)
    table, row = _table(file, delimiter, [spec.user, *filter(None, columns.values())], False)
    return f"SELECT {_text(spec.user)}, {cells}, {row} FROM {table} ORDER BY 1"


def _text(column: str | None) -> str:
    """A cell as text without white space around it; '' where it is empty or not mapped."""
    if not column:
        return "''"
    return f"coalesce(trim(CAST({_name(column)} AS VARCHAR), E' \\t\\r\\n'), '')"


def _time(column: str, kind: str, times: Times) -> str:
    """A cell as local time of the session's zone; NULL where it is no readable time."""
    raw = _name(column)
    text = f"CAST({raw} AS VARCHAR)"
    if kind.startswith(("TIMESTAMP", "DATE")):
        instant = f"CAST({raw} AS TIMESTAMPTZ)"
    elif times.format == "iso":
        instant = f"TRY_CAST({text} AS TIMESTAMPTZ)"
    elif times.format in ("epoch_s", "epoch_ms"):
        micros = f"TRY_CAST({text} AS DOUBLE) * {1_000_000 if times.format == 'epoch_s' else 1000}"
        instant = f"make_timestamptz(TRY_CAST(round({micros}) AS BIGINT))"
    else:
        instant = f"CAST(try_strptime({text}, {_quoted(times.format)}) AS TIMESTAMPTZ)"
    years = f"BETWEEN TIMESTAMPTZ '{FIRST_TIME}' AND TIMESTAMPTZ '{LAST_TIME}'"
    return f"CASE WHEN {instant} {years} THEN CAST({instant} AS TIMESTAMP) END"


def _table(file: LogFile, delimiter: str, mapped: Sequence[str], lenient: bool) -> tuple[str, str]:
    """A table function call for a file, and the expression of the row's number."""
    path = _quoted(glob.escape(str(file.path)))
    if file.path.suffix == ".parquet":
        return f"read_parquet({path}, file_row_number = true)", "file_row_number + 1"
    number = "row_number() OVER ()"
    names = file.types if file.path.suffix == ".csv" else dict.fromkeys(mapped)
    columns = ", ".join(f"{_quoted(column)}: 'VARCHAR'" for column in names)
    if file.path.suffix == ".csv":
        rejects = ", store_rejects = true" if lenient else ""
        return (
            f"read_csv({path}, auto_detect = false, header = true, delim = {_quoted(delimiter)}, "
            f"quote = '\"', escape = '\"', columns = {{{columns}}}{rejects})",
            number,
        )
    return (
        f"read_json({path}, format = 'newline_delimited', columns = {{{columns}}}, "
        f"ignore_errors = {str(lenient).lower()})",
        number,
    )


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _quoted(text: object) -> str:
    return "'" + str(text).replace("'", "''") + "'"
