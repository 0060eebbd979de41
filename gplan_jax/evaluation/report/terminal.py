"""What the terminal shows of a report: the verdict on a run, and its arms by Acc@1."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gplan_jax.evaluation.report.results import Results
from gplan_jax.evaluation.report.scores import MEASURES
from gplan_jax.evaluation.report.tables import MARKS
from gplan_jax.evaluation.report.verdict import NAMES, against_reference, figure, verdict


def summary_table(results: Results) -> RenderableType:
    """The arms of a run with means and marks, and the verdict below them."""
    table = Table(title=Text(results.name), title_justify="left")
    table.add_column("arm")
    for measure in MEASURES:
        name = NAMES[measure]
        table.add_column(f"{name} %" if measure == "acc1" else name, justify="right")
    for group in (("trained", "added"), ("floor",)):
        for arm in results.of_group(*group):
            cells = []
            for measure in MEASURES:
                found = against_reference(results, measure).get(arm)
                mark = MARKS[found.outcome][0] if found else ""
                cells.append(f"{figure(measure, results.summary.arms[arm][measure].mean)} {mark:1}")
            table.add_row(Text(results.title(arm)), *cells)
        table.add_section()
    return Group(table, *(Text(sentence) for sentence in verdict(results)))
