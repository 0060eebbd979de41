"""Proportions: Wilson's interval, its form for correlated rows, and McNemar's exact test."""

from __future__ import annotations

import numpy as np

from gplan_jax.evaluation.scores.intervals import wilson_interval
from gplan_jax.evaluation.significance.clusters import Clusters
from gplan_jax.evaluation.significance.libraries import load

WILSON, CLUSTER_WILSON = "wilson", "wilson_cluster"
# Standard errors below this come from the rounding of the clusters' sums.
NO_SPREAD = 1e-8


def proportion_interval(
    values_SxN: np.ndarray, clusters: Clusters, *, alpha: float = 0.05
) -> tuple[float, float, str]:
    """Interval of a share of rows, and its method.

    Wilson's interval where there is one seed and no id twice. Otherwise the rows' means over the
    seeds are no independent hits, and Wilson's formula takes the effective number of rows
    ``n* = p (1 - p) / se^2`` in place of N, se being the standard error over clusters, times
    ``(z / t)^2``, t with G - 1 degrees of freedom (Korn and Graubard 1998; Dean and Pagano 2015).
    Where all ids have the same mean (p is 0, for one) and se is 0, n* is the number of ids G.

    Args:
        values_SxN: 0 or 1 for each of S seeds and N rows.
        clusters: which rows share an id.
        alpha: 1 - the level.
    """
    share = float(values_SxN.mean())
    if len(values_SxN) == 1 and clusters.independent:
        return *wilson_interval(int(values_SxN.sum()), values_SxN.shape[1], alpha=alpha), WILSON
    stats = load("scipy.stats")
    [error] = clusters.standard_errors(values_SxN.mean(axis=0, keepdims=True))
    if error > NO_SPREAD:
        narrowing = stats.norm.ppf(alpha / 2) / stats.t.ppf(alpha / 2, clusters.count - 1)
        effective = share * (1 - share) / error**2 * narrowing**2
    else:
        effective = float(clusters.count)
    proportion_confint = load("statsmodels.stats.proportion").proportion_confint
    low, high = proportion_confint(share * effective, effective, alpha=alpha, method="wilson")
    return float(low), float(high), CLUSTER_WILSON


def mcnemar_pvalue(first_N: np.ndarray, second_N: np.ndarray) -> float:
    """Exact two-sided p of McNemar's test on paired rows of 0 and 1 (McNemar 1947).

    Of the b + c rows on which the arms differ, b in favour of the first: the binomial probability
    of so uneven a division or a more uneven one, ``min(1, 2 P[B <= min(b, c)])`` with
    B ~ Bin(b + c, 1/2). 1 where the arms never differ. Rows must be independent.
    """
    table = np.zeros((2, 2))
    np.add.at(table, (first_N.astype(int), second_N.astype(int)), 1)
    return float(load("statsmodels.stats.contingency_tables").mcnemar(table, exact=True).pvalue)


def holm(pvalues: np.ndarray, *, alpha: float = 0.05) -> np.ndarray:
    """Holm's step-down adjusted p-values (Holm 1979): the family-wise error stays below alpha.

    Sorted ascending, ``p~_i = max_{j <= i} min(1, (m - j + 1) p_j)``.
    """
    if not len(pvalues):
        return pvalues
    _, adjusted, _, _ = load("statsmodels.stats.multitest").multipletests(
        pvalues, alpha=alpha, method="holm"
    )
    return np.asarray(adjusted)
