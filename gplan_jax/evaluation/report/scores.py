"""Scores of every arm, seed and row, from the plans that a results directory holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from gplan_jax.evaluation.report.results import MEND, PREDICTIONS, SUMMARY, Results
from gplan_jax.evaluation.significance.arm_summary import score_arm
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, parse_plan

MEASURES = ("acc1", "ndcg3", "nes")
TOLERANCE = 6e-4  # a summary may be rounded to three places
NOTHING = -1


@dataclass(frozen=True)
class Scores:
    """S seeds, R rows.

    Attributes:
        constrained, free: arm -> measure (those of `score_arm`) -> float [S, R]; an arm without
            free plans has no entry in ``free``.
        firsts: the distinct first intents of the rows' plans.
        wanted_R: int [R], the number of each row's first intent.
        predicted: arm -> int [S, R], the number of the first intent predicted; one that no row's
            plan begins with is numbered ``len(firsts)``, none at all NOTHING.
    """

    constrained: Mapping[str, Mapping[str, np.ndarray]]
    free: Mapping[str, Mapping[str, np.ndarray]]
    firsts: Sequence[Mapping[str, str]]
    wanted_R: np.ndarray
    predicted: Mapping[str, np.ndarray]


def score_results(results: Results, library: IntentLibrary) -> Scores:
    """Scores all plans.

    Raises:
        GplanError: a label holds no plan, or the means differ from those of summary.json, which
            then was made from other predictions.
    """

    @cache
    def first(text: str) -> tuple[tuple[str, str], ...] | None:
        plan = parse_plan(text, library)
        return tuple(plan[0].items()) if plan else None

    firsts: dict[tuple[tuple[str, str], ...], int] = {}
    wanted = []
    for number, row in enumerate(results.rows, start=1):
        intent = first(row.label)
        if intent is None:
            raise GplanError(
                f"{PREDICTIONS} of {results.name}, line {number}: the label holds no plan; {MEND}."
            )
        wanted.append(firsts.setdefault(intent, len(firsts)))

    def number_of(text: str) -> int:
        intent = first(text)
        return NOTHING if intent is None else firsts.get(intent, len(firsts))

    labels = [row.label for row in results.rows]
    constrained, free, predicted = {}, {}, {}
    for arm in results.arms:
        of_row = [row.arms[arm] for row in results.rows]
        texts = list(zip(*(answers.constrained for answers in of_row), strict=True))
        constrained[arm] = score_arm(texts, labels, library)
        predicted[arm] = np.array([[number_of(text) for text in seed] for seed in texts])
        if unbound := list(zip(*(answers.free for answers in of_row), strict=True)):
            free[arm] = score_arm(unbound, labels, library)
    _check_summary(results, constrained)
    names = [dict(intent) for intent in firsts]
    return Scores(constrained, free, names, np.array(wanted), predicted)


def _check_summary(results: Results, constrained: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    for arm, values in constrained.items():
        for measure in MEASURES:
            stated = results.summary.arms[arm].get(measure)
            if stated is None:
                raise GplanError(f"{SUMMARY} of {results.name} lacks {measure} of {arm}; {MEND}.")
            found = float(values[measure].mean())
            if abs(found - stated.mean) > TOLERANCE:
                raise GplanError(
                    f"{SUMMARY} of {results.name} says {measure} {stated.mean:.4f} of {arm}, but "
                    f"the plans in {PREDICTIONS} score {found:.4f}: one of them is of an earlier "
                    f"state. Remove {SUMMARY} and {MEND}."
                )
