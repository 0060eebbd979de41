"""Nearest neighbours: what the users in the most similar situations did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gplan_jax.baselines.floors.counting import Floor, voted_plan
from gplan_jax.baselines.floors.tabular import TableEncoder, in_fixed_order, one_thread
from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.baselines.rows.labelled_rows import LabelledRows, rows_to_copy
from gplan_jax.foundation.errors import load_extra
from gplan_jax.gsisr import IntentLibrary, Sample, split_by_id

NUMBERS_OF_NEIGHBOURS = (5, 10, 20, 40)
VALIDATION_FRACTION = 0.2
QUANTILES = 8


@dataclass(frozen=True, eq=False)
class Space:
    """Where rows lie, so that Manhattan distance adds up weighted differences of columns.

    A number becomes its quantile in training, 0 to 1, and is half to all of that from no number;
    two categories, or one and none, are 1 apart. A column counts by what it tells of the first
    intent: the mutual information in nats of its bins with the first intent, less its bias
    (bins - 1)(intents - 1) / 2N by Miller and Madow.
    """

    table: TableEncoder
    edges: tuple[np.ndarray, ...]  # a column's training quantiles, or the codes of its categories
    weights: np.ndarray  # float [F]

    @classmethod
    def fit(cls, samples: Sequence[Sample], firsts: np.ndarray, mode: InputMode) -> Space:
        """Quantiles and weights from training rows and their first intents [N]."""
        encoder = TableEncoder.fit(samples, mode)
        table = encoder.encode(samples)
        edges: list[np.ndarray] = []
        weights = []
        for column, is_code in zip(table.T, encoder.categorical, strict=True):
            present_at = ~np.isnan(column)
            present = column[present_at]
            if is_code or not len(present):
                edges.append(np.unique(present))
            else:
                cuts = np.quantile(present, np.linspace(0, 1, QUANTILES + 1)[1:-1])
                edges.append(np.unique(cuts))
            bins = np.where(present_at, np.searchsorted(edges[-1], column, side="right"), -1)
            weights.append(_corrected_information(bins, firsts))
        return cls(encoder, tuple(edges), np.array(weights))

    def points(self, samples: Sequence[Sample]) -> np.ndarray:
        """float32 [N, D] points; columns of no weight are left out."""
        parts = []
        for column, is_code, edges, weight in zip(
            self.table.encode(samples).T, self.table.categorical, self.edges, self.weights,
            strict=True,
        ):  # fmt: skip
            if weight <= 0:
                continue
            absent = np.isnan(column)
            if is_code:
                # Two one-hot entries differ where two categories do.
                parts.append((column[:, None] == edges) * weight / 2)
                parts.append(absent[:, None] * weight / 2)
            else:
                quantile = np.searchsorted(edges, column, side="right") / max(len(edges), 1)
                parts.append(np.where(absent, 0.5, quantile)[:, None] * weight)
                parts.append(absent[:, None] * weight / 2)
        points = np.hstack(parts) if parts else np.zeros((len(samples), 1))
        return points.astype(np.float32)


@dataclass(frozen=True, eq=False)
class NearestNeighbours(Floor):
    """The plan that the k nearest training rows vote for, nearer ones with up to double weight."""

    atoms: Atoms
    space: Space
    plans: tuple[tuple[int, ...], ...]  # of the training rows
    search: Any  # scikit-learn's, over the training rows' points
    k: int

    @classmethod
    def fit(
        cls, samples: Sequence[Sample], library: IntentLibrary, mode: InputMode = InputMode.FULL
    ) -> NearestNeighbours:
        """Chooses k on a fifth of the ids (the smallest of the best), then keeps all rows."""
        atoms = Atoms.of(library)
        rows = rows_to_copy(in_fixed_order(samples), atoms)
        train, held_out = split_by_id(rows.samples, VALIDATION_FRACTION)
        k = NUMBERS_OF_NEIGHBOURS[0]
        if train and held_out:
            trial = cls._of(rows_to_copy(train, atoms), atoms, mode, max(NUMBERS_OF_NEIGHBOURS))
            wanted = rows_to_copy(held_out, atoms).plans
            distances, neighbours = trial._nearest(held_out)

            def hits(number: int) -> int:
                plans = trial._votes(distances[:, :number], neighbours[:, :number])
                return sum(plan[0] == label[0] for plan, label in zip(plans, wanted, strict=True))

            k = max(NUMBERS_OF_NEIGHBOURS, key=lambda number: (hits(number), -number))
        return cls._of(rows, atoms, mode, k)

    @classmethod
    def _of(cls, rows: LabelledRows, atoms: Atoms, mode: InputMode, k: int) -> NearestNeighbours:
        space = Space.fit(rows.samples, np.array([plan[0] for plan in rows.plans]), mode)
        neighbors = load_extra("sklearn.neighbors", "baselines", "the nearest neighbours")
        search = neighbors.NearestNeighbors(metric="manhattan", algorithm="brute")
        return cls(atoms, space, rows.plans, search.fit(space.points(rows.samples)), k)

    def predict(self, samples: Sequence[Sample], *, constrained: bool = True) -> list[str]:
        if not samples:
            return []
        return [self.atoms.text(plan) for plan in self._votes(*self._nearest(samples))]

    def _nearest(self, samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
        """Distances and numbers of the nearest training rows, both [N, k], nearest first."""
        with one_thread():
            return self.search.kneighbors(
                self.space.points(samples), n_neighbors=min(self.k, len(self.plans))
            )

    def _votes(self, distances: np.ndarray, neighbours: np.ndarray) -> list[tuple[int, ...]]:
        farthest = np.maximum(distances.max(axis=1, keepdims=True), 1e-12)
        plans = []
        for row, weights in zip(neighbours, 2.0 - distances / farthest, strict=True):
            votes: dict[tuple[int, ...], float] = {}
            for neighbour, weight in zip(row, weights, strict=True):
                plan = self.plans[neighbour]
                votes[plan] = votes.get(plan, 0.0) + float(weight)
            plans.append(voted_plan(votes, self.atoms))
        return plans


def _corrected_information(bins: np.ndarray, firsts: np.ndarray) -> float:
    """Mutual information of two int columns [N] in nats, less its bias; 0 where that is below."""
    _, bin_of = np.unique(bins, return_inverse=True)
    _, first_of = np.unique(firsts, return_inverse=True)
    joint = np.zeros((bin_of.max() + 1, first_of.max() + 1))
    np.add.at(joint, (bin_of, first_of), 1)
    joint /= len(bins)
    expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    information = float((joint[seen] * np.log(joint[seen] / expected[seen])).sum())
    bias = (joint.shape[0] - 1) * (joint.shape[1] - 1) / (2 * len(bins))
    return max(information - bias, 0.0)
