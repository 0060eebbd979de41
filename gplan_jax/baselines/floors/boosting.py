"""Gradient boosting: the first intent alone, or the whole plan, intent after intent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gplan_jax.baselines.floors.counting import Floor
from gplan_jax.baselines.floors.tabular import TableEncoder, in_fixed_order, one_thread
from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.baselines.rows.labelled_rows import labelled_rows
from gplan_jax.foundation.errors import load_extra
from gplan_jax.gsisr import IntentLibrary, Sample
from gplan_jax.gsisr.filter import PlanRules, plan_rules

# An iteration grows one tree for each class, so classes are what a fit costs: no more than these,
# and none that fewer rows than this have.
MOST_CLASSES, FEWEST_ROWS = 24, 5
# Beyond this many rows a larger sample would not change the trees' bins but their cost.
MOST_ROWS = 40_000
SETTINGS: dict[str, Any] = {
    "max_iter": 30,
    "learning_rate": 0.1,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 10,
    "max_features": 0.5,
    "early_stopping": False,
    "random_state": 0,
}


@dataclass(frozen=True, eq=False)
class Choice:
    """What comes next, from a table: a classifier over frequent actions, the rest by frequency."""

    classes: tuple[int, ...]  # the actions that the classifier tells apart, ascending
    classifier: Any  # None where there is but one class
    columns: np.ndarray  # of the table, those that have a value in some training row
    shares: np.ndarray  # float [A + 1], each action's share of the training rows

    @classmethod
    def fit(
        cls, table: np.ndarray, actions: np.ndarray, categorical: Sequence[bool], count: int
    ) -> Choice:
        """Fits on table [N, F] and actions [N], each below ``count``."""
        counts = np.bincount(actions, minlength=count)
        frequent = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
        enough = [int(a) for a in frequent if counts[a] >= FEWEST_ROWS]
        classes = tuple(sorted(enough or [int(frequent[0])]))
        known = np.isin(actions, classes)
        columns = np.flatnonzero(~np.isnan(table[known]).all(axis=0))
        shares = counts / counts.sum()
        ensemble = load_extra("sklearn.ensemble", "baselines", "gradient boosting")
        classifier = ensemble.HistGradientBoostingClassifier(
            categorical_features=np.array(categorical)[columns], **SETTINGS
        )
        if len(classes) == 1:
            return cls(classes, None, columns, shares)
        with one_thread():
            classifier.fit(table[known][:, columns], actions[known])
        return cls(classes, classifier, columns, shares)

    def scores(self, table: np.ndarray) -> np.ndarray:
        """float [N, A + 1]: the classes' probabilities; other actions rank behind them all, by
        their share in training, so that some action is left whatever the rules close."""
        scores = np.tile(self.shares - 1.0, (len(table), 1))
        if self.classifier is None:
            scores[:, self.classes[0]] = 1.0
        elif len(table):
            with one_thread():
                scores[:, list(self.classes)] = self.classifier.predict_proba(
                    table[:, self.columns]
                )
        return scores


@dataclass(frozen=True, eq=False)
class GradientBoostingFirst(Floor):
    """The first intent by gradient boosting, and nothing else."""

    atoms: Atoms
    table: TableEncoder
    first: Choice

    @classmethod
    def fit(
        cls, samples: Sequence[Sample], library: IntentLibrary, mode: InputMode = InputMode.FULL
    ) -> GradientBoostingFirst:
        """Fits on the rows' table; GplanError where no row has a usable plan."""
        atoms = Atoms.of(library)
        rows = labelled_rows(in_fixed_order(samples), atoms)
        table = TableEncoder.fit(rows.samples, mode)
        firsts = np.array([plan[0] for plan in rows.plans])
        first = Choice.fit(table.encode(rows.samples), firsts, table.categorical, atoms.count + 1)
        return cls(atoms, table, first)

    def predict(self, samples: Sequence[Sample], *, constrained: bool = True) -> list[str]:
        scores = self.first.scores(self.table.encode(samples))[:, : self.atoms.END]
        return [self.atoms.text([int(atom)]) for atom in scores.argmax(axis=1)]


@dataclass(frozen=True, eq=False)
class GradientBoosting(Floor):
    """The whole plan by gradient boosting, intent after intent.

    One classifier gives the first intent from the row's table, a second one what follows, or the
    end, from the table and the intents so far: their number, the last two, and which tools there
    are. Only what the plan rules leave open is chosen, so every plan passes the filter.
    """

    atoms: Atoms
    table: TableEncoder
    first: Choice
    following: Choice
    rules: PlanRules

    @classmethod
    def fit(
        cls, samples: Sequence[Sample], library: IntentLibrary, mode: InputMode = InputMode.FULL
    ) -> GradientBoosting:
        """Fits on the rows' table; GplanError where no row has a usable plan."""
        start = GradientBoostingFirst.fit(samples, library, mode)
        atoms = start.atoms
        rows = labelled_rows(in_fixed_order(samples), atoms)
        # Every step but the first of every plan, or an even selection of so many.
        steps = [
            (row, plan[:position], (*plan, atoms.END)[position])
            for row, plan in enumerate(rows.plans)
            for position in range(1, len(plan) + 1)
        ]
        steps = steps[:: -(-len(steps) // MOST_ROWS)]
        table = start.table.encode(rows.samples)[[row for row, _, _ in steps]]
        so_far = np.array([intents_so_far(plan, atoms) for _, plan, _ in steps])
        # scikit-learn takes categories below 255; more atoms are numbers, ordered by tool anyway.
        few = atoms.count < 254
        so_far_categorical = (False, few, few, *(False for _ in library.tools))
        following = Choice.fit(
            np.hstack([table, so_far]),
            np.array([action for _, _, action in steps]),
            (*start.table.categorical, *so_far_categorical),
            atoms.count + 1,
        )
        rules = plan_rules(library, atoms.intents)
        return cls(atoms, start.table, start.first, following, rules)

    def predict(self, samples: Sequence[Sample], *, constrained: bool = True) -> list[str]:
        """A plan that passes the filter for each row."""
        table = self.table.encode(samples)
        plans: list[tuple[int, ...]] = [() for _ in samples]
        ended = np.zeros(len(samples), bool)
        for step in range(self.rules.maximum):
            rows = np.flatnonzero(~ended)
            if step == 0:
                scores = self.first.scores(table)
            else:
                so_far = [intents_so_far(plans[row], self.atoms) for row in rows]
                scores = self.following.scores(np.hstack([table[rows], np.array(so_far)]))
            for row, row_scores in zip(rows, scores, strict=True):
                ways = open_now(plans[row], self.rules)
                best = max(ways, key=lambda action: (row_scores[action], -action))
                if best == self.atoms.END:
                    ended[row] = True
                else:
                    plans[row] = (*plans[row], best)
            if ended.all():
                break
        return [self.atoms.text(plan) for plan in plans]


def open_now(plan: Sequence[int], rules: PlanRules) -> list[int]:
    """The actions that the rules leave open after a plan: atoms, and their number for its end."""
    end = rules.all.bit_length()
    left = rules.all if any(rules.yields >> atom & 1 for atom in plan) else rules.free
    for atom in plan:
        left &= ~rules.closes[atom]
    ways = [a for a in range(end) if left >> a & 1] if len(plan) < rules.maximum else []
    return [*ways, end] if len(plan) >= rules.minimum else ways


def intents_so_far(plan: Sequence[int], atoms: Atoms) -> list[float]:
    """What the table says of the intents so far: [length, last, last but one, tools' flags]."""
    tools = {atoms.intents[atom][atoms.library.tool_key] for atom in plan}
    last = [float(plan[-back] + 1) if len(plan) >= back else 0.0 for back in (1, 2)]
    return [float(len(plan)), *last, *(float(tool in tools) for tool in atoms.library.tools)]
