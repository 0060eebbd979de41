"""Fixed-horizon estimates: lift, interval and p-value of one comparison, by tea-tasting.

``Mean`` and ``RatioOfMeans`` are Welch's t-test on users, the delta method for ratios (Deng et al.
2018) and CUPED for covariates (Deng et al. 2013). Where an arm has no clicks, or a click of every
user, the normal approximation breaks down, and the exact ways for proportions take its place.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from gplan_jax.abtest.experiment import Metric
from gplan_jax.abtest.users import COVARIATES, RATIOS
from gplan_jax.foundation.extras import load_extra


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
    if not any(arm.ratio_var(*RATIOS[metric]) > 0 for arm in arms):
        return dataclasses.replace(plain, why_none="all users of both arms are alike")
    analysis = metric_of(metric, cuped=cuped, confidence_level=1 - alpha)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = analysis.analyze_aggregates(control, treatment)
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
