"""How large a difference a comparison could have shown, before one reads that none was found."""

from __future__ import annotations

from math import sqrt

from gplan_jax.evaluation.significance.libraries import load
from gplan_jax.foundation import GplanError

POWER = 0.8


def detectable_difference(
    spread: float, units: int, *, alpha: float = 0.05, power: float = POWER
) -> float:
    """The smallest difference that a paired comparison shows with that power.

    The paired t-test's: ``d spread`` with the effect size d at which a two-sided test at ``alpha``
    on ``units`` differences rejects with probability ``power`` (about
    ``(z_{1 - alpha/2} + z_power) / sqrt(units)``); ``statsmodels.stats.power.TTestPower``.

    Args:
        spread: standard deviation of the paired differences.
        units: how many independent ones there are (ids, not rows, where ids repeat).
        alpha: level of the test; alpha / m for the worst of m comparisons under Holm.
        power: between 0 and 1.

    Raises:
        GplanError: fewer than two units, or a negative spread.
    """
    if units < 2 or spread < 0:
        raise GplanError(
            f"{units} units of spread {spread}: a comparison needs two independent units at least "
            "and a spread that is not negative."
        )
    return float(_effect_size(units, alpha, power) * spread)


def detectable_accuracy(
    disagreement: float, rows: int, *, alpha: float = 0.05, power: float = POWER
) -> float:
    """The smallest difference of two accuracies that McNemar's test shows with that power.

    Where a share psi of the rows is right under one arm only, a difference delta has the variance
    ``psi - delta^2`` a row (Connor 1987), so ``delta = d sqrt(psi - delta^2)``, that is
    ``d sqrt(psi / (1 + d^2))``. A result above ``disagreement`` can't occur: with so few rows on
    which the arms differ no difference can be shown.

    Args:
        disagreement: psi, between 0 and 1.
        rows: how many independent rows there are.
        alpha: level of the test.
        power: between 0 and 1.

    Raises:
        GplanError: fewer than two rows, or ``disagreement`` is no share.
    """
    if rows < 2 or not 0 <= disagreement <= 1:
        raise GplanError(
            f"{rows} rows, disagreement {disagreement}: a comparison needs two rows at least and "
            "a share of rows between 0 and 1."
        )
    effect = _effect_size(rows, alpha, power)
    return float(effect * sqrt(disagreement / (1 + effect**2)))


def _effect_size(units: int, alpha: float, power: float) -> float:
    """The root of statsmodels' power function, whose own solver fails for a few units.

    The tail on the wrong side, below 1e-6 at any useful power, is left out: scipy's non-central t
    is no number there.
    """
    power_of = load("statsmodels.stats.power").TTestPower().power

    def excess(effect: float) -> float:
        return float(power_of(effect, units, alpha / 2, alternative="larger")) - power

    highest = 4 / sqrt(units)
    while excess(highest) < 0:
        highest *= 2
    return float(load("scipy.optimize").brentq(excess, 0.0, highest))
