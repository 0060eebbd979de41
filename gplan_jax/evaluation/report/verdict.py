"""What the comparisons say: in plain sentences, and in the terminal's table."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal

from rich.console import Group, RenderableType
from rich.text import Text

from gplan_jax.evaluation.comparison.results import ComparisonResults
from gplan_jax.evaluation.significance.arm_summary import MEASURES, TITLES, ArmDifference
from gplan_jax.foundation.tables import NOTHING, TextTable

Standing = Literal["better", "worse", "open"]
MARKS: dict[Standing, tuple[str, str]] = {
    "better": ("▲", "better than the reference"),
    "worse": ("▼", "worse than the reference"),
    "open": ("", ""),
}


def figure(measure: str, value: float, *, signed: bool = False) -> str:
    """A value as the page writes it: Acc@1 in per cent with one decimal, others with three."""
    text = f"{100 * value:.1f}" if measure.startswith("acc1") else f"{value:.3f}"
    if float(text) == 0:
        text = text.lstrip("-")
    elif signed and value > 0:
        text = f"+{text}"
    return text.replace("-", "−")


def against_reference(results: ComparisonResults, measure: str) -> dict[str, ArmDifference]:
    """Arm -> arm minus reference by one measure, whichever way it was stated."""
    found: dict[str, ArmDifference] = {}
    for stated in results.summary.comparisons:
        pair = (stated.first, stated.second)
        if stated.measure == measure and results.summary.reference in pair:
            if stated.first == results.summary.reference:
                turned = {"first": stated.second, "second": stated.first, "low": -stated.high}
                turned |= {"high": -stated.low, "difference": -stated.difference}
                stated = stated.model_copy(update=turned)
            found.setdefault(stated.first, stated)
    return found


def standing(difference: ArmDifference | None) -> Standing:
    """How an arm stands to the reference that it is compared with."""
    if difference is None or not difference.holds:
        return "open"
    return "better" if difference.difference > 0 else "worse"


def verdict(results: ComparisonResults) -> list[str]:
    """Two or three sentences: who beats the best floor by Acc@1, who doesn't, what can be seen."""
    reference = results.summary.reference
    if reference is None or reference not in results.arms:
        return ["This run has no reference arm, so nothing is said about who beats what."]
    kind = "best floor" if results.group(reference) == "floor" else "reference"
    stated = results.summary.arms[reference]["acc1"]
    name = f"{results.title(reference)} (Acc@1 {figure('acc1', stated.mean)}%)"
    missing = results.about.unfinished
    unfinished = [f"Not finished, so not shown: {', '.join(missing)}."] if missing else []
    comparisons = against_reference(results, "acc1")
    rivals = [arm for arm in results.of_group("trained", "added") if arm in comparisons]
    if not rivals:
        return [f"There is nothing but floors here; the {kind} is {name}.", *unfinished]

    # Who beats it, who can't be told apart from it, who is worse.
    groups: dict[Standing, list[str]] = {"better": [], "open": [], "worse": []}
    for arm in rivals:
        difference = figure("acc1", comparisons[arm].difference, signed=True)
        groups[standing(comparisons[arm])].append(f"{results.title(arm)} ({difference})")
    names = {
        group: " and ".join(filter(None, [", ".join(listed[:-1]), listed[-1]]))
        for group, listed in groups.items()
        if listed
    }
    count = len(groups["better"])
    if not count:
        sentence = f"No arm beats the {kind}, {name}."
    elif count == len(rivals):
        sentence = f"Every arm beats the {kind}, {name}: {names['better']}."
    else:
        sentence = f"{count} of {len(rivals)} arms beat the {kind}, {name}: {names['better']}."
    if "open" in names:
        sentence += f" Not to be told apart from it: {names['open']}."
    if "worse" in names:
        sentence += f" Worse than it: {names['worse']}."

    # What these rows can show.
    rows, data = [comparisons[arm] for arm in rivals], results.about.data
    limits = (
        f"On these {data.rows:,} rows of {data.ids:,} ids a difference in Acc@1 has a 95% interval "
        f"of typically ±{figure('acc1', median((row.high - row.low) / 2 for row in rows))} points"
    )
    if least := [row.detectable for row in rows if row.detectable is not None]:
        seen = figure("acc1", median(least))
        limits += f", and one must be of about {seen} points to be seen four times in five"
    return [sentence, f"{limits}; what is smaller these rows can’t decide.", *unfinished]


def summary_table(results: ComparisonResults) -> RenderableType:
    """The arms of a run with means and marks, and the verdict below them, for the terminal."""
    against = {measure: against_reference(results, measure) for measure in MEASURES}
    rows: list[Sequence[str] | None] = []
    for arms in (results.of_group("trained", "added"), results.of_group("floor")):
        for arm in arms:
            cells = [results.title(arm)]
            for measure in MEASURES:
                mark, _ = MARKS[standing(against[measure].get(arm))]
                cells.append(f"{figure(measure, results.summary.arms[arm][measure].mean)} {mark:1}")
            beside = results.summary.beside.get(arm, {})
            for tools in ("acc1_tool", "ndcg3_tool"):
                cells.append(figure(tools, beside[tools]) if tools in beside else NOTHING)
            rows.append(cells)
        rows.append(None)
    headings = ["arm", *(TITLES[m] + (" %" if m == "acc1" else "") for m in MEASURES)]
    headings += ["Tools:\nAcc@1 %", "Tools:\nNDCG@3"]
    table = TextTable(headings, rows, title=results.name)
    return Group(table.rich(), *(Text(sentence) for sentence in verdict(results)))
