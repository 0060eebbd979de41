"""Reading a log: its files, sorted by user and time with DuckDB, as a stream of events.

DuckDB sorts within its memory limit and spills to a directory of its own, so that a log may be
larger than memory; what comes out is read in batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gplan_jax.foundation.errors import RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.synthesis.triggers.columns import log_files, open_source
from gplan_jax.synthesis.triggers.database import MEND, connect, fetch
from gplan_jax.synthesis.triggers.events import Event, profile_of
from gplan_jax.synthesis.triggers.spec import ORDER_TIMES, ProfileColumns, TriggerSpec, nearest
from gplan_jax.synthesis.triggers.sql import TEXT_FIELDS, Source, log_query, users_query

_EVENT_FIELDS = 2 + len(TEXT_FIELDS) + len(ORDER_TIMES)
# "row": no readable row at all; missing or unreadable "user" and "time"; an "event" that is not
# declared; an unreadable "order" column.
Kind = Literal["row", "user", "time", "event", "order"]


@dataclass
class Log:
    """The events of an open log and the profiles of its users' file, both sorted by user.

    Attributes:
        read, duplicates, ignored: events read so far, and those of them passed over because they
            repeat the one before, or because their word is not declared (``log.other_events``).
    """

    sources: Sequence[Source]
    spec: TriggerSpec
    faulty: FaultyRows
    connection: Any
    users: Source | None
    read: int = 0
    duplicates: int = 0
    ignored: int = 0

    def batches(self) -> Iterator[list[Event]]:
        """Yields the events sorted by user and time, some thousands at a time.

        Raises:
            GplanError: a file can't be read, or DuckDB needs more memory.
            RowError: a row is faulty, and faulty rows are not skipped.
        """
        lenient = self.faulty.skips
        previous: tuple[Any, ...] = ()
        for rows in fetch(self.connection, log_query(self.sources, self.spec.log, lenient=lenient)):
            self.read += len(rows)
            batch = []
            for row in rows:
                content, unread = row[:-3], row[-3]
                if content == previous and unread is None:
                    self.duplicates += 1
                    continue
                previous = content
                if (event := self._event(row)) is not None:
                    batch.append(event)
            yield batch
        if lenient and any(source.path.suffix == ".csv" for source in self.sources):
            self._count_rejects()

    def profiles(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yields the users of the users' file, by id, with what it tells about them.

        Raises:
            GplanError: the file can't be read, or a user stands in it twice.
        """
        if self.users is None:
            return
        query = users_query(self.users, self.spec.users, self.spec.log.delimiter)
        previous: str | None = None
        for rows in fetch(self.connection.cursor(), query):
            for user, *values, number in rows:
                if user == previous:
                    problem = f"user {user!r} stands in the file twice"
                    raise RowError(self.users.path, number, self.spec.users.user, problem,
                                   "Keep one row a user.")  # fmt: skip
                previous = user
                yield user, profile_of(tuple(values))

    def _event(self, row: tuple[Any, ...]) -> Event | None:
        """The event of a row, None where it is passed over or faulty."""
        unread, file, number = row[-3:]
        if unread is not None:
            fault = _unread(unread, self.spec)
        else:
            event = Event._make((*row[:_EVENT_FIELDS], row[_EVENT_FIELDS:-3]))
            found = _undeclared(event, self.spec)
            if found is None:
                return event
            if found.kind == "event" and self.spec.log.other_events == "ignore":
                self.ignored += 1
                return None
            fault = found
        column = getattr(self.spec.log.columns, fault.field)
        path = self.sources[file].path
        error = RowError(path, number, column, fault.problem, fault.mend)
        self.faulty.add(error, fault.kind)
        return None

    def _count_rejects(self) -> None:
        query = (
            "SELECT DISTINCT s.file_path, e.line, e.error_message FROM reject_errors e "
            "JOIN reject_scans s USING (scan_id, file_id) ORDER BY 1, 2, 3"
        )
        previous: tuple[str, int] | None = None
        for rows in fetch(self.connection, query):
            for path, line, message in rows:
                if (path, line) != previous:  # A line may have several faults.
                    self.faulty.add(RowError(path, line - 1, None, message, MEND))
                previous = path, line


@contextmanager
def open_log(
    logs: Sequence[str | Path],
    spec: TriggerSpec,
    *,
    temporary: Path,
    users: str | Path | None = None,
    memory_limit: str = "2GB",
    faulty: FaultyRows,
) -> Iterator[Log]:
    """Opens the files of a log and checks that they have the columns that the spec maps.

    Args:
        logs: files or glob patterns; .csv, .jsonl and .parquet may be mixed.
        temporary: an existing directory for what DuckDB spills.
        users: a file with a row a user.
        memory_limit: of DuckDB, as it writes it: 500MB, 2GB.

    Raises:
        GplanError: duckdb is not installed; a pattern finds no file; a column is missing (all are
            named, with near ones and how to map them); the limit is no amount of memory.
    """
    paths = log_files(logs)
    connection = connect(temporary, memory_limit, spec.log.time.zone)
    with connection:
        delimiter = spec.log.delimiter
        columns = _mapped("log.columns", spec.log.columns)
        sources = [
            open_source(connection, path, i, columns, delimiter) for i, path in enumerate(paths)
        ]
        found = None
        if users is not None:
            columns = {"users.user": spec.users.user}
            columns |= _mapped("users.columns", spec.users.columns)
            (path,) = log_files([users])
            found = open_source(connection, path, 0, columns, delimiter)
        yield Log(sources, spec, faulty, connection, found)


def _mapped(section: str, columns: ProfileColumns) -> dict[str, str]:
    return {f"{section}.{f}": column for f, column in columns.model_dump().items() if column}


class _Fault(NamedTuple):
    kind: Kind
    field: str
    problem: str
    mend: str = MEND


def _unread(unread: str, spec: TriggerSpec) -> _Fault:
    """The fault that the query found: a field, and after a blank what stands in it."""
    field_name, _, text = unread.partition(" ")
    kinds: dict[str, Kind] = {"user": "user", "time": "time"}
    written = f"{spec.log.time.format} (log.time.format), of 1971 to 2199"
    problem = f"{text!r} is no time written as {written}" if text else f"no {field_name}"
    return _Fault(kinds.get(field_name, "order"), field_name, problem)


def _undeclared(event: Event, spec: TriggerSpec) -> _Fault | None:
    """What an event's words say that the spec doesn't declare; None where all is declared."""
    meaning, orders = spec.events.get(event.word), spec.orders
    if meaning is None:
        problem = f"{event.word!r} is not declared in events; {nearest(event.word, spec.events)}"
        mend = "Declare it, or pass over such rows with --set log.other_events=ignore."
        return _Fault("event", "event", problem, mend)
    if event.order_type and event.order_type not in orders.types:
        near = nearest(event.order_type, orders.types)
        problem = f"{event.order_type!r} is not declared in orders.types; {near}"
        return _Fault("order", "order_type", problem)
    if event.order_status and event.order_status not in orders.statuses:
        near = nearest(event.order_status, orders.statuses)
        problem = f"{event.order_status!r} is not declared in orders.statuses; {near}"
        return _Fault("order", "order_status", problem)
    if meaning.order and not (event.order or event.order_type):
        return _Fault("order", "order", f"{event.word!r} without an order's id or type")
    return None
