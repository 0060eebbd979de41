"""The SQL that turns the files of a log into one sorted stream of our columns."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gplan_jax.synthesis.triggers.spec import ORDER_TIMES, PROFILE_FIELDS, LogSpec, Times, UsersSpec

# Times outside of these years are unreadable: 0, "epoch", "infinity", milliseconds as seconds.
FIRST_TIME, LAST_TIME = "1971-01-01", "2200-01-01"
TEXT_FIELDS = (
    "event",
    "place",
    "category",
    "city",
    "district",
    "order",
    "order_type",
    "order_status",
    "order_place",
    "order_category",
    "order_city",
    "order_district",
)


class Source(NamedTuple):
    """A file, its number in the log, and its columns with their types, as DuckDB names them."""

    path: Path
    number: int
    types: Mapping[str, str]


def log_query(sources: Sequence[Source], spec: LogSpec, *, lenient: bool) -> str:
    """All events of the log, sorted by user, time and then everything else.

    Columns: user, time, ``TEXT_FIELDS``, the three order times, ``PROFILE_FIELDS`` where any of
    them is mapped, what is wrong with the row (NULL: nothing), file number, row number in it.
    The order depends on the events alone, not on files or rows.
    """
    columns = spec.columns.model_dump()
    profile = PROFILE_FIELDS if any(columns[field] for field in PROFILE_FIELDS) else ()
    parts = [_part(source, columns, profile, spec, lenient) for source in sources]
    count = 2 + len(TEXT_FIELDS) + len(ORDER_TIMES) + len(profile) + 1
    order = ", ".join(str(i) for i in range(1, count + 1))
    return f"{' UNION ALL '.join(parts)} ORDER BY {order}"


def users_query(source: Source, spec: UsersSpec, delimiter: str) -> str:
    """The users of a file sorted by id: id, ``PROFILE_FIELDS``, row number."""
    columns = spec.columns.model_dump()
    cells = ", ".join(text_cell(columns[field]) for field in PROFILE_FIELDS)
    table, row = _table(source, delimiter, [spec.user, *filter(None, columns.values())], False)
    return f"SELECT {text_cell(spec.user)}, {cells}, {row} FROM {table} ORDER BY 1"


def _part(
    source: Source,
    columns: Mapping[str, str | None],
    profile: Sequence[str],
    spec: LogSpec,
    lenient: bool,
) -> str:
    def time(field: str) -> str:
        column = columns[field]
        return time_cell(column, source.types[column], spec.time) if column else "NULL::TIMESTAMP"

    mapped = [column for column in columns.values() if column]
    table, row = _table(source, spec.delimiter, mapped, lenient)
    cells = [
        text_cell(columns["user"]),
        time("time"),
        *(text_cell(columns[field]) for field in TEXT_FIELDS),
        *(time(field) for field in ORDER_TIMES),
        *(text_cell(columns[field]) for field in profile),
        _fault(columns, time),
        f"{source.number}",
        row,
    ]
    return f"SELECT {', '.join(cells)} FROM {table}"


def text_cell(column: str | None) -> str:
    """A cell as text without white space around it; '' where it is empty or not mapped."""
    return f"coalesce(trim(CAST({name(column)} AS VARCHAR), E' \\t\\r\\n'), '')" if column else "''"


def time_cell(column: str, kind: str, times: Times) -> str:
    """A cell as local time of the session's zone; NULL where it is no readable time."""
    raw = name(column)
    text = f"CAST({raw} AS VARCHAR)"
    if kind.startswith(("TIMESTAMP", "DATE")):
        instant = f"CAST({raw} AS TIMESTAMPTZ)"
    elif times.format == "iso":
        instant = f"TRY_CAST({text} AS TIMESTAMPTZ)"
    elif times.format in ("epoch_s", "epoch_ms"):
        micros = f"TRY_CAST({text} AS DOUBLE) * {1_000_000 if times.format == 'epoch_s' else 1000}"
        instant = f"make_timestamptz(TRY_CAST(round({micros}) AS BIGINT))"
    else:
        instant = f"CAST(try_strptime({text}, {quoted(times.format)}) AS TIMESTAMPTZ)"
    years = f"BETWEEN TIMESTAMPTZ '{FIRST_TIME}' AND TIMESTAMPTZ '{LAST_TIME}'"
    return f"CASE WHEN {instant} {years} THEN CAST({instant} AS TIMESTAMP) END"


def name(column: str) -> str:
    """A column's name in quotes."""
    return '"' + column.replace('"', '""') + '"'


def quoted(text: object) -> str:
    """A text literal."""
    return "'" + str(text).replace("'", "''") + "'"


def _fault(columns: Mapping[str, str | None], time: Callable[[str], str]) -> str:
    """The first thing that makes a row unreadable: its field, and what stands there."""
    cases = [f"WHEN {text_cell(columns['user'])} = '' THEN 'user'"]
    for field in ("time", *ORDER_TIMES):
        column = columns[field]
        if column is None:
            continue
        cell = text_cell(column)
        filled = "" if field == "time" else f" AND {cell} <> ''"
        cases.append(f"WHEN {time(field)} IS NULL{filled} THEN '{field} ' || left({cell}, 80)")
    return f"CASE {' '.join(cases)} END"


def _table(source: Source, delimiter: str, mapped: Sequence[str], lenient: bool) -> tuple[str, str]:
    """A table function call for a file, and the expression of the row's number."""
    path = quoted(glob.escape(str(source.path)))
    if source.path.suffix == ".parquet":
        return f"read_parquet({path}, file_row_number = true)", "file_row_number + 1"
    number = "row_number() OVER ()"
    if source.path.suffix == ".csv":
        columns = ", ".join(f"{quoted(column)}: 'VARCHAR'" for column in source.types)
        rejects = ", store_rejects = true" if lenient else ""
        return (
            f"read_csv({path}, auto_detect = false, header = true, delim = {quoted(delimiter)}, "
            f"quote = '\"', escape = '\"', columns = {{{columns}}}{rejects})",
            number,
        )
    columns = ", ".join(f"{quoted(column)}: 'VARCHAR'" for column in dict.fromkeys(mapped))
    return (
        f"read_json({path}, format = 'newline_delimited', columns = {{{columns}}}, "
        f"ignore_errors = {str(lenient).lower()})",
        number,
    )
