"""Krippendorff's alpha: how far several judges agree beyond chance, missing scores allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Level = Literal["nominal", "ordinal", "interval"]


def krippendorff_alpha(ratings: Sequence[Sequence[float | None]], level: Level) -> float | None:
    """``alpha = 1 - D_o / D_e`` over the coincidences of units (Krippendorff 2011).

    A unit with m >= 2 scores adds ``1 / (m - 1)`` to ``o_ck`` for each ordered pair of its scores
    from different judges. With ``n_c = sum_k o_ck`` and ``n = sum_c n_c``:
    ``alpha = 1 - (n - 1) sum_ck o_ck d_ck / sum_ck n_c n_k d_ck``. The difference ``d_ck`` is
    [c != k] (nominal), ``(c - k)^2`` (interval), or ``(sum_{g=c..k} n_g - (n_c + n_k) / 2)^2``
    (ordinal).

    Args:
        ratings: one row a unit, one column a judge; None where that judge gave no score.
        level: how far apart two scores are.

    Returns:
        1 for full agreement, 0 for chance, negative below it; None where no unit has two scores or
        all scores are equal, so that there is nothing to tell agreement from.
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
