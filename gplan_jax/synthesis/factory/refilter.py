"""The filter alone, over rows that have labels: which pass, and why the others don't."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.progress import track
from gplan_jax.gsisr import IntentLibrary, Label, Sample, Violation, read_numbered_samples
from gplan_jax.synthesis.factory.outputs import Outputs, file_hash, open_outputs
from gplan_jax.synthesis.factory.report import Report
from gplan_jax.synthesis.factory.verdicts import FILTER_TIERS, Tier, broken_rules, verdict


@dataclass
class PassRates:
    """How many rows break a rule, by tier and by code; a row may break several.

    Attributes:
        rows: all rows.
        failed: rows with at least one broken rule.
        tiers: rows that break a rule of the tier.
        codes: rows that break the rule, by tier and code.
    """

    rows: int = 0
    failed: int = 0
    tiers: Counter[Tier] = field(default_factory=Counter)
    codes: Counter[tuple[Tier, str]] = field(default_factory=Counter)

    def add(self, faults: tuple[Violation, ...]) -> None:
        """Counts one row by the rules that it breaks."""
        self.rows += 1
        self.failed += bool(faults)
        self.tiers.update({fault.tier for fault in faults})
        self.codes.update({(fault.tier, fault.code) for fault in faults})

    def to_dict(self) -> dict[str, Any]:
        """Pass rates of all rows, in total and by tier, and the rows that break each rule."""
        tiers = {}
        for name in FILTER_TIERS:
            codes = {code: n for (tier, code), n in sorted(self.codes.items()) if tier == name}
            passed = (self.rows - self.tiers[name]) / self.rows
            tiers[name] = {
                "pass_rate": round(passed, 4),
                "failed": self.tiers[name],
                "codes": codes,
            }
        passed = (self.rows - self.failed) / self.rows
        return {"pass_rate": round(passed, 4), "failed": self.failed, "by_tier": tiers}

    def table(self) -> Table:
        """A line a tier, and one for each broken rule under it."""
        table = Table()
        for heading in ("tier", "broken rule"):
            table.add_column(heading)
        for heading in ("rows", "pass rate"):
            table.add_column(heading, justify="right")
        for name, tier in self.to_dict()["by_tier"].items():
            table.add_row(name, "", f"{tier['failed']:,}", f"{tier['pass_rate']:.1%}")
            for code, count in tier["codes"].items():
                table.add_row("", code, f"{count:,}", "")
        table.add_section()
        passed = self.to_dict()["pass_rate"]
        table.add_row("all", "", f"{self.failed:,}", f"{passed:.1%}")
        return table


def filter_file(
    source: Path,
    out: Path,
    library: IntentLibrary,
    *,
    faulty: FaultyRows | None = None,
) -> tuple[Report, PassRates]:
    """Copies the rows of ``source`` that pass the whole filter to ``out``, as they are.

    Beside it stand NAME.removed.jsonl, each other row and why, and NAME.report.json. The files
    appear together or not at all. Nothing is asked and duplicates are left in: this is the filter
    of a finished plan, the same that an evaluation applies to a model's answers.

    Raises:
        GplanError, RowError: an unreadable source, or an output that may not be written over.
    """
    outputs = Outputs(out)
    outputs.check({"the data": source}, test=True)
    faulty = faulty or FaultyRows()
    already = faulty.total
    report, rates = Report(library), PassRates()
    rows = read_numbered_samples(source, faulty=faulty)
    settings = {
        "data": {"file": source.name, "sha256": _hash(source)},
        "library": library.name,
        "on_error": faulty.on_error,
    }
    with open_outputs(outputs, test=False, origin=False) as writers:
        for row, sample, found in track(_verdicts(rows, library), "filter"):
            rates.add(() if isinstance(found, Label) else found)
            if isinstance(found, Label):
                writers.train(sample)
                report.keep(sample, found, "train", {})
            else:
                removal = broken_rules(sample.raw_labels, found)
                writers.removed(removal.to_dict(row, sample))
                report.remove(removal)
        report.skipped = faulty.total - already
        values = {"filter": rates.to_dict(), **report.to_dict()}
        writers.report({**values, "settings": settings})
    return report, rates


def _verdicts(
    rows: Iterator[tuple[int, Sample]], library: IntentLibrary
) -> Iterator[tuple[int, Sample, Label | tuple[Violation, ...]]]:
    return ((row, sample, verdict(sample, library)) for row, sample in rows)


def _hash(source: Path) -> str:
    if not source.is_file():
        raise GplanError(f"{source} does not exist or is not a file.")
    return file_hash(source)
