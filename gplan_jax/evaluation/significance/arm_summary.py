"""Arms on the same rows: means with intervals, differences with tests, which of them hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median

import numpy as np
import pydantic

from gplan_jax.baselines.fitting.arms import ALL_FLOORS
from gplan_jax.evaluation.scores import intervals
from gplan_jax.evaluation.scores.offline import FLOOR_MEASURES, score_text
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary

MEASURES = ("acc1", "ndcg3", "nes")
TITLES = {"acc1": "Acc@1", "ndcg3": "NDCG@3", "nes": "NES", "exact": "exact match"}
MCNEMAR, PERMUTATION, BCA = "mcnemar_exact", "permutation", "bca_cluster_bootstrap"

# One arm's scores: measure -> [S, N], a line a seed, a column a row; rows as in the other arms.
ArmScores = Mapping[str, np.ndarray]


class ResultPart(pydantic.BaseModel):
    """A part of a results file; keys of another release may stand beside those it knows."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")


class ArmMean(ResultPart):
    """One arm's mean of one measure; the spread of its seeds stands apart (None with one seed)."""

    mean: float
    low: float  # Interval over ids, by the method ``interval``.
    high: float
    interval: str = ""
    seeds: int = 1
    seed_sd: float | None = None  # Standard deviation of the seeds' means, and their t interval.
    seed_low: float | None = None
    seed_high: float | None = None


class ArmDifference(ResultPart):
    """The difference first - second of two arms in one measure, of the means over seeds."""

    first: str
    second: str
    measure: str
    difference: float
    low: float  # Interval over ids (BCa cluster bootstrap), not adjusted.
    high: float
    p: float  # two-sided, by ``method`` (``mcnemar_exact`` or ``permutation``)
    p_holm: float  # adjusted over all comparisons of the measure
    holds: bool  # p_holm is below alpha and the interval excludes 0
    method: str
    clusters: int | None = None  # how many ids there are
    # The smallest difference that a comparison whose paired differences spread like these shows
    # with a power of 0.8 at alpha, before Holm.
    detectable: float | None = None
    # Share of the pairs (a seed of the first, one of the second) whose difference has the sign of
    # ``difference``; None where both arms have one seed.
    seeds_agree: float | None = None


class ArmSummary(ResultPart):
    """What a table of arms shows."""

    arms: dict[str, dict[str, ArmMean]]  # arm -> measure -> mean
    # Each arm with the reference and with the arm next in the table
    comparisons: list[ArmDifference]
    # How the figures came about, then how many rows there are and what they can show.
    method: str = ""
    caption: str = ""
    reference: str | None = None
    rows: int = 0
    ids: int = 0
    alpha: float = 0.05  # 1 - the level of all intervals, and the family-wise error of the verdicts
    # Measure -> the median over its comparisons of what these rows can show
    detectable: dict[str, float] = pydantic.Field(default_factory=dict)


def score_arm(
    texts_SxN: Sequence[Sequence[str]], labels: Sequence[str], library: IntentLibrary
) -> dict[str, np.ndarray]:
    """Scores one arm's plan texts, a line a seed, against the rows' labels.

    Acc@1, NDCG@3 in its three forms, NES, exact match and the rule filter, each [S, N]. A text
    without a plan scores 0.
    """
    seen: dict[tuple[str, str], list[float]] = {}
    values_SxNxM = np.zeros((len(texts_SxN), len(labels), len(FLOOR_MEASURES)))
    for seed, texts in enumerate(texts_SxN):
        if len(texts) != len(labels):
            raise GplanError(
                f"Seed {seed} has {len(texts)} answers for {len(labels)} rows; each row needs one."
            )
        for row, pair in enumerate(zip(texts, labels, strict=True)):
            if pair not in seen:
                values = score_text(*pair, library).values
                seen[pair] = [values[measure] for measure in FLOOR_MEASURES]
            values_SxNxM[seed, row] = seen[pair]
    return {measure: values_SxNxM[:, :, k] for k, measure in enumerate(FLOOR_MEASURES)}


def highest(
    arms: Mapping[str, ArmScores], names: Iterable[str], measures: Sequence[str]
) -> str | None:
    """Which of ``names`` has the highest mean of the first measure, of equals of the next."""
    means = {
        name: [round(float(arms[name][m].mean()), intervals.DECIMALS) for m in measures]
        for name in names
    }
    return max(means, key=lambda name: means[name], default=None)


def summarize_arms(
    arms: Mapping[str, ArmScores],
    ids: Sequence[str],
    *,
    reference: str | None,
    measures: Sequence[str] = MEASURES,
    alpha: float = 0.05,
    seed: int = 0,
) -> ArmSummary:
    """Means, intervals and tests of arms that answered the same rows.

    A row's score under an arm is its mean over the arm's seeds; intervals and tests draw ``ids``
    [N]. What another training would have given is said apart, by the spread of the seeds' means.
    Without a ``reference`` each arm is compared with the best floor in the first measure, or the
    first arm where none is a floor. ``alpha`` is 1 - the level of intervals, and the family-wise
    error of each measure's verdicts.
    """
    if not 0 < alpha < 1:
        raise GplanError(f"alpha is {alpha}; it lies between 0 and 1.")
    _check(arms, ids, measures)
    clusters = intervals.Clusters.of(ids)
    if reference is None:
        floors = sorted(name for name in arms if name in ALL_FLOORS)
        reference = highest(arms, floors, measures) or next(iter(arms))
    elif reference not in arms:
        raise GplanError(f"The reference {reference} is no arm here: {', '.join(arms)}.")
    # Every other arm with the reference, then neighbours that are no such pair.
    pairs = [(name, reference) for name in arms if name != reference]
    pairs += [pair for pair in pairwise(arms) if reference not in pair]
    scores = {(m, name): np.asarray(arm[m], float) for m in measures for name, arm in arms.items()}
    rows = {key: values_SxN.mean(axis=0) for key, values_SxN in scores.items()}
    gaps = {(m, one, two): rows[m, one] - rows[m, two] for m in measures for one, two in pairs}
    shares = {m: all(np.isin(scores[m, name], (0, 1)).all() for name in arms) for m in measures}
    # All lines in one call: they see the same draws, which take most of the time.
    lines_CxN = np.stack([*rows.values(), *gaps.values()])
    ends = intervals.bca_intervals(lines_CxN, clusters, alpha=alpha, seed=seed).tolist()
    bounds: dict[tuple[str, ...], list[float]] = dict(zip([*rows, *gaps], ends, strict=True))

    means: dict[str, dict[str, ArmMean]] = {name: {} for name in arms}
    for (measure, name), values_SxN in scores.items():
        low, high, method = *bounds[measure, name], BCA
        if shares[measure]:
            low, high, method = intervals.proportion_interval(values_SxN, clusters, alpha=alpha)
        # The spread of the seeds' means stands apart: how much another training would change.
        spread: dict[str, float] = {}
        means_S = values_SxN.mean(axis=1)
        if len(means_S) > 1:
            ends_of_seeds = intervals.t_interval(means_S, alpha=alpha)
            spread = dict(zip(("seed_low", "seed_high"), ends_of_seeds, strict=True))
            spread["seed_sd"] = float(means_S.std(ddof=1))
        means[name][measure] = ArmMean(
            mean=float(values_SxN.mean()),
            low=low,
            high=high,
            interval=method,
            seeds=len(means_S),
            **spread,
        )

    # Tests, corrected over the comparisons of a measure, and what each comparison could show.
    comparisons: list[ArmDifference] = []
    gaps_CxN = np.stack([*gaps.values()]) if gaps else np.zeros((0, len(ids)))
    permuted = intervals.permutation_pvalues(gaps_CxN, clusters, seed=seed) if gaps else np.zeros(0)
    tests: dict[tuple[str, str, str], tuple[float, str]] = {}
    for (measure, first, second), p in zip(gaps, permuted, strict=True):
        one, other = scores[measure, first], scores[measure, second]
        tests[measure, first, second] = float(p), PERMUTATION
        # McNemar's needs independent rows and a single answer to each.
        if shares[measure] and clusters.independent and len(one) == len(other) == 1:
            tests[measure, first, second] = intervals.mcnemar_pvalue(one[0], other[0]), MCNEMAR
    adjusted: dict[tuple[str, str, str], float] = {}
    for measure in measures:
        family = [key for key in gaps if key[0] == measure]
        values = intervals.holm(np.array([tests[key][0] for key in family]), alpha=alpha)
        adjusted |= dict(zip(family, values.tolist(), strict=True))
    spreads = clusters.standard_errors(gaps_CxN) * clusters.count**0.5
    for (key, gap_N), deviation in zip(gaps.items(), spreads, strict=True):
        measure, first, second = key
        (low, high), (p, method), p_holm = bounds[key], tests[key], adjusted[key]
        agree = None
        if len(scores[measure, first]) > 1 or len(scores[measure, second]) > 1:
            means_S, others_S = (scores[measure, name].mean(axis=1) for name in (first, second))
            apart_SxS = means_S[:, None] - others_S
            agree = float((np.sign(apart_SxS) == np.sign(apart_SxS.mean())).mean())
        comparisons.append(
            ArmDifference(
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
                detectable=intervals.detectable_difference(
                    float(deviation), clusters.count, alpha=alpha
                ),
                seeds_agree=agree,
            )
        )
    by_measure = {m: [c.detectable or 0.0 for c in comparisons if c.measure == m] for m in measures}
    detectable = {m: median(values) for m, values in by_measure.items() if values}
    caption = f"{len(ids)} rows of {clusters.count} ids."
    if detectable:
        figures = ", ".join(f"{TITLES.get(m, m)} {value:.3f}" for m, value in detectable.items())
        caption += (
            f" A typical comparison here shows, with a power of {intervals.POWER:.0%} and before "
            f"Holm, true differences of {figures} or more; smaller ones mostly stay unseen."
        )
    ran = ", ".join(sorted({c.method for c in comparisons})) or "none"
    return ArmSummary(
        arms=means,
        comparisons=comparisons,
        method=f"{100 * (1 - alpha):.0f}% intervals over the rows of {clusters.count} ids: Wilson "
        "for shares of rows (with the effective number of rows where ids repeat or seeds are "
        f"averaged), BCa bootstrap of ids otherwise and for differences ({intervals.BCA_RESAMPLES} "
        f"resamples, seed {seed}); p: {ran}, paired by id, Holm over the comparisons of a "
        "measure; seeds are averaged row by row and their spread is kept apart (sd, t interval)",
        caption=caption,
        reference=reference,
        rows=len(ids),
        ids=clusters.count,
        alpha=alpha,
        detectable=detectable,
    )


def _check(arms: Mapping[str, ArmScores], ids: Sequence[str], measures: Sequence[str]) -> None:
    if not arms or not measures:
        raise GplanError("There is nothing to summarize: give an arm and a measure at least.")
    for name, arm in arms.items():
        if missing := [measure for measure in measures if measure not in arm]:
            raise GplanError(f"The arm {name} has no scores in {', '.join(missing)}.")
        if len({np.shape(arm[m])[:1] for m in measures}) > 1:
            raise GplanError(f"The arm {name} has another number of seeds in another measure.")
        for measure in measures:
            values = np.asarray(arm[measure], float)
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
