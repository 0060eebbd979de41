"""Rows of one id: sums and standard errors against formulas written out."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from gplan_jax.evaluation.significance.clusters import Clusters
from gplan_jax.foundation import GplanError


def test_sums_and_sizes_by_id() -> None:
    clusters = Clusters.of(["b", "a", "b"])
    assert clusters.sizes_G.tolist() == [1, 2]
    assert clusters.sums(np.array([[1.0, 10.0, 2.0], [0.0, 1.0, 0.5]])).tolist() == [
        [10.0, 3.0],
        [1.0, 0.5],
    ]
    assert not clusters.independent
    assert Clusters.of(["a", "b"]).independent


def test_one_row_an_id_gives_the_textbook_error() -> None:
    values = np.random.default_rng(0).random((1, 50))
    [error] = Clusters.of([str(i) for i in range(50)]).standard_errors(values)
    assert error == pytest.approx(values.std(ddof=1) / sqrt(50), rel=1e-8)


def test_the_error_of_unequal_ids_by_hand() -> None:
    # Two ids with rows (1, 1) and (0): the mean is 2/3, residual sums +2/3 and -2/3.
    [error] = Clusters.of(["a", "a", "b"]).standard_errors(np.array([[1.0, 1.0, 0.0]]))
    assert error == pytest.approx(sqrt(2 * (2 * (2 / 3) ** 2)) / 3)


def test_copies_of_rows_within_their_ids_add_nothing() -> None:
    values = np.random.default_rng(1).random((2, 30))
    ids = [str(i % 13) for i in range(30)]
    once = Clusters.of(ids).standard_errors(values)
    threefold = Clusters.of(ids * 3).standard_errors(np.tile(values, 3))
    np.testing.assert_allclose(once, threefold, rtol=1e-8)


@pytest.mark.parametrize("ids", [[], ["a"], ["a", "a", "a"]])
def test_fewer_than_two_ids_are_refused(ids: list[str]) -> None:
    with pytest.raises(GplanError, match="at least two ids"):
        Clusters.of(ids)
