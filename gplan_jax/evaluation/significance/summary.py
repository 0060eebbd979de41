"""Arms on the same rows: means with intervals, differences with tests, which of them hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gplan_jax.evaluation.significance.clusters import Clusters
from gplan_jax.evaluation.significance.libraries import load
from gplan_jax.evaluation.significance.power import POWER, detectable_difference
from gplan_jax.evaluation.significance.proportions import (
    holm,
    mcnemar_pvalue,
    proportion_interval,
)
from gplan_jax.evaluation.significance.resampling import (
    RESAMPLES,
    bca_intervals,
    permutation_pvalues,
)
from gplan_jax.foundation import GplanError

MEASURES = ("acc1", "ndcg3", "nes")
MCNEMAR, PERMUTATION, BCA = "mcnemar_exact", "permutation", "bca_cluster_bootstrap"


@dataclass(frozen=True)
class ArmScores:
    """The scores of one arm.

    Attributes:
        values: measure -> [S, N], a line a seed, a column a row; rows as in the other arms.
    """

    values: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Comparison:
    """The difference first - second of two arms in one measure, of the means over seeds.

    Attributes:
        first, second: names of the arms.
        measure: what is compared.
        difference: of the means over rows.
        low, high: its interval over ids (BCa cluster bootstrap), not adjusted.
        p: two-sided, by ``method``.
        p_holm: p adjusted over all comparisons of the measure.
        holds: p_holm is below alpha and the interval excludes 0.
        method: ``mcnemar_exact`` or ``permutation``.
        clusters: how many ids there are.
        detectable: the smallest difference that a comparison whose paired differences spread like
            these shows with a power of 0.8 at alpha, before Holm.
        seeds_agree: share of the pairs (a seed of the first, one of the second) whose difference
            has the sign of ``difference``; None where both arms have one seed.
    """

    first: str
    second: str
    measure: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    holds: bool
    method: str
    clusters: int
    detectable: float
    seeds_agree: float | None


@dataclass(frozen=True)
class Summary:
    """What a table of arms shows.

    Attributes:
        arms: arm -> measure -> mean, its interval over ids ("low", "high", by "interval"), the
            number of seeds and their spread apart from it ("seed_sd", "seed_low", "seed_high",
            None with one seed).
        comparisons: each arm with the reference and with the arm next in the table.
        reference: the arm that all are compared with.
        rows, ids: how many there are.
        alpha: 1 - the level of all intervals, and the family-wise error of the verdicts.
        seed: of the resampling.
    """

    arms: Mapping[str, Mapping[str, Mapping[str, Any]]]
    comparisons: tuple[Comparison, ...]
    reference: str | None
    rows: int
    ids: int
    alpha: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON knows it."""
        return {
            "arms": {
                name: {m: dict(v) for m, v in line.items()} for name, line in self.arms.items()
            },
            "comparisons": [dict(vars(comparison)) for comparison in self.comparisons],
            "method": self.method,
            "reference": self.reference,
            "rows": self.rows,
            "ids": self.ids,
            "alpha": self.alpha,
            "detectable": self.detectable(),
        }

    def detectable(self) -> dict[str, float]:
        """Measure -> the median over its comparisons of the difference these rows can show."""
        by_measure: dict[str, list[float]] = {}
        for comparison in self.comparisons:
            by_measure.setdefault(comparison.measure, []).append(comparison.detectable)
        return {measure: float(np.median(values)) for measure, values in by_measure.items()}

    @property
    def method(self) -> str:
        """How the figures came about, for captions."""
        level = f"{100 * (1 - self.alpha):.0f}%"
        used = sorted({c.method for c in self.comparisons})
        return (
            f"{level} intervals over the rows of {self.ids} ids: Wilson for shares of rows (with "
            "the effective number of rows where ids repeat or seeds are averaged), BCa bootstrap "
            f"of ids otherwise and for differences ({RESAMPLES} resamples, seed {self.seed}); "
            f"p: {', '.join(used) or 'none'}, paired by id, Holm over the comparisons of a "
            "measure; seeds are averaged row by row and their spread is kept apart (sd, t interval)"
        )


def summarize_arms(
    arms: Mapping[str, ArmScores],
    ids: Sequence[str],
    *,
    reference: str | None,
    measures: Sequence[str] = MEASURES,
    alpha: float = 0.05,
    seed: int = 0,
) -> Summary:
    """Means, intervals and tests of arms that answered the same rows.

    A row's score under an arm is its mean over the arm's seeds; intervals and tests draw ids. What
    another training would have given is said apart, by the spread of the seeds' means.

    Args:
        arms: in the order of the table.
        ids: [N] the id of each row.
        reference: the arm that each is compared with; None takes the best floor in the first
            measure, or the first arm where none is a floor.
        measures: which scores to summarize.
        alpha: 1 - the level of intervals, and the family-wise error of each measure's verdicts.
        seed: of the resampling.

    Raises:
        GplanError: no arm, an unknown reference, fewer than two ids, an arm without a measure,
            over other rows, or with a score that is no number, or an extra is not installed.
    """
    if not 0 < alpha < 1:
        raise GplanError(f"alpha is {alpha}; it lies between 0 and 1.")
    _check(arms, ids, measures)
    clusters = Clusters.of(ids)
    if reference is None:
        reference = best_floor(arms, measures[0])
    elif reference not in arms:
        raise GplanError(f"The reference {reference} is no arm here: {', '.join(arms)}.")
    lines: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in arms}
    comparisons: list[Comparison] = []
    pairs = _pairs(tuple(arms), reference)
    for measure in measures:
        scores = {name: np.asarray(arm.values[measure], float) for name, arm in arms.items()}
        for name, line in _arm_lines(scores, clusters, alpha, seed).items():
            lines[name][measure] = line
        comparisons += _compare(measure, scores, pairs, clusters, alpha, seed)
    return Summary(lines, tuple(comparisons), reference, len(ids), clusters.count, alpha, seed)


def best_floor(arms: Mapping[str, ArmScores], measure: str) -> str:
    """The floor with the highest mean, ties to the name that comes first; else the first arm."""
    from gplan_jax.baselines.floors import FLOORS

    means = {name: float(arm.values[measure].mean()) for name, arm in arms.items()}
    floors = sorted((name for name in means if name in FLOORS), key=lambda n: (-means[n], n))
    return floors[0] if floors else next(iter(arms))


def _check(arms: Mapping[str, ArmScores], ids: Sequence[str], measures: Sequence[str]) -> None:
    if not arms or not measures:
        raise GplanError("There is nothing to summarize: give an arm and a measure at least.")
    for name, arm in arms.items():
        if missing := [measure for measure in measures if measure not in arm.values]:
            raise GplanError(f"The arm {name} has no scores in {', '.join(missing)}.")
        if len({np.shape(arm.values[m])[:1] for m in measures}) > 1:
            raise GplanError(f"The arm {name} has another number of seeds in another measure.")
        for measure in measures:
            values = np.asarray(arm.values[measure], float)
            if values.ndim != 2 or not len(values) or values.shape[1] != len(ids):
                raise GplanError(
                    f"The arm {name} has {measure} of shape {values.shape}, but there are "
                    f"{len(ids)} rows: arms are compared over the same rows, [seeds, rows]."
                )
            if len(wrong := np.argwhere(~np.isfinite(values))):
                seed, row = wrong[0]
                raise GplanError(
                    f"The arm {name}, seed {seed}, row {row + 1}: {measure} is "
                    f"{values[seed, row]}; score every row, an unreadable answer with 0."
                )


def _arm_lines(
    scores: Mapping[str, np.ndarray], clusters: Clusters, alpha: float, seed: int
) -> dict[str, dict[str, Any]]:
    if _shares(scores):
        intervals = {
            name: proportion_interval(values, clusters, alpha=alpha)
            for name, values in scores.items()
        }
    else:
        rows_AxN = np.stack([values.mean(axis=0) for values in scores.values()])
        bounds_Ax2 = bca_intervals(rows_AxN, clusters, alpha=alpha, seed=seed)
        intervals = {
            name: (float(low), float(high), BCA)
            for name, (low, high) in zip(scores, bounds_Ax2, strict=True)
        }
    return {
        name: {
            "mean": float(values.mean()),
            "low": intervals[name][0],
            "high": intervals[name][1],
            "interval": intervals[name][2],
            **_seed_spread(values.mean(axis=1), alpha),
        }
        for name, values in scores.items()
    }


def _seed_spread(means_S: np.ndarray, alpha: float) -> dict[str, Any]:
    seeds = len(means_S)
    if seeds < 2:
        return {"seeds": seeds, "seed_sd": None, "seed_low": None, "seed_high": None}
    deviation = float(means_S.std(ddof=1))
    quantile = float(load("scipy.stats").t.ppf(1 - alpha / 2, seeds - 1))
    reach = quantile * deviation / seeds**0.5
    mean = float(means_S.mean())
    return {
        "seeds": seeds,
        "seed_sd": deviation,
        "seed_low": mean - reach,
        "seed_high": mean + reach,
    }


def _shares(scores: Mapping[str, np.ndarray]) -> bool:
    """Whether every score of every arm is 0 or 1, so that means are shares of rows."""
    return all(bool(np.isin(values, (0.0, 1.0)).all()) for values in scores.values())


def _pairs(names: Sequence[str], reference: str) -> list[tuple[str, str]]:
    """(arm, reference) for every other arm, then neighbours that are no such pair."""
    pairs = [(name, reference) for name in names if name != reference]
    return pairs + [pair for pair in pairwise(names) if reference not in pair]


def _compare(
    measure: str,
    scores: Mapping[str, np.ndarray],
    pairs: Sequence[tuple[str, str]],
    clusters: Clusters,
    alpha: float,
    seed: int,
) -> list[Comparison]:
    if not pairs:
        return []
    rows = {name: values.mean(axis=0) for name, values in scores.items()}
    differences_CxN = np.stack([rows[first] - rows[second] for first, second in pairs])
    bounds_Cx2 = bca_intervals(differences_CxN, clusters, alpha=alpha, seed=seed)
    p_C = permutation_pvalues(differences_CxN, clusters, seed=seed)
    methods = [PERMUTATION] * len(pairs)
    for index, (first, second) in enumerate(pairs):
        single = len(scores[first]) == len(scores[second]) == 1
        if single and clusters.independent and _shares({n: scores[n] for n in (first, second)}):
            p_C[index] = mcnemar_pvalue(scores[first][0], scores[second][0])
            methods[index] = MCNEMAR
    adjusted_C = holm(p_C, alpha=alpha)
    errors_C = clusters.standard_errors(differences_CxN)
    found = []
    for index, (first, second) in enumerate(pairs):
        low, high = (float(bound) for bound in bounds_Cx2[index])
        difference = float(differences_CxN[index].mean())
        found.append(
            Comparison(
                first=first,
                second=second,
                measure=measure,
                difference=difference,
                low=low,
                high=high,
                p=float(p_C[index]),
                p_holm=float(adjusted_C[index]),
                holds=bool(adjusted_C[index] < alpha and (low > 0 or high < 0)),
                method=methods[index],
                clusters=clusters.count,
                detectable=detectable_difference(
                    float(errors_C[index]) * clusters.count**0.5,
                    clusters.count,
                    alpha=alpha,
                    power=POWER,
                ),
                seeds_agree=_seeds_agree(scores[first], scores[second], difference),
            )
        )
    return found


def _seeds_agree(first_SxN: np.ndarray, second_SxN: np.ndarray, difference: float) -> float | None:
    if len(first_SxN) == len(second_SxN) == 1:
        return None
    apart = first_SxN.mean(axis=1)[:, None] - second_SxN.mean(axis=1)[None, :]
    return float((np.sign(apart) == np.sign(difference)).mean())
