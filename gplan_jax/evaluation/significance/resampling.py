"""BCa bootstrap and sign-flip permutation over clusters, for many lines of values at once."""

from __future__ import annotations

import numpy as np

from gplan_jax.evaluation.significance.clusters import DECIMALS, Clusters
from gplan_jax.evaluation.significance.libraries import load

RESAMPLES = 9999
# Bounds the memory: resamples of one batch times clusters.
DRAWS_AT_ONCE = 10_000_000


def bca_intervals(
    values_CxN: np.ndarray,
    clusters: Clusters,
    *,
    alpha: float = 0.05,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """BCa bootstrap intervals of the mean over rows of each line: [C, N] -> [C, 2].

    Whole clusters are drawn: a resample's mean is ``sum_g w_g s_g / sum_g w_g n_g`` with the drawn
    counts w. Bias-corrected and accelerated ends (Efron 1987) by ``scipy.stats.bootstrap``, which
    is given the clusters' numbers as its data, so that every line sees the same draws. A line
    whose clusters all have the same mean has an interval of no width.

    Raises:
        GplanError: scipy is not installed.
    """
    stats = load("scipy.stats")
    sums_CxG = clusters.sums(values_CxN)
    means_CxG = np.round(sums_CxG / clusters.sizes_G, DECIMALS)
    constant_C = (means_CxG == means_CxG[:, :1]).all(axis=1)
    bounds_Cx2 = np.repeat(means_CxG[:, :1], 2, axis=1)
    varied_CxG = sums_CxG[~constant_C]
    if len(varied_CxG):

        def means_of(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
            weights = _counts(drawn, clusters.count)
            means = weights @ varied_CxG.T / (weights @ clusters.sizes_G)[..., None]
            return np.moveaxis(np.round(means, DECIMALS), -1, 0)

        result = stats.bootstrap(
            (np.arange(clusters.count),),
            means_of,
            vectorized=True,
            n_resamples=resamples,
            batch=_batch(clusters, resamples),
            confidence_level=1 - alpha,
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        bounds_Cx2[~constant_C] = np.stack([result.low, result.high], axis=1)
    return bounds_Cx2


def permutation_pvalues(
    differences_CxN: np.ndarray, clusters: Clusters, *, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Two-sided p of "the two arms are alike" for each line of paired differences: [C, N] -> [C].

    Under the null hypothesis the arms' names could be exchanged in every cluster, so the sign of a
    cluster's sum is a coin's: the statistic is ``sum_g +-s_g``. Exact, over all 2^G signs, where
    these are no more than ``resamples``; else drawn at random, with the observed signs counted in
    (Phipson and Smyth 2010), so that p is never 0 (``scipy.stats.permutation_test``).

    Raises:
        GplanError: scipy is not installed.
    """
    stats = load("scipy.stats")
    sums_CxG = clusters.sums(differences_CxN)

    def signed_sums(signs: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.round(signs @ sums_CxG.T, DECIMALS)

    result = stats.permutation_test(
        (np.ones(clusters.count),),
        signed_sums,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=_batch(clusters, resamples),
        rng=np.random.default_rng(seed),
    )
    return np.asarray(result.pvalue)


def _batch(clusters: Clusters, resamples: int) -> int:
    return max(1, min(resamples, DRAWS_AT_ONCE // clusters.count))


def _counts(drawn: np.ndarray, clusters: int) -> np.ndarray:
    """How often each cluster was drawn: [..., draws] -> [..., G]."""
    draws = drawn.reshape(-1, drawn.shape[-1])
    offsets = clusters * np.arange(len(draws))[:, None]
    counts = np.bincount((draws + offsets).ravel(), minlength=len(draws) * clusters)
    return counts.reshape(*drawn.shape[:-1], clusters)
