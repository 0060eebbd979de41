"""Fixed-horizon estimates by tea-tasting: lift, interval and p-value of one comparison, and power.

``Mean`` and ``RatioOfMeans`` are Welch's t-test on users, the delta method for ratios (Deng et al.
2018) and CUPED for covariates (Deng et al. 2013). Where an arm has no clicks, or a click of every
user, the normal approximation breaks down, and the exact ways for proportions take its place.

``needed`` says how many users a lift takes, ``detectable`` what a given log could have found.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from gplan_jax.abtest.experiment import Metric
from gplan_jax.abtest.sequential import Spending, inflation
from gplan_jax.abtest.users import COVARIATES, RATIOS
from gplan_jax.foundation.errors import GplanError, load_extra


@dataclass(frozen=True)
class Estimate:
    """A comparison of one treatment with the control."""

    control: float  # The metric in each arm; adjusted ones with CUPED.
    treatment: float
    difference: float  # treatment - control
    low: float | None = None
    high: float | None = None
    lift: float | None = None  # treatment / control - 1; its interval is made on the log scale
    lift_low: float | None = None
    lift_high: float | None = None
    p: float | None = None  # two-sided
    method: Literal["welch", "cuped", "newcombe_fisher", "none"] = "none"
    why_none: str | None = None  # why something is None


def import_tea_tasting() -> Any:
    """The tea_tasting module; GplanError says how to install it where it is absent."""
    return load_extra("tea_tasting", "abtest", "A/B tests")


def metric_of(metric: Metric, *, cuped: bool = False, **options: Any) -> Any:
    """tea-tasting's metric; ``options`` are its own (alpha, power, ratio, ...)."""
    tt = import_tea_tasting()
    covariate = COVARIATES[metric] if cuped else (None, None)
    return tt.RatioOfMeans(*RATIOS[metric], *covariate, **options)


def estimate(
    control: Any, treatment: Any, metric: Metric, *, alpha: float, cuped: bool = False
) -> Estimate:
    """Compares two arms from their ``Aggregates``; CUPED needs a pre-period that varies."""
    arms = control, treatment
    counts = [arm.count() for arm in arms]
    numerator, denominator = RATIOS[metric]
    means = [float(arm.mean(numerator) / arm.mean(denominator)) for arm in arms]
    plain = Estimate(
        control=means[0],
        treatment=means[1],
        difference=means[1] - means[0],
        lift=means[1] / means[0] - 1 if means[0] else None,
    )
    if min(counts) < 2:
        why = f"an arm has {min(counts)} users; an interval needs 2"
        return dataclasses.replace(plain, why_none=why)
    if metric is Metric.UV_CTR and any(mean in (0.0, 1.0) for mean in means):
        return _exact(plain, counts, alpha)
    alike = dataclasses.replace(plain, why_none="all users of both arms are alike")
    if not any(varies(arm, metric) for arm in arms):
        return alike
    analysis = metric_of(metric, cuped=cuped, confidence_level=1 - alpha)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            found = analysis.analyze_aggregates(control, treatment)
        except (ValueError, ArithmeticError):  # Rounding has left a variance below 0.
            return alike
    if not all(map(math.isfinite, (found.effect_size_ci_lower, found.pvalue))):
        return alike
    lift, lift_low, lift_high, why_none = (
        found.rel_effect_size,
        found.rel_effect_size_ci_lower,
        found.rel_effect_size_ci_upper,
        None,
    )
    if means[0] == 0:
        lift = lift_low = lift_high = None
        why_none = "no clicks in the control: nothing to be relative to"
    elif means[1] == 0:
        lift, lift_low, lift_high = -1.0, None, None
        why_none = "no clicks in the treatment: no interval of the relative lift"
    elif not all(math.isfinite(value) for value in (lift, lift_low, lift_high)):
        lift = lift_low = lift_high = None
        why_none = "the adjusted rate of an arm is not positive"
    return Estimate(
        control=float(found.control),
        treatment=float(found.treatment),
        difference=float(found.effect_size),
        low=float(found.effect_size_ci_lower),
        high=float(found.effect_size_ci_upper),
        lift=None if lift is None else float(lift),
        lift_low=None if lift_low is None else float(lift_low),
        lift_high=None if lift_high is None else float(lift_high),
        p=float(found.pvalue),
        method="cuped" if cuped else "welch",
        why_none=why_none,
    )


def varies(arm: Any, metric: Metric) -> bool:
    """Whether an arm's rate has a variance that is more than the rounding of its sums."""
    numerator, denominator = RATIOS[metric]
    rate = arm.mean(numerator) / arm.mean(denominator)
    parts = arm.var(numerator) + rate**2 * arm.var(denominator) + 1e-12 * arm.mean(numerator) ** 2
    spread = arm.ratio_var(numerator, denominator) * arm.mean(denominator) ** 2
    return bool(spread > 1e-12 * parts)


def _exact(plain: Estimate, counts: Sequence[int], alpha: float) -> Estimate:
    """Newcombe's hybrid score interval (1998, method 10) and Fisher's exact test.

    ``low = d - sqrt((p2 - l2)^2 + (u1 - p1)^2)`` and ``high = d + sqrt((u2 - p2)^2 + (p1 - l1)^2)``
    with the Wilson intervals (l, u) of both arms: defined for 0 of n as well.
    """
    from scipy import stats

    means = plain.control, plain.treatment
    hits = [round(mean * count) for mean, count in zip(means, counts, strict=True)]
    (low_1, high_1), (low_2, high_2) = (
        stats.binomtest(hit, count).proportion_ci(1 - alpha, method="wilson")
        for hit, count in zip(hits, counts, strict=True)
    )
    table = [[hit, count - hit] for hit, count in zip(hits, counts, strict=True)]
    arm = "control" if means[0] in (0.0, 1.0) else "treatment"
    which = "every user" if means[arm == "treatment"] else "no user"
    return dataclasses.replace(
        plain,
        low=float(plain.difference - math.hypot(means[1] - low_2, high_1 - means[0])),
        high=float(plain.difference + math.hypot(high_2 - means[1], means[0] - low_1)),
        p=float(stats.fisher_exact(table).pvalue),
        method="newcombe_fisher",
        why_none=f"{which} of the {arm} clicked: no interval of the relative lift",
    )


def variance_saved(plain: Estimate, cuped: Estimate) -> float | None:
    """Share of the difference's variance that the pre-period explains: 1 - (width ratio)^2."""
    if plain.low is None or plain.high is None or cuped.low is None or cuped.high is None:
        return None
    return 1 - ((cuped.high - cuped.low) / (plain.high - plain.low)) ** 2


class _PValue(NamedTuple):
    pvalue: float


def adjusted(
    p_values: Mapping[str, float], *, alpha: float, correction: Literal["holm", "fdr"]
) -> dict[str, float]:
    """p-values adjusted over a family: Holm's, or Benjamini and Hochberg's, by tea-tasting."""
    if not p_values:
        return {}
    tt = import_tea_tasting()
    results = {
        name: tt.experiment.ExperimentResult({"p": _PValue(p)}) for name, p in p_values.items()
    }
    if correction == "fdr":
        found = tt.adjust_fdr(results, alpha=alpha)
    else:  # Arbitrary dependence with Bonferroni's steps is Holm's procedure.
        found = tt.adjust_fwer(results, alpha=alpha, arbitrary_dependence=True, method="bonferroni")
    return {row["comparison"]: min(1.0, float(row["pvalue_adj"])) for row in found.to_dicts()}


def sample_ratio_p(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """p-value of the chi-square test that users fell into arms by ``shares``, over all arms."""
    from scipy import stats

    total, whole = sum(counts.values()), sum(shares[arm] for arm in counts)
    expected = [total * shares[arm] / whole for arm in counts]
    return float(stats.chisquare([*counts.values()], expected).pvalue)


@dataclass(frozen=True)
class UsersNeeded:
    """Users of a test, of both arms together and of each, and the effect that they show."""

    users: int
    control: int
    treatment: int
    # Until so many different users have come; None where nobody said how many do a day
    days: int | None
    lift: float
    difference: float


def needed(
    baseline: float,
    lift: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    ratio: float = 1.0,
    users_per_day: float | None = None,
    looks: int | None = None,
    spending: Spending = "obrien_fleming",
) -> UsersNeeded:
    """Users at which a two-sided test on UV-CTR finds a relative ``lift`` with ``power``.

    About ``n = 2 (z_{1 - alpha/2} + z_power)^2 p (1 - p) / (p lift)^2`` for each of two equal arms
    (tea-tasting's ``solve_power``); p is the UV-CTR of the whole duration (``baseline``), ``ratio``
    the users of the treatment for each of the control. ``users_per_day`` counts users seen for the
    first time; ``looks`` are those of a sequential test, which needs a few more users.
    """
    if not 0 < baseline < 1:
        raise GplanError(f"The baseline rate is {baseline:g}; a UV-CTR lies between 0 and 1.")
    if lift == 0 or not 0 < baseline * (1 + lift) < 1:
        raise GplanError(
            f"A lift of {lift:g} on {baseline:g} is none, or leaves 0 to 1; 0.0087 is +0.87%."
        )
    if users_per_day is not None and users_per_day <= 0:
        raise GplanError(f"users per day are {users_per_day:g}; some have to come.")
    import_tea_tasting()
    from tea_tasting.aggr import Aggregates

    one = Aggregates(
        count_=2, mean_={"clicked": baseline}, var_={"clicked": baseline * (1 - baseline)}
    )
    # The t-distribution has no degrees of freedom at the small sizes that the solver starts from.
    analysis = metric_of(
        Metric.UV_CTR, rel_effect_size=lift, alpha=alpha, power=power, ratio=ratio, use_t=False
    )
    found = analysis.solve_power_from_aggregates(one, "n_obs")
    factor = 1.0
    if looks is not None:
        shares = np.arange(1, looks + 1) / looks
        factor = inflation(shares, alpha=alpha, power=power, spending=spending)
    control = math.ceil(factor * found[0].n_obs / (1 + ratio))
    treatment = math.ceil(control * ratio)
    users = control + treatment
    return UsersNeeded(
        users=users,
        control=control,
        treatment=treatment,
        days=math.ceil(users / users_per_day) if users_per_day else None,
        lift=lift,
        difference=baseline * lift,
    )


def detectable(
    control: Any, treatment: Any, metric: Metric, *, alpha: float, power: float, cuped: bool
) -> float | None:
    """The least relative lift that a test of this size finds; None where there is none."""
    users = control.count() + treatment.count()
    numerator, _ = RATIOS[metric]
    if control.count() < 3 or treatment.count() < 3:
        return None
    if control.mean(numerator) == 0 or not varies(control, metric):
        return None
    analysis = metric_of(
        metric,
        cuped=cuped,
        alpha=alpha,
        power=power,
        ratio=treatment.count() / control.count(),
        n_obs=users,
    )
    try:
        found = analysis.solve_power_from_aggregates(control, "rel_effect_size")
    except (ValueError, ArithmeticError, RuntimeError):
        return None  # scipy's non-central t has no number for a few users and a large effect.
    least = float(found[0].rel_effect_size)
    return least if math.isfinite(least) else None
