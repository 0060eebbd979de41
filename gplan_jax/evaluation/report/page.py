"""The page: what its templates are given, and how it gets onto the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import jinja2
from markupsafe import Markup

from gplan_jax import __version__
from gplan_jax.evaluation.comparison.results import COMPARISON, ComparisonResults
from gplan_jax.evaluation.report import page_tables, row_scores
from gplan_jax.evaluation.report.drawings import (
    ForestLine,
    ForestMark,
    confusion_map,
    forest,
    hour_map,
    learning_curves,
)
from gplan_jax.evaluation.report.page_tables import against_reference, figure, verdict
from gplan_jax.evaluation.report.row_scores import ArmRowScores, confusion_of, score_results
from gplan_jax.evaluation.significance.arm_summary import MEASURES, TITLES
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import write_text
from gplan_jax.gsisr import IntentLibrary

TEMPLATES = Path(__file__).parent / "templates"
GENERATOR = '<meta name="generator" content="gplan report'
HEAD_BYTES = 2000
STEPS = 2  # of each run, told to ``note``
PAPER = "https://arxiv.org/abs/2605.28888"
SLICES = {
    "By order type": row_scores.by_order_type,
    "By part of the day": row_scores.by_day_part,
    "By distance of the order’s place": row_scores.by_distance,
}


def write_report(
    runs: Sequence[ComparisonResults],
    path: str | Path,
    library: IntentLibrary,
    *,
    note: Callable[[str], object] | None = None,
) -> Path:
    """Writes the report of one or several runs as one HTML file, whole or not at all.

    An earlier report at ``path`` is replaced. ``note`` is told what is done, STEPS times a run.
    """
    path = Path(path)
    refuse_foreign(path)
    text = render_report(runs, library, note=note)
    write_text(path, text)
    return path


def refuse_foreign(path: Path) -> None:
    """Raises GplanError where ``path`` holds anything but a report, which may be replaced."""
    if path.is_dir():
        raise GplanError(f"{path} is a directory; name a file such as {path / 'report.html'}.")
    if path.exists():
        with path.open("rb") as start:
            head = start.read(HEAD_BYTES)
        if GENERATOR.encode() not in head:
            raise GplanError(
                f"{path} exists and is no report of gplan's, so it is left alone; name another "
                "file or remove it."
            )


def render_report(
    runs: Sequence[ComparisonResults],
    library: IntentLibrary,
    *,
    note: Callable[[str], object] | None = None,
) -> str:
    """The report's HTML text; arguments and errors as for `write_report`."""
    if not runs:
        raise GplanError("Nothing to report on: name a run with --run DIR.")
    parts = []
    for number, results in enumerate(runs, start=1):
        if results.about.library != library.name:
            raise GplanError(
                f"{COMPARISON} of {results.name}: its plans are of the library "
                f"{results.about.library}, not of {library.name}; name its service with --service."
            )
        scores = score_results(results, library)
        if note:
            note(f"scored {results.name}")
        studied = any(results.about.data.sha256 == r.about.data.sha256 for r in runs[: number - 1])
        study = None if studied else page_tables.study_table(results, library)
        parts.append({**_run(f"r{number}", results, scores, library), "study": study})
        if note:
            note(f"drew {results.name}")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        runs=parts,
        side_by_side=_side_by_side(runs) if len(runs) > 1 else None,
        measures=[TITLES[measure] for measure in MEASURES],
        fewest=row_scores.FEWEST,
        few=row_scores.FEW,
        version=__version__,
        today=date.today().isoformat(),
        paper=PAPER,
    )


@dataclass(frozen=True)
class Drawing:
    """A drawing and the words that stand with it."""

    caption: str
    picture: Markup


def _run(
    key: str, results: ComparisonResults, scores: ArmRowScores, library: IntentLibrary
) -> dict[str, Any]:
    """What the templates say of one run; ``key`` keeps the ids of its parts apart."""
    reference = results.summary.reference
    trained, floors = results.of_group("trained", "added"), results.of_group("floor")
    order = [*trained, *floors]
    titles = [(arm, results.title(arm)) for arm in order]
    first_floor = floors[0] if floors and trained else None

    hours = row_scores.by_hour(results, scores)
    widths = [(c.high - c.low) / 2 for hour in hours for c in hour.cells.values()]
    hours_note = "No hour has enough rows for figures."
    if widths:
        hours_note = (
            f"A figure's 95% interval is typically ±{100 * median(widths):.0f} points wide: look "
            "for runs of hours, not for single cells."
        )

    # The best trained arm first, then the best floor, then the rest in table order.
    means = {arm: results.summary.arms[arm]["acc1"].mean for arm in order}
    front = [max(group, key=means.__getitem__) for group in (trained, floors) if group]
    confusions = []
    for arm in [*front, *(arm for arm in order if arm not in front)]:
        title, seeds = results.title(arm), len(scores.predicted[arm])
        confusion = confusion_of(arm, scores, library)
        picture = confusion_map(f"{key}-first-{arm}", title, confusion, seeds)
        confusions.append(Drawing(f"{title}, Acc@1 {figure('acc1', means[arm])}%", picture))

    curves = []
    for arm, title in titles:
        if drawn := learning_curves(f"{key}-curve-{arm}", title, results.curves[arm]):
            curves.append(Drawing(title, drawn))

    return {
        "key": key,
        "name": results.name,
        "about": results.about,
        "verdict": verdict(results),
        "reference": results.title(reference) if reference in results.arms else None,
        "groups": sorted({results.group(arm) for arm in order}),
        "lines": page_tables.result_lines(results, scores),
        "forests": [_forest(f"{key}-means-{m}", results, order, m) for m in MEASURES],
        "leads": [d for m in MEASURES if (d := _leads(f"{key}-leads-{m}", results, order, m))],
        "pairs": page_tables.pair_lines(results),
        "slices": [
            page_tables.slice_table(title, make(results, scores), titles, first_floor)
            for title, make in SLICES.items()
        ],
        "hours_note": hours_note,
        "hours": hour_map(f"{key}-hours", titles, hours),
        "confusions": confusions,
        "curves": curves,
        "tuning": page_tables.tuning_lines(results),
        "facts": page_tables.facts_of_run(results),
    }


def _forest(name: str, results: ComparisonResults, order: Sequence[str], measure: str) -> Drawing:
    """The arms' means, with a dashed line at the reference's."""
    means = {arm: results.summary.arms[arm][measure].mean for arm in order}
    lines = [
        ForestLine(results.title(arm), [_mean_mark(results, arm, measure)], apart)
        for arm, apart in _with_gaps(results, order)
    ]
    best = max(order, key=means.__getitem__)
    description = (
        f"{len(order)} arms with 95% intervals; the highest is {results.title(best)} at "
        f"{figure(measure, means[best])}. The table above has all figures."
    )
    title = TITLES[measure] + (" in per cent" if measure == "acc1" else "")
    value = means.get(results.summary.reference or "")
    return Drawing(title, forest(name, title, description, lines, measure, reference=value))


def _leads(
    name: str, results: ComparisonResults, order: Sequence[str], measure: str
) -> Drawing | None:
    against = against_reference(results, measure)
    arms = [arm for arm in order if arm in against]
    if not arms:
        return None
    lines = []
    for arm, apart in _with_gaps(results, arms):
        found = against[arm]
        mark = ForestMark(
            found.difference, found.low, found.high, results.group(arm), hollow=not found.holds
        )
        lines.append(ForestLine(results.title(arm), [mark], apart))
    title = TITLES[measure] + (", percentage points" if measure == "acc1" else "")
    holding = sum(against[arm].holds for arm in arms)
    description = f"{len(arms)} differences with 95% intervals; {holding} hold after Holm."
    picture = forest(name, title, description, lines, measure, reference=0.0, signed=True)
    return Drawing(title, picture)


def _mean_mark(results: ComparisonResults, arm: str, measure: str, kind: str = "") -> ForestMark:
    stated = results.summary.arms[arm][measure]
    spread = None
    if stated.seed_low is not None and stated.seed_high is not None:
        spread = (stated.seed_low, stated.seed_high)
    return ForestMark(stated.mean, stated.low, stated.high, kind or results.group(arm), spread)


def _with_gaps(results: ComparisonResults, arms: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Each arm, and whether it is the first floor below others."""
    floors = [results.group(arm) == "floor" for arm in arms]
    for i, arm in enumerate(arms):
        yield arm, i > 0 and floors[i] and not floors[i - 1]


def _side_by_side(runs: Sequence[ComparisonResults]) -> dict[str, Any]:
    """All runs' arms in one table and one plot a measure; floors last."""
    arms: dict[str, str] = {}
    floors: dict[str, str] = {}
    for results in runs:
        for arm in results.arms:
            target = floors if results.group(arm) == "floor" else arms
            target.setdefault(arm, results.title(arm))
    titles = {**arms, **floors}
    first_floor = next(iter(floors), None) if arms else None
    cells: dict[str, list[list[tuple[str, str] | None]]] = {arm: [] for arm in titles}
    plots = []
    for measure in MEASURES:
        lines = []
        for arm, title in titles.items():
            row: list[tuple[str, str] | None] = []
            marks = []
            for i, results in enumerate(runs):
                stated = results.summary.arms[arm][measure] if arm in results.arms else None
                if stated is None:
                    row.append(None)
                    continue
                ends = f"{figure(measure, stated.low)}–{figure(measure, stated.high)}"
                row.append((figure(measure, stated.mean), ends))
                marks.append(_mean_mark(results, arm, measure, f"run{i % 3}"))
            cells[arm].append(row)
            lines.append(ForestLine(title, marks, apart=arm == first_floor))
        name = TITLES[measure] + (" in per cent" if measure == "acc1" else "")
        description = f"{len(titles)} arms in {len(runs)} runs, with 95% intervals over rows."
        plots.append(Drawing(name, forest(f"runs-{measure}", name, description, lines, measure)))
    return {
        "names": [results.name for results in runs],
        "lines": [(title, cells[arm], arm == first_floor) for arm, title in titles.items()],
        "plots": plots,
        "same_rows": len({results.about.data.sha256 for results in runs}) == 1,
    }
