"""Acc@1 of every arm by order type, time of day and distance, with intervals and row counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gplan_jax.evaluation.report.labels import Label, order_type_label
from gplan_jax.evaluation.report.results import Results
from gplan_jax.evaluation.report.scores import Scores
from gplan_jax.evaluation.scores.intervals import Clusters, proportion_interval
from gplan_jax.gsisr.facts import day_part_of

FEWEST = 10
FEW = 30
DAY_PARTS = {
    "night": "0–5", "morning": "6–10", "noon": "11–13", "afternoon": "14–17", "evening": "18–23",
}  # fmt: skip
DISTANCES = {
    "here": "at the order’s place", "district": "same district", "city": "same city",
    "elsewhere": "another city", "unknown": "unknown",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """Mean over rows and seeds, and its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Slice:
    """Some of the rows.

    Attributes:
        label: what they have in common.
        rows: their places in the results.
        cells: arm -> its figure; empty where there are fewer than FEWEST rows.
    """

    label: Label
    rows: np.ndarray
    cells: Mapping[str, Cell]

    @property
    def count(self) -> int:
        """How many rows it has."""
        return len(self.rows)

    @property
    def few(self) -> bool:
        """Whether its figures are rough: under FEW rows."""
        return self.count < FEW


def by_order_type(results: Results, scores: Scores) -> list[Slice]:
    """One slice an order type, the most frequent first."""
    keys = [row.facts.order_type for row in results.rows]
    often = sorted(set(keys), key=lambda key: (-keys.count(key), key))
    return slices_of(keys, {key: order_type_label(key) for key in often}, results, scores)


def by_day_part(results: Results, scores: Scores) -> list[Slice]:
    """One slice a part of the day."""
    keys = [day_part_of(row.facts.hour) for row in results.rows]
    labels = {part: Label(f"{hours} h", part) for part, hours in DAY_PARTS.items()}
    return slices_of(keys, labels, results, scores)


def by_hour(results: Results, scores: Scores) -> list[Slice]:
    """One slice an hour from 0 to 23, also where it has no rows."""
    keys = [str(row.facts.hour) for row in results.rows]
    labels = {str(hour): Label(str(hour)) for hour in range(24)}
    return slices_of(keys, labels, results, scores, fold_small=False)


def by_distance(results: Results, scores: Scores) -> list[Slice]:
    """One slice for each way the order's place may lie."""
    keys = [row.facts.order_distance for row in results.rows]
    known = {**DISTANCES, **{key: key for key in sorted(set(keys)) if key not in DISTANCES}}
    return slices_of(keys, {k: Label(v) for k, v in known.items()}, results, scores)


def slices_of(
    keys: Sequence[str],
    labels: Mapping[str, Label],
    results: Results,
    scores: Scores,
    *,
    fold_small: bool = True,
) -> list[Slice]:
    """Slices by a key of each row, in the order of ``labels``; each row is in exactly one.

    Intervals are made as those of the whole table, by `proportion_interval` over ids.

    Args:
        keys: [R] the key of each row.
        labels: key -> what its slice is called; every key has one.
        fold_small: slices of fewer than FEWEST rows become one, the last; empty ones are left out.
    """
    members = {key: np.flatnonzero([k == key for k in keys]) for key in labels}
    found = [(labels[key], rows) for key, rows in members.items()]
    if fold_small:
        small = [rows for _, rows in found if len(rows) < FEWEST]
        found = [(label, rows) for label, rows in found if len(rows) >= FEWEST]
        if rest := sorted(int(i) for rows in small for i in rows):
            found.append((Label("all others"), np.array(rest)))
    ids = [row.id for row in results.rows]
    return [Slice(label, rows, _cells(rows, ids, scores)) for label, rows in found]


def _cells(rows: np.ndarray, ids: Sequence[str], scores: Scores) -> dict[str, Cell]:
    of_rows = [ids[row] for row in rows]
    if len(rows) < FEWEST or len(set(of_rows)) < 2:
        return {}
    clusters = Clusters.of(of_rows)
    cells = {}
    for arm, values in scores.constrained.items():
        right_SxN = values["acc1"][:, rows]
        low, high, _ = proportion_interval(right_SxN, clusters)
        cells[arm] = Cell(float(right_SxN.mean()), low, high)
    return cells
