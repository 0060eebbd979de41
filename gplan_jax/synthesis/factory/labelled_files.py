"""What is done to files whose rows have plans: the filter alone, and a trace before every plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from gplan_jax.chat import RequestFailed
from gplan_jax.foundation.errors import GplanError, NothingKept, RowError
from gplan_jax.foundation.faulty_rows import SKIP_HINT, FaultyRows, Streak
from gplan_jax.foundation.progress import track
from gplan_jax.foundation.streams import map_ordered
from gplan_jax.foundation.tables import TextTable
from gplan_jax.gsisr import (
    IntentLibrary,
    Label,
    RowPlace,
    Sample,
    Violation,
    canonical_plan,
    parse_label,
    read_numbered_samples,
    write_samples,
)
from gplan_jax.gsisr.facts import facts_of_row
from gplan_jax.gsisr.service import record_service
from gplan_jax.reasoning import write_trace
from gplan_jax.synthesis.factory.factory_report import FactoryReport
from gplan_jax.synthesis.factory.output_files import (
    FILTER_TIERS,
    OutputFiles,
    Removal,
    RemovalTier,
    check_label,
    file_identity,
    open_outputs,
)
from gplan_jax.synthesis.teachers.load import note_of
from gplan_jax.synthesis.teachers.teacher import RuleTeacher, Teacher


@dataclass
class PassRates:
    """How many rows break a rule, by tier and by code; a row may break several."""

    rows: int = 0
    failed: int = 0  # Rows with at least one broken rule.
    # Rows that break a rule of the tier.
    tiers: Counter[RemovalTier] = field(default_factory=Counter)
    # Rows that break the rule, by tier and code.
    codes: Counter[tuple[RemovalTier, str]] = field(default_factory=Counter)

    def add(self, faults: tuple[Violation, ...]) -> None:
        """Counts one row by the rules that it breaks."""
        self.rows += 1
        self.failed += bool(faults)
        self.tiers.update({fault.tier for fault in faults})
        self.codes.update({(fault.tier, fault.code) for fault in faults})

    def to_dict(self) -> dict[str, Any]:
        """Pass rates of all rows, in total and by tier, and the rows that break each rule."""

        def figures(failed: int) -> dict[str, Any]:
            return {"pass_rate": round((self.rows - failed) / self.rows, 4), "failed": failed}

        tiers = {}
        for name in FILTER_TIERS:
            codes = {code: n for (tier, code), n in sorted(self.codes.items()) if tier == name}
            tiers[name] = {**figures(self.tiers[name]), "codes": codes}
        return {**figures(self.failed), "by_tier": tiers}


def pass_rate_table(rates: PassRates) -> Table:
    """A line a tier, and one for each broken rule under it."""
    values = rates.to_dict()
    rows: list[tuple[str, ...] | None] = []
    for name, tier in values["by_tier"].items():
        rows.append((name, "", f"{tier['failed']:,}", f"{tier['pass_rate']:.1%}"))
        rows += [("", code, f"{count:,}") for code, count in tier["codes"].items()]
    rows += [None, ("all", "", f"{rates.failed:,}", f"{values['pass_rate']:.1%}")]
    return TextTable(("tier", "broken rule", "rows", "pass rate"), rows, words=2).rich()


def filter_file(
    source: Path,
    out: Path,
    library: IntentLibrary,
    *,
    faulty: FaultyRows | None = None,
) -> tuple[FactoryReport, PassRates]:
    """Copies the rows of ``source`` that pass the whole filter to ``out``, as they are.

    Removed rows and the report appear with it. Duplicates are left in: this is the filter that an
    evaluation applies to a model's answers.
    """
    files = OutputFiles(out)
    files.check({"the data": source}, test=True)
    faulty = faulty or FaultyRows()
    already = faulty.total
    report, rates = FactoryReport(library), PassRates()
    settings = {
        "data": file_identity(source),
        "library": library.name,
        "on_error": faulty.on_error,
    }
    rows = read_numbered_samples(source, form=library.rows, faulty=faulty)
    checked = ((row, sample, check_label(sample, library)) for row, sample in rows)
    with open_outputs(files, library.rows, test=False, origin=False) as writers:
        for row, sample, found in track(checked, "filter"):
            rates.add(() if isinstance(found, Label) else found)
            if isinstance(found, Label):
                writers.train(sample)
                report.keep(sample, found, "train", {})
            else:
                removal = Removal.of_faults(sample.raw_labels, found)
                writers.removed(removal.to_dict(row, sample))
                report.remove(removal, {})
        report.skipped = faulty.total - already
        values = {"filter": rates.to_dict(), **report.to_dict()}
        writers.report({**values, "settings": settings})
    record_service(library, out)
    return report, rates


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
    faulty: FaultyRows | None = None,
) -> ExplainReport:
    """Streams the rows of ``source`` to ``out``, each label with a trace before its plan.

    ``teacher``, the rules where None, replaces a trace that a row has; it is closed at the end.
    """
    if Path(source).resolve() == Path(out).resolve():
        raise GplanError(f"{out} is also the source; name another output.")
    teacher = teacher or RuleTeacher(library)
    faulty = faulty or FaultyRows()
    already, characters, streak = faulty.total, 0, Streak(f"teacher {teacher.name}")
    # A faulty row ends the run here, before the teacher has cost something.
    total = sum(1 for _ in _labelled(source, library, FaultyRows(faulty.on_error)))

    async def explained(row: tuple[int, Sample, Label]) -> tuple[Sample, int] | RowError:
        number, sample, label = row
        try:
            trace = write_trace(await teacher.explain(sample, label.plan))
        except RequestFailed as error:
            mend = f"{error.mend}; or {SKIP_HINT}."
            return RowError(source, number, None, str(error).rstrip("."), mend)
        return sample.with_label(trace + canonical_plan(label.plan, library)), len(trace)

    def written(found: Iterator[tuple[Sample, int] | RowError]) -> Iterator[Sample]:
        nonlocal characters
        for row in track(found, "explain", total, lambda: note_of(teacher)):
            if isinstance(row, RowError):
                faulty.add(row)
                streak.add(str(row))
                continue
            streak.add(None)
            characters += row[1]
            yield row[0]
        if not characters:
            raise NothingKept(f"No row of {source} was explained. {faulty.errors[-1]}")

    labelled = _labelled(source, library, faulty)
    found = map_ordered(explained, labelled, at_once=teacher.at_once, close=teacher.close)
    with closing(found):
        count = write_samples(out, written(found))
    record_service(library, out)
    return ExplainReport(count, faulty.total - already, characters / count)


def _labelled(
    source: str | Path, library: IntentLibrary, faulty: FaultyRows
) -> Iterator[tuple[int, Sample, Label]]:
    """The rows with their numbers and checked labels; facts must be there to be told."""

    def labelled(numbered: tuple[int, Sample]) -> tuple[int, Sample, Label]:
        number, sample = numbered
        facts_of_row(sample, source, number)
        return number, sample, parse_label(sample, library, RowPlace(source, number))

    rows = read_numbered_samples(source, form=library.rows, faulty=faulty)
    return faulty.sound(source, rows, labelled)
