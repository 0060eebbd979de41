"""From judgements to figures: means over scored rows, win rates of pairs, intervals, agreement."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gplan_jax.evaluation.judge.judgement import DEFAULT_SCORE, Choice, Preference
from gplan_jax.evaluation.scores.intervals import bootstrap_interval

Status = Literal["scored", "unscored", "no_plan", "filtered"]
STATUSES: tuple[Status, ...] = ("scored", "unscored", "no_plan", "filtered")
OVERALL = "overall"
_REQUEST_KEY = re.compile(r"\b[0-9a-f]{12,64}\b")


@dataclass(frozen=True, slots=True)
class Judged:
    """One judge's scores of one plan, in the order of the axes; ``why`` says why there are none."""

    source: str
    row: int
    user: str
    status: Status
    values: tuple[float, ...] | None
    why: str = ""


def summarize_scores(
    judged: Mapping[str, Sequence[Judged]], axes: Sequence[str], *, combine: Combine, seed: int
) -> dict[str, Any]:
    """The figures of every source by every judge (the same plans for each), and of all together.

    {"sources": {source: {"judges": {judge: figures}, "combined": figures or None}}, "alpha": {axis:
    {"ordinal", "interval"}} or None, "unscored": {judge: {reason: rows}}} with figures {status:
    rows, "means": {axis and "overall": mean}, "intervals": {the same: [low, high]}}, the last two
    None where no row is scored. Overall is a row's mean over the axes. Combined figures and alpha
    need two judges.
    """
    sources: dict[str, Any] = {}
    for name in dict.fromkeys(j.source for rows in judged.values() for j in rows):
        ours = {judge: [j for j in rows if j.source == name] for judge, rows in judged.items()}
        figures = {judge: _figures(rows, axes, seed) for judge, rows in ours.items()}
        together = _figures(_together(ours, combine), axes, seed) if len(ours) > 1 else None
        sources[name] = {"judges": figures, "combined": together}
    alphas: dict[str, dict[str, float | None]] | None = None
    if len(judged) > 1:
        alphas = {}
        for a, axis in enumerate(axes):
            units = zip(*judged.values(), strict=True)
            ratings = [[j.values[a] if j.values else None for j in unit] for unit in units]
            alphas[axis] = {
                level: krippendorff_alpha(ratings, level) for level in ("ordinal", "interval")
            }
    unscored = {
        judge: counted_reasons(j.why for j in rows if j.status == "unscored")
        for judge, rows in judged.items()
    }
    return {"sources": sources, "alpha": alphas, "unscored": unscored}


def counted_reasons(whys: Iterable[str]) -> dict[str, int]:
    """Reason -> rows, the most frequent first; those that differ by a request's key are one."""
    counts = Counter(_REQUEST_KEY.sub("…", why) for why in whys)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


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
        status: Status = "scored" if whole else "unscored"
        rows.append(Judged(first.source, first.row, first.user, status, whole or None))
    return rows


# Pairs: two plans for the same context, asked in both orders; a win counts where both agree.
Outcome = Literal["win", "tie", "loss", "unscored", "identical", "no_plan", "filtered"]
OUTCOMES: tuple[Outcome, ...] = (
    "win", "tie", "loss", "unscored", "identical", "no_plan", "filtered",
)  # fmt: skip
POINTS: Mapping[Outcome, float] = {"win": 1.0, "tie": 0.5, "loss": 0.0}
EVEN = 0.5


@dataclass(frozen=True, slots=True)
class Compared:
    """One judge's comparison of one row: the outcome for the first file's plan, and what was chosen
    with that plan shown first and shown second (None where it wasn't asked or can't be told).
    """

    user: str
    outcome: Outcome
    choices: tuple[Choice | None, Choice | None] = (None, None)


def outcome_of(shown_first: Preference, shown_second: Preference) -> Outcome:
    """The outcome for a plan shown first and then second: a win or a loss needs both orders."""
    match shown_first.choice, shown_second.choice:
        case (None, _) | (_, None):
            return "unscored"
        case ("first", "second"):
            return "win"
        case ("second", "first"):
            return "loss"
        case _:
            return "tie"


def summarize_pairs(
    compared: Mapping[str, Sequence[Compared]], *, combine: Combine, seed: int
) -> dict[str, Any]:
    """Counts, win rate and position bias by judge, and the win rate of the judges together.

    {"judges": {judge: {outcome: rows, "win_rate", "interval", "first_share", "inconsistent"}},
    "combined": {"rows", "win_rate", "interval"} or None}. The win rate is the mean of 1 for a win,
    1/2 for a tie and 0 for a loss; its interval draws whole users. ``first_share`` is how often the
    plan shown first was preferred when one was (1/2 without position bias), ``inconsistent`` the
    share of pairs whose two orders contradict each other outright; None where nothing was told.
    """
    judges: dict[str, Any] = {}
    for name, rows in compared.items():
        counts = Counter(row.outcome for row in rows)
        points = [POINTS.get(row.outcome) for row in rows]
        told = [row.choices for row in rows if row.outcome in POINTS]
        preferred = [choice for pair in told for choice in pair if choice != "tie"]
        outright = sum(pair in (("first", "first"), ("second", "second")) for pair in told)
        judges[name] = {
            **{outcome: counts[outcome] for outcome in OUTCOMES},
            **_rate(points, [row.user for row in rows], seed),
            "first_share": preferred.count("first") / len(preferred) if preferred else None,
            "inconsistent": outright / len(told) if told else None,
        }
    if len(compared) < 2:
        return {"judges": judges, "combined": None}
    units = list(zip(*compared.values(), strict=True))
    together = [
        combined([POINTS.get(row.outcome) for row in unit], combine, default=EVEN) for unit in units
    ]
    scored = sum(points is not None for points in together)
    rate = _rate(together, [unit[0].user for unit in units], seed)
    return {"judges": judges, "combined": {"rows": scored, **rate}}


def _rate(points: Sequence[float | None], users: Sequence[str], seed: int) -> dict[str, Any]:
    told = [(point, user) for point, user in zip(points, users, strict=True) if point is not None]
    if not told:
        return {"win_rate": None, "interval": None}
    values_Nx1 = np.array([[point] for point, _ in told])
    [bounds] = bootstrap_interval(values_Nx1, [user for _, user in told], seed=seed).tolist()
    return {"win_rate": float(values_Nx1.mean()), "interval": bounds}


Level = Literal["nominal", "ordinal", "interval"]


def krippendorff_alpha(ratings: Sequence[Sequence[float | None]], level: Level) -> float | None:
    """``alpha = 1 - D_o / D_e`` over the coincidences of units (Krippendorff 2011).

    A unit with m >= 2 scores adds ``1 / (m - 1)`` to ``o_ck`` for each ordered pair of its scores
    from different judges. With ``n_c = sum_k o_ck`` and ``n = sum_c n_c``:
    ``alpha = 1 - (n - 1) sum_ck o_ck d_ck / sum_ck n_c n_k d_ck``. The difference ``d_ck`` is
    [c != k] (nominal), ``(c - k)^2`` (interval), or ``(sum_{g=c..k} n_g - (n_c + n_k) / 2)^2``
    (ordinal). ``ratings`` has a row a unit and a column a judge. 1 is full agreement, 0 chance;
    None where no unit has two scores or all scores are equal.
    """
    values, coincidences_VxV = _coincidences(ratings)
    totals_V = coincidences_VxV.sum(axis=1)
    distances_VxV = _distances(values, totals_V, level)
    expected = float(totals_V @ distances_VxV @ totals_V)
    if expected == 0:
        return None
    observed = float((coincidences_VxV * distances_VxV).sum())
    return 1 - (totals_V.sum() - 1) * observed / expected


def _coincidences(ratings: Sequence[Sequence[float | None]]) -> tuple[np.ndarray, np.ndarray]:
    units = [[score for score in unit if score is not None] for unit in ratings]
    units = [unit for unit in units if len(unit) > 1]
    values = np.array(sorted({score for unit in units for score in unit}), dtype=float)
    coincidences_VxV = np.zeros((len(values), len(values)))
    for unit in units:
        counts_V = (values[:, None] == np.array(unit, dtype=float)).sum(axis=1)
        pairs_VxV = np.outer(counts_V, counts_V) - np.diag(counts_V)
        coincidences_VxV += pairs_VxV / (len(unit) - 1)
    return values, coincidences_VxV


def _distances(values: np.ndarray, totals_V: np.ndarray, level: Level) -> np.ndarray:
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    if level == "interval":
        return (values[:, None] - values[None, :]) ** 2
    # Half of both ends and all between them is the distance of the middles of cumulated ranks.
    ranks_V = np.cumsum(totals_V) - totals_V / 2
    return (ranks_V[:, None] - ranks_V[None, :]) ** 2


Combine = Literal["mean", "majority"]


def combined(values: Sequence[float | None], how: Combine, *, default: float) -> float | None:
    """The judges' mean, or the value that most of them gave.

    None where no more than half of the judges gave a value: a row should not change its judges
    from run to run unnoticed. Where several values are given equally often, the one nearest to
    ``default`` counts, and of two as near the lower one.
    """
    given = [value for value in values if value is not None]
    if 2 * len(given) <= len(values):
        return None
    if how == "mean":
        return sum(given) / len(given)
    votes = Counter(given)
    return min(votes, key=lambda value: (-votes[value], abs(value - default), value))
