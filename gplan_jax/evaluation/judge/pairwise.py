"""Two plans for the same context: asked in both orders, a win counts where both agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gplan_jax.evaluation.judge.combine import Combine, combined
from gplan_jax.evaluation.judge.verdict import Choice, Preference
from gplan_jax.evaluation.scores.intervals import bootstrap_interval

Outcome = Literal["win", "tie", "loss", "unscored", "identical", "no_plan", "filtered"]
OUTCOMES: tuple[Outcome, ...] = (
    "win", "tie", "loss", "unscored", "identical", "no_plan", "filtered",
)  # fmt: skip
POINTS: Mapping[Outcome, float] = {"win": 1.0, "tie": 0.5, "loss": 0.0}
EVEN = 0.5


@dataclass(frozen=True, slots=True)
class Compared:
    """One judge's comparison of one row.

    Attributes:
        user: the row's id.
        outcome: of the first file's plan.
        choices: what was preferred with the first file's plan shown first, and shown second; None
            where it wasn't asked or can't be told.
    """

    user: str
    outcome: Outcome
    choices: tuple[Choice | None, Choice | None] = (None, None)


def outcome_of(shown_first: Preference, shown_second: Preference) -> Outcome:
    """The outcome for a plan that was shown first and then second.

    A win or a loss needs both orders to say so; all else that is told is a tie.
    """
    match shown_first.choice, shown_second.choice:
        case (None, _) | (_, None):
            return "unscored"
        case ("first", "second"):
            return "win"
        case ("second", "first"):
            return "loss"
        case _:
            return "tie"


def summarize_pairs(
    compared: Mapping[str, Sequence[Compared]], *, combine: Combine, seed: int
) -> dict[str, Any]:
    """Counts, win rate and position bias by judge, and the win rate of the judges together.

    Returns:
        {"judges": {judge: {outcome: rows, "win_rate", "interval", "first_share",
        "inconsistent"}}, "combined": {"rows", "win_rate", "interval"} or None}. The win rate is
        the mean of 1 for a win, 1/2 for a tie and 0 for a loss; its interval draws whole users.
        ``first_share`` is how often the plan shown first was preferred when one was (1/2 without
        position bias), ``inconsistent`` the share of pairs whose two orders contradict each other
        outright; None where nothing was told.
    """
    judges: dict[str, Any] = {}
    for name, rows in compared.items():
        counts = Counter(row.outcome for row in rows)
        points = [POINTS.get(row.outcome) for row in rows]
        judges[name] = {
            **{outcome: counts[outcome] for outcome in OUTCOMES},
            **_rate(points, [row.user for row in rows], seed),
            **_position(rows),
        }
    if len(compared) < 2:
        return {"judges": judges, "combined": None}
    units = list(zip(*compared.values(), strict=True))
    together = [
        combined([POINTS.get(row.outcome) for row in unit], combine, default=EVEN) for unit in units
    ]
    scored = sum(points is not None for points in together)
    rate = _rate(together, [unit[0].user for unit in units], seed)
    return {"judges": judges, "combined": {"rows": scored, **rate}}


def _rate(points: Sequence[float | None], users: Sequence[str], seed: int) -> dict[str, Any]:
    told = [(point, user) for point, user in zip(points, users, strict=True) if point is not None]
    if not told:
        return {"win_rate": None, "interval": None}
    values_Nx1 = np.array([[point] for point, _ in told])
    [bounds] = bootstrap_interval(values_Nx1, [user for _, user in told], seed=seed).tolist()
    return {"win_rate": float(values_Nx1.mean()), "interval": bounds}


def _position(rows: Sequence[Compared]) -> dict[str, float | None]:
    told = [row.choices for row in rows if row.outcome in POINTS]
    preferred = [choice for pair in told for choice in pair if choice != "tie"]
    outright = sum(pair in (("first", "first"), ("second", "second")) for pair in told)
    return {
        "first_share": preferred.count("first") / len(preferred) if preferred else None,
        "inconsistent": outright / len(told) if told else None,
    }
