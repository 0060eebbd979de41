"""The files of a log in DuckDB: their columns, and one sorted query over all of them."""

from __future__ import annotations

import csv
import glob
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gplan_jax.foundation.errors import GplanError, load_extra, nearest
from gplan_jax.foundation.paths import local_path
from gplan_jax.foundation.row_files import FIRST_INEXACT, check_suffix
from gplan_jax.synthesis.triggers.trigger_spec import (
    ORDER_TIMES,
    PROFILE_FIELDS,
    LogSpec,
    Times,
    UsersSpec,
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


class Cell(NamedTuple):
    """A column of a file in SQL: its cell, the cell's type, and what tells whether it's a float."""

    raw: str
    kind: str = "VARCHAR"
    floats: str | None = None


class LogFile(NamedTuple):
    """A file and its number in the log, its columns by name, and SQL over all of its rows.

    Columns go by their place, since DuckDB takes ``City`` and ``city`` for one.
    """

    path: Path
    number: int
    cells: Mapping[str, Cell]
    table: str
    row: str = "row_number() OVER ()"  # the row's number, from 1
    faults: tuple[str, ...] = ()  # WHEN ... THEN 'row what is wrong with all of it'


def log_files(logs: Iterable[str | Path]) -> list[Path]:
    """The files that paths and glob patterns name, each once, in the order of their names."""
    found: set[Path] = set()
    for log in map(local_path, logs):
        here = [str(log)] if log.is_file() else sorted(glob.glob(str(log), recursive=True))
        files = [Path(path) for path in here if Path(path).is_file()]
        if not files:
            raise GplanError(f"{log} does not exist or names no file.")
        for path in files:
            check_suffix(path)
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
    connection: Any,
    path: Path,
    number: int,
    wanted: Mapping[str, str],
    delimiter: str,
    *,
    lenient: bool = False,
) -> LogFile:
    """A file with its columns; ``wanted`` maps keys of the spec (``log.columns.user``) to them.

    The folders that a file is in say nothing of its rows (``user_id=00123/events.csv``).
    """
    where = f"{_quoted(glob.escape(str(path)))}, hive_partitioning = false"
    if path.suffix == ".csv":
        # Only the header is read here; text that is not UTF-8 is found by DuckDB, with its line.
        with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
            header = next(csv.reader(file, delimiter=delimiter), None)
        if not header:
            raise GplanError(f"{path} is empty: it has no header line.")
        names = header
        kinds = ["VARCHAR"] * len(names)
    elif path.suffix == ".jsonl":
        names = _json_keys(connection, path, where, set(wanted.values()))
    else:
        names, kinds = _parquet_columns(connection, where)
    _check_columns(path, names, wanted)
    if path.suffix == ".jsonl":
        # One pass over a line for all of its cells. A line that can't be read is NULL.
        chosen = list(dict.fromkeys(wanted.values()))
        keys = [_quoted("/" + c.replace("~", "~0").replace("/", "~1")) for c in chosen]
        cells = {c: Cell(f"v[{i}]", "JSON", f"k[{i}] = 'DOUBLE'") for i, c in enumerate(chosen, 1)}
        table = (
            f"(SELECT json, json_extract_string(json, [{', '.join(keys)}]) AS v, "
            f"json_type(json, [{', '.join(keys)}]) AS k "
            f"FROM read_ndjson_objects({where}, ignore_errors = true))"
        )
        faults = (
            "WHEN json IS NULL THEN 'row not UTF-8 JSON'",
            "WHEN json_type(json) <> 'OBJECT' THEN 'row not a JSON object'",
            "WHEN len(list_distinct(json_keys(json))) < len(json_keys(json)) "
            "THEN 'row an object gives a key twice'",
        )
        return LogFile(path, number, cells, table, faults=faults)
    floats = {kind: "true" for kind in ("FLOAT", "DOUBLE")}
    columns = enumerate(zip(names, kinds, strict=True))
    cells = {name: Cell(f"c{i}", kind, floats.get(kind)) for i, (name, kind) in columns}
    if path.suffix == ".parquet":
        places = ", ".join(f"c{i}" for i in range(len(names)))
        table = f"read_parquet({where}, file_row_number = true) AS t({places}, place)"
        return LogFile(path, number, cells, table, "place + 1")
    places = ", ".join(f"c{i}: 'VARCHAR'" for i in range(len(names)))
    table = (
        f"read_csv({where}, auto_detect = false, header = true, delim = {_quoted(delimiter)}, "
        f"quote = '\"', escape = '\"', columns = {{{places}}}{', store_rejects = true' * lenient})"
    )
    return LogFile(path, number, cells, table)


def _check_columns(path: Path, names: Sequence[str], wanted: Mapping[str, str]) -> None:
    if twice := [column for column in dict.fromkeys(wanted.values()) if names.count(column) > 1]:
        raise GplanError(f"{path} has columns twice: {', '.join(twice)}.")
    missing = [(key, column) for key, column in wanted.items() if column not in names]
    if missing:
        lines = [f"{column} ({key}); {nearest(column, names)}" for key, column in missing]
        key = missing[0][0]
        optional = next((key for key, _ in missing if key not in NEEDED), None)
        without = f", or {optional}=null where there is none" if optional else ""
        raise GplanError(
            f"{path} lacks columns that the rules map:\n  " + "\n  ".join(lines) + "\n"
            f"Say what they are called there: --set {key}=COLUMN{without}; or name a file of "
            "rules of your own with --rules."
        )


def _json_keys(connection: Any, path: Path, where: str, wanted: set[str]) -> list[str]:
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
        "SELECT DISTINCT unnest(json_keys(json)) "
        f"FROM read_ndjson_objects({where}, ignore_errors = true)"
    )
    rows = (row for batch in fetch(connection, query) for row in batch)
    return [*keys, *sorted({str(key) for (key,) in rows} - keys.keys())]


def _parquet_columns(connection: Any, where: str) -> tuple[list[str], list[str]]:
    """Names and types; DuckDB's own names are others where two differ in case alone."""
    query = f"SELECT column_type FROM (DESCRIBE FROM read_parquet({where}))"
    kinds = [str(kind) for batch in fetch(connection, query) for (kind,) in batch]
    query = f"SELECT name, num_children FROM parquet_schema({where.partition(', hive')[0]})"
    nodes = (row for batch in fetch(connection, query) for row in batch)
    names: list[str] = []
    next(nodes)  # The root; below it each node comes before its children.
    inside = 0
    for name, children in nodes:
        if inside:
            inside -= 1
        else:
            names.append(name)
        inside += children or 0
    return names, kinds


def log_query(files: Sequence[LogFile], spec: LogSpec) -> str:
    """All events of the log, sorted by user, time and then everything else, not by file or row.

    Columns: user, time, ``TEXT_FIELDS``, the three order times, ``PROFILE_FIELDS`` where any is
    mapped, what is wrong with the row (NULL: nothing), file number, row number in it.
    """
    columns: dict[str, str | None] = spec.columns.model_dump()
    profile = PROFILE_FIELDS if any(columns[field] for field in PROFILE_FIELDS) else ()
    parts = []
    for file in files:
        mapped = {field: file.cells[column] for field, column in columns.items() if column}
        texts = {field: _text(mapped.get(field)) for field in columns}
        # The first thing that makes a row unreadable: its field, and what stands there.
        faults = [*file.faults, f"WHEN {texts['user']} = '' THEN 'user'"]
        times = dict.fromkeys(("time", *ORDER_TIMES), "NULL::TIMESTAMP")
        for field in times.keys() & mapped.keys():
            times[field] = time = _time(mapped[field], spec.time)
            filled = "" if field == "time" else f" AND {texts[field]} <> ''"
            faults.append(
                f"WHEN {time} IS NULL{filled} THEN '{field} ' || left({texts[field]}, 80)"
            )
        faults += _number_faults({f: cell for f, cell in mapped.items() if f not in times})
        cells = [
            texts["user"],
            times["time"],
            *(texts[field] for field in TEXT_FIELDS),
            *(times[field] for field in ORDER_TIMES),
            *(texts[field] for field in profile),
            f"CASE {' '.join(faults)} END",
            f"{file.number}",
            file.row,
        ]
        parts.append(f"SELECT {', '.join(cells)} FROM {file.table}")
    # By everything but the file and row number.
    order = ", ".join(str(i) for i in range(1, len(cells) - 1))
    return f"{' UNION ALL '.join(parts)} ORDER BY {order}"


def users_query(file: LogFile, spec: UsersSpec) -> str:
    """The users of a file sorted by id: id, ``PROFILE_FIELDS``, what is wrong, row number."""
    columns = {"user": spec.user, **spec.columns.model_dump()}
    mapped = {field: file.cells[column] for field, column in columns.items() if column}
    cells = ", ".join(_text(mapped.get(field)) for field in ("user", *PROFILE_FIELDS))
    faults = " ".join([*file.faults, *_number_faults(mapped), "WHEN false THEN ''"])
    return f"SELECT {cells}, CASE {faults} END, {file.row} FROM {file.table} ORDER BY 1"


def _number_faults(cells: Mapping[str, Cell]) -> list[str]:
    """Floats that are NaN, infinite, or have lost the last digits of an id."""
    # DuckDB takes a comparison alone for true: the statistics of a Parquet file leave NaN out.
    exact = (
        f"isfinite(TRY_CAST({{0}} AS DOUBLE)) AND abs(TRY_CAST({{0}} AS DOUBLE)) < {FIRST_INEXACT}"
    )
    return [
        f"WHEN {cell.floats} AND NOT coalesce({exact.format(cell.raw)}, true) "
        f"THEN 'number {field} ' || left({_text(cell)}, 80)"
        for field, cell in cells.items()
        if cell.floats
    ]


def _text(cell: Cell | None) -> str:
    """A cell as text without white space around it; '' where it is empty or not mapped.

    pandas makes floats of a column of integers with holes: 7.0 is 7.
    """
    if cell is None:
        return "''"
    text = f"CAST({cell.raw} AS VARCHAR)"
    if cell.floats:
        whole = f"regexp_replace({text}, '\\.0+$', '')"
        text = f"CASE WHEN {cell.floats} THEN {whole} ELSE {text} END"
    return f"coalesce(trim({text}, E' \\t\\r\\n'), '')"


def _time(cell: Cell, times: Times) -> str:
    """A cell as local time of the session's zone; NULL where it is no readable time."""
    text = f"CAST({cell.raw} AS VARCHAR)"
    if cell.kind.startswith(("TIMESTAMP", "DATE")):
        instant = f"CAST({cell.raw} AS TIMESTAMPTZ)"
    elif times.format == "iso":
        instant = f"TRY_CAST({text} AS TIMESTAMPTZ)"
    elif times.format in ("epoch_s", "epoch_ms"):
        micros = f"TRY_CAST({text} AS DOUBLE) * {1_000_000 if times.format == 'epoch_s' else 1000}"
        instant = f"make_timestamptz(TRY_CAST(round({micros}) AS BIGINT))"
    else:
        instant = f"CAST(try_strptime({text}, {_quoted(times.format)}) AS TIMESTAMPTZ)"
    years = f"BETWEEN TIMESTAMPTZ '{FIRST_TIME}' AND TIMESTAMPTZ '{LAST_TIME}'"
    return f"CASE WHEN {instant} {years} THEN CAST({instant} AS TIMESTAMP) END"


def _quoted(text: object) -> str:
    return "'" + str(text).replace("'", "''") + "'"
