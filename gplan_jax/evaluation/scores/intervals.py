"""Intervals and tests for means over rows, where the rows of one id are one draw, not several.

N rows, G ids, S seeds; C lines of values that are computed together and see the same draws. The
percentile bootstrap serves single evaluations, everything else the comparisons of arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from types import ModuleType

import numpy as np

from gplan_jax.foundation.errors import GplanError, load_extra

RESAMPLES = 1000  # of the percentile bootstrap
BCA_RESAMPLES = 9999  # of the BCa bootstrap and of the permutation test
POWER = 0.8
WILSON, CLUSTER_WILSON = "wilson", "wilson_cluster"
# Sums that are equal in exact arithmetic must stay ties whatever order the rows came in.
DECIMALS = 10
# Standard errors and differences below this come from the rounding of the clusters' sums.
NO_SPREAD = 1e-8
# Bounds the memory: resamples of one batch times clusters.
DRAWS_AT_ONCE = 10_000_000


def p_text(p: float, equals: str = "") -> str:
    """A p-value as tables and pages show it: never 0, which no test of so many draws can find."""
    return f"{equals}{p:.3f}" if p >= 0.001 else "< 0.001"


def _load(module: str) -> ModuleType:
    """scipy and statsmodels are slow to import, and most commands need neither."""
    return load_extra(module, "baselines", "tests and intervals between arms")


@dataclass(frozen=True)
class Clusters:
    """Which rows share an id: each row's cluster, in the order of the ids' texts, and sizes."""

    of_row_N: np.ndarray
    sizes_G: np.ndarray

    @classmethod
    def of(cls, ids: Sequence[str]) -> Clusters:
        """Groups rows by id, of which there must be two: one says nothing about others."""
        _, of_row_N = np.unique(np.asarray(ids, dtype=np.str_), return_inverse=True)
        clusters = cls(of_row_N, np.bincount(of_row_N))
        if clusters.count < 2:
            raise GplanError(
                f"{len(ids)} rows of {clusters.count} ids: intervals and tests need the rows of at "
                "least two ids, since rows of one id are not independent."
            )
        return clusters

    @property
    def count(self) -> int:
        """G."""
        return len(self.sizes_G)

    @property
    def independent(self) -> bool:
        """Whether no id has two rows."""
        return bool((self.sizes_G == 1).all())

    def sums(self, values_CxN: np.ndarray) -> np.ndarray:
        """Each cluster's sum of each line of values: [C, N] -> [C, G]."""
        sums_GxC = np.zeros((self.count, len(values_CxN)))
        np.add.at(sums_GxC, self.of_row_N, values_CxN.T)
        return np.round(sums_GxC.T, DECIMALS)

    def standard_errors(self, values_CxN: np.ndarray) -> np.ndarray:
        """Standard error of the mean over rows of each line, rows of a cluster correlated: [C].

        ``sqrt(G / (G - 1) sum_g (s_g - m n_g)^2) / N`` with a cluster's sum s_g and size n_g and
        the mean m over rows: the linearised variance of a ratio (Cochran 1977, 11.3), which is
        ``sd / sqrt(N)`` where each cluster is one row.
        """
        sums_CxG, rows = self.sums(values_CxN), len(self.of_row_N)
        means_Cx1 = sums_CxG.sum(axis=1, keepdims=True) / rows
        squares_C = ((sums_CxG - means_Cx1 * self.sizes_G) ** 2).sum(axis=1)
        return np.sqrt(self.count / (self.count - 1) * squares_C) / rows


def wilson_interval(successes: float, count: int, *, alpha: float = 0.05) -> tuple[float, float]:
    """Wilson's score interval of a proportion ``p = successes / count``, 95% unless told.

    ``(p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)``, z = 1.96 for 95%
    (Wilson 1927). Unlike the normal approximation it stays inside [0, 1] and is not empty at 0 or
    1. Computed by scipy, which JAX brings with it.
    """
    if count <= 0 or not 0 <= successes <= count or successes != int(successes):
        raise ValueError(f"need whole 0 <= successes <= count and count > 0: {successes}, {count}")
    test = _load("scipy.stats").binomtest(int(successes), count)
    interval = test.proportion_ci(1 - alpha, method="wilson")
    return float(interval.low), float(interval.high)


def proportion_interval(
    values_SxN: np.ndarray, clusters: Clusters, *, alpha: float = 0.05
) -> tuple[float, float, str]:
    """Interval of a share of rows (each 0 or 1 under each seed), and its method.

    Wilson's interval where there is one seed and no id twice. Otherwise the rows' means over the
    seeds are no independent hits, and Wilson's formula takes the effective number of rows
    ``n* = p (1 - p) / se^2`` in place of N, se being the standard error over clusters, times
    ``(z / t)^2``, t with G - 1 degrees of freedom (Korn and Graubard 1998; Dean and Pagano 2015).
    """
    share = float(values_SxN.mean())
    if len(values_SxN) == 1 and clusters.independent:
        return *wilson_interval(int(values_SxN.sum()), values_SxN.shape[1], alpha=alpha), WILSON
    stats = _load("scipy.stats")
    [error] = clusters.standard_errors(values_SxN.mean(axis=0, keepdims=True))
    if error > NO_SPREAD:
        narrowing = stats.norm.ppf(alpha / 2) / stats.t.ppf(alpha / 2, clusters.count - 1)
        effective = share * (1 - share) / error**2 * narrowing**2
    else:  # All ids have the same mean (p is 0, for one): each counts as one row.
        effective = float(clusters.count)
    proportion_confint = _load("statsmodels.stats.proportion").proportion_confint
    low, high = proportion_confint(share * effective, effective, alpha=alpha, method="wilson")
    return float(low), float(high), CLUSTER_WILSON


def bootstrap_interval(
    values_NxM: np.ndarray, groups: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Percentile bootstrap 95% interval of the mean of each column: [N, M] -> [M, 2].

    Whole groups are drawn with replacement, since rows of one user are not independent: a
    resample's mean is ``sum_g w_g s_g / sum_g w_g n_g`` with the drawn counts w, the groups' sums s
    and sizes n (Efron and Tibshirani 1993, chapters 8 and 13). One group alone gives an interval
    of no width.
    """
    _, group_of = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    sizes_G = np.bincount(group_of)
    sums_GxM = np.zeros((len(sizes_G), values_NxM.shape[1]))
    np.add.at(sums_GxM, group_of, values_NxM)
    rng = np.random.default_rng(seed)
    means_RxM = np.empty((resamples, values_NxM.shape[1]))
    for index in range(resamples):
        drawn = rng.integers(0, len(sizes_G), len(sizes_G))
        weights_G = np.bincount(drawn, minlength=len(sizes_G))
        means_RxM[index] = weights_G @ sums_GxM / (weights_G @ sizes_G)
    return np.percentile(means_RxM, [2.5, 97.5], axis=0).T


def bca_intervals(
    values_CxN: np.ndarray,
    clusters: Clusters,
    *,
    alpha: float = 0.05,
    resamples: int = BCA_RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """BCa bootstrap intervals of the mean over rows of each line: [C, N] -> [C, 2].

    Whole clusters are drawn: a resample's mean is ``sum_g w_g s_g / sum_g w_g n_g`` with the drawn
    counts w. Bias-corrected and accelerated ends (Efron 1987) by ``scipy.stats.bootstrap``, which
    is given the clusters' numbers as its data, so that every line sees the same draws.
    """
    stats = _load("scipy.stats")
    sums_CxG = clusters.sums(values_CxN)
    # A line whose clusters all have the same mean has an interval of no width; BCa's has no number.
    constant_C = np.ptp(sums_CxG / clusters.sizes_G, axis=1) < NO_SPREAD
    means_Cx1 = sums_CxG.sum(axis=1, keepdims=True) / len(clusters.of_row_N)
    bounds_Cx2 = np.repeat(np.round(means_Cx1, DECIMALS), 2, axis=1)
    varied_CxG = sums_CxG[~constant_C]
    if not len(varied_CxG):
        return bounds_Cx2

    def means_of(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        # How often each cluster was drawn, [..., draws] -> [..., G], by one count over all draws.
        draws = drawn.reshape(-1, drawn.shape[-1])
        offsets = clusters.count * np.arange(len(draws))[:, None]
        length = len(draws) * clusters.count
        counts = np.bincount((draws + offsets).ravel(), minlength=length)
        weights = counts.reshape(*drawn.shape[:-1], clusters.count)
        means = weights @ varied_CxG.T / (weights @ clusters.sizes_G)[..., None]
        return np.moveaxis(np.round(means, DECIMALS), -1, 0)

    result = stats.bootstrap(
        (np.arange(clusters.count),),
        means_of,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, min(resamples, DRAWS_AT_ONCE // clusters.count)),
        confidence_level=1 - alpha,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    bounds_Cx2[~constant_C] = np.stack([result.low, result.high], axis=1)
    return bounds_Cx2


def permutation_pvalues(
    differences_CxN: np.ndarray,
    clusters: Clusters,
    *,
    resamples: int = BCA_RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Two-sided p of "the two arms are alike" for each line of paired differences: [C, N] -> [C].

    Under the null hypothesis the arms' names could be exchanged in every cluster, so the sign of a
    cluster's sum is a coin's: the statistic is ``sum_g +-s_g``. Exact, over all 2^G signs, where
    these are no more than ``resamples``; else drawn at random, with the observed signs counted in
    (Phipson and Smyth 2010), so that p is never 0 (``scipy.stats.permutation_test``).
    """
    sums_CxG = clusters.sums(differences_CxN)

    def signed_sums(signs: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.round(signs @ sums_CxG.T, DECIMALS)

    result = _load("scipy.stats").permutation_test(
        (np.ones(clusters.count),),
        signed_sums,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, min(resamples, DRAWS_AT_ONCE // clusters.count)),
        rng=np.random.default_rng(seed),
    )
    return np.asarray(result.pvalue)


def t_interval(means_S: np.ndarray, *, alpha: float = 0.05) -> tuple[float, float]:
    """Student's t interval of the mean of S independent values, such as seeds' means; S >= 2."""
    if len(means_S) < 2:
        raise GplanError(
            "One value has no spread: an interval over seeds needs two seeds at least."
        )
    reach = float(_load("scipy.stats").t.ppf(1 - alpha / 2, len(means_S) - 1))
    reach *= float(means_S.std(ddof=1)) / len(means_S) ** 0.5
    mean = float(means_S.mean())
    return mean - reach, mean + reach


def mcnemar_pvalue(first_N: np.ndarray, second_N: np.ndarray) -> float:
    """Exact two-sided p of McNemar's test on paired rows of 0 and 1 (McNemar 1947).

    Of the b + c rows on which the arms differ, b in favour of the first: the binomial probability
    of so uneven a division or a more uneven one, ``min(1, 2 P[B <= min(b, c)])`` with
    B ~ Bin(b + c, 1/2). 1 where the arms never differ. Rows must be independent.
    """
    table = np.zeros((2, 2))
    np.add.at(table, (first_N.astype(int), second_N.astype(int)), 1)
    return float(_load("statsmodels.stats.contingency_tables").mcnemar(table, exact=True).pvalue)


def holm(pvalues: np.ndarray, *, alpha: float = 0.05) -> np.ndarray:
    """Holm's step-down adjusted p-values (Holm 1979): the family-wise error stays below alpha.

    Sorted ascending, ``p~_i = max_{j <= i} min(1, (m - j + 1) p_j)``.
    """
    if not len(pvalues):
        return pvalues
    multipletests = _load("statsmodels.stats.multitest").multipletests
    return np.asarray(multipletests(pvalues, alpha=alpha, method="holm")[1])


def detectable_difference(
    spread: float, units: int, *, alpha: float = 0.05, power: float = POWER
) -> float:
    """The smallest difference that a paired comparison shows with that power.

    The paired t-test's: ``d spread`` with the effect size d at which a two-sided test at ``alpha``
    on ``units`` differences rejects with probability ``power`` (about
    ``(z_{1 - alpha/2} + z_power) / sqrt(units)``); ``statsmodels.stats.power.TTestPower``.
    ``spread`` is the standard deviation of the paired differences, units are ids where ids repeat;
    alpha / m serves the worst of m comparisons under Holm.
    """
    if units < 2 or spread < 0:
        raise GplanError(
            f"{units} units of spread {spread}: a comparison needs two independent units at least "
            "and a spread that is not negative."
        )
    power_of = _load("statsmodels.stats.power").TTestPower().power

    def excess(effect: float) -> float:
        # The tail on the wrong side, below 1e-6 at any useful power, is left out: scipy's
        # non-central t is no number there.
        return float(power_of(effect, units, alpha / 2, alternative="larger")) - power

    # statsmodels' own solver fails for a few units.
    highest = 4 / sqrt(units)
    while excess(highest) < 0:
        highest *= 2
    return float(_load("scipy.optimize").brentq(excess, 0.0, highest) * spread)
