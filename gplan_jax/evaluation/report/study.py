"""What the metrics reward, as a table: scores of answers whose quality is known beforehand."""

from __future__ import annotations

from dataclasses import dataclass

from gplan_jax.evaluation.report.results import Results
from gplan_jax.evaluation.report.tables import Figure
from gplan_jax.evaluation.significance.metric_study import StudyRow, metric_study
from gplan_jax.gsisr import IntentLibrary, parse_plan

NAMES = {
    "acc1": "Acc@1", "ndcg3": "NDCG@3", "nes": "NES", "ndcg3_unique": "NDCG@3, repeats once",
    "ndcg3_positional": "NDCG@3 by position", "exact": "exact", "filter_pass": "rules kept",
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """A table of answers by measures.

    Attributes:
        findings: sentences with its main figures.
        names: the measures' names.
        lines: (answer, [(cell, strength of its colour in per cent)]).
    """

    findings: list[str]
    names: list[str]
    lines: list[tuple[str, list[tuple[Figure, int]]]]


def study_of(results: Results, library: IntentLibrary) -> Study | None:
    """The study on a run's rows; None where folds are unknown or all one, so no list is static."""
    folds = {row.fold for row in results.rows}
    if None in folds or len(folds) < 2:
        return None
    rows = [
        StudyRow(row.id, parse_plan(row.label, library), row.facts.order_type, row.fold or 0)
        for row in results.rows
    ]
    found = metric_study(rows, library)
    measures = found["measures"]
    return Study(
        findings=found["findings"],
        names=[NAMES.get(measure, measure) for measure in measures],
        lines=[
            (
                answer["title"],
                [_cell(answer["scores"][m], answer["intervals"][m]) for m in measures],
            )
            for answer in found["answers"]
        ],
    )


def _cell(value: float, interval: list[float]) -> tuple[Figure, int]:
    low, high = interval
    below = (f"{low:.2f}–{high:.2f}",) if high > low else ()
    return Figure(f"{value:.3f}", below), round(60 * value)
