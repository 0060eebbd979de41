"""95% intervals: Wilson for a proportion, percentile bootstrap over ids for any mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000


def wilson_interval(successes: float, count: int, *, alpha: float = 0.05) -> tuple[float, float]:
    """Wilson's score interval of a proportion ``p = successes / count``, 95% unless told.

    ``(p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)``, z = 1.96 for 95%
    (Wilson 1927). Unlike the normal approximation it stays inside [0, 1] and is not empty at 0 or
    1. Computed by scipy, which JAX brings with it.

    Raises:
        ValueError: ``count`` is not positive, or ``successes`` is no whole number in [0, count].
    """
    if count <= 0 or not 0 <= successes <= count or successes != int(successes):
        raise ValueError(f"need whole 0 <= successes <= count and count > 0: {successes}, {count}")
    from scipy.stats import binomtest  # Slow to import; most commands need no interval.

    interval = binomtest(int(successes), count).proportion_ci(1 - alpha, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_interval(
    values_NxM: np.ndarray, groups: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Percentile bootstrap 95% interval of the mean of each column: [N, M] -> [M, 2].

    Whole groups are drawn with replacement, since rows of one user are not independent: a
    resample's mean is ``sum_g w_g s_g / sum_g w_g n_g`` with the drawn counts w, the groups' sums s
    and sizes n (Efron and Tibshirani 1993, chapters 8 and 13).

    Args:
        values_NxM: one row a data row, one column a measure.
        groups: [N] the group (id) of each row.
        resamples: how many resamples to draw.
        seed: the draw depends on nothing else, so that a report can be computed again.
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
