"""Floors: predictors so simple that a planner which does not beat them has learnt nothing.

A floor is fitted on labelled training rows and then answers with a plan text. Ties go to the
intent or plan whose text comes first, so that the order of the rows does not matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Plan, Sample, canonical_plan, parse_plan
from gplan_jax.gsisr.facts import facts_of


class Floor(Protocol):
    """A fitted floor."""

    def predict(self, sample: Sample) -> str:
        """The plan text for a row, whose label it does not look at."""
        ...


@dataclass(frozen=True)
class MajorityFirstIntent:
    """Always the first intent that most training plans begin with, and nothing else."""

    plan: str

    @classmethod
    def fit(cls, samples: Iterable[Sample], library: IntentLibrary) -> MajorityFirstIntent:
        """Counts the first intents; GplanError where no row has a plan."""
        firsts = (canonical_plan(plan[:1], library) for _, plan in _labelled(samples, library))
        return cls(_most_common(firsts, 1)[0])

    def predict(self, sample: Sample) -> str:
        """The same plan of one intent for every row."""
        return self.plan


@dataclass(frozen=True)
class PopularityList:
    """Always the k intents that stand in most training plans, the most frequent first."""

    plan: str

    @classmethod
    def fit(
        cls, samples: Iterable[Sample], library: IntentLibrary, *, k: int = 4
    ) -> PopularityList:
        """Counts in how many plans each intent stands; GplanError where no row has a plan."""
        intents = (
            text
            for _, plan in _labelled(samples, library)
            for text in {canonical_plan([intent], library) for intent in plan}
        )
        popular = [parse_plan(text, library)[0] for text in _most_common(intents, k)]
        return cls(canonical_plan(popular, library))

    def predict(self, sample: Sample) -> str:
        """The same list for every row."""
        return self.plan


@dataclass(frozen=True)
class TriggerTable:
    """A table of two facts: the order's type, and whether the user is at the order's place.

    Each cell holds the most frequent plan among those that begin with the cell's most frequent
    first intent; a cell that training never saw answers with the plan of all rows.

    Attributes:
        cells: (order type, user is at the order's place) -> plan text.
        otherwise: the plan text for any other row.
    """

    cells: Mapping[tuple[str, bool], str]
    otherwise: str

    @classmethod
    def fit(cls, samples: Iterable[Sample], library: IntentLibrary) -> TriggerTable:
        """Fills the table; GplanError where no row has a plan."""
        rows = _labelled(samples, library)
        plans_of: dict[tuple[str, bool], list[Plan]] = {}
        for sample, plan in rows:
            plans_of.setdefault(_cell(sample), []).append(plan)
        cells = {cell: _majority_plan(plans, library) for cell, plans in plans_of.items()}
        return cls(cells, _majority_plan([plan for _, plan in rows], library))

    def predict(self, sample: Sample) -> str:
        """The plan of the row's cell."""
        return self.cells.get(_cell(sample), self.otherwise)


FLOORS: Mapping[str, Callable[[Sequence[Sample], IntentLibrary], Floor]] = {
    "majority_first_intent": MajorityFirstIntent.fit,
    "popularity_list": PopularityList.fit,
    "trigger_table": TriggerTable.fit,
}


def _cell(sample: Sample) -> tuple[str, bool]:
    facts = facts_of(sample)
    return facts.order_type, facts.order_distance == "here"


def _majority_plan(plans: Sequence[Plan], library: IntentLibrary) -> str:
    [first] = _most_common((canonical_plan(plan[:1], library) for plan in plans), 1)
    texts = [
        canonical_plan(plan, library)
        for plan in plans
        if canonical_plan(plan[:1], library) == first
    ]
    return _most_common(texts, 1)[0]


def _labelled(samples: Iterable[Sample], library: IntentLibrary) -> list[tuple[Sample, Plan]]:
    """The rows that have a plan, with it."""
    rows = [(sample, parse_plan(sample.raw_labels, library)) for sample in samples]
    rows = [(sample, plan) for sample, plan in rows if plan]
    if not rows:
        raise GplanError("No training row has a plan, so there is nothing to fit a floor on.")
    return rows


def _most_common(texts: Iterable[str], count: int) -> list[str]:
    """The ``count`` most frequent texts, ties in the order of the texts themselves."""
    ranked = sorted(Counter(texts).items(), key=lambda item: (-item[1], item[0]))
    return [text for text, _ in ranked[:count]]
