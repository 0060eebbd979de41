"""The filter alone, over rows that have labels: which pass, and why the others don't."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.progress import track
from gplan_jax.foundation.tables import TextTable
from gplan_jax.gsisr import IntentLibrary, Label, Violation, read_numbered_samples
from gplan_jax.synthesis.factory.factory_report import FactoryReport
from gplan_jax.synthesis.factory.output_files import OutputFiles, file_identity, open_outputs
from gplan_jax.synthesis.factory.removals import FILTER_TIERS, Removal, RemovalTier, check_label


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
    rows = read_numbered_samples(source, faulty=faulty)
    checked = ((row, sample, check_label(sample, library)) for row, sample in rows)
    with open_outputs(files, test=False, origin=False) as writers:
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
    return report, rates
