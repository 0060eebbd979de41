"""Rows that belong together: the rows of one id are one draw, not several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gplan_jax.foundation import GplanError

# Sums that are equal in exact arithmetic must stay ties whatever order the rows came in.
DECIMALS = 10


@dataclass(frozen=True)
class Clusters:
    """Which rows share an id. N rows, G clusters, numbered in the order of the ids' texts.

    Attributes:
        of_row_N: the cluster of each row.
        sizes_G: how many rows each cluster has.
    """

    of_row_N: np.ndarray
    sizes_G: np.ndarray

    @classmethod
    def of(cls, ids: Sequence[str]) -> Clusters:
        """Groups rows by id.

        Raises:
            GplanError: fewer than two ids, so that nothing can be said about other ids.
        """
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
