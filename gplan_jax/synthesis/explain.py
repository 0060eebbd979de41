"""Reasoning for rows that have a plan: a teacher's trace before the plan of every row of a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.progress import track
from gplan_jax.foundation.streams import map_ordered
from gplan_jax.gsisr import (
    IntentLibrary,
    Label,
    Sample,
    canonical_plan,
    read_labelled_samples,
    write_samples,
)
from gplan_jax.gsisr.readers import OnError
from gplan_jax.reasoning import write_trace
from gplan_jax.synthesis.rules import RuleTeacher
from gplan_jax.synthesis.teacher import Teacher


@dataclass(frozen=True)
class ExplainReport:
    """What ``explain_file`` did: rows written, rows left out, characters of a trace on average."""

    rows: int
    skipped: int
    mean_characters: float


def explain_file(
    source: str | Path,
    out: str | Path,
    library: IntentLibrary,
    *,
    teacher: Teacher | None = None,
    on_error: OnError = "raise",
    skipped: list[RowError] | None = None,
) -> ExplainReport:
    """Streams the rows of ``source`` to ``out``, each label with a trace before its plan.

    A trace that a row already has is replaced. ``out`` appears whole or not at all.

    Args:
        source, out: .csv, .jsonl or .parquet files.
        teacher: who explains; the rules where None. It is closed at the end.
        on_error: "raise" ends at the first faulty row, "skip" leaves it out.
        skipped: where given, the errors of the rows left out are appended to it.

    Raises:
        GplanError, RowError: an unreadable source, or a faulty row that isn't skipped.
    """
    if Path(source).resolve() == Path(out).resolve():
        raise GplanError(f"{out} is also the source; name another output.")
    teacher = teacher or RuleTeacher(library)
    faults: list[RowError] = [] if skipped is None else skipped
    already, characters = len(faults), 0

    async def explained(labelled: tuple[Sample, Label]) -> tuple[Sample, int]:
        sample, label = labelled
        trace = write_trace(await teacher.explain(sample, label.plan))
        return sample.with_label(trace + canonical_plan(label.plan, library)), len(trace)

    def counted(found: Iterator[tuple[Sample, int]]) -> Iterator[Sample]:
        nonlocal characters
        for row, length in track(found, "explain"):
            characters += length
            yield row

    labelled = read_labelled_samples(source, library, on_error=on_error, skipped=faults)
    found = map_ordered(explained, labelled, at_once=teacher.at_once, close=teacher.close)
    with closing(found):
        count = write_samples(out, counted(found))
    return ExplainReport(count, len(faults) - already, characters / count)
