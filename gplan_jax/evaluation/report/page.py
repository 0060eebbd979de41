"""The page: what its templates are given, and how it gets onto the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import jinja2
from markupsafe import Markup

from gplan_jax import __version__
from gplan_jax.evaluation.report import slices
from gplan_jax.evaluation.report.confusion import confusion_of
from gplan_jax.evaluation.report.curves import learning_curves
from gplan_jax.evaluation.report.forest import Line, Mark, forest
from gplan_jax.evaluation.report.heat import confusion_map, hour_map
from gplan_jax.evaluation.report.results import COMPARISON, Results
from gplan_jax.evaluation.report.scores import MEASURES, Scores, score_results
from gplan_jax.evaluation.report.study import study_of
from gplan_jax.evaluation.report.tables import (
    facts_of_run,
    pair_lines,
    result_lines,
    slice_cell,
    tuning_lines,
)
from gplan_jax.evaluation.report.verdict import NAMES, against_reference, figure, verdict
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import atomic_write
from gplan_jax.gsisr import IntentLibrary

TEMPLATES = Path(__file__).parent / "templates"
GENERATOR = '<meta name="generator" content="gplan report'
HEAD_BYTES = 2000
STEPS = 2  # of each run, told to ``note``
PAPER = "https://arxiv.org/abs/2605.28888"


SLICES = {
    "By order type": slices.by_order_type,
    "By part of the day": slices.by_day_part,
    "By distance of the order’s place": slices.by_distance,
}


def write_report(
    runs: Sequence[Results],
    path: str | Path,
    library: IntentLibrary,
    *,
    note: Callable[[str], object] | None = None,
) -> Path:
    """Writes the report of one or several runs as one HTML file, whole or not at all.

    Args:
        runs: each with a name of its own, in the order in which they are shown.
        path: the file; an earlier report there is replaced.
        library: the one that the plans were written with.
        note: is told what is done, STEPS times a run.

    Raises:
        GplanError: there is no run, a run is of another library or disagrees with its summary, or
            ``path`` holds something that is no report.
    """
    path = Path(path)
    refuse_foreign(path)
    text = render_report(runs, library, note=note)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
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
    runs: Sequence[Results],
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
                f"{results.about.library}, not of {library.name}; name its file with --library."
            )
        scores = score_results(results, library)
        if note:
            note(f"scored {results.name}")
        studied = any(results.about.data.sha256 == r.about.data.sha256 for r in runs[: number - 1])
        study = None if studied else study_of(results, library)
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
        measures=[NAMES[measure] for measure in MEASURES],
        fewest=slices.FEWEST,
        few=slices.FEW,
        version=__version__,
        today=date.today().isoformat(),
        paper=PAPER,
    )


@dataclass(frozen=True)
class Drawing:
    """A drawing and the words below it."""

    caption: str
    picture: Markup


def _run(key: str, results: Results, scores: Scores, library: IntentLibrary) -> dict[str, Any]:
    """What the templates say of one run; ``key`` keeps the ids of its parts apart."""
    reference = results.summary.reference
    order = [*results.of_group("trained", "added"), *results.of_group("floor")]
    titles = [(arm, results.title(arm)) for arm in order]
    floors = results.of_group("floor")
    first = floors[0] if floors and len(floors) < len(order) else None
    hours = slices.by_hour(results, scores)
    return {
        "key": key,
        "name": results.name,
        "about": results.about,
        "verdict": verdict(results),
        "reference": results.title(reference) if reference in results.arms else None,
        "groups": sorted(set(results.groups.values())),
        "lines": result_lines(results, scores),
        "forests": [_forest(f"{key}-means-{m}", results, order, m) for m in MEASURES],
        "leads": [d for m in MEASURES if (d := _leads(f"{key}-leads-{m}", results, order, m))],
        "pairs": pair_lines(results),
        "slices": [
            _slice_table(title, make(results, scores), titles, first)
            for title, make in SLICES.items()
        ],
        "hours_note": _hours_note(hours),
        "hours": hour_map(f"{key}-hours", titles, hours),
        "confusions": _confusions(key, results, scores, library, order),
        "curves": [
            Drawing(results.title(arm), picture)
            for arm in order
            if (
                picture := learning_curves(
                    f"{key}-curve-{arm}", results.title(arm), results.curves[arm]
                )
            )
        ],
        "tuning": tuning_lines(results),
        "facts": facts_of_run(results),
    }


def _forest(name: str, results: Results, order: Sequence[str], measure: str) -> Drawing:
    lines = [
        Line(results.title(arm), [_mean_mark(results, arm, measure)], _apart(results, order, i))
        for i, arm in enumerate(order)
    ]
    reference = results.summary.reference
    known = results.summary.arms.get(reference or "")
    value = known[measure].mean if known else None
    best = max(order, key=lambda arm: results.summary.arms[arm][measure].mean)
    description = (
        f"{len(order)} arms with 95% intervals; the highest is {results.title(best)} at "
        f"{figure(measure, results.summary.arms[best][measure].mean)}. The table above has all "
        "figures."
    )
    title = NAMES[measure] + (" in per cent" if measure == "acc1" else "")
    return Drawing(title, forest(name, title, description, lines, measure, reference=value))


def _mean_mark(results: Results, arm: str, measure: str, kind: str = "") -> Mark:
    stated = results.summary.arms[arm][measure]
    spread = None
    if stated.seed_low is not None and stated.seed_high is not None:
        spread = (stated.seed_low, stated.seed_high)
    return Mark(stated.mean, stated.low, stated.high, kind or results.groups[arm], spread)


def _leads(name: str, results: Results, order: Sequence[str], measure: str) -> Drawing | None:
    against = against_reference(results, measure)
    arms = [arm for arm in order if arm in against]
    if not arms:
        return None
    lines = [
        Line(
            results.title(arm),
            [
                Mark(
                    against[arm].difference,
                    against[arm].low,
                    against[arm].high,
                    results.groups[arm],
                    hollow=against[arm].outcome == "open",
                )
            ],
            _apart(results, arms, i),
        )
        for i, arm in enumerate(arms)
    ]
    title = NAMES[measure] + (", percentage points" if measure == "acc1" else "")
    holding = sum(against[arm].outcome != "open" for arm in arms)
    description = f"{len(arms)} differences with 95% intervals; {holding} hold after Holm."
    picture = forest(name, title, description, lines, measure, reference=0.0, signed=True)
    return Drawing(title, picture)


def _apart(results: Results, arms: Sequence[str], i: int) -> bool:
    return i > 0 and results.groups[arms[i]] == "floor" != results.groups[arms[i - 1]]


def _hours_note(hours: Sequence[slices.Slice]) -> str:
    widths = [(c.high - c.low) / 2 for hour in hours for c in hour.cells.values()]
    if not widths:
        return "No hour has enough rows for figures."
    return (
        f"A figure's 95% interval is typically ±{100 * median(widths):.0f} points wide: look for "
        "runs of hours, not for single cells."
    )


def _slice_table(
    title: str,
    found: Sequence[slices.Slice],
    arms: Sequence[tuple[str, str]],
    first: str | None,
) -> dict[str, Any]:
    return {
        "title": title,
        "slices": found,
        "lines": [
            (name, [(one, slice_cell(one, arm), one.cells.get(arm)) for one in found], arm == first)
            for arm, name in arms
        ],
    }


def _confusions(
    key: str, results: Results, scores: Scores, library: IntentLibrary, order: Sequence[str]
) -> list[Drawing]:
    """The best trained arm first, then the best floor, then the rest in table order."""
    means = {arm: results.summary.arms[arm]["acc1"].mean for arm in order}
    learnt = results.of_group("trained", "added")
    floors = results.of_group("floor")
    front = [max(group, key=means.__getitem__) for group in (learnt, floors) if group]
    drawings = []
    for arm in [*front, *(arm for arm in order if arm not in front)]:
        title, seeds = results.title(arm), len(scores.predicted[arm])
        confusion = confusion_of(arm, scores, library)
        picture = confusion_map(f"{key}-first-{arm}", title, confusion, seeds)
        drawings.append(Drawing(f"{title}, Acc@1 {figure('acc1', means[arm])}%", picture))
    return drawings


def _side_by_side(runs: Sequence[Results]) -> dict[str, Any]:
    """All runs' arms in one table and one plot a measure; floors last."""
    arms: dict[str, str] = {}
    floors: dict[str, str] = {}
    for results in runs:
        for arm in results.arms:
            target = floors if results.groups[arm] == "floor" else arms
            target.setdefault(arm, results.title(arm))
    titles: Mapping[str, str] = {**arms, **floors}
    first = next(iter(floors), None) if arms else None

    def cell(results: Results, arm: str, measure: str) -> tuple[str, str] | None:
        if arm not in results.arms:
            return None
        stated = results.summary.arms[arm][measure]
        ends = f"{figure(measure, stated.low)}–{figure(measure, stated.high)}"
        return figure(measure, stated.mean), ends

    plots = []
    for measure in MEASURES:
        lines = [
            Line(
                title,
                [
                    _mean_mark(results, arm, measure, f"run{i % 3}")
                    for i, results in enumerate(runs)
                    if arm in results.arms
                ],
                apart=arm == first,
            )
            for arm, title in titles.items()
        ]
        name = NAMES[measure] + (" in per cent" if measure == "acc1" else "")
        description = f"{len(titles)} arms in {len(runs)} runs, with 95% intervals over rows."
        plots.append(Drawing(name, forest(f"runs-{measure}", name, description, lines, measure)))
    same = len({results.about.data.sha256 for results in runs}) == 1
    return {
        "names": [results.name for results in runs],
        "abouts": [results.about for results in runs],
        "lines": [
            (title, [[cell(results, arm, m) for results in runs] for m in MEASURES], arm == first)
            for arm, title in titles.items()
        ],
        "plots": plots,
        "same_rows": same,
    }
