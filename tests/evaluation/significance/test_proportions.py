"""Shares of rows, McNemar and Holm against figures worked out by hand."""

from __future__ import annotations

from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.evaluation.significance.clusters import Clusters
from gplan_jax.evaluation.significance.proportions import (
    CLUSTER_WILSON,
    WILSON,
    holm,
    mcnemar_pvalue,
    proportion_interval,
)

Z = 1.959963984540054


def singles(count: int) -> Clusters:
    return Clusters.of([f"{i:05}" for i in range(count)])


def closed_wilson(share: float, count: float) -> tuple[float, float]:
    centre, shrink = share + Z**2 / (2 * count), 1 + Z**2 / count
    reach = Z * sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return (centre - reach) / shrink, (centre + reach) / shrink


def hits(share: float, rows: int) -> np.ndarray:
    return (np.arange(rows) < round(share * rows)).astype(float)[None]


def test_one_seed_and_no_id_twice_is_plain_wilson() -> None:
    low, high, method = proportion_interval(hits(0.3, 50), singles(50))
    assert (round(low, 4), round(high, 4), method) == (0.191, 0.4375, WILSON)
    assert (low, high) == pytest.approx(closed_wilson(0.3, 50))


def test_wilson_agrees_with_the_other_library() -> None:
    from statsmodels.stats.proportion import proportion_confint

    for count in (0, 7, 40):
        values = hits(count / 40, 40)
        low, high, _ = proportion_interval(values, singles(40), alpha=0.1)
        assert (low, high) == pytest.approx(
            proportion_confint(count, 40, alpha=0.1, method="wilson"), abs=1e-12
        )


def test_pairs_of_equal_rows_count_about_as_their_ids() -> None:
    once = hits(0.4, 400)
    ids = [f"{i:05}" for i in range(400)]
    low, high, method = proportion_interval(
        np.repeat(once, 2, axis=1), Clusters.of(sorted(ids * 2))
    )
    assert method == CLUSTER_WILSON
    # se^2 = p (1 - p) / (G - 1), so n* = G - 1 but for the t of 399 degrees of freedom.
    t_399 = 1.9659272695
    assert (low, high) == pytest.approx(closed_wilson(0.4, 399 * (Z / t_399) ** 2), abs=1e-6)
    plain = closed_wilson(0.4, 400)
    assert high - low >= plain[1] - plain[0]


def test_the_mean_over_seeds_is_narrower_than_one_seed_of_noise() -> None:
    values = (np.random.default_rng(0).random((5, 300)) < 0.5).astype(float)
    low, high, method = proportion_interval(values, singles(300))
    one_low, one_high, _ = proportion_interval(values[:1], singles(300))
    assert method == CLUSTER_WILSON
    assert (high - low) / (one_high - one_low) == pytest.approx(1 / sqrt(5), rel=0.15)
    # Seeds that all agree add nothing.
    low, high, _ = proportion_interval(np.repeat(values[:1], 5, axis=0), singles(300))
    assert (low, high) == pytest.approx((one_low, one_high), abs=2e-3)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_none_right_still_has_an_interval(share: float) -> None:
    values = np.full((3, 20), share)
    low, high, _ = proportion_interval(values, singles(20))
    assert 0.1 < high - low < 0.25
    assert (low == pytest.approx(0)) is (share == 0)


def test_seeds_that_cancel_out_count_as_the_ids() -> None:
    values = np.stack([np.tile([0.0, 1.0], 10), np.tile([1.0, 0.0], 10)])
    low, high, _ = proportion_interval(values, singles(20))
    assert (low, high) == pytest.approx(closed_wilson(0.5, 20))


def test_rounding_is_no_spread() -> None:
    # One hit of three seeds in each row, and ids of 1, 2, 3, ... rows.
    ids = [f"{i:02}" for i in range(12) for _ in range(i + 1)]
    values = np.zeros((3, len(ids)))
    values[np.arange(len(ids)) % 3, np.arange(len(ids))] = 1
    low, high, _ = proportion_interval(values, Clusters.of(ids))
    assert (low, high) == pytest.approx(closed_wilson(1 / 3, 12))


def test_mcnemar_is_the_binomial_of_the_rows_that_differ() -> None:
    # b = 9 for the first, c = 2 for the second, 20 alike.
    first = np.array([1.0] * 9 + [0.0] * 2 + [1.0] * 12 + [0.0] * 8)
    second = np.array([0.0] * 9 + [1.0] * 2 + [1.0] * 12 + [0.0] * 8)
    by_hand = 2 * sum(comb(11, k) for k in range(3)) / 2**11
    assert mcnemar_pvalue(first, second) == pytest.approx(by_hand)
    assert mcnemar_pvalue(second, first) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(0.0654296875)


def test_mcnemar_of_arms_that_never_differ_is_1() -> None:
    assert mcnemar_pvalue(np.ones(5), np.ones(5)) == 1.0
    assert mcnemar_pvalue(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1.0


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04 times 4 3 2 1, then never falling: .04 .06 .06 .06.
    assert holm(np.array([0.03, 0.01, 0.04, 0.02])) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm(np.array([])).tolist() == []
    assert holm(np.array([0.6, 0.9])) == pytest.approx([1.0, 1.0])


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=12))
def test_holm_against_its_formula_and_between_its_bounds(pvalues: list[float]) -> None:
    order = np.argsort(pvalues, kind="stable")
    worst, expected = 0.0, np.zeros(len(pvalues))
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(pvalues) - rank) * pvalues[index]))
        expected[index] = worst
    np.testing.assert_allclose(holm(np.array(pvalues)), expected)


def test_the_interval_for_repeated_ids_and_seeds_covers_the_truth() -> None:
    rng = np.random.default_rng(3)
    covered = naive = 0
    repeats = 400
    for _ in range(repeats):
        sizes = rng.integers(1, 6, 50)
        chances = np.repeat(rng.beta(0.5, 1.5, 50), sizes)  # mean 1/4
        values = (rng.random((3, len(chances))) < chances).astype(float)
        ids = [f"{i:02}" for i, size in enumerate(sizes) for _ in range(size)]
        low, high, _ = proportion_interval(values, Clusters.of(ids))
        covered += low <= 0.25 <= high
        low, high, _ = proportion_interval(values[:1], singles(len(ids)))
        naive += low <= 0.25 <= high
    # A binomial of 400 at 0.95 has a standard deviation of 0.011.
    assert 0.915 <= covered / repeats <= 0.985
    assert naive / repeats < covered / repeats - 0.04
