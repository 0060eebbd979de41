"""Resampling: coverage and error rates by simulation, exact cases by enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from gplan_jax.evaluation.significance.clusters import Clusters
from gplan_jax.evaluation.significance.resampling import bca_intervals, permutation_pvalues


def correlated(rng: np.random.Generator, ids: int) -> tuple[np.ndarray, list[str]]:
    """A skewed value for each row, most of it shared by the 1 to 4 rows of an id; mean 1."""
    sizes = rng.integers(1, 5, ids)
    shared = rng.exponential(0.8, ids)
    names = [f"{i:03}" for i, size in enumerate(sizes) for _ in range(size)]
    values = np.repeat(shared, sizes) + rng.exponential(0.2, sizes.sum())
    return values[None], names


def test_one_row_an_id_agrees_with_scipy_called_plainly() -> None:
    values = np.random.default_rng(4).exponential(size=60)
    clusters = Clusters.of([f"{i:02}" for i in range(60)])
    plain = stats.bootstrap((values,), np.mean, rng=np.random.default_rng(0), n_resamples=999)
    [bounds] = bca_intervals(values[None], clusters, resamples=999)
    # The same generator draws the same indices: only the rounding of sums lies between them.
    assert bounds == pytest.approx(list(plain.confidence_interval), abs=1e-8)


def test_lines_are_computed_as_if_each_stood_alone() -> None:
    values = np.random.default_rng(2).random((3, 40))
    clusters = Clusters.of([str(i % 17) for i in range(40)])
    together = bca_intervals(values, clusters, resamples=499)
    alone = [bca_intervals(line[None], clusters, resamples=499)[0] for line in values]
    np.testing.assert_allclose(together, alone, atol=1e-9)
    p_together = permutation_pvalues(values - 0.5, clusters, resamples=499)
    p_alone = [permutation_pvalues(line[None] - 0.5, clusters, resamples=499)[0] for line in values]
    np.testing.assert_array_equal(p_together, p_alone)


def test_constant_lines_have_no_width_and_leave_the_others_alone() -> None:
    varied = np.random.default_rng(0).random(12)
    values = np.stack([np.zeros(12), varied, np.full(12, 0.25)])
    clusters = Clusters.of([str(i % 6) for i in range(12)])
    bounds = bca_intervals(values, clusters, resamples=199)
    assert bounds[0].tolist() == [0, 0]
    assert bounds[2].tolist() == [0.25, 0.25]
    np.testing.assert_array_equal(bounds[1], bca_intervals(values[1:2], clusters, resamples=199)[0])
    assert permutation_pvalues(values[:1], clusters).tolist() == [1.0]


def test_one_id_that_differs_still_gives_finite_ends() -> None:
    values = np.zeros((1, 30))
    values[0, 7] = 1.0
    [[low, high]] = bca_intervals(values, Clusters.of([str(i) for i in range(30)]))
    assert np.isfinite([low, high]).all()
    assert low == 0 < high < 0.3


def test_few_ids_are_enumerated() -> None:
    differences = np.array([[0.5, 0.1, -0.2, 0.4, 0.3, 0.0]])
    ids = ["a", "a", "b", "c", "d", "e"]
    sums = [0.6, -0.2, 0.4, 0.3, 0.0]
    observed = sum(sums)
    signed = [
        sum(sign * value for sign, value in zip(signs, sums, strict=True))
        for signs in product((1, -1), repeat=5)
    ]
    beyond = sum(value >= observed - 1e-12 for value in signed)
    [p] = permutation_pvalues(differences, Clusters.of(ids))
    assert p == pytest.approx(2 * beyond / 32)


def test_two_ids_can_show_nothing() -> None:
    [p] = permutation_pvalues(np.ones((1, 8)), Clusters.of(["a"] * 4 + ["b"] * 4))
    assert p == 0.5


def test_copies_within_ids_change_neither_interval_nor_p() -> None:
    rng = np.random.default_rng(5)
    values, ids = correlated(rng, 40)
    once, thrice = Clusters.of(ids), Clusters.of(np.repeat(ids, 3).tolist())
    copied = np.repeat(values, 3, axis=1)
    np.testing.assert_allclose(
        bca_intervals(values, once, resamples=999),
        bca_intervals(copied, thrice, resamples=999),
        atol=1e-9,
    )
    np.testing.assert_array_equal(
        permutation_pvalues(values - 1, once, resamples=999),
        permutation_pvalues(copied - 1, thrice, resamples=999),
    )


def test_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(6)
    values, ids = correlated(rng, 30)
    order = rng.permutation(len(ids))
    shuffled, names = values[:, order], [ids[i] for i in order]
    np.testing.assert_array_equal(
        bca_intervals(values, Clusters.of(ids), resamples=499),
        bca_intervals(shuffled, Clusters.of(names), resamples=499),
    )
    np.testing.assert_array_equal(
        permutation_pvalues(values - 1, Clusters.of(ids), resamples=499),
        permutation_pvalues(shuffled - 1, Clusters.of(names), resamples=499),
    )


def test_the_interval_covers_the_truth_and_rows_taken_as_independent_do_not() -> None:
    covered = naive = 0
    repeats = 300
    for repeat in range(repeats):
        rng = np.random.default_rng(repeat)
        sizes = rng.integers(1, 5, 100)
        # Scores of a plan metric: between 0 and 1, mean 1/4, most of it shared by an id's rows.
        scores = 0.8 * np.repeat(rng.beta(0.5, 1.5, 100), sizes)
        scores = scores[None] + 0.2 * rng.beta(0.5, 1.5, len(scores))
        ids = [f"{i:03}" for i, size in enumerate(sizes) for _ in range(size)]
        [[low, high]] = bca_intervals(scores, Clusters.of(ids), resamples=399, seed=repeat)
        covered += low <= 0.25 <= high
        singles = Clusters.of([f"{i:04}" for i in range(len(ids))])
        [[low, high]] = bca_intervals(scores, singles, resamples=399, seed=repeat)
        naive += low <= 0.25 <= high
    # A binomial of 300 at 0.95 has a standard deviation of 0.0126.
    assert 0.92 <= covered / repeats <= 0.98
    assert naive / repeats < 0.85


def test_p_is_uniform_where_the_arms_are_alike() -> None:
    rng = np.random.default_rng(11)
    ids = [f"{i // 2:03}" for i in range(80)]
    # 400 null experiments at once; the rows of an id agree in sign, so rows are not independent.
    shared = np.repeat(rng.normal(size=(400, 40)), 2, axis=1)
    differences = shared + rng.normal(size=(400, 80)) * 0.3
    pvalues = permutation_pvalues(differences, Clusters.of(ids), resamples=999)
    assert stats.kstest(pvalues, "uniform").pvalue > 0.01
    assert 0.02 <= (pvalues <= 0.05).mean() <= 0.085
    singles = Clusters.of([f"{i:03}" for i in range(80)])
    assert (permutation_pvalues(differences, singles, resamples=999) <= 0.05).mean() > 0.1
