"""Which first intent an arm gives where another one is wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gplan_jax.evaluation.report.labels import Label, intent_label
from gplan_jax.evaluation.report.scores import NOTHING, Scores
from gplan_jax.gsisr import IntentLibrary

MOST_INTENTS = 9


@dataclass(frozen=True)
class Confusion:
    """Counts of first intents over rows and seeds, K of them by name.

    Attributes:
        labels: [K + 1], the most frequent wanted ones, and "others".
        rows_wanted: [K + 1], how many rows want each.
        counts: int [K + 1, K + 2], wanted by predicted; the last column counts answers without a
            plan. Each row adds to its ``rows_wanted`` times the number of seeds.
        right: int [K + 1], how many are exactly right; of "others" less than its diagonal cell.
    """

    labels: Sequence[Label]
    rows_wanted: Sequence[int]
    counts: np.ndarray
    right: np.ndarray


def confusion_of(arm: str, scores: Scores, library: IntentLibrary) -> Confusion:
    """Counts an arm's constrained first intents against the wanted ones.

    The most frequent ones that the library admits are named, so that no free text gets onto the
    page; all else is "others".
    """
    often = Counter(scores.wanted_R.tolist())
    named = [number for number in often if _admitted(scores.firsts[number], library)]
    ranked = sorted(named, key=lambda number: (-often[number], number))
    kept = ranked[:MOST_INTENTS] if len(ranked) > MOST_INTENTS + 1 else ranked
    place = {number: i for i, number in enumerate(kept)}
    others, nothing = len(kept), len(kept) + 1
    counts = np.zeros((len(kept) + 1, len(kept) + 2), dtype=int)
    right = np.zeros(len(kept) + 1, dtype=int)
    for answers in scores.predicted[arm]:
        for wanted, answer in zip(scores.wanted_R.tolist(), answers.tolist(), strict=True):
            row = place.get(wanted, others)
            counts[row, nothing if answer == NOTHING else place.get(answer, others)] += 1
            right[row] += wanted == answer
    labels = [intent_label(dict(scores.firsts[number]), library) for number in kept]
    rows_wanted = [often[number] for number in kept]
    return Confusion(
        labels=[*labels, Label("others")],
        rows_wanted=[*rows_wanted, len(scores.wanted_R) - sum(rows_wanted)],
        counts=counts,
        right=right,
    )


def _admitted(intent: Mapping[str, str], library: IntentLibrary) -> bool:
    parameters = {key: value for key, value in intent.items() if key != library.tool_key}
    return intent.get(library.tool_key) in library.tools and all(
        key in library.parameters and value in (library.parameters[key].values or ())
        for key, value in parameters.items()
    )
