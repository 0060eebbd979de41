"""Context sensitivity as the terminal shows it: several models on the same pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gplan_jax.data.tasks.gsisr_task import MODEL_MEASURES
from gplan_jax.evaluation.scores.offline import METRICS
from gplan_jax.evaluation.scores.score_tables import HEADINGS, cells, run_rows
from gplan_jax.foundation.tables import NOTHING, Cell, TextTable

PLAN_HEADINGS = {key: words for key, words in HEADINGS.items() if key in MODEL_MEASURES}
PAIR_HEADINGS = {
    "changed": "Changed\n%",
    "stayed": "Stayed\n%",
    "right_context": "Right\ncontext %",
    "exact_own": "Own\nplan %",
    "exact_other": "Other's\nplan %",
}
# What is known without a model; how often one plan for both is the right one depends on the plan.
LANDMARKS = {
    "one plan for both": {"changed": 0.0, "stayed": 1.0, "right_context": 0.5},
    "the teacher": {**dict.fromkeys(PAIR_HEADINGS, 1.0), "exact_other": 0.0},
}


def sensitivity_view(
    runs: Mapping[str, Mapping[str, Any]], *, by_perturbation: bool = True
) -> RenderableType:
    """Tables: figures of the pairs, by perturbation, against the labels, and and differences."""
    parts: list[RenderableType] = [_pair_table(runs)]
    if by_perturbation:
        parts += ["", _perturbation_table(runs)]
    parts += ["", _label_table(runs)]
    if compared := {n: m["difference"] for n, m in runs.items() if "difference" in m}:
        parts += ["", _difference_table(compared)]
    return Group(*parts)


def _pair_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    counts = next(iter(runs.values()))
    caption = (
        f"Stayed: of {counts['pairs']['equal']} pairs whose teacher plans are equal; the others: "
        f"of {counts['pairs']['differ']} whose plans differ; {counts['anchors']} ids. Below the "
        "line: what a planner that ignores the change gets, and what a perfect one gets."
    )
    rows: list[Sequence[Cell] | None] = []
    for name, metrics in runs.items():
        rows += run_rows(name, *_means_and_bounds(metrics["figures"]), PAIR_HEADINGS)
    rows += [None, *([name, *cells(means, PAIR_HEADINGS)] for name, means in LANDMARKS.items())]
    headings = ["", *PAIR_HEADINGS.values()]
    return TextTable(headings, rows, title="Context sensitivity", caption=caption).rich()


def _perturbation_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    caption = (
        "Pairs: whose teacher plans differ + whose plans are equal. The intervals, wide for so few "
        f"pairs, are in {METRICS}."
    )
    rows: list[Sequence[Cell] | None] = []
    for perturbation, part in next(iter(runs.values()))["by_perturbation"].items():
        pairs = f"{part['pairs']['differ']} + {part['pairs']['equal']}"
        rows += [None, (Text(perturbation, style="bold"), pairs)]
        for name, metrics in runs.items():
            means, _ = _means_and_bounds(metrics["by_perturbation"][perturbation]["figures"])
            rows.append((f"  {name}", "", *cells(means, PAIR_HEADINGS)))
    headings = ["", "Pairs", *PAIR_HEADINGS.values()]
    return TextTable(
        headings, rows, words=2, keys=2, title="By perturbation", caption=caption
    ).rich()


def _label_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    contexts = next(iter(runs.values()))["contexts"]
    caption = (
        f"All {contexts} contexts against their own teacher plans. There are no floors here, for "
        "want of training rows; gplan evaluate has them."
    )
    rows = [
        row
        for name, metrics in runs.items()
        for row in run_rows(name, *_means_and_bounds(metrics["labels"]), PLAN_HEADINGS)
    ]
    title = "Plans against the teacher's"
    return TextTable(["", *PLAN_HEADINGS.values()], rows, title=title, caption=caption).rich()


def _difference_table(compared: Mapping[str, Mapping[str, Any]]) -> Table:
    rows: list[Sequence[Cell] | None] = []
    for part, headings in (("figures", PAIR_HEADINGS), ("labels", PLAN_HEADINGS)):
        rows.append(None)
        for measure, heading in headings.items():
            figures = [difference[part].get(measure) for difference in compared.values()]
            name = heading.replace("-\n", "-").replace("\n", " ")
            rows.append([name, *(_difference(heading, figure) for figure in figures)])
    return TextTable(
        ["", *compared],
        rows,
        title=f"Difference from {next(iter(compared.values()))['from']}",
        caption="Mean and 95% interval of the difference pair by pair; * where that excludes 0.",
    ).rich()


def _difference(heading: str, figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return NOTHING
    scale, digits = (100, 1) if "%" in heading else (1, 3)
    low, high = figure["interval"]
    mean, low, high = (
        f"{scale * value + 0.0:+.{digits}f}" for value in (figure["mean"], low, high)
    )
    sure = "*" if figure["interval"][0] > 0 or figure["interval"][1] < 0 else " "
    return f"{mean} [{low}, {high}]{sure}"


def _means_and_bounds(
    figures: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, float], dict[str, list[float]]]:
    means = {measure: figure["mean"] for measure, figure in figures.items()}
    return means, {measure: figure["interval"] for measure, figure in figures.items()}
