"""The tables that the commands about seeds end with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.markup import escape
from rich.table import Table

from gplan_jax.synthesis.seeds.agreement import VERDICTS, Agreement, Measure
from gplan_jax.synthesis.teachers.seed import Stratum

MOST_ROWS = 20
ABSENT = "-"


def strata_table(counts: Mapping[Stratum, tuple[int, int]], taken: str, there: str) -> Table:
    """A line a stratum: how many were taken of how many that are there."""
    table = Table()
    for heading in ("trigger", "place"):
        table.add_column(heading)
    for heading in (taken, there):
        table.add_column(heading, justify="right")
    strata = list(counts)
    for (trigger, place), figures in counts.items():
        cells = (escape(trigger) or ABSENT, place, *(f"{n:,}" for n in figures))
        table.add_row(*cells, end_section=(trigger, place) == strata[-1])
    sums = (sum(pair[i] for pair in counts.values()) for i in (0, 1))
    table.add_row("all", "", *(f"{n:,}" for n in sums))
    return table


def agreement_tables(agreement: Agreement, first: str, second: str) -> Iterator[Table]:
    """The measures, the confusion of verdicts, and the first rows on which reviewers differ."""
    measures = Table("question", title="Agreement")
    for heading in ("rows", "agreed", "Cohen's kappa", "95% interval"):
        measures.add_column(heading, justify="right")
    for measure in agreement.measures:
        measures.add_row(*_measure_cells(measure))
    yield measures
    confusion = Table(escape(f"{first}, then {second}"), title="Verdicts")
    for verdict in VERDICTS:
        confusion.add_column(verdict, justify="right")
    for verdict in VERDICTS:
        row = agreement.confusion[verdict]
        confusion.add_row(verdict, *(f"{row[other]:,}" for other in VERDICTS))
    yield confusion
    if agreement.differences:
        yield _differences_table(agreement, first, second)


def _measure_cells(measure: Measure) -> tuple[str, ...]:
    agreed = ABSENT if measure.agreed is None else f"{measure.agreed:.1%}"
    kappa = "undefined" if measure.kappa is None else f"{measure.kappa:.3f}"
    interval = ABSENT
    if measure.interval is not None:
        interval = "{:.3f} to {:.3f}".format(*measure.interval)
    return measure.name, f"{measure.count:,}", agreed, kappa, interval


def _differences_table(agreement: Agreement, first: str, second: str) -> Table:
    count = len(agreement.differences)
    title = f"{count:,} rows they differ on"
    title += f", the first {MOST_ROWS}" if count > MOST_ROWS else ""
    table = Table("row", "differs in", escape(first), escape(second), title=title)
    for difference in agreement.differences[:MOST_ROWS]:
        cells = (
            f"{verdict}\n{escape(plan)}" if "plan" in difference.about else verdict
            for verdict, plan in zip(difference.verdicts, difference.plans, strict=True)
        )
        table.add_row(str(difference.row), difference.about, *cells)
    return table
