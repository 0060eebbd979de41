"""Context sensitivity as the terminal shows it: several models on the same pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gplan_jax.evaluation.scores.offline import METRICS
from gplan_jax.evaluation.scores.tables import HEADINGS, NOTHING, add_run, cells

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
    "the teacher": {
        "changed": 1.0,
        "stayed": 1.0,
        "right_context": 1.0,
        "exact_own": 1.0,
        "exact_other": 0.0,
    },
}


def sensitivity_view(
    runs: Mapping[str, Mapping[str, Any]], *, by_perturbation: bool = True
) -> RenderableType:
    """Tables: figures of the pairs, by perturbation, against the labels, and model against model.

    Args:
        runs: model name -> its metrics, as ``compare_sensitivity`` has them.
        by_perturbation: False leaves out the second, which is long.
    """
    parts: list[RenderableType] = [_pair_table(runs)]
    if by_perturbation:
        parts += ["", _perturbation_table(runs)]
    parts += ["", _label_table(runs)]
    if compared := {n: m["difference"] for n, m in runs.items() if "difference" in m}:
        parts += ["", _difference_table(compared)]
    return Group(*parts)


def _table(title: str, caption: str, headings: Mapping[str, str], *first: str) -> Table:
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for heading in first:
        table.add_column(heading, vertical="bottom", overflow="fold")
    for heading in headings.values():
        table.add_column(heading, justify="right", vertical="bottom", no_wrap=True)
    return table


def _pair_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    counts = next(iter(runs.values()))
    caption = (
        f"Stayed: of {counts['pairs']['equal']} pairs whose teacher plans are equal; the others: "
        f"of {counts['pairs']['differ']} whose plans differ; {counts['anchors']} ids. Below the "
        "line: what a planner that ignores the change gets, and what a perfect one gets."
    )
    table = _table("Context sensitivity", caption, PAIR_HEADINGS, "")
    for name, metrics in runs.items():
        add_run(table, name, *_means_and_bounds(metrics["figures"]), PAIR_HEADINGS)
    table.add_section()
    for name, means in LANDMARKS.items():
        table.add_row(name, *cells(means, PAIR_HEADINGS))
    return table


def _perturbation_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    caption = (
        "Pairs: whose teacher plans differ + whose plans are equal. The intervals, wide for so few "
        f"pairs, are in {METRICS}."
    )
    table = _table("By perturbation", caption, PAIR_HEADINGS, "", "Pairs")
    for perturbation, counts in _perturbations(runs).items():
        table.add_section()
        pairs = f"{counts['differ']} + {counts['equal']}"
        blanks = [""] * len(PAIR_HEADINGS)
        table.add_row(Text(perturbation, style="bold"), pairs, *blanks)
        for name, metrics in runs.items():
            means, _ = _means_and_bounds(metrics["by_perturbation"][perturbation]["figures"])
            table.add_row(Text(f"  {name}"), "", *cells(means, PAIR_HEADINGS))
    return table


def _perturbations(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    first = next(iter(runs.values()))
    return {name: part["pairs"] for name, part in first["by_perturbation"].items()}


def _label_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    contexts = next(iter(runs.values()))["contexts"]
    caption = (
        f"All {contexts} contexts against their own teacher plans. There are no floors here, for "
        "want of training rows; gplan evaluate has them."
    )
    table = _table("Plans against the teacher's", caption, HEADINGS, "")
    for name, metrics in runs.items():
        add_run(table, name, *_means_and_bounds(metrics["labels"]), HEADINGS)
    return table


def _difference_table(compared: Mapping[str, Mapping[str, Any]]) -> Table:
    first = next(iter(compared.values()))["from"]
    table = Table(
        title=f"Difference from {escape(first)}",
        title_justify="left",
        caption="Mean and 95% interval of the difference pair by pair; * where that excludes 0.",
        caption_justify="left",
    )
    table.add_column("")
    for name in compared:
        table.add_column(Text(name), justify="right", vertical="bottom")
    for part, headings in (("figures", PAIR_HEADINGS), ("labels", HEADINGS)):
        table.add_section()
        for measure, heading in headings.items():
            figures = [difference[part].get(measure) for difference in compared.values()]
            name = heading.replace("-\n", "-").replace("\n", " ")
            table.add_row(name, *(_difference(heading, figure) for figure in figures))
    return table


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
