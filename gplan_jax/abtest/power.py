"""How many users a lift takes, how long that lasts, and what a given log could have found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gplan_jax.abtest.estimates import import_tea_tasting, metric_of
from gplan_jax.abtest.experiment import Metric
from gplan_jax.abtest.sequential import Spending, inflation
from gplan_jax.abtest.users import RATIOS
from gplan_jax.foundation.errors import GplanError


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
    """The least relative lift that a test of this size finds; None without spread or clicks."""
    users = control.count() + treatment.count()
    numerator, denominator = RATIOS[metric]
    if control.count() < 3 or treatment.count() < 3:
        return None
    if control.mean(numerator) == 0 or not control.ratio_var(numerator, denominator) > 0:
        return None
    analysis = metric_of(
        metric,
        cuped=cuped,
        alpha=alpha,
        power=power,
        ratio=treatment.count() / control.count(),
        n_obs=users,
    )
    found = analysis.solve_power_from_aggregates(control, "rel_effect_size")
    return float(found[0].rel_effect_size)
