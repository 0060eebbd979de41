"""A table of three facts of the order, backing off to fewer where training saw too few rows."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gplan_jax.baselines.floors.base import rows_to_copy, voted_plan
from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Facts, IntentLibrary, Sample, facts_of

Cell = tuple[str | int | bool | None, ...]
# Hours from now to the order's start: long past, since last evening, today, soon, ...
START_HOURS = (-24, -12, 0, 6, 24)
FEWEST_ROWS = 5


@dataclass(frozen=True)
class ContextTable:
    """The order's type x what its place is to the user x how long until it starts.

    The place is where the user is, home, work or another. A cell answers with the plan that most
    of its rows lead to (``voted_plan``). A cell of fewer than five training rows is not believed:
    the row is looked up by whether the user is at the order's place alone, then without the time,
    then by nothing.

    Attributes:
        cells: cell -> plan text; () answers for any row.
    """

    cells: Mapping[Cell, str]

    @classmethod
    def fit(
        cls,
        samples: Sequence[Sample],
        library: IntentLibrary,
        mode: InputMode = InputMode.FULL,
    ) -> ContextTable:
        """Fills the table.

        Raises:
            GplanError: ``mode`` is HISTORY, which shows none of the three facts; no row has a
                usable plan.
        """
        refuse_history("context_table", mode)
        atoms = Atoms.of(library)
        rows = rows_to_copy(samples, atoms)
        votes: dict[Cell, Counter[tuple[int, ...]]] = {}
        for sample, plan in zip(rows.samples, rows.plans, strict=True):
            for cell in cells_of(sample):
                votes.setdefault(cell, Counter())[plan] += 1
        believed = {
            cell: counts
            for cell, counts in votes.items()
            if cell == () or counts.total() >= FEWEST_ROWS
        }
        return cls(
            {cell: atoms.text(voted_plan(counts, atoms)) for cell, counts in believed.items()}
        )

    def predict(self, sample: Sample) -> str:
        """The plan of the finest cell that the table has for the row."""
        return next(self.cells[cell] for cell in cells_of(sample) if cell in self.cells)


def cells_of(sample: Sample) -> tuple[Cell, ...]:
    """A row's cells, from the finest to the one of all rows."""
    facts = facts_of(sample)
    hours = facts.hours_to_start
    start = None if hours is None else bisect_right(START_HOURS, hours)
    kind, match = facts.order_type, _place_match(facts)
    return (kind, match, start), (kind, match == "here", start), (kind, match == "here"), ()


def _place_match(facts: Facts) -> str:
    if facts.order_distance == "here":
        return "here"
    return "home" if facts.order_at_home else "work" if facts.order_at_work else "other"


def refuse_history(name: str, mode: InputMode) -> None:
    """GplanError where a floor that knows nothing but the context is asked to do without."""
    if mode == InputMode.HISTORY:
        raise GplanError(
            f"{name} looks up facts of the order, which the history mode does not show; leave it "
            "out, or compare with the full context."
        )
