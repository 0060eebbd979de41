"""A log as a stream of events: sorted by user and time in DuckDB, which spills to disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gplan_jax.foundation.errors import RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.synthesis.triggers.log_events import LogEvent
from gplan_jax.synthesis.triggers.log_files import (
    MEND,
    TEXT_FIELDS,
    LogFile,
    connect,
    fetch,
    log_files,
    log_query,
    open_file,
    users_query,
)
from gplan_jax.synthesis.triggers.trigger_spec import (
    ORDER_TIMES,
    ProfileColumns,
    TriggerSpec,
    known_profile,
    nearest,
)

_EVENT_FIELDS = 2 + len(TEXT_FIELDS) + len(ORDER_TIMES)
# "row": no readable row at all; missing or unreadable "user" and "time"; an "event" that is not
# declared; an unreadable "order" column.
FaultKind = Literal["row", "user", "time", "event", "order"]


@dataclass
class EventLog:
    """The events of an open log and the profiles of its users' file, both sorted by user."""

    files: Sequence[LogFile]
    spec: TriggerSpec
    faulty: FaultyRows
    connection: Any
    users: LogFile | None
    # read, duplicates, ignored: events read so far, and those of them passed over because they
    # repeat the one before, or because their word is not declared (``log.other_events``).
    read: int = 0
    duplicates: int = 0
    ignored: int = 0

    def batches(self) -> Iterator[list[LogEvent]]:
        other_events = self.spec.log.other_events
        previous: list[Any] = []
        for rows in fetch(self.connection, log_query(self.files, self.spec.log)):
            self.read += len(rows)
            batch = []
            for *content, unreadable, file, number in rows:
                if unreadable is None:
                    if content == previous:
                        self.duplicates += 1
                        continue
                    previous = content
                    cells = (*content[:_EVENT_FIELDS], tuple(content[_EVENT_FIELDS:]))
                    event = LogEvent._make(cells)
                    if other_events == "ignore" and event.word not in self.spec.events:
                        self.ignored += 1
                        continue
                    if (fault := self._undeclared(event)) is None:
                        batch.append(event)
                        continue
                else:
                    fault = self._unreadable(unreadable)
                kind, field, problem, mend = fault
                column = getattr(self.spec.log.columns, field, None)
                error = RowError(self.files[file].path, number, column, problem, mend)
                self.faulty.add(error, kind)
            yield batch
        if self.faulty.skips and any(file.path.suffix == ".csv" for file in self.files):
            self._count_rejects()

    def profiles(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        if self.users is None:
            return
        query = users_query(self.users, self.spec.users)
        previous: str | None = None
        for rows in fetch(self.connection.cursor(), query):
            for user, *values, unreadable, number in rows:
                if unreadable is not None:
                    _, field, problem, mend = self._unreadable(unreadable)
                    columns = {"user": self.spec.users.user, **self.spec.users.columns.model_dump()}
                    raise RowError(self.users.path, number, columns.get(field), problem, mend)
                if user == previous:
                    problem = f"user {user!r} stands in the file twice"
                    raise RowError(self.users.path, number, self.spec.users.user, problem,
                                   "Keep one row a user.")  # fmt: skip
                previous = user
                yield user, known_profile(tuple(values))

    def _unreadable(self, found: str) -> tuple[FaultKind, str, str, str]:
        """The fault that the query found: a field, and after a blank what stands in it."""
        field, _, text = found.partition(" ")
        if field == "row":
            return "row", field, text, MEND
        if field == "number":
            field, _, text = text.partition(" ")
            problem = f"{text} is no exact number; write a text or nothing"
            return "user" if field == "user" else "row", field, problem, MEND
        kinds: dict[str, FaultKind] = {"user": "user", "time": "time"}
        written = f"{self.spec.log.time.format} (log.time.format), of 1971 to 2199"
        problem = f"{text!r} is no time written as {written}" if text else f"no {field}"
        return kinds.get(field, "order"), field, problem, MEND

    def _undeclared(self, event: LogEvent) -> tuple[FaultKind, str, str, str] | None:
        """What an event's words say that the spec doesn't declare; None where all is declared."""
        meaning, orders = self.spec.events.get(event.word), self.spec.orders
        if meaning is None:
            near = nearest(event.word, self.spec.events)
            problem = f"{event.word!r} is not declared in events; {near}"
            mend = "Declare it, or pass over such rows with --set log.other_events=ignore."
            return "event", "event", problem, mend
        for field, word, section, known in (
            ("order_type", event.order_type, "orders.types", orders.types),
            ("order_status", event.order_status, "orders.statuses", orders.statuses),
        ):
            if word and word not in known:
                problem = f"{word!r} is not declared in {section}; {nearest(word, known)}"
                return "order", field, problem, MEND
        if meaning.order and not (event.order or event.order_type):
            return "order", "order", f"{event.word!r} without an order's id or type", MEND
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
) -> Iterator[EventLog]:
    """Opens the files of a log and checks that they have the columns that the spec maps.

    ``logs`` are files or glob patterns, ``users`` a file with a row a user, ``temporary`` a
    directory for what DuckDB spills, ``memory_limit`` as DuckDB writes it: 500MB, 2GB.
    """
    paths = log_files(logs)
    connection = connect(temporary, memory_limit, spec.log.time.zone)
    with connection:
        delimiter = spec.log.delimiter
        columns = _mapped("log.columns", spec.log.columns)
        files = [
            open_file(connection, path, i, columns, delimiter, lenient=faulty.skips)
            for i, path in enumerate(paths)
        ]
        found = None
        if users is not None:
            columns = {"users.user": spec.users.user}
            columns |= _mapped("users.columns", spec.users.columns)
            (path,) = log_files([users])
            found = open_file(connection, path, 0, columns, delimiter)
        yield EventLog(files, spec, faulty, connection, found)


def _mapped(section: str, columns: ProfileColumns) -> dict[str, str]:
    return {f"{section}.{f}": column for f, column in columns.model_dump().items() if column}
