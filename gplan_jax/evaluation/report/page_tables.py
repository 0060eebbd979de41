"""What the comparisons say: in plain sentences, in the terminal's table, and as the lines of the
page's tables, plain text in cells for its templates.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.text import Text

from gplan_jax.evaluation.comparison.results import ComparisonResults
from gplan_jax.evaluation.report.row_scores import ArmRowScores, Slice, SliceMean
from gplan_jax.evaluation.scores.intervals import p_text
from gplan_jax.evaluation.significance.arm_summary import MEASURES, TITLES, ArmDifference
from gplan_jax.evaluation.significance.metric_study import StudyRow, metric_study
from gplan_jax.foundation.tables import NOTHING, TextTable
from gplan_jax.gsisr import IntentLibrary, parse_plan

Standing = Literal["better", "worse", "open"]
MARKS: dict[Standing, tuple[str, str]] = {
    "better": ("▲", "better than the reference"),
    "worse": ("▼", "worse than the reference"),
    "open": ("", ""),
}
STUDY_NAMES = {
    "acc1": "Acc@1", "ndcg3": "NDCG@3", "nes": "NES", "ndcg3_unique": "NDCG@3, repeats once",
    "ndcg3_positional": "NDCG@3 by position", "exact": "exact", "filter_pass": "rules kept",
    "acc1_tool": "Acc@1, tools", "ndcg3_tool": "NDCG@3, tools",
}  # fmt: skip


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


@dataclass(frozen=True)
class TableCell:
    """A cell: its value, what stands below it in small type, and a mark with its words."""

    value: str
    below: tuple[str, ...] = ()
    mark: str = ""
    words: str = ""
    best: bool = False


def result_lines(results: ComparisonResults, scores: ArmRowScores) -> list[dict[str, Any]]:
    """The main table: arms as given, floors last."""
    against = {measure: against_reference(results, measure) for measure in MEASURES}
    means = results.summary.arms
    top = {m: max(means[arm][m].mean for arm in results.arms) for m in MEASURES}
    lines = []
    for arm in [*results.of_group("trained", "added"), *results.of_group("floor")]:
        cells = []
        for measure in MEASURES:
            stated, found = means[arm][measure], against[measure].get(arm)
            interval = f"{figure(measure, stated.low)}–{figure(measure, stated.high)}"
            spread = "" if stated.seed_sd is None else f"± {figure(measure, stated.seed_sd)}"
            mark, words = MARKS[standing(found)]
            best = stated.mean == top[measure]
            value = figure(measure, stated.mean)
            cells.append(TableCell(value, (interval, spread), mark, words, best))
        free = [NOTHING] * (len(MEASURES) + 1)
        if arm in scores.free:
            kept = float(scores.free[arm]["filter_pass"].mean())
            free = [figure(m, float(scores.free[arm][m].mean())) for m in MEASURES]
            free.append(f"{100 * kept:.1f}")
        fits = results.fits[arm]
        sizes = [fit.parameters for fit in fits if fit.parameters is not None]
        spent = NOTHING
        if times := [fit.seconds for fit in fits if fit.seconds is not None]:
            seconds = median(times)
            spent = f"{seconds:.1f}" if seconds < 10 else f"{seconds:,.0f}"
            spent = "<0.1" if seconds < 0.05 else spent
        lines.append(
            {
                "arm": arm,
                "title": results.title(arm),
                "group": results.group(arm),
                "reference": arm == results.summary.reference,
                "measures": cells,
                "tools": [
                    figure(m, float(scores.constrained[arm][m].mean()))
                    for m in ("acc1_tool", "ndcg3_tool")
                ],
                "exact": f"{100 * float(scores.constrained[arm]['exact'].mean()):.1f}",
                "free": free,
                "parameters": f"{median(sizes):,.0f}" if sizes else NOTHING,
                "seconds": spent,
            }
        )
    return lines


def pair_lines(results: ComparisonResults) -> list[dict[str, Any]]:
    """Every comparison of the summary, one line a pair and one cell a measure."""
    pairs: dict[tuple[str, str], dict[str, ArmDifference]] = {}
    for stated in results.summary.comparisons:
        pairs.setdefault((stated.first, stated.second), {})[stated.measure] = stated
    lines = []
    for (first, second), found in pairs.items():
        cells = []
        for measure in MEASURES:
            if (one := found.get(measure)) is None:
                cells.append(TableCell(NOTHING))
                continue
            value, low, high = (
                figure(measure, v, signed=True) for v in (one.difference, one.low, one.high)
            )
            mark, words = "", ""
            if one.holds:
                way: Standing = "better" if one.difference > 0 else "worse"
                mark, words = MARKS[way][0], f"the first is {way}"
            p = p_text(one.p_holm, "= ")
            cells.append(TableCell(value, (f"{low} to {high} · p {p}",), mark, words))
        titles = {"first": results.title(first), "second": results.title(second)}
        lines.append({**titles, "cells": cells})
    return lines


def tuning_lines(results: ComparisonResults) -> list[dict[str, Any]]:
    """Arms that had more than one trial: what was chosen how often, and what it was worth."""
    lines = []
    for arm in results.arms:
        folds = [fold for fold in results.trials[arm] if len(fold.trials) > 1]
        if not folds:
            continue
        chosen: Counter[str] = Counter()
        for fold in folds:
            settings = sorted(fold.trials[fold.chosen].overrides.items())
            words = [f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in settings]
            chosen[", ".join(words) or "defaults"] += 1
        count = min(len(fold.trials) for fold in folds)
        by_trial = []
        for i in range(count):
            scored = [v for fold in folds if (v := fold.trials[i].acc1) is not None]
            by_trial += [mean(scored)] if scored else []
        lines.append(
            {
                "title": results.title(arm),
                "trials": count,
                "chosen": [f"{words} ({n} of {len(folds)})" for words, n in chosen.most_common()],
                "worst": figure("acc1", min(by_trial)) if by_trial else NOTHING,
                "best": figure("acc1", max(by_trial)) if by_trial else NOTHING,
            }
        )
    return lines


def slice_table(
    title: str, slices: Sequence[Slice], arms: Sequence[tuple[str, str]], first_floor: str | None
) -> dict[str, Any]:
    """Acc@1 of (arm, title) by slice in per cent, without decimals where rows are few."""
    lines = []
    for arm, name in arms:
        cells: list[tuple[Slice, TableCell | None, SliceMean | None]] = []
        for one in slices:
            if (found := one.cells.get(arm)) is None:
                cells.append((one, None, None))
                continue
            value = f"{100 * found.mean:.0f}" if one.few else figure("acc1", found.mean)
            interval = f"{100 * found.low:.0f}–{100 * found.high:.0f}"
            cells.append((one, TableCell(value, (interval,)), found))
        lines.append((name, cells, arm == first_floor))
    return {"title": title, "slices": slices, "lines": lines}


def study_table(results: ComparisonResults, library: IntentLibrary) -> dict[str, Any] | None:
    """What the metrics reward on a run's rows; None without folds, where no list is static."""
    folds = {row.fold for row in results.rows}
    if None in folds or len(folds) < 2:
        return None
    rows = [
        StudyRow(row.id, parse_plan(row.label, library), row.facts.order_type, row.fold or 0)
        for row in results.rows
    ]
    found = metric_study(rows, library)
    lines = []
    for answer in found["answers"]:
        cells = []
        for measure in found["measures"]:
            value, (low, high) = answer["scores"][measure], answer["intervals"][measure]
            below = (f"{low:.2f}–{high:.2f}",) if high > low else ()
            # The strength of the cell's colour in per cent.
            cells.append((TableCell(f"{value:.3f}", below), round(60 * value)))
        lines.append((answer["title"], cells))
    names = [STUDY_NAMES[measure] for measure in found["measures"]]
    return {"findings": found["findings"], "names": names, "lines": lines}


def facts_of_run(results: ComparisonResults) -> list[tuple[str, str]]:
    """How a run was made, as pairs of words."""
    about, data, train = results.about, results.about.data, results.about.train_data
    counts = [len(results.rows[0].arms[arm].constrained) for arm in results.arms]
    seeds = str(max(counts)) + (" (one where an arm knows no chance)" if min(counts) == 1 else "")
    fits = [fit for of_arm in results.fits.values() for fit in of_arm]
    folds = [fold for of_arm in results.trials.values() for fold in of_arm]
    spent = sum(fit.seconds or 0 for fit in fits)
    spent += sum(trial.seconds or 0 for fold in folds for trial in fold.trials)
    # Folders say more than the page should: files are shown by name, in the command too.
    command = re.sub(r"(?<![^\s=])/\S*/", "", about.command)
    files = [file.file.replace("\\", "/").rsplit("/", 1)[-1] for file in (data, train) if file]
    given = [
        ("Data file", files[0]),
        ("Rows", f"{data.rows:,} of {data.ids:,} ids"),
        ("SHA-256 of the data", data.sha256),
        ("Trained on", f"{files[1]}, {train.rows:,} rows" if train else ""),
        ("Rows without a plan", f"{about.rows_without_plan or ''}"),
        ("Rows not learnt from", f"{about.rows_not_learnt or ''}"),
        ("Input mode", about.mode),
        ("Folds by id", str(about.folds) if about.folds > 1 else ""),
        ("Seeds an arm", seeds),
        ("Trials an arm", f"{about.trials}, chosen by validation Acc@1, then NES"),
        ("Fits kept", f"{len(fits):,}, {spent / 60:,.1f} minutes with their trials"),
        ("Intent library", about.library),
        ("Hardware", about.hardware),
        ("gplan-jax", about.version),
        ("Command", f"gplan {command}" if command else ""),
        ("Statistics", results.summary.method),
    ]
    return [(name, value) for name, value in given if value]
