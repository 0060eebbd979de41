"""Scores of every arm, seed and row, and what the page breaks them down by.

Slices of the rows by order type, time and distance; first intents wanted against those answered;
and what intents and order types are called on the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from gplan_jax.evaluation.comparison.results import MEND, PREDICTIONS, SUMMARY, ComparisonResults
from gplan_jax.evaluation.scores.intervals import Clusters, proportion_interval
from gplan_jax.evaluation.significance.arm_summary import MEASURES, score_arm
from gplan_jax.foundation.config import Config, load_config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Intent, IntentLibrary, parse_plan
from gplan_jax.gsisr.facts import day_part_of

TOLERANCE = 6e-4  # a summary may be rounded to three places
NOTHING = -1
LABELS = Path(__file__).parent / "labels.yaml"
FEWEST, FEW = 10, 30  # rows of a slice that has figures; that has them with a decimal
MOST_INTENTS = 9
DAY_PARTS = {
    "night": "0–5", "morning": "6–10", "noon": "11–13", "afternoon": "14–17", "evening": "18–23",
}  # fmt: skip
DISTANCES = {
    "here": "at the order’s place", "district": "same district", "city": "same city",
    "elsewhere": "another city", "unknown": "unknown",
}  # fmt: skip


@dataclass(frozen=True)
class ArmRowScores:
    """Scores of S seeds and R rows, by the measures of ``score_arm``."""

    constrained: Mapping[str, Mapping[str, np.ndarray]]  # arm -> measure -> float [S, R]
    # The same of free plans, of the arms that have them
    free: Mapping[str, Mapping[str, np.ndarray]]
    firsts: Sequence[Mapping[str, str]]  # the distinct first intents of the rows' plans
    wanted_R: np.ndarray  # number of each row's first intent in ``firsts``
    # Arm -> int [S, R], the number of the first intent predicted; one that no row's plan begins
    # with is numbered ``len(firsts)``, none at all NOTHING.
    predicted: Mapping[str, np.ndarray]


def score_results(results: ComparisonResults, library: IntentLibrary) -> ArmRowScores:
    """Scores all plans; GplanError where the means are not those of summary.json."""

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
        for measure in MEASURES:
            stated = results.summary.arms[arm].get(measure)
            if stated is None:
                raise GplanError(f"{SUMMARY} of {results.name} lacks {measure} of {arm}; {MEND}.")
            found = float(constrained[arm][measure].mean())
            if abs(found - stated.mean) > TOLERANCE:
                raise GplanError(
                    f"{SUMMARY} of {results.name} says {measure} {stated.mean:.4f} of {arm}, but "
                    f"the plans in {PREDICTIONS} score {found:.4f}: one of them is of an earlier "
                    f"state. Remove {SUMMARY} and {MEND}."
                )
    names = [dict(intent) for intent in firsts]
    return ArmRowScores(constrained, free, names, np.array(wanted), predicted)


@dataclass(frozen=True)
class DisplayName:
    """Two ways to call one thing; ``english`` is "" where there is none."""

    own: str
    english: str = ""

    @property
    def short(self) -> str:
        """The English label, or its own words where there is none."""
        return self.english or self.own


class _Labels(Config):
    library: str
    tools: dict[str, str]
    values: dict[str, str]
    order_types: dict[str, str]


@cache
def _labels() -> _Labels:
    return load_config(_Labels, LABELS)


def intent_label(intent: Intent, library: IntentLibrary) -> DisplayName:
    """An intent by its tool's meaning and its values, and in English for the shipped library."""
    tool = intent[library.tool_key]
    values = {k: v for k, v in intent.items() if k != library.tool_key}
    meaning = library.tools[tool].meaning if tool in library.tools else ""
    meaning = meaning.split("（")[0].split("(")[0].strip()
    own = " ".join([meaning or tool, "→".join(values.values())]).strip()
    labels = _labels()
    form = labels.tools.get(tool, "") if library.name == labels.library else ""
    try:
        english = form.format_map({k: labels.values[v] for k, v in values.items()})
    except KeyError:
        english = ""
    return DisplayName(own, english)


def order_type_label(order_type: str) -> DisplayName:
    """An order type as written in the rows; rows without an order have none."""
    if not order_type:
        return DisplayName("no order", "no order")
    return DisplayName(order_type, _labels().order_types.get(order_type, ""))


@dataclass(frozen=True)
class SliceMean:
    """Mean over rows and seeds, and its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Slice:
    """Some of the rows: their places in the results, and what they have in common."""

    label: DisplayName
    rows: np.ndarray
    cells: Mapping[str, SliceMean]  # by arm; empty where there are fewer than FEWEST rows

    @property
    def count(self) -> int:
        return len(self.rows)

    @property
    def few(self) -> bool:
        """Whether its figures are rough: under FEW rows."""
        return self.count < FEW


def by_order_type(results: ComparisonResults, scores: ArmRowScores) -> list[Slice]:
    """One slice an order type, the most frequent first."""
    keys = [row.facts.order_type for row in results.rows]
    often = sorted(set(keys), key=lambda key: (-keys.count(key), key))
    return slices_of(keys, {key: order_type_label(key) for key in often}, results, scores)


def by_day_part(results: ComparisonResults, scores: ArmRowScores) -> list[Slice]:
    """One slice a part of the day."""
    keys = [day_part_of(row.facts.hour) for row in results.rows]
    labels = {part: DisplayName(f"{hours} h", part) for part, hours in DAY_PARTS.items()}
    return slices_of(keys, labels, results, scores)


def by_hour(results: ComparisonResults, scores: ArmRowScores) -> list[Slice]:
    """One slice an hour from 0 to 23, also where it has no rows."""
    keys = [str(row.facts.hour) for row in results.rows]
    labels = {str(hour): DisplayName(str(hour)) for hour in range(24)}
    return slices_of(keys, labels, results, scores, fold_small=False)


def by_distance(results: ComparisonResults, scores: ArmRowScores) -> list[Slice]:
    """One slice for each way the order's place may lie."""
    keys = [row.facts.order_distance for row in results.rows]
    known = {**DISTANCES, **{key: key for key in sorted(set(keys)) if key not in DISTANCES}}
    return slices_of(keys, {k: DisplayName(v) for k, v in known.items()}, results, scores)


def slices_of(
    keys: Sequence[str],
    labels: Mapping[str, DisplayName],
    results: ComparisonResults,
    scores: ArmRowScores,
    *,
    fold_small: bool = True,
) -> list[Slice]:
    """Slices by a key of each row, in the order of ``labels``; each row is in exactly one.

    Intervals are made as those of the whole table, by `proportion_interval` over ids. With
    ``fold_small`` slices of fewer than FEWEST rows become one, the last; empty ones are left out.
    """
    members = {key: np.flatnonzero([k == key for k in keys]) for key in labels}
    found = [(labels[key], rows) for key, rows in members.items()]
    if fold_small:
        small = [rows for _, rows in found if len(rows) < FEWEST]
        found = [(label, rows) for label, rows in found if len(rows) >= FEWEST]
        if rest := sorted(int(i) for rows in small for i in rows):
            found.append((DisplayName("all others"), np.array(rest)))
    slices = []
    for label, rows in found:
        ids = [results.rows[int(row)].id for row in rows]
        cells = {}
        if len(rows) >= FEWEST and len(set(ids)) > 1:
            clusters = Clusters.of(ids)
            for arm, values in scores.constrained.items():
                right_SxN = values["acc1"][:, rows]
                low, high, _ = proportion_interval(right_SxN, clusters)
                cells[arm] = SliceMean(float(right_SxN.mean()), low, high)
        slices.append(Slice(label, rows, cells))
    return slices


@dataclass(frozen=True)
class Confusion:
    """Counts of first intents over rows and seeds, K of them by name."""

    labels: Sequence[DisplayName]  # [K + 1], the most frequent wanted ones, and "others"
    rows_wanted: Sequence[int]  # [K + 1], how many rows want each
    # Int [K + 1, K + 2], wanted by predicted; the last column counts answers without a plan. Each
    # row adds to its ``rows_wanted`` times the number of seeds.
    counts: np.ndarray


def confusion_of(arm: str, scores: ArmRowScores, library: IntentLibrary) -> Confusion:
    """Counts an arm's constrained first intents against the wanted ones.

    Intents that the library doesn't admit are "others", so that no free text gets onto the page.
    """
    often = Counter(scores.wanted_R.tolist())
    known = library.parameters
    named = []
    for number in often:
        values = dict(scores.firsts[number])
        if values.pop(library.tool_key, None) in library.tools and all(
            key in known and value in (known[key].values or ()) for key, value in values.items()
        ):
            named.append(number)
    ranked = sorted(named, key=lambda number: (-often[number], number))
    kept = ranked[:MOST_INTENTS] if len(ranked) > MOST_INTENTS + 1 else ranked
    place = {number: i for i, number in enumerate(kept)}
    others, nothing = len(kept), len(kept) + 1
    counts = np.zeros((len(kept) + 1, len(kept) + 2), dtype=int)
    for answers in scores.predicted[arm]:
        for wanted, answer in zip(scores.wanted_R.tolist(), answers.tolist(), strict=True):
            row = place.get(wanted, others)
            counts[row, nothing if answer == NOTHING else place.get(answer, others)] += 1
    labels = [intent_label(dict(scores.firsts[number]), library) for number in kept]
    rows_wanted = [often[number] for number in kept]
    return Confusion(
        labels=[*labels, DisplayName("others")],
        rows_wanted=[*rows_wanted, len(scores.wanted_R) - sum(rows_wanted)],
        counts=counts,
    )
