"""Intervals and tests against closed forms, enumeration, other libraries and simulation."""

from __future__ import annotations

from itertools import product
from math import comb, isclose, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gplan_jax.evaluation.scores.intervals import (
    CLUSTER_WILSON,
    WILSON,
    Clusters,
    bca_intervals,
    bootstrap_interval,
    detectable_difference,
    holm,
    mcnemar_pvalue,
    permutation_pvalues,
    proportion_interval,
    wilson_interval,
)
from gplan_jax.foundation import GplanError

Z_95 = 1.959963984540054
REACH = Z_95 + 0.841621234  # z of 0.975 and of 0.8


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


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_wilson_bounds_are_where_the_score_test_just_rejects(case: tuple[int, int]) -> None:
    successes, count = case
    share = successes / count
    for bound in wilson_interval(successes, count):
        # The defining equation: (p - p0)^2 = z^2 p0 (1 - p0) / n, free of the formula's form.
        distance, reach = (share - bound) ** 2, Z_95**2 * bound * (1 - bound) / count
        assert isclose(distance, reach, rel_tol=1e-6, abs_tol=1e-12)


def test_wilson_of_a_textbook_case() -> None:
    low, high = wilson_interval(15, 50)
    assert (round(low, 4), round(high, 4)) == (0.191, 0.4375)


@pytest.mark.parametrize(("successes", "count"), [(0, 0), (3, 2), (-1, 5), (1.5, 3)])
def test_wilson_refuses_impossible_counts(successes: float, count: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, count)


def test_the_bootstrap_of_one_row_an_id_agrees_with_the_normal_interval() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(0.5, 0.2, size=(400, 1))
    [[low, high]] = bootstrap_interval(values, [str(i) for i in range(400)])
    reach = Z_95 * values.std() / sqrt(400)
    assert abs(low - (values.mean() - reach)) < 0.1 * reach
    assert abs(high - (values.mean() + reach)) < 0.1 * reach


def test_rows_of_one_id_count_as_one_draw() -> None:
    # Each id's rows agree, so 10 copies of a row add no information: the interval must not shrink.
    values = np.random.default_rng(0).random((40, 1))
    ids = [str(i) for i in range(40)]
    once = bootstrap_interval(values, ids)
    tenfold = bootstrap_interval(np.repeat(values, 10, axis=0), np.repeat(ids, 10).tolist())
    np.testing.assert_allclose(once, tenfold, atol=1e-12)


def test_each_column_has_its_own_interval_and_a_constant_has_none() -> None:
    values = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    (low, high), (other_low, other_high) = bootstrap_interval(values, ["a", "b", "c"])
    assert (low, high) == (1.0, 1.0)
    assert 0.0 <= other_low < 1 / 3 < other_high <= 1.0


def test_the_same_rows_give_the_same_interval_again() -> None:
    values = np.random.default_rng(1).random((30, 2))
    ids = [str(i % 11) for i in range(30)]
    np.testing.assert_array_equal(bootstrap_interval(values, ids), bootstrap_interval(values, ids))
    assert not np.array_equal(
        bootstrap_interval(values, ids), bootstrap_interval(values, ids, seed=1)
    )


def singles(count: int) -> Clusters:
    return Clusters.of([f"{i:05}" for i in range(count)])


def closed_wilson(share: float, count: float) -> tuple[float, float]:
    centre, shrink = share + Z_95**2 / (2 * count), 1 + Z_95**2 / count
    reach = Z_95 * sqrt(share * (1 - share) / count + Z_95**2 / (4 * count**2))
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
    assert (low, high) == pytest.approx(closed_wilson(0.4, 399 * (Z_95 / t_399) ** 2), abs=1e-6)
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


def test_many_rows_agree_with_the_normal_approximation() -> None:
    assert detectable_difference(0.4, 703) == pytest.approx(REACH * 0.4 / sqrt(703), rel=5e-3)
    assert detectable_difference(0.0, 703) == 0


def test_the_t_test_finds_it_as_promised() -> None:
    rng = np.random.default_rng(1)
    difference = detectable_difference(1.0, 30, power=0.9)
    draws = rng.normal(difference, 1.0, size=(2000, 30))
    found = (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean()
    assert found == pytest.approx(0.9, abs=0.025)


def test_few_units_need_large_effects_and_get_the_power_they_ask_for() -> None:
    for units, alpha in ((2, 0.05), (3, 0.0025), (5, 0.0025)):
        effect = detectable_difference(1.0, units, alpha=alpha)
        far = stats.t.isf(alpha / 2, units - 1)
        assert stats.nct.sf(far, units - 1, effect * sqrt(units)) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(("spread", "units"), [(0.4, 1), (-0.1, 10)])
def test_impossible_spreads_are_refused(spread: float, units: int) -> None:
    with pytest.raises(GplanError, match="at least"):
        detectable_difference(spread, units)
