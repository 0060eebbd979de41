"""The lines of the page's tables, as plain text in cells."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from gplan_jax.evaluation.report.results import Difference, Means, Results
from gplan_jax.evaluation.report.scores import MEASURES, Scores
from gplan_jax.evaluation.report.slices import Slice
from gplan_jax.evaluation.report.verdict import Outcome, against_reference, figure

NOTHING = "–"
MARKS: dict[Outcome, tuple[str, str]] = {
    "better": ("▲", "better than the reference"),
    "worse": ("▼", "worse than the reference"),
    "open": ("", ""),
}


@dataclass(frozen=True)
class Figure:
    """A cell: its value, what stands below it in small type, and a mark with its words."""

    value: str
    below: tuple[str, ...] = ()
    mark: str = ""
    words: str = ""
    best: bool = False


@dataclass(frozen=True)
class ResultLine:
    """One arm of the main table."""

    arm: str
    title: str
    group: str
    reference: bool
    measures: tuple[Figure, ...]
    exact: str
    free: tuple[str, ...]
    parameters: str
    seconds: str


@dataclass(frozen=True)
class PairLine:
    """Two arms compared by every measure."""

    first: str
    second: str
    cells: tuple[Figure, ...]


@dataclass(frozen=True)
class TuningLine:
    """What the trials of one arm led to."""

    title: str
    trials: int
    chosen: tuple[str, ...]
    worst: str
    best: str


def result_lines(results: Results, scores: Scores) -> list[ResultLine]:
    """The main table: arms as given, floors last."""
    against = {measure: against_reference(results, measure) for measure in MEASURES}
    top = {m: max(results.summary.arms[a][m].mean for a in results.arms) for m in MEASURES}
    lines = []
    for arm in [*results.of_group("trained", "added"), *results.of_group("floor")]:
        cells = []
        for measure in MEASURES:
            stated = results.summary.arms[arm][measure]
            found = against[measure].get(arm)
            mark, words = MARKS[found.outcome if found else "open"]
            cells.append(
                Figure(
                    figure(measure, stated.mean),
                    (_range(measure, stated.low, stated.high), _spread(measure, stated)),
                    mark,
                    words,
                    best=stated.mean == top[measure],
                )
            )
        lines.append(
            ResultLine(
                arm=arm,
                title=results.title(arm),
                group=results.groups[arm],
                reference=arm == results.summary.reference,
                measures=tuple(cells),
                exact=f"{100 * float(scores.constrained[arm]['exact'].mean()):.1f}",
                free=_free(arm, scores),
                parameters=_parameters(results, arm),
                seconds=_seconds(results, arm),
            )
        )
    return lines


def pair_lines(results: Results) -> list[PairLine]:
    """Every comparison of the summary, one line a pair and one cell a measure."""
    pairs: dict[tuple[str, str], dict[str, Difference]] = {}
    for stated in results.summary.comparisons:
        pairs.setdefault((stated.first, stated.second), {})[stated.measure] = stated
    return [
        PairLine(
            results.title(first),
            results.title(second),
            tuple(_difference(measure, found.get(measure)) for measure in MEASURES),
        )
        for (first, second), found in pairs.items()
    ]


def tuning_lines(results: Results) -> list[TuningLine]:
    """Arms that had more than one trial: what was chosen how often, and what it was worth."""
    lines = []
    for arm in results.arms:
        folds = [fold for fold in results.trials[arm] if len(fold.trials) > 1]
        if not folds:
            continue
        chosen = Counter(_overrides(f.trials[f.chosen].overrides) for f in folds)
        counts = min(len(fold.trials) for fold in folds)
        by_trial = []
        for i in range(counts):
            scored = [v for f in folds if (v := f.trials[i].acc1) is not None]
            by_trial += [mean(scored)] if scored else []
        lines.append(
            TuningLine(
                title=results.title(arm),
                trials=counts,
                chosen=tuple(f"{words} ({n} of {len(folds)})" for words, n in chosen.most_common()),
                worst=figure("acc1", min(by_trial)) if by_trial else NOTHING,
                best=figure("acc1", max(by_trial)) if by_trial else NOTHING,
            )
        )
    return lines


def slice_cell(one: Slice, arm: str) -> Figure | None:
    """A slice's Acc@1 of an arm in per cent, without decimals where rows are few."""
    if arm not in one.cells:
        return None
    cell = one.cells[arm]
    value = f"{100 * cell.mean:.0f}" if one.few else figure("acc1", cell.mean)
    return Figure(value, (f"{100 * cell.low:.0f}–{100 * cell.high:.0f}",))


def _range(measure: str, low: float, high: float) -> str:
    return f"{figure(measure, low)}–{figure(measure, high)}"


def _spread(measure: str, stated: Means) -> str:
    return "" if stated.seed_sd is None else f"± {figure(measure, stated.seed_sd)}"


def _free(arm: str, scores: Scores) -> tuple[str, ...]:
    if arm not in scores.free:
        return (NOTHING,) * (len(MEASURES) + 1)
    means = {m: float(values.mean()) for m, values in scores.free[arm].items()}
    kept = f"{100 * means['filter_pass']:.1f}"
    return (*(figure(m, means[m]) for m in MEASURES), kept)


def _parameters(results: Results, arm: str) -> str:
    counts = [fit.parameters for fit in results.fits[arm] if fit.parameters is not None]
    return f"{median(counts):,.0f}" if counts else NOTHING


def _seconds(results: Results, arm: str) -> str:
    seconds = [fit.seconds for fit in results.fits[arm] if fit.seconds is not None]
    if not seconds:
        return NOTHING
    middle = median(seconds)
    if middle < 0.05:
        return "<0.1"
    return f"{middle:.1f}" if middle < 10 else f"{middle:,.0f}"


def _difference(measure: str, stated: Difference | None) -> Figure:
    if stated is None:
        return Figure(NOTHING)
    ends = (
        f"{figure(measure, stated.low, signed=True)} to {figure(measure, stated.high, signed=True)}"
    )
    mark, words = "", ""
    if stated.holds:
        up = stated.difference > 0
        mark, words = ("▲", "the first is better") if up else ("▼", "the first is worse")
    p = "p < 0.001" if stated.p_holm < 0.001 else f"p = {stated.p_holm:.3f}"
    return Figure(figure(measure, stated.difference, signed=True), (f"{ends} · {p}",), mark, words)


def _overrides(overrides: dict[str, Any]) -> str:
    written = {k: f"{v:g}" if isinstance(v, float) else v for k, v in sorted(overrides.items())}
    return ", ".join(f"{key} {value}" for key, value in written.items()) or "defaults"


def facts_of_run(results: Results) -> list[tuple[str, str]]:
    """How a run was made, as pairs of words."""
    about, data = results.about, results.about.data
    counts: Sequence[int] = [len(results.rows[0].arms[arm].constrained) for arm in results.arms]
    seeds = str(max(counts)) + (" (one where an arm knows no chance)" if min(counts) == 1 else "")
    fits = sum(len(fits) for fits in results.fits.values())
    spent = sum(fit.seconds or 0 for of_arm in results.fits.values() for fit in of_arm)
    spent += sum(
        trial.seconds or 0
        for of_arm in results.trials.values()
        for fold in of_arm
        for trial in fold.trials
    )
    train = about.train_data
    given = [
        ("Data file", _file_name(data.file)),
        ("Rows", f"{data.rows:,} of {data.ids:,} ids"),
        ("SHA-256 of the data", data.sha256),
        ("Trained on", f"{_file_name(train.file)}, {train.rows:,} rows" if train else ""),
        ("Rows without a plan", f"{about.rows_without_plan or ''}"),
        ("Rows not learnt from", f"{about.rows_not_learnt or ''}"),
        ("Input mode", about.mode),
        ("Folds by id", str(about.folds) if about.folds > 1 else ""),
        ("Seeds an arm", seeds),
        ("Trials an arm", f"{about.trials}, chosen by validation Acc@1, then NES"),
        ("Fits kept", f"{fits:,}, {spent / 60:,.1f} minutes with their trials"),
        ("Intent library", about.library),
        ("Hardware", _words(about.hardware)),
        ("gplan-jax", about.version),
        ("Command", f"gplan {_without_folders(about.command)}" if about.command else ""),
        ("Statistics", results.summary.method),
    ]
    return [(name, value) for name, value in given if value]


def _file_name(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def _without_folders(command: str) -> str:
    """A command with file names in place of absolute paths, which say more than the page should."""
    return re.sub(r"(?<![^\s=])/\S*/", "", command)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_words(inner) for inner in value)
    return "" if value is None else str(value)
