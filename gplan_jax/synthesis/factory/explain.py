"""Reasoning for rows that have a plan: a teacher's trace before the plan of every row of a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import SKIP_HINT, FaultyRows, empty_data_set
from gplan_jax.foundation.progress import track
from gplan_jax.foundation.streams import map_ordered
from gplan_jax.foundation.tables import TextTable
from gplan_jax.gsisr import (
    IntentLibrary,
    Label,
    RowPlace,
    Sample,
    canonical_plan,
    facts_of,
    parse_label,
    read_numbered_samples,
    write_samples,
)
from gplan_jax.reasoning import write_trace
from gplan_jax.synthesis.teachers.load import note_of
from gplan_jax.synthesis.teachers.protocol import ROW_TROUBLE, Teacher
from gplan_jax.synthesis.teachers.rule_teacher import RuleTeacher

_MEND = f"Run the command again, which asks again; or {SKIP_HINT}."


@dataclass(frozen=True)
class ExplainReport:
    """What ``explain_file`` did: rows written, rows left out, characters of a trace on average."""

    rows: int
    skipped: int
    mean_characters: float


def explain_table(report: ExplainReport) -> Table:
    """The figures, one a line."""
    rows = (
        ("rows with reasoning", f"{report.rows:,}"),
        ("left out", f"{report.skipped:,}"),
        ("characters of reasoning a row", f"{report.mean_characters:,.0f}"),
    )
    return TextTable(("", ""), rows).rich()


def explain_file(
    source: str | Path,
    out: str | Path,
    library: IntentLibrary,
    *,
    teacher: Teacher | None = None,
    faulty: FaultyRows | None = None,
) -> ExplainReport:
    """Streams the rows of ``source`` to ``out``, each label with a trace before its plan.

    ``teacher``, the rules where None, replaces a trace that a row has; it is closed at the end.
    """
    if Path(source).resolve() == Path(out).resolve():
        raise GplanError(f"{out} is also the source; name another output.")
    teacher = teacher or RuleTeacher(library)
    faulty = faulty or FaultyRows()
    already, characters = faulty.total, 0
    # A faulty row ends the run here, before the teacher has cost something.
    total = sum(1 for _ in _labelled(source, library, FaultyRows(faulty.on_error)))

    async def explained(row: tuple[int, Sample, Label]) -> tuple[Sample, int] | RowError:
        number, sample, label = row
        try:
            trace = write_trace(await teacher.explain(sample, label.plan))
        except ROW_TROUBLE as error:
            return RowError(source, number, None, str(error).rstrip("."), _MEND)
        return sample.with_label(trace + canonical_plan(label.plan, library)), len(trace)

    def written(found: Iterator[tuple[Sample, int] | RowError]) -> Iterator[Sample]:
        nonlocal characters
        for row in track(found, "explain", total, lambda: note_of(teacher)):
            if isinstance(row, RowError):
                faulty.add(row)
                continue
            characters += row[1]
            yield row[0]
        if not characters:
            raise empty_data_set(source, faulty.errors[already:])

    labelled = _labelled(source, library, faulty)
    found = map_ordered(explained, labelled, at_once=teacher.at_once, close=teacher.close)
    with closing(found):
        count = write_samples(out, written(found))
    return ExplainReport(count, faulty.total - already, characters / count)


def _labelled(
    source: str | Path, library: IntentLibrary, faulty: FaultyRows
) -> Iterator[tuple[int, Sample, Label]]:
    """The rows with their numbers and checked labels; facts must be there to be told."""

    def labelled(numbered: tuple[int, Sample]) -> tuple[int, Sample, Label]:
        number, sample = numbered
        try:
            facts_of(sample)
        except GplanError as error:
            mend = f"Mend it, or {SKIP_HINT}."
            raise RowError(source, number, None, str(error).rstrip("."), mend) from None
        return number, sample, parse_label(sample, library, RowPlace(source, number))

    return faulty.sound(source, read_numbered_samples(source, faulty=faulty), labelled)
