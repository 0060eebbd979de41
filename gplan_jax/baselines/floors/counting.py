"""Floors that count training plans: one intent, one list, a table of two facts, one of three.

Ties go to the intent or plan whose text or number comes first, so that the order of the rows does
not matter.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.baselines.rows.labelled_rows import rows_to_copy
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Plan, Sample, canonical_plan, facts_of, parse_plan

Cell = tuple[str | int | bool | None, ...]
# Hours from now to the order's start: long past, since last evening, today, soon, ...
START_HOURS = (-24, -12, 0, 6, 24)
FEWEST_ROWS = 5


def start_range(hours: float | None) -> int | None:
    """Which of the ranges that ``START_HOURS`` divide; None without a start."""
    return None if hours is None else bisect_right(START_HOURS, hours)


class Floor:
    """A fitted floor, so simple that a planner which does not beat it learnt nothing."""

    parameters: ClassVar[int] = 0

    def predict(self, samples: Sequence[Sample], *, constrained: bool = True) -> list[str]:
        """The plan text for each row, whose label it does not look at."""
        return [self.plan_for(sample) for sample in samples]

    def plan_for(self, sample: Sample) -> str:
        return self.predict([sample])[0]


@dataclass(frozen=True)
class MajorityFirstIntent(Floor):
    """Always the first intent that most training plans begin with, and nothing else."""

    plan: str

    @classmethod
    def fit(
        cls, samples: Iterable[Sample], library: IntentLibrary, mode: InputMode = InputMode.FULL
    ) -> MajorityFirstIntent:
        """Counts the first intents; GplanError where no row has a plan."""
        firsts = (canonical_plan(plan[:1], library) for _, plan in with_plans(samples, library))
        return cls(most_common(firsts, 1)[0])

    def plan_for(self, sample: Sample) -> str:
        return self.plan


@dataclass(frozen=True)
class PopularityList(Floor):
    """Always the k intents that stand in most training plans, the most frequent first."""

    plan: str

    @classmethod
    def fit(
        cls,
        samples: Iterable[Sample],
        library: IntentLibrary,
        mode: InputMode = InputMode.FULL,
        *,
        k: int = 4,
    ) -> PopularityList:
        """Counts in how many plans each intent stands; GplanError where no row has a plan."""
        intents = (
            text
            for _, plan in with_plans(samples, library)
            for text in {canonical_plan([intent], library) for intent in plan}
        )
        popular = [parse_plan(text, library)[0] for text in most_common(intents, k)]
        return cls(canonical_plan(popular, library))

    def plan_for(self, sample: Sample) -> str:
        return self.plan


@dataclass(frozen=True)
class TriggerTable(Floor):
    """A table of two facts: the order's type, and whether the user is at the order's place.

    Each cell holds the most frequent plan among those that begin with the cell's most frequent
    first intent; a cell that training never saw answers with the plan of all rows.
    """

    cells: Mapping[tuple[str, bool], str]
    otherwise: str

    @classmethod
    def fit(
        cls, samples: Iterable[Sample], library: IntentLibrary, mode: InputMode = InputMode.FULL
    ) -> TriggerTable:
        """Fills the table; GplanError for the mode HISTORY, or where no row has a plan."""
        _refuse_history("trigger_table", mode)
        rows = with_plans(samples, library)
        plans_of: dict[tuple[str, bool], list[Plan]] = {}
        for sample, plan in rows:
            plans_of.setdefault(_cell(sample), []).append(plan)
        cells = {cell: _majority_plan(plans, library) for cell, plans in plans_of.items()}
        return cls(cells, _majority_plan([plan for _, plan in rows], library))

    def plan_for(self, sample: Sample) -> str:
        return self.cells.get(_cell(sample), self.otherwise)


@dataclass(frozen=True)
class ContextTable(Floor):
    """The order's type x what its place is to the user x how long until it starts.

    The place is where the user is, home, work or another. A cell answers with the plan that most
    of its rows lead to (``voted_plan``). A cell of fewer than five training rows is not believed:
    the row is looked up by whether the user is at the order's place alone, then without the time,
    then by nothing.
    """

    cells: Mapping[Cell, str]  # () answers for any row

    @classmethod
    def fit(
        cls, samples: Iterable[Sample], library: IntentLibrary, mode: InputMode = InputMode.FULL
    ) -> ContextTable:
        """Fills the table; GplanError for the mode HISTORY, or where no row has a usable plan."""
        _refuse_history("context_table", mode)
        atoms = Atoms.of(library)
        rows = rows_to_copy(samples, atoms)
        votes: dict[Cell, Counter[tuple[int, ...]]] = {}
        for sample, plan in zip(rows.samples, rows.plans, strict=True):
            for cell in cells_of(sample):
                votes.setdefault(cell, Counter())[plan] += 1
        return cls({
            cell: atoms.text(voted_plan(counts, atoms))
            for cell, counts in votes.items()
            if cell == () or counts.total() >= FEWEST_ROWS
        })  # fmt: skip

    def plan_for(self, sample: Sample) -> str:
        return next(self.cells[cell] for cell in cells_of(sample) if cell in self.cells)


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


def cells_of(sample: Sample) -> tuple[Cell, ...]:
    """A row's cells, from the finest to the one of all rows."""
    facts = facts_of(sample)
    start = start_range(facts.hours_to_start)
    at = "home" if facts.order_at_home else "work" if facts.order_at_work else "other"
    kind, match = facts.order_type, "here" if facts.order_distance == "here" else at
    return (kind, match, start), (kind, match == "here", start), (kind, match == "here"), ()


def _refuse_history(name: str, mode: InputMode) -> None:
    """GplanError where a floor that uses the context alone is asked to do without it."""
    if mode == InputMode.HISTORY:
        raise GplanError(
            f"{name} looks up facts of the order, which the history mode does not show; leave it "
            "out, or compare with the full context."
        )


def with_plans(samples: Iterable[Sample], library: IntentLibrary) -> list[tuple[Sample, Plan]]:
    """The rows that have a plan, with it; GplanError where none has."""
    rows = [(sample, parse_plan(sample.raw_labels, library)) for sample in samples]
    rows = [(sample, plan) for sample, plan in rows if plan]
    if not rows:
        raise GplanError("No training row has a plan, so there is nothing to fit a floor on.")
    return rows


def most_common(texts: Iterable[str], count: int) -> list[str]:
    """The ``count`` most frequent texts, ties in the order of the texts themselves."""
    ranked = sorted(Counter(texts).items(), key=lambda item: (-item[1], item[0]))
    return [text for text, _ in ranked[:count]]


def voted_plan(votes: Mapping[tuple[int, ...], float], atoms: Atoms) -> tuple[int, ...]:
    """The plan that most votes lead to, intent by intent: one of the plans voted for.

    The first intent with the most votes is taken, then among the plans that begin with it the
    second one or the end, and so on; ties go to the smaller number.
    """
    taken: tuple[int, ...] = ()
    while True:
        left: dict[int, float] = {}
        for plan, weight in votes.items():
            if plan[: len(taken)] == taken:
                following = plan[len(taken)] if len(plan) > len(taken) else atoms.END
                left[following] = left.get(following, 0.0) + weight
        best = min(left, key=lambda atom: (-left[atom], atom))
        if best == atoms.END:
            return taken
        taken = (*taken, best)
