"""From the files of a log to a file of rows: what `gplan triggers` does."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import write_json
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.gsisr import Sample, write_samples
from gplan_jax.gsisr.sample_files import check_suffix
from gplan_jax.synthesis.triggers.columns import log_files
from gplan_jax.synthesis.triggers.contexts import Prepared, Tally, contexts
from gplan_jax.synthesis.triggers.events import Event
from gplan_jax.synthesis.triggers.log import Log, open_log
from gplan_jax.synthesis.triggers.report import TriggerReport, report_path
from gplan_jax.synthesis.triggers.spec import TriggerSpec


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

    Rows come by user id, those of a user in order of time. They depend on the events alone: not
    on their order, nor on which files hold them. ``out`` appears whole or not at all, the counts
    beside it as NAME.report.json; what DuckDB spills lies beside it meanwhile.

    Args:
        logs, users, memory_limit: see ``open_log``.
        faulty: what becomes of faulty rows; their counts by kind are in the report.
        limit: stop after so many rows.

    Raises:
        GplanError, RowError: see ``open_log`` and ``Log.batches``; or ``out`` is one of the inputs
            or of an unknown kind.
    """
    out, faulty = Path(out), faulty or FaultyRows()
    check_suffix(out)
    inputs = log_files([*logs, *([users] if users is not None else [])])
    if out.resolve() in {path.resolve() for path in inputs}:
        raise GplanError(f"{out} is also an input; name another output.")
    prepared, tally = Prepared(spec), Tally()
    found_users = 0

    def rows(log: Log) -> Generator[Sample, None, None]:
        nonlocal found_users
        known = _Profiles(log.profiles())
        with closing(_tracked(log, tally)) as stream:
            for user, events in itertools.groupby(stream, lambda event: event.user):
                found_users += 1
                yield from contexts(events, known.of(user), prepared, tally)

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
        report = TriggerReport(
            files=len(log.sources),
            events=log.read,
            users=found_users,
            duplicates=log.duplicates,
            ignored=log.ignored,
            faulty=dict(sorted(faulty.counts.items())),
            rows=dict(tally.rows),
            left_out={name: dict(counts) for name, counts in tally.left_out.items()},
            undeclared_years=tuple(sorted(tally.years - {d.year for d in prepared.holidays})),
            stopped=written == limit,
        )
    write_json(report_path(out), report.to_dict(spec))
    return report


class _Profiles:
    """Profiles by user, out of a stream sorted by user, for users asked for in that order."""

    def __init__(self, profiles: Iterator[tuple[str, Mapping[str, str]]]) -> None:
        self._profiles = profiles
        self._next = next(profiles, None)

    def of(self, user: str) -> Mapping[str, str]:
        """What the users' file tells about ``user``; nothing where it lacks the user."""
        while self._next is not None and self._next[0] < user:
            self._next = next(self._profiles, None)
        return self._next[1] if self._next is not None and self._next[0] == user else {}


def _tracked(log: Log, tally: Tally) -> Generator[Event, None, None]:
    """The log's events while a progress bar counts them."""
    with ProgressBar("events", None) as bar:
        bar.advance("sorting", steps=0)
        before = 0
        for batch in log.batches():
            yield from batch
            bar.advance(f"{tally.rows.total():,} rows", steps=log.read - before)
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
