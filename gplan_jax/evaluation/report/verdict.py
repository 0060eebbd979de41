"""What the comparisons say, in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from gplan_jax.evaluation.report.results import Difference, Results

Outcome = Literal["better", "worse", "open"]
NAMES = {"acc1": "Acc@1", "ndcg3": "NDCG@3", "nes": "NES"}


@dataclass(frozen=True)
class Against:
    """An arm compared with the reference: arm minus reference, whichever way it was stated."""

    arm: str
    measure: str
    difference: float
    low: float
    high: float
    p_holm: float
    detectable: float | None
    outcome: Outcome


def figure(measure: str, value: float, *, signed: bool = False) -> str:
    """A value as the page writes it: Acc@1 in per cent with one decimal, others with three."""
    text = f"{100 * value:.1f}" if measure == "acc1" else f"{value:.3f}"
    if float(text) == 0:
        text = text.lstrip("-")
    elif signed and value > 0:
        text = f"+{text}"
    return text.replace("-", "−")


def against_reference(results: Results, measure: str) -> dict[str, Against]:
    """Arm -> its comparison with the reference by one measure."""
    found: dict[str, Against] = {}
    for stated in results.summary.comparisons:
        pair = (stated.first, stated.second)
        if stated.measure == measure and results.summary.reference in pair:
            arm = pair[pair[0] == results.summary.reference]
            found.setdefault(arm, _against(stated, arm))
    return found


def _against(stated: Difference, arm: str) -> Against:
    turned = stated.first != arm
    low, high = (-stated.high, -stated.low) if turned else (stated.low, stated.high)
    difference = -stated.difference if turned else stated.difference
    outcome: Outcome = "open"
    if stated.holds:
        outcome = "better" if difference > 0 else "worse"
    least = stated.detectable
    return Against(arm, stated.measure, difference, low, high, stated.p_holm, least, outcome)


def verdict(results: Results) -> list[str]:
    """Two or three sentences: who beats the best floor by Acc@1, who doesn't, what can be seen."""
    reference = results.summary.reference
    if reference is None or reference not in results.arms:
        return ["This run has no reference arm, so nothing is said about who beats what."]
    kind = "best floor" if results.groups[reference] == "floor" else "reference"
    stated = results.summary.arms[reference]["acc1"]
    name = f"{results.title(reference)} (Acc@1 {figure('acc1', stated.mean)}%)"
    missing = results.about.unfinished
    unfinished = [f"Not finished, so not shown: {', '.join(missing)}."] if missing else []
    comparisons = against_reference(results, "acc1")
    rivals = [arm for arm in results.of_group("trained", "added") if arm in comparisons]
    if not rivals:
        return [f"There is nothing but floors here; the {kind} is {name}.", *unfinished]
    sentences = [_sentence(rivals, comparisons, results, f"the {kind}, {name}")]
    rows = [comparisons[arm] for arm in rivals]
    data = results.about.data
    limits = (
        f"On these {data.rows:,} rows of {data.ids:,} ids a difference in Acc@1 has a 95% interval "
        f"of typically ±{figure('acc1', median((row.high - row.low) / 2 for row in rows))} points"
    )
    if least := [row.detectable for row in rows if row.detectable is not None]:
        seen = figure("acc1", median(least))
        limits += f", and one must be of about {seen} points to be seen four times in five"
    sentences.append(f"{limits}; what is smaller these rows can’t decide.")
    return [*sentences, *unfinished]


def _sentence(
    rivals: Sequence[str], comparisons: dict[str, Against], results: Results, what: str
) -> str:
    groups: dict[Outcome, list[str]] = {"better": [], "open": [], "worse": []}
    for arm in rivals:
        groups[comparisons[arm].outcome].append(arm)

    def names(outcome: Outcome) -> str:
        listed = [
            f"{results.title(arm)} ({figure('acc1', comparisons[arm].difference, signed=True)})"
            for arm in groups[outcome]
        ]
        return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]}"

    count, total = len(groups["better"]), len(rivals)
    if not count:
        start = f"No arm beats {what}"
    elif count == total:
        start = f"Every arm beats {what}: {names('better')}"
    else:
        start = f"{count} of {total} arms beat {what}: {names('better')}"
    rest = []
    if groups["open"]:
        rest.append(f"not to be told apart from it: {names('open')}")
    if groups["worse"]:
        rest.append(f"worse than it: {names('worse')}")
    return ". ".join([start, *(f"{r[0].upper()}{r[1:]}" for r in rest)]) + "."
