"""Sample sizes against statsmodels, and what a log could have found."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.power import tt_ind_solve_power

from gplan_jax.abtest.estimates import detectable, needed
from gplan_jax.abtest.experiment import Metric
from gplan_jax.abtest.users import UserTable
from gplan_jax.foundation import GplanError


@pytest.mark.parametrize(("baseline", "lift", "ratio"), [(0.3, 0.05, 1.0), (0.1, -0.2, 0.5)])
def test_the_sample_size_is_that_of_statsmodels(baseline: float, lift: float, ratio: float) -> None:
    effect = abs(baseline * lift) / np.sqrt(baseline * (1 - baseline))
    control = tt_ind_solve_power(effect, alpha=0.05, power=0.8, ratio=ratio)
    need = needed(baseline, lift, ratio=ratio)
    assert need.control == pytest.approx(control, rel=1e-3, abs=3)
    assert need.treatment == pytest.approx(ratio * control, rel=1e-3, abs=3)
    assert need.users == need.control + need.treatment and need.days is None


def test_the_papers_lift() -> None:
    """2 (1.95996 + 0.84162)^2 p (1 - p) / (0.0087 p)^2 = 483,921 users an arm at p = 0.3."""
    need = needed(0.3, 0.0087, users_per_day=100_000)
    assert need.control == pytest.approx(483_921, abs=3)
    assert (need.days, need.difference) == (10, pytest.approx(0.00261))


def test_what_was_needed_is_detectable() -> None:
    """A log of just the needed users with the baseline rate can find just that lift."""
    need = needed(0.25, 0.1)
    arm = np.array([0] * need.control + [1] * need.treatment)
    clicked = np.arange(len(arm)) % 4 == 0
    table = UserTable(arm, {"clicked": clicked, "before_clicked_days": np.zeros(len(arm))})
    control, treatment = (table.aggregates(code, Metric.UV_CTR) for code in (0, 1))
    found = detectable(control, treatment, Metric.UV_CTR, alpha=0.05, power=0.8, cuped=False)
    assert found == pytest.approx(0.1, rel=2e-3)
    nobody = UserTable(arm, dict(table.totals) | {"clicked": np.zeros(len(arm))})
    control = nobody.aggregates(0, Metric.UV_CTR)
    assert detectable(control, treatment, Metric.UV_CTR, alpha=0.05, power=0.8, cuped=False) is None


@pytest.mark.parametrize(
    ("baseline", "lift", "users", "problem"),
    [
        (0.0, 0.1, None, "baseline rate is 0"),
        (1.0, 0.1, None, "baseline rate is 1"),
        (0.3, 0.0, None, "lift of 0"),
        (0.6, 0.9, None, "leaves 0 to 1"),
        (0.3, 0.1, 0.0, "some have to come"),
    ],
)
def test_what_no_rate_can_be(
    baseline: float, lift: float, users: float | None, problem: str
) -> None:
    with pytest.raises(GplanError, match=problem):
        needed(baseline, lift, users_per_day=users)
