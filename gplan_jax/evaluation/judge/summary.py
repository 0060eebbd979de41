"""From judgements to figures: means over scored rows, their counts, intervals and agreement."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gplan_jax.evaluation.judge.agreement import krippendorff_alpha
from gplan_jax.evaluation.judge.combine import Combine, combined
from gplan_jax.evaluation.judge.verdict import DEFAULT_SCORE
from gplan_jax.evaluation.scores.intervals import bootstrap_interval

Status = Literal["scored", "unscored", "no_plan", "filtered"]
STATUSES: tuple[Status, ...] = ("scored", "unscored", "no_plan", "filtered")
OVERALL = "overall"
_REQUEST_KEY = re.compile(r"\b[0-9a-f]{12,64}\b")


@dataclass(frozen=True, slots=True)
class Judged:
    """One judge's scores of one plan, in the order of the axes; None unless ``status`` is scored.

    ``why`` says why there are none.
    """

    source: str
    row: int
    user: str
    status: Status
    values: tuple[float, ...] | None
    why: str = ""


def summarize_scores(
    judged: Mapping[str, Sequence[Judged]], axes: Sequence[str], *, combine: Combine, seed: int
) -> dict[str, Any]:
    """The figures of every source by every judge, and of the judges together.

    Args:
        judged: judge -> its judgements, the same plans in the same order for each.

    Returns:
        {"sources": {source: {"judges": {judge: figures}, "combined": figures or None}},
        "alpha": {axis: {"ordinal", "interval"}} or None, "unscored": {judge: {reason: rows}}};
        figures are {status: rows, "means": {axis and "overall": mean}, "intervals": {the same:
        [low, high]}}, the last two None where no row is scored. Overall is a row's mean over the
        axes. Combined figures and alpha need two judges.
    """
    sources: dict[str, Any] = {}
    for name in dict.fromkeys(j.source for rows in judged.values() for j in rows):
        ours = {judge: [j for j in rows if j.source == name] for judge, rows in judged.items()}
        figures = {judge: _figures(rows, axes, seed) for judge, rows in ours.items()}
        together = _figures(_together(ours, combine), axes, seed) if len(ours) > 1 else None
        sources[name] = {"judges": figures, "combined": together}
    return {
        "sources": sources,
        "alpha": _agreement(judged, axes) if len(judged) > 1 else None,
        "unscored": {
            judge: _count(j.why for j in rows if j.status == "unscored")
            for judge, rows in judged.items()
        },
    }


def _figures(rows: Sequence[Judged], axes: Sequence[str], seed: int) -> dict[str, Any]:
    counts: dict[str, Any] = {s: sum(j.status == s for j in rows) for s in STATUSES}
    scored = [j for j in rows if j.values is not None]
    if not scored:
        return {**counts, "means": None, "intervals": None}
    values_NxA = np.array([j.values for j in scored], dtype=float)
    values_NxM = np.column_stack([values_NxA, values_NxA.mean(axis=1)])
    bounds_Mx2 = bootstrap_interval(values_NxM, [j.user for j in scored], seed=seed)
    measures = (*axes, OVERALL)
    means = dict(zip(measures, values_NxM.mean(axis=0).tolist(), strict=True))
    return {
        **counts,
        "means": means,
        "intervals": dict(zip(measures, bounds_Mx2.tolist(), strict=True)),
    }


def _together(ours: Mapping[str, Sequence[Judged]], how: Combine) -> list[Judged]:
    """The judges' combined judgement of every row."""
    rows = []
    for of_row in zip(*ours.values(), strict=True):
        first = of_row[0]
        if first.status in ("no_plan", "filtered"):
            rows.append(first)
            continue
        given = [j.values for j in of_row if j.values is not None]
        axes = range(len(given[0])) if given else ()
        by_axis = [[j.values[a] if j.values else None for j in of_row] for a in axes]
        values = tuple(combined(scores, how, default=DEFAULT_SCORE) for scores in by_axis)
        whole = tuple(value for value in values if value is not None)
        if whole:
            rows.append(Judged(first.source, first.row, first.user, "scored", whole))
        else:
            rows.append(Judged(first.source, first.row, first.user, "unscored", None))
    return rows


def _agreement(
    judged: Mapping[str, Sequence[Judged]], axes: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    units = list(zip(*judged.values(), strict=True))
    alphas = {}
    for a, axis in enumerate(axes):
        ratings = [[j.values[a] if j.values else None for j in unit] for unit in units]
        alphas[axis] = {
            level: krippendorff_alpha(ratings, level) for level in ("ordinal", "interval")
        }
    return alphas


def _count(reasons: Iterable[str]) -> dict[str, int]:
    """Reason -> rows; reasons that differ by the request's key alone are one."""
    reasons = (_REQUEST_KEY.sub("…", reason) for reason in reasons)
    return dict(sorted(Counter(reasons).items(), key=lambda item: (-item[1], item[0])))
