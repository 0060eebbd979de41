"""What the terminal shows: the metrics of a run beside the floors, and the plan of one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.tables import NOTHING, Cell, TextTable
from gplan_jax.gsisr import (
    IntentLibrary,
    Plan,
    check_plan,
    latent_failure,
    parse_plan,
    score_prediction,
)
from gplan_jax.reasoning import LatentVocabulary

# Measure -> heading; those with a percent sign are shown times 100.
HEADINGS = {
    "acc1": "Acc@1\n%",
    "ndcg3": "NDCG@3",
    "nes": "NES",
    "latent_valid": "Latent-\nValid %",
    "exact": "Exact\n%",
    "answer_tokens": "Answer\ntokens %",
    "filter_pass": "Filter\npass %",
}
BY_TOOLS = {"acc1": "acc1_tool", "ndcg3": "ndcg3_tool"}  # what stands below them
# Why an answer is not Latent-Valid, by the code before the colon.
LATENT_FAILURES = {
    "block": "not one <THOUGHT> block",
    "order": "latent tokens out of order, or a step cut short",
    "repeat": "a latent token twice",
    "residue": "words or tags among the latent tokens, or before them",
    "steps": "another number of latent steps than of intents: a step is missing or too many",
    "plan": "what follows the block is not one JSON array of intents",
    "prefix": "not the latent prefix of its row",
}
EXCERPT = 200


def comparison_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """Several runs on the same rows with 95% intervals, and below them the first run's floors."""
    first = next(iter(runs.values()))
    if len({metrics["rows"] for metrics in runs.values()}) > 1:
        counts = ", ".join(f"{name} {metrics['rows']}" for name, metrics in runs.items())
        raise GplanError(f"Runs on different rows can't stand in one table (rows: {counts}).")
    told = {measure for metrics in runs.values() for measure in metrics["model"]}
    headings = {key: words for key, words in HEADINGS.items() if key in told}
    rows: list[Sequence[Cell] | None] = []
    for name, metrics in runs.items():
        rows += run_rows(name, metrics["model"], metrics["intervals"]["model"], headings)
    rows.append(None)
    for name, means in first["floors"].items():
        rows.append([name.replace("_", " "), *cells(means, headings)])
        rows += tool_rows(means, headings)
    return TextTable(["", *headings.values()], rows, caption=_caption(first)).rich()


def metrics_view(metrics: Mapping[str, Any], *, name: str = "model") -> Group:
    """The metrics of one evaluation: the model with its 95% intervals, then the floors; below, how
    many rows' latents and plans failed, by reason.
    """
    rows = [
        ("Latent-Valid", LATENT_FAILURES.get(code, code), str(count))
        for code, count in metrics["latent_failures"].items()
    ]
    rows += [
        ("rule filter", why.replace("_", " ").replace("/", ": "), str(count))
        for why, count in metrics["violations"].items()
    ]
    caption = 'docs/troubleshooting.md, "A low Latent-Valid", leads from here to the cause.'
    failures = TextTable(("Failed", "Why", "Rows"), rows, words=2, caption=caption).rich()
    return Group(comparison_table({name: metrics}), *([failures] if rows else []))


def run_rows(
    name: str,
    means: Mapping[str, float],
    bounds: Mapping[str, Sequence[float]],
    headings: Mapping[str, str],
) -> list[list[Cell]]:
    """A run's rows of a table: its means, both ends of their 95% intervals, figures by tools."""
    rows: list[list[Cell]] = [[Text(name, style="bold"), *cells(means, headings)]]
    for side, label in enumerate(("  95% from", "  95% to")):
        ends = cells({measure: bound[side] for measure, bound in bounds.items()}, headings)
        rows.append([Text(cell, style="dim") for cell in (label, *ends)])
    return rows + tool_rows(means, headings)


def tool_rows(means: Mapping[str, float], headings: Mapping[str, str]) -> list[list[Cell]]:
    """The row of the figures that tools alone give, where there are any."""
    found = {m: means[tool] for m, tool in BY_TOOLS.items() if m in headings and tool in means}
    return [["  tools alone", *cells(found, headings)]] if found else []


def cells(values: Mapping[str, float], headings: Mapping[str, str]) -> list[str]:
    """One cell a heading: times 100 where that has a percent sign, a dash where nothing is."""
    return [
        figure(heading, values[measure]) if measure in values else NOTHING
        for measure, heading in headings.items()
    ]


def figure(heading: str, value: float) -> str:
    """A value under a heading: times 100 where that has a percent sign."""
    return f"{100 * value:.1f}" if "%" in heading else f"{value:.3f}"


def _caption(metrics: Mapping[str, Any]) -> str:
    size = f"{metrics['rows']} rows of {metrics['ids']} ids."
    if "ndcg3" not in metrics["model"]:
        return size
    size += " Tools alone: no parameter counts."
    if not metrics["floors"]:
        return (
            f"{size} No floors: {metrics['floors_left_out']}. Mind that NDCG@3 alone says little: "
            "a static list of frequent intents may come close to it."
        )
    caption = f"{size} Below the line: floors, fitted on the training rows."
    if static := metrics["floors"].get("popularity_list"):
        caption += (
            " Mind that a static list of four frequent intents reaches NDCG@3 "
            f"{static['ndcg3']:.3f} on these rows."
        )
    return caption


def plan_view(
    text: str, library: IntentLibrary, *, latents: LatentVocabulary | None = None, label: str = ""
) -> RenderableType:
    """One answer: its intents, with ``latents`` whether it is Latent-Valid, the rule filter; a
    ``label``'s plan and the scores.
    """
    plan = parse_plan(text, library)
    failure = latent_failure(text, latents, library) if latents else None
    violations = check_plan(text, library)
    excerpt = text if len(text) <= EXCERPT else text[:EXCERPT] + "…"
    parts: list[RenderableType] = [
        _plan_table(plan, library, "Plan") if plan else Text(f"No plan in the answer: {excerpt!r}"),
        *([Text(f"Latent-Valid: {f'no ({failure})' if failure else 'yes'}")] if latents else []),
        Text(f"Rule filter:  {'not passed' if violations else 'passed'}"),
        *(Text(f"  {v.tier}/{v.code}: {v.message}") for v in violations),
    ]
    if wanted := parse_plan(label, library):
        score = score_prediction(text, label, library)
        figures = f"Acc@1 {score.acc1:.0f}, NDCG@3 {score.ndcg3:.3f}, NES {score.nes:.3f}"
        parts += [_plan_table(wanted, library, "Label"), Text(f"Against the label: {figures}")]
    return Group(*parts)


def _plan_table(plan: Plan, library: IntentLibrary, title: str) -> Table:
    rows = []
    for position, intent in enumerate(plan, start=1):
        name = intent.get(library.tool_key, NOTHING)
        meaning = library.tools[name].meaning if name in library.tools else "not in the library"
        # Spaces only between parameters, so that a narrow terminal breaks the line there.
        parameters = [f"{key}={value}" for key, value in intent.items() if key != library.tool_key]
        rows.append((str(position), name, meaning, " ".join(parameters) or NOTHING))
    return TextTable(("#", "Tool", "Meaning", "Parameters"), rows, words=4, title=title).rich()
