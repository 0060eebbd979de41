"""What a number of rows can show, against the textbook's approximation and by simulation."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from scipy import stats

from gplan_jax.evaluation.significance.power import detectable_accuracy, detectable_difference
from gplan_jax.evaluation.significance.proportions import mcnemar_pvalue
from gplan_jax.foundation import GplanError

# z of 0.975 and of 0.8
REACH = 1.959963985 + 0.841621234


def test_many_rows_agree_with_the_normal_approximation() -> None:
    assert detectable_difference(0.4, 703) == pytest.approx(REACH * 0.4 / sqrt(703), rel=5e-3)
    assert detectable_difference(0.0, 703) == 0


def test_a_difference_of_that_size_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(0)
    rows, disagreement = 703, 0.4
    difference = detectable_accuracy(disagreement, rows)
    favour = (disagreement + difference) / 2
    found = 0
    for _ in range(400):
        kind = rng.random(rows)
        first = (kind < favour).astype(float)
        second = ((kind >= favour) & (kind < disagreement)).astype(float)
        found += mcnemar_pvalue(first, second) < 0.05
    # The exact test is a little conservative; sd of the share is 0.02.
    assert 0.70 <= found / 400 <= 0.86


def test_the_t_test_finds_it_as_promised() -> None:
    rng = np.random.default_rng(1)
    difference = detectable_difference(1.0, 30, power=0.9)
    draws = rng.normal(difference, 1.0, size=(2000, 30))
    found = (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean()
    assert found == pytest.approx(0.9, abs=0.025)


def test_more_rows_show_smaller_differences_and_stricter_levels_larger_ones() -> None:
    assert detectable_accuracy(0.4, 20000) < detectable_accuracy(0.4, 703) / 5
    assert detectable_accuracy(0.4, 703, alpha=0.05 / 20) > detectable_accuracy(0.4, 703)


def test_few_units_need_large_effects_and_get_the_power_they_ask_for() -> None:
    for units, alpha in ((2, 0.05), (3, 0.0025), (5, 0.0025)):
        effect = detectable_difference(1.0, units, alpha=alpha)
        far = stats.t.isf(alpha / 2, units - 1)
        assert stats.nct.sf(far, units - 1, effect * sqrt(units)) == pytest.approx(0.8, abs=1e-6)


def test_rows_that_never_differ_show_nothing() -> None:
    assert detectable_accuracy(0.0, 703) == 0.0
    # Three rows in a thousand differ: no more than 0.003 is possible, and that is not shown.
    assert detectable_accuracy(0.003, 703) > 0.003


@pytest.mark.parametrize(("disagreement", "rows"), [(0.4, 1), (-0.1, 10), (1.1, 10)])
def test_impossible_questions_are_refused(disagreement: float, rows: int) -> None:
    with pytest.raises(GplanError, match="at least"):
        detectable_accuracy(disagreement, rows)


@pytest.mark.parametrize(("spread", "units"), [(0.4, 1), (-0.1, 10)])
def test_impossible_spreads_are_refused(spread: float, units: int) -> None:
    with pytest.raises(GplanError, match="at least"):
        detectable_difference(spread, units)
