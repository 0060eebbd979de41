"""From the files of a log to a file of rows and its report: what `gplan triggers` does."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import write_json
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.foundation.row_files import check_suffix
from gplan_jax.foundation.tables import TextTable
from gplan_jax.gsisr import Sample, write_samples
from gplan_jax.synthesis.triggers.event_log import EventLog, open_log
from gplan_jax.synthesis.triggers.log_events import LogEvent
from gplan_jax.synthesis.triggers.log_files import log_files
from gplan_jax.synthesis.triggers.trigger_search import MomentCounts, Reason, find_contexts
from gplan_jax.synthesis.triggers.trigger_spec import TriggerSpec

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
        """The counts and the spec they were made with, for JSON."""
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


def report_path(out: str | Path) -> Path:
    """Where the counts of the rows in ``out`` are kept: contexts.csv -> contexts.report.json."""
    return Path(out).with_suffix(".report.json")


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
            logs,
            spec,
            temporary=temporary,
            users=users,
            memory_limit=memory_limit,
            faulty=faulty,
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
