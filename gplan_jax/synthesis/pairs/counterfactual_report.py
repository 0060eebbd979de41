"""What became of the rows that counterfactual pairs were made of: counts, and their table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rich.table import Table

# What came of a perturbation of a row: its "pair" was written; its two plans are "equal"; the
# teacher's answer "failed" the filter; the row leaves no room for it ("not_applicable"). What came
# of the row as it is, where that ended it: the answer "failed", a time or flag is "unreadable", no
# perturbation applies ("unchangeable").
Verdict = Literal["pair", "equal", "failed", "not_applicable", "unreadable", "unchangeable"]
ANCHOR = "anchor"  # Stands for the row as it is, where a perturbation is named otherwise.
TRIED: tuple[Verdict, ...] = ("pair", "equal", "failed")


@dataclass(frozen=True)
class Report:
    """What became of the rows of a file.

    Attributes:
        anchors: rows read.
        without_pair: those of them that gave no pair.
        skipped: faults left out: rows that can't be read, and candidates with a fault.
        verdicts: perturbation, or "anchor" -> verdict -> number of candidates.
    """

    anchors: int
    without_pair: int
    skipped: int
    verdicts: Mapping[str, Mapping[Verdict, int]]

    def total(self, verdict: Verdict) -> int:
        """The number of candidates with a verdict."""
        return sum(counts.get(verdict, 0) for counts in self.verdicts.values())

    def reasons(self) -> str:
        """Why candidates were skipped, with their numbers, in brackets; "" where none was."""
        words: dict[Verdict, str] = {
            "unreadable": "rows with an unreadable time or flag",
            "unchangeable": "rows of which nothing can be changed",
            "failed": "answers that failed",
        }
        found = [f"{n} {word}" for verdict, word in words.items() if (n := self.total(verdict))]
        return f" ({', '.join(found)})" if found else ""

    def to_dict(self) -> dict[str, Any]:
        """The counts for JSON: of rows, of all candidates, and by perturbation."""
        return {
            "anchors": self.anchors,
            "without_pair": self.without_pair,
            "skipped": self.skipped,
            "candidates": {verdict: self.total(verdict) for verdict in get_args(Verdict)},
            "by_perturbation": {
                name: {verdict: counts.get(verdict, 0) for verdict in (*TRIED, "not_applicable")}
                for name, counts in self.verdicts.items()
                if name != ANCHOR
            },
        }


def report_path(out: str | Path) -> Path:
    """Where the counts of the pairs in ``out`` are kept: pairs.jsonl -> pairs.report.json."""
    return Path(out).with_suffix(".report.json")


def report_table(report: Report) -> Table:
    """A line a perturbation: how often the teacher was asked, and what came of it."""
    table = Table()
    table.add_column("perturbation")
    for heading in ("tried", "pairs", "equal plans", "failed", "not applicable"):
        table.add_column(heading, justify="right")
    names = [name for name in report.verdicts if name != ANCHOR]
    lines = {name: report.verdicts[name] for name in names}
    verdicts: tuple[Verdict, ...] = (*TRIED, "not_applicable")
    lines["all"] = {v: sum(lines[name].get(v, 0) for name in names) for v in verdicts}
    for name, counts in lines.items():
        tried = sum(counts.get(verdict, 0) for verdict in TRIED)
        figures = [counts.get(verdict, 0) for verdict in verdicts]
        table.add_row(name, *(f"{n:,}" for n in (tried, *figures)), end_section=name == names[-1])
    return table
