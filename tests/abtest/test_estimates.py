"""Estimates: against textbook formulas and statsmodels, and where an arm has no clicks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep

from gplan_jax.abtest.estimates import (
    Estimate,
    adjusted,
    estimate,
    sample_ratio_p,
    variance_saved,
)
from gplan_jax.abtest.experiment import Metric
from gplan_jax.abtest.users import UserTable


def table(users: int = 400, lift: float = 0.3) -> UserTable:
    """Users whose clicks before the test foretell those of the test; arm 1 clicks more."""
    rng = np.random.default_rng(11)
    arm = rng.integers(0, 2, users)
    rate = rng.beta(1, 4, users)
    shown, shown_before = 1 + rng.poisson(6, (2, users))
    clicks = rng.binomial(shown, np.clip(rate * (1 + lift * arm), 0, 1))
    before = rng.binomial(shown_before, rate)
    return UserTable(
        arm,
        {
            "clicked": clicks > 0,
            "clicks": clicks,
            "impressions": shown,
            "clicked_days": np.minimum(clicks, 2),
            "exposed_days": np.full(users, 2),
            "before_clicks": before,
            "before_impressions": shown_before,
            "before_clicked_days": np.minimum(before, 3),
            "before_exposed_days": np.full(users, 3),
        },
    )


def compare(users: UserTable, metric: Metric, *, cuped: bool = False) -> Estimate:
    control, treatment = (users.aggregates(arm, metric) for arm in (0, 1))
    return estimate(control, treatment, metric, alpha=0.05, cuped=cuped)


def test_uv_ctr_is_welch_on_the_users_who_clicked() -> None:
    users = table()
    found = compare(users, Metric.UV_CTR)
    values = [users.totals["clicked"][users.arm_U == arm].astype(float) for arm in (1, 0)]
    welch = stats.ttest_ind(*values, equal_var=False)
    interval = welch.confidence_interval(0.95)
    assert found.p == pytest.approx(welch.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.difference == pytest.approx(values[0].mean() - values[1].mean())
    assert found.lift == pytest.approx(values[0].mean() / values[1].mean() - 1)
    assert found.lift_low is not None and found.lift_high is not None
    assert found.lift_low < found.lift < found.lift_high


def test_ctr_is_the_delta_method_with_users_as_clusters() -> None:
    """The influence of a user, (clicks - R impressions) / mean impressions, has R's variance."""
    users = table()
    found = compare(users, Metric.CTR)
    rates, variances = [], []
    for arm in (0, 1):
        mine = users.arm_U == arm
        clicks, shown = users.totals["clicks"][mine], users.totals["impressions"][mine]
        rates.append(clicks.sum() / shown.sum())
        influence = (clicks - rates[-1] * shown) / shown.mean()
        variances.append(influence.var(ddof=1) / mine.sum())
    error = np.sqrt(sum(variances))
    assert (found.control, found.treatment) == pytest.approx(tuple(rates))
    assert found.low is not None and found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.966 * error, rel=1e-3)


def test_cuped_is_the_regression_on_the_covariate() -> None:
    """``Y - theta (X - mean X)`` with ``theta = cov(X, Y) / var(X)`` over both arms."""
    users = table()
    found, plain = (compare(users, Metric.UV_CTR, cuped=cuped) for cuped in (True, False))
    y, x = users.totals["clicked"].astype(float), users.totals["before_clicked_days"]
    theta = np.cov(x, y)[0, 1] / x.var(ddof=1)
    moved = y - theta * (x - x.mean())
    one, other = (moved[users.arm_U == arm] for arm in (0, 1))
    assert found.difference == pytest.approx(other.mean() - one.mean(), abs=1e-12)
    assert found.p == pytest.approx(stats.ttest_ind(other, one, equal_var=False).pvalue, rel=1e-6)
    saved = variance_saved(plain, found)
    assert saved == pytest.approx(1 - moved.var() / y.var(), abs=0.03) and saved > 0.05


@given(st.integers(2, 60), st.integers(2, 60), st.booleans())
@settings(max_examples=25, deadline=None)
def test_an_arm_without_clicks_keeps_its_interval(first: int, second: int, both: bool) -> None:
    hits = 0 if both else second // 2
    clicked = np.array([0] * first + [1] * hits + [0] * (second - hits))
    zeros = np.zeros(first + second)
    names = ("before_clicked_days",)
    users = UserTable(
        np.array([0] * first + [1] * second), {"clicked": clicked} | dict.fromkeys(names, zeros)
    )
    found = compare(users, Metric.UV_CTR)
    low, high = confint_proportions_2indep(hits, second, 0, first, method="newcomb")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)
    assert found.method == "newcombe_fisher"
    assert found.lift is None and "no user of the control clicked" in (found.why_none or "")
    table_2x2 = [[hits, second - hits], [0, first]]
    assert found.p == pytest.approx(stats.fisher_exact(table_2x2).pvalue)


def test_a_treatment_without_clicks_has_a_lift_of_minus_one_without_interval() -> None:
    users = table()
    totals = dict(users.totals)
    for name in ("clicks", "clicked", "clicked_days"):
        totals[name] = np.where(users.arm_U == 1, 0, totals[name])
    for metric in Metric:
        found = compare(UserTable(users.arm_U, totals), metric)
        assert (found.lift, found.lift_low, found.lift_high) == (-1.0, None, None)
        assert found.high is not None and found.high < 0
        assert found.why_none
    nobody = UserTable(users.arm_U, totals | {"clicks": np.zeros(400)})
    found = compare(nobody, Metric.CTR)
    assert (found.method, found.low, found.p, found.difference) == ("none", None, None, 0.0)


def test_an_arm_of_one_user_has_no_interval() -> None:
    users = table(40)
    arm = np.zeros(40, int)
    arm[3] = 1
    found = compare(UserTable(arm, users.totals), Metric.CTR)
    assert found.low is None and found.why_none == "an arm has 1 users; an interval needs 2"


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_corrections_are_those_of_statsmodels(values: list[float]) -> None:
    names = {str(i): p for i, p in enumerate(values)}
    for correction, method in (("holm", "holm"), ("fdr", "fdr_bh")):
        found = adjusted(names, alpha=0.05, correction=correction)  # type: ignore[arg-type]
        expected = multipletests(values, 0.05, method)[1]
        assert [found[name] for name in names] == pytest.approx(list(expected), abs=1e-12)
    assert adjusted({}, alpha=0.05, correction="holm") == {}


def test_the_sample_ratio_is_tea_tastings_for_two_arms_and_takes_more() -> None:
    import tea_tasting as tt
    from tea_tasting.aggr import Aggregates

    counts = {"a": 5100, "b": 4900}
    found = sample_ratio_p(counts, {"a": 0.25, "b": 0.25})
    check = tt.SampleRatio(method="norm", correction=False)
    arms = {arm: Aggregates(count_=count) for arm, count in counts.items()}
    assert found == pytest.approx(check.analyze(arms, "a", "b").pvalue, rel=1e-9)
    assert sample_ratio_p({"a": 30, "b": 20, "c": 10}, {"a": 0.3, "b": 0.2, "c": 0.1}) == 1.0
