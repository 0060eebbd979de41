"""A test that may be looked at every day: group sequential bounds by alpha spending.

Looking daily and stopping at the first p < 0.05 finds an effect that isn't there far more often
than in 5% of tests. Lan and DeMets (1983) spend alpha over the planned looks instead: by look k at
most ``alpha(t_k)`` has been spent, t_k being the share of the planned days (calendar time, Lan and
DeMets 1989), and bounds c_k solve

    P(|Z_1| < c_1, ..., |Z_{k-1}| < c_{k-1}, |Z_k| >= c_k) = alpha(t_k) - alpha(t_{k-1}).

Textbook bounds take independent increments for granted. Users who come back, and whose "clicked at
least once" grows from day to day, have none. So the joint normal distribution of the looks is
estimated from the users themselves (the covariance of their influence on each look), and the
bounds are quantiles of simulated paths: the error rate holds under whatever dependence there is.
A repeated interval ``difference -+ c_k se_k`` covers at all looks at once (Jennison and Turnbull
1989), so it may be quoted whenever one stops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np

from gplan_jax.abtest.experiment import AbTest
from gplan_jax.abtest.users import Period, courses
from gplan_jax.foundation.errors import GplanError

Spending = Literal["obrien_fleming", "pocock"]
PATHS = 400_000


@dataclass(frozen=True)
class Course:
    """Both arms at K looks: rates [K, 2], variances of the rates [K, 2], correlation [K, K]."""

    rates_Kx2: np.ndarray
    variances_Kx2: np.ndarray
    correlation_KxK: np.ndarray

    @property
    def z_K(self) -> np.ndarray:
        """Difference over its standard error; 0 where neither arm varies yet."""
        difference = self.rates_Kx2[:, 1] - self.rates_Kx2[:, 0]
        error = np.sqrt(self.variances_Kx2.sum(axis=1))
        return np.divide(difference, error, out=np.zeros_like(difference), where=error > 0)


@dataclass(frozen=True)
class Look:
    """The end of one day; ``low`` to ``lift_high`` are repeated intervals, None if unbounded."""

    day: str
    control: float
    treatment: float
    difference: float
    low: float | None
    high: float | None
    lift: float | None
    lift_low: float | None
    lift_high: float | None
    z: float
    bound: float | None
    crossed: bool


@dataclass(frozen=True)
class Sequential:
    """The looks of a test, and what they decide.

    ``decision`` is ``stop`` (a bound was crossed, on ``stopped_on`` first), ``go_on`` (planned
    looks are left) or ``end`` (the last one has passed without a crossing).
    """

    planned_days: int
    spending: Spending
    alpha: float
    looks: tuple[Look, ...]
    decision: Literal["stop", "go_on", "end"]
    stopped_on: str | None


def spent(share: float, alpha: float, spending: Spending) -> float:
    """The two-sided alpha that may be spent by ``share`` of the planned days, in (0, 1].

    ``obrien_fleming``: ``4 (1 - Phi(z_{1 - alpha/4} / sqrt(t)))``; ``pocock``:
    ``alpha ln(1 + (e - 1) t)`` (Lan and DeMets 1983, half of it on each side).
    """
    from scipy.stats import norm

    if spending == "pocock":
        return alpha * math.log1p((math.e - 1) * share)
    return float(4 * norm.sf(norm.isf(alpha / 4) / math.sqrt(share)))


def bounds(
    correlation_KxK: np.ndarray,
    shares: np.ndarray,
    *,
    alpha: float,
    spending: Spending,
    paths: int = PATHS,
) -> np.ndarray:
    """c_1 ... c_K for |Z|, inf where there is not yet enough alpha to stop at all.

    ``correlation_KxK`` is that of the looks' z: textbook increments have ``sqrt(I_j / I_k)``,
    j <= k. ``shares`` [K] of the planned days rise. The paths are always the same ones; alpha
    comes out within about ``sqrt(alpha / paths)``, 0.0004 at 400,000.
    """
    from scipy.stats import norm

    alive = np.abs(_paths(correlation_KxK, paths))
    found, used = np.full(len(shares), np.inf), 0.0
    for look, share in enumerate(shares):
        goal = spent(share, alpha, spending) - used
        # While no path has been stopped, the tail of one normal is known without simulation.
        exact = len(alive) == paths and goal * paths < 100
        crossing = int(goal * paths)
        if exact:
            found[look] = norm.isf(goal / 2)
        elif crossing:
            found[look] = np.partition(alive[:, look], -crossing)[-crossing]
        alive = alive[alive[:, look] < found[look]]
        used = 1 - len(alive) / paths
    return found


def independent(shares: np.ndarray) -> np.ndarray:
    """The textbook correlation of looks, ``sqrt(t_j / t_k)`` for j <= k: new users every day."""
    return np.sqrt(np.minimum.outer(shares, shares) / np.maximum.outer(shares, shares))


def inflation(shares: np.ndarray, *, alpha: float, power: float, spending: Spending) -> float:
    """How many times the users of a fixed test daily looks need for the same power.

    With ``R`` times the users, look k sees a mean of ``(z_{1 - alpha/2} + z_power) sqrt(R t_k)``;
    R solves P(some look crosses its bound) = power, for independent increments.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    correlation = independent(shares)
    limits = bounds(correlation, shares, alpha=alpha, spending=spending)
    paths = _paths(correlation, PATHS // 4)
    drift = (norm.isf(alpha / 2) + norm.isf(1 - power)) * np.sqrt(shares)

    def missing(factor: float) -> float:
        crossed = np.any(np.abs(paths + drift * math.sqrt(factor)) >= limits, axis=1)
        return float(crossed.mean()) - power

    return float(brentq(missing, 0.5, 4.0, xtol=1e-4))


def _paths(correlation_KxK: np.ndarray, paths: int) -> np.ndarray:
    """Jointly normal z of all looks, [paths, K], always the same draws."""
    values, vectors = np.linalg.eigh(correlation_KxK)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    return np.random.default_rng(0).standard_normal((paths, len(correlation_KxK))) @ root.T


def course(numerator_UxK: np.ndarray, denominator_UxK: np.ndarray, treated_U: np.ndarray) -> Course:
    """Rates of both arms at each look, their variances, and the looks' correlation.

    User u moves the rate ``R_k = sum(Y_k) / sum(D_k)`` of their arm by
    ``(Y_uk - R_k D_uk) / sum(D_k)``, Y and D being their totals up to look k; summed products of
    these over users are the covariances of the looks (delta method, users as clusters).
    """
    looks = numerator_UxK.shape[1]
    rates, variances = np.empty((looks, 2)), np.empty((looks, 2))
    covariance = np.zeros((looks, looks))
    for arm in (0, 1):
        mine = treated_U == bool(arm)
        numerator, denominator = numerator_UxK[mine], denominator_UxK[mine]
        totals = denominator.sum(axis=0)
        totals = np.where(totals > 0, totals, 1)  # An arm that nobody was exposed in yet: 0.
        rates[:, arm] = numerator.sum(axis=0) / totals
        influence = (numerator - rates[:, arm] * denominator) / totals
        products = influence.T @ influence
        variances[:, arm] = np.diag(products)
        covariance += products
    error = np.sqrt(np.diag(covariance))
    scale = np.outer(error, error)
    correlation = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)
    np.fill_diagonal(correlation, 1.0)
    return Course(rates, variances, correlation)


def sequential_analysis(
    period: Period, test: AbTest, treatment: str, *, alpha: float
) -> Sequential:
    """Daily looks at ``treatment`` against the control on the test's metric."""
    days = period.last - period.first + 1
    if test.planned_days is None:
        raise GplanError(
            "A sequential test spends its alpha over planned days; say how many before it starts: "
            "planned_days in the config, or --planned-days."
        )
    if days > test.planned_days:
        raise GplanError(
            f"{period.test.source} has {days} days, but {test.planned_days} were planned: all "
            "alpha is spent by then. Set end to the last planned day."
        )
    if period.missing:
        raise GplanError(
            f"{period.test.source}: {'; '.join(period.missing)}. A look at an incomplete day says "
            "nothing sound: complete the log, or analyse without --sequential."
        )
    numerator, denominator, arm = courses(period, test.metric)
    codes = [period.test.arms.index(name) for name in (test.control, treatment)]
    kept = np.isin(arm, codes)
    found = course(numerator[kept], denominator[kept], arm[kept] == codes[1])
    shares = np.arange(1, days + 1) / test.planned_days
    limits = bounds(found.correlation_KxK, shares, alpha=alpha, spending=test.spending)
    looks = tuple(
        _look(found, k, float(limits[k]), date.fromordinal(period.first + k)) for k in range(days)
    )
    crossed = next((look.day for look in looks if look.crossed), None)
    unfinished = days < test.planned_days
    return Sequential(
        planned_days=test.planned_days,
        spending=test.spending,
        alpha=alpha,
        looks=looks,
        decision="stop" if crossed else "go_on" if unfinished else "end",
        stopped_on=crossed,
    )


def _look(found: Course, k: int, bound: float, day: date) -> Look:
    control, treatment = map(float, found.rates_Kx2[k])
    variances = found.variances_Kx2[k]
    difference, reach = treatment - control, bound * math.sqrt(variances.sum())
    bounded = math.isfinite(bound) and variances.sum() > 0
    lift_low = lift_high = None
    if bounded and control > 0 and treatment > 0:
        relative = bound * math.sqrt(variances[0] / control**2 + variances[1] / treatment**2)
        lift_low = treatment / control * math.exp(-relative) - 1
        lift_high = treatment / control * math.exp(relative) - 1
    return Look(
        day=str(day),
        control=control,
        treatment=treatment,
        difference=difference,
        low=difference - reach if bounded else None,
        high=difference + reach if bounded else None,
        lift=treatment / control - 1 if control else None,
        lift_low=lift_low,
        lift_high=lift_high,
        z=float(found.z_K[k]),
        bound=bound if math.isfinite(bound) else None,
        crossed=bool(abs(found.z_K[k]) >= bound),
    )
