"""The lines of the page's tables, as plain text in cells, for its templates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from gplan_jax.evaluation.comparison.results import ComparisonResults
from gplan_jax.evaluation.report.row_scores import ArmRowScores, Slice, SliceMean
from gplan_jax.evaluation.report.verdict import MARKS, Standing, against_reference, figure, standing
from gplan_jax.evaluation.significance.arm_summary import MEASURES, ArmDifference
from gplan_jax.evaluation.significance.metric_study import StudyRow, metric_study
from gplan_jax.foundation.tables import NOTHING
from gplan_jax.gsisr import IntentLibrary, parse_plan

STUDY_NAMES = {
    "acc1": "Acc@1", "ndcg3": "NDCG@3", "nes": "NES", "ndcg3_unique": "NDCG@3, repeats once",
    "ndcg3_positional": "NDCG@3 by position", "exact": "exact", "filter_pass": "rules kept",
    "acc1_tool": "Acc@1, tools", "ndcg3_tool": "NDCG@3, tools",
}  # fmt: skip


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
            p = "p < 0.001" if one.p_holm < 0.001 else f"p = {one.p_holm:.3f}"
            cells.append(TableCell(value, (f"{low} to {high} · {p}",), mark, words))
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
