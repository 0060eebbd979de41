"""From the files of a log to a file of rows and its report: what `gplan triggers` does.

DuckDB sorts the log by user and time, and spills to disk.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from gplan_jax.foundation.errors import GplanError, RowError, nearest
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import report_path, write_json
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.foundation.row_files import check_suffix
from gplan_jax.foundation.tables import TextTable
from gplan_jax.gsisr import Sample, write_samples
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
from gplan_jax.synthesis.triggers.trigger_search import MomentCounts, Reason, find_contexts
from gplan_jax.synthesis.triggers.trigger_spec import (
    ORDER_TIMES,
    ProfileColumns,
    TriggerSpec,
    known_profile,
)
from gplan_jax.synthesis.triggers.user_memory import LogEvent

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
        if not self.faulty.skips or all(file.path.suffix != ".csv" for file in self.files):
            return
        query = (
            "SELECT DISTINCT s.file_path, e.line, e.error_message FROM reject_errors e "
            "JOIN reject_scans s USING (scan_id, file_id) ORDER BY 1, 2, 3"
        )
        last: tuple[str, int] | None = None
        for rejected in fetch(self.connection, query):
            for path, line, message in rejected:
                if (path, line) != last:  # A line may have several faults.
                    self.faulty.add(RowError(path, line - 1, None, message, MEND))
                last = path, line

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


HEADINGS: Mapping[Reason, str] = {
    "cool_down": "cool\ndown",
    "rows_per_day": "day\nfull",
    "stale_position": "stale\nplace",
    "no_order_place": "no order\nplace",
}


@dataclass(frozen=True)
class TriggerReport:
    """What became of a log."""

    files: int
    events: int  # events, users: events read, and users with a readable one.
    users: int
    # duplicates, ignored: events that repeat another, and such of undeclared words.
    duplicates: int
    ignored: int
    faulty: Mapping[str, int]  # Kind of fault -> rows left out.
    moments: MomentCounts
    undeclared_years: tuple[int, ...]  # Years of rows for which the spec declares no holiday.
    stopped: bool  # The search ended at the asked number of rows, before the end of the log.

    @property
    def total(self) -> int:
        return self.moments.rows.total()

    def to_dict(self, spec: TriggerSpec) -> dict[str, Any]:
        by_trigger: dict[str, int] = {}
        for name, rule in spec.rules.items():
            by_trigger[rule.trigger] = by_trigger.get(rule.trigger, 0) + self.moments.rows[name]
        return {
            "rows": self.total,
            "by_trigger": by_trigger,
            "by_rule": {
                name: {
                    "trigger": rule.trigger,
                    "rows": self.moments.rows[name],
                    "left_out": {r: self.moments.left_out[name][r] for r in HEADINGS},
                }
                for name, rule in spec.rules.items()
            },
            "files": self.files,
            "events": self.events,
            "users": self.users,
            "duplicates": self.duplicates,
            "ignored": self.ignored,
            "faulty": dict(self.faulty),
            "undeclared_years": list(self.undeclared_years),
            "stopped_at_limit": self.stopped,
            "spec": spec.model_dump(mode="json"),
        }


def report_table(report: Mapping[str, Any]) -> Table:
    """A line a rule: its rows, and why other moments that it found made none; of ``to_dict``."""
    rows: list[tuple[str, ...] | None] = []
    for name, rule in report["by_rule"].items():
        figures = [rule["rows"], *(rule["left_out"][reason] for reason in HEADINGS)]
        rows.append((name, rule["trigger"], *(f"{n:,}" for n in figures)))
    left = [sum(rule["left_out"][r] for rule in report["by_rule"].values()) for r in HEADINGS]
    rows += [None, ("all", "", *(f"{n:,}" for n in (report["rows"], *left)))]
    return TextTable(("rule", "trigger", "rows", *HEADINGS.values()), rows, words=2).rich()


def write_contexts(
    logs: Sequence[str | Path],
    out: str | Path,
    spec: TriggerSpec,
    *,
    users: str | Path | None = None,
    memory_limit: str = "2GB",
    faulty: FaultyRows | None = None,
    limit: int | None = None,
) -> TriggerReport:
    """Searches a log for triggers and writes a row for each, without a label.

    Rows come by user id, then time, and depend on the events alone, not on their order or files.
    ``out`` and its report appear whole or not at all; see ``open_log`` for the log's parameters.
    """
    out, faulty = Path(out), faulty or FaultyRows()
    check_suffix(out)
    inputs = log_files([*logs, *([users] if users is not None else [])])
    if out.resolve() in {path.resolve() for path in inputs}:
        raise GplanError(f"{out} is also an input; name another output.")
    counts, found_users = MomentCounts(), 0

    def rows(log: EventLog) -> Generator[Sample, None, None]:
        nonlocal found_users
        profiles = log.profiles()
        known = next(profiles, None)
        with closing(_tracked(log, counts)) as stream:
            for user, events in itertools.groupby(stream, lambda event: event.user):
                found_users += 1
                # Both streams are sorted by user; the users' file may lack some.
                while known is not None and known[0] < user:
                    known = next(profiles, None)
                profile = known[1] if known is not None and known[0] == user else {}
                yield from find_contexts(events, profile, spec, counts)

    with (
        _directory_beside(out) as temporary,
        open_log(
            logs, spec, temporary=temporary, users=users, memory_limit=memory_limit, faulty=faulty
        ) as log,
    ):
        with closing(rows(log)) as found:
            written = write_samples(out, itertools.islice(found, limit))
        declared_years = {day.year for day in spec.holiday_dates}
        report = TriggerReport(
            files=len(log.files),
            events=log.read,
            users=found_users,
            duplicates=log.duplicates,
            ignored=log.ignored,
            faulty=dict(sorted(faulty.counts.items())),
            moments=counts,
            undeclared_years=tuple(sorted(counts.years - declared_years)),
            stopped=written == limit,
        )
    write_json(report_path(out), report.to_dict(spec))
    return report


def _tracked(log: EventLog, counts: MomentCounts) -> Generator[LogEvent, None, None]:
    with ProgressBar("events", None) as bar:
        bar.advance("sorting", steps=0)
        before = 0
        for batch in log.batches():
            yield from batch
            bar.advance(f"{counts.rows.total():,} rows", steps=log.read - before)
            before = log.read


@contextmanager
def _directory_beside(out: Path) -> Iterator[Path]:
    """A directory for what is spilled; one that a killed run has left is removed first."""
    directory = out.parent / f".{out.name}.sorting"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
