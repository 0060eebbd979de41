"""The three cheap floors: one intent, one list, and a table of two facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gplan_jax.baselines.floors.base import most_common, with_plans
from gplan_jax.gsisr import IntentLibrary, Plan, Sample, canonical_plan, parse_plan
from gplan_jax.gsisr.facts import facts_of


@dataclass(frozen=True)
class MajorityFirstIntent:
    """Always the first intent that most training plans begin with, and nothing else."""

    plan: str

    @classmethod
    def fit(cls, samples: Iterable[Sample], library: IntentLibrary) -> MajorityFirstIntent:
        """Counts the first intents; GplanError where no row has a plan."""
        firsts = (canonical_plan(plan[:1], library) for _, plan in with_plans(samples, library))
        return cls(most_common(firsts, 1)[0])

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
            for _, plan in with_plans(samples, library)
            for text in {canonical_plan([intent], library) for intent in plan}
        )
        popular = [parse_plan(text, library)[0] for text in most_common(intents, k)]
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
        rows = with_plans(samples, library)
        plans_of: dict[tuple[str, bool], list[Plan]] = {}
        for sample, plan in rows:
            plans_of.setdefault(_cell(sample), []).append(plan)
        cells = {cell: _majority_plan(plans, library) for cell, plans in plans_of.items()}
        return cls(cells, _majority_plan([plan for _, plan in rows], library))

    def predict(self, sample: Sample) -> str:
        """The plan of the row's cell."""
        return self.cells.get(_cell(sample), self.otherwise)


def _cell(sample: Sample) -> tuple[str, bool]:
    facts = facts_of(sample)
    return facts.order_type, facts.order_distance == "here"


def _majority_plan(plans: Sequence[Plan], library: IntentLibrary) -> str:
    [first] = most_common((canonical_plan(plan[:1], library) for plan in plans), 1)
    texts = [
        canonical_plan(plan, library)
        for plan in plans
        if canonical_plan(plan[:1], library) == first
    ]
    return most_common(texts, 1)[0]
