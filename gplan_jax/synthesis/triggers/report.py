"""What a search for triggers found: counts by rule, and their table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rich.table import Table

from gplan_jax.synthesis.triggers.contexts import Reason
from gplan_jax.synthesis.triggers.spec import TriggerSpec

REASONS: tuple[Reason, ...] = get_args(Reason)
HEADINGS: Mapping[Reason, str] = {
    "cool_down": "cool down",
    "rows_per_day": "day full",
    "stale_position": "stale place",
    "no_order_place": "no order place",
}


@dataclass(frozen=True)
class TriggerReport:
    """What became of a log.

    Attributes:
        files: files read.
        events, users: events read, and users with a readable one.
        duplicates, ignored: events that repeat another, and such of undeclared words.
        faulty: kind of fault -> rows left out.
        rows: rule -> rows written.
        left_out: rule -> reason -> moments found that made no row.
        undeclared_years: years of rows for which the spec declares no holiday.
        stopped: the search ended at the asked number of rows, before the end of the log.
    """

    files: int
    events: int
    users: int
    duplicates: int
    ignored: int
    faulty: Mapping[str, int]
    rows: Mapping[str, int]
    left_out: Mapping[str, Mapping[Reason, int]]
    undeclared_years: tuple[int, ...]
    stopped: bool

    @property
    def total(self) -> int:
        """Rows written."""
        return sum(self.rows.values())

    def to_dict(self, spec: TriggerSpec) -> dict[str, Any]:
        """The counts and the spec they were made with, for JSON."""
        by_trigger: dict[str, int] = {}
        for name, rule in spec.rules.items():
            by_trigger[rule.trigger] = by_trigger.get(rule.trigger, 0) + self.rows.get(name, 0)
        return {
            "rows": self.total,
            "by_trigger": by_trigger,
            "by_rule": {
                name: {
                    "trigger": rule.trigger,
                    "rows": self.rows.get(name, 0),
                    "left_out": {r: self.left_out.get(name, {}).get(r, 0) for r in REASONS},
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


def report_table(report: TriggerReport, spec: TriggerSpec) -> Table:
    """A line a rule: its rows, and why other moments that it found made none."""
    table = Table()
    table.add_column("rule", no_wrap=True)
    table.add_column("trigger")
    for heading in ("rows", *(HEADINGS[reason] for reason in REASONS)):
        table.add_column(heading, justify="right")
    names = list(spec.rules)
    for name in names:
        left = report.left_out.get(name, {})
        figures = [report.rows.get(name, 0), *(left.get(reason, 0) for reason in REASONS)]
        cells = (name, spec.rules[name].trigger, *(f"{n:,}" for n in figures))
        table.add_row(*cells, end_section=name == names[-1])
    sums = [sum(counts.get(r, 0) for counts in report.left_out.values()) for r in REASONS]
    table.add_row("all", "", *(f"{n:,}" for n in (report.total, *sums)))
    return table
