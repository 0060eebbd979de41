"""Arms on the same rows: means with intervals, differences with tests, which of them hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gplan_jax.evaluation.significance.clusters import DECIMALS, Clusters
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
TITLES = {"acc1": "Acc@1", "ndcg3": "NDCG@3", "nes": "NES", "exact": "exact match"}
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
            "caption": self.caption,
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
    def caption(self) -> str:
        """How many rows there are and what they can show, for the foot of a table."""
        size = f"{self.rows} rows of {self.ids} ids."
        if not (shown := self.detectable()):
            return size
        figures = ", ".join(f"{TITLES.get(m, m)} {value:.3f}" for m, value in shown.items())
        return (
            f"{size} A typical comparison here shows, with a power of {POWER:.0%} and before Holm, "
            f"true differences of {figures} or more; smaller ones mostly stay unseen."
        )

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
        reference = best_floor(arms, measures)
    elif reference not in arms:
        raise GplanError(f"The reference {reference} is no arm here: {', '.join(arms)}.")
    scores = {
        (measure, name): np.asarray(arm.values[measure], float)
        for measure in measures
        for name, arm in arms.items()
    }
    rows = {key: values.mean(axis=0) for key, values in scores.items()}
    gaps = {
        (measure, first, second): rows[measure, first] - rows[measure, second]
        for measure in measures
        for first, second in _pairs(tuple(arms), reference)
    }
    shares = {
        measure: all(np.isin(scores[measure, name], (0, 1)).all() for name in arms)
        for measure in measures
    }
    # All lines in one call: they see the same draws, which take most of the time.
    lines = [*rows.values(), *gaps.values()]
    bounds = dict(
        zip(
            [*rows, *gaps],
            bca_intervals(np.stack(lines), clusters, alpha=alpha, seed=seed).tolist(),
            strict=True,
        )
    )
    return Summary(
        arms={
            name: {
                measure: _arm_line(
                    scores[measure, name], bounds[measure, name], shares[measure], clusters, alpha
                )
                for measure in measures
            }
            for name in arms
        },
        comparisons=_comparisons(scores, gaps, bounds, shares, clusters, alpha, seed),
        reference=reference,
        rows=len(ids),
        ids=clusters.count,
        alpha=alpha,
        seed=seed,
    )


def best_floor(arms: Mapping[str, ArmScores], measures: Sequence[str]) -> str:
    """The floor that is the ``highest``, by name where all are equal; else the first arm."""
    from gplan_jax.baselines.floors import ALL_FLOORS

    floors = sorted(name for name in arms if name in ALL_FLOORS)
    return highest(arms, floors, measures) or next(iter(arms))


def highest(
    arms: Mapping[str, ArmScores], names: Iterable[str], measures: Sequence[str]
) -> str | None:
    """Which of ``names`` has the highest mean of the first measure; None where there is none.

    The next measure decides between equals, and so on; of equals in all, the first name.
    """
    means = {
        name: [round(float(arms[name].values[m].mean()), DECIMALS) for m in measures]
        for name in names
    }
    return max(means, key=lambda name: means[name], default=None)


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


def _arm_line(
    values_SxN: np.ndarray,
    bounds: Sequence[float],
    share: bool,
    clusters: Clusters,
    alpha: float,
) -> dict[str, Any]:
    low, high, method = *bounds, BCA
    if share:
        low, high, method = proportion_interval(values_SxN, clusters, alpha=alpha)
    return {
        "mean": float(values_SxN.mean()),
        "low": low,
        "high": high,
        "interval": method,
        **_seed_spread(values_SxN.mean(axis=1), alpha),
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


def _pairs(names: Sequence[str], reference: str) -> list[tuple[str, str]]:
    """(arm, reference) for every other arm, then neighbours that are no such pair."""
    pairs = [(name, reference) for name in names if name != reference]
    return pairs + [pair for pair in pairwise(names) if reference not in pair]


def _comparisons(
    scores: Mapping[tuple[str, str], np.ndarray],
    gaps: Mapping[tuple[str, str, str], np.ndarray],
    bounds: Mapping[tuple[str, ...], Sequence[float]],
    shares: Mapping[str, bool],
    clusters: Clusters,
    alpha: float,
    seed: int,
) -> tuple[Comparison, ...]:
    if not gaps:
        return ()
    gaps_CxN = np.stack(list(gaps.values()))
    permuted = permutation_pvalues(gaps_CxN, clusters, seed=seed)
    tests: dict[tuple[str, str, str], tuple[float, str]] = {}
    for key, p in zip(gaps, permuted, strict=True):
        measure, *names = key
        one, other = (scores[measure, name] for name in names)
        if shares[measure] and clusters.independent and len(one) == len(other) == 1:
            tests[key] = mcnemar_pvalue(one[0], other[0]), MCNEMAR
        else:
            tests[key] = float(p), PERMUTATION
    adjusted: dict[tuple[str, str, str], float] = {}
    for measure in shares:
        family = [key for key in gaps if key[0] == measure]
        values = holm(np.array([tests[key][0] for key in family]), alpha=alpha)
        adjusted |= dict(zip(family, values.tolist(), strict=True))
    spreads = clusters.standard_errors(gaps_CxN) * clusters.count**0.5
    found = []
    for (key, gap_N), spread in zip(gaps.items(), spreads, strict=True):
        measure, first, second = key
        (low, high), (p, method), p_holm = bounds[key], tests[key], adjusted[key]
        found.append(
            Comparison(
                first=first,
                second=second,
                measure=measure,
                difference=float(gap_N.mean()),
                low=low,
                high=high,
                p=p,
                p_holm=p_holm,
                holds=p_holm < alpha and (low > 0 or high < 0),
                method=method,
                clusters=clusters.count,
                detectable=detectable_difference(float(spread), clusters.count, alpha=alpha),
                seeds_agree=_seeds_agree(scores[measure, first], scores[measure, second]),
            )
        )
    return tuple(found)


def _seeds_agree(first_SxN: np.ndarray, second_SxN: np.ndarray) -> float | None:
    if len(first_SxN) == len(second_SxN) == 1:
        return None
    apart_SxS = first_SxN.mean(axis=1)[:, None] - second_SxN.mean(axis=1)
    return float((np.sign(apart_SxS) == np.sign(apart_SxS.mean())).mean())
