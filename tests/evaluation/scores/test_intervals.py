"""Intervals against closed forms worked out without scipy."""

from __future__ import annotations

from math import isclose, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.evaluation.scores.intervals import bootstrap_interval, wilson_interval

Z_95 = 1.959963984540054


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
