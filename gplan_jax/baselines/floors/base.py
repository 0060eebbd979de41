"""What floors share: their interface, the labelled rows, and plans by vote."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from gplan_jax.baselines.rows.atoms import Atoms, LabelledRows, labelled_rows
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Plan, Sample, check_plan, parse_plan


class Floor(Protocol):
    """A fitted floor."""

    def predict(self, sample: Sample) -> str:
        """The plan text for a row, whose label it does not look at."""
        ...


@runtime_checkable
class BatchFloor(Floor, Protocol):
    """A floor that answers many rows in less time than one by one, with the same texts."""

    def predict_all(self, samples: Sequence[Sample]) -> list[str]:
        """The plan texts for rows."""
        ...


def predict_rows(floor: Floor, samples: Sequence[Sample]) -> list[str]:
    """A floor's plan text for each row, all at once where it can."""
    if isinstance(floor, BatchFloor):
        return floor.predict_all(samples)
    return [floor.predict(sample) for sample in samples]


def with_plans(samples: Iterable[Sample], library: IntentLibrary) -> list[tuple[Sample, Plan]]:
    """The rows that have a plan, with it; GplanError where none has."""
    rows = [(sample, parse_plan(sample.raw_labels, library)) for sample in samples]
    rows = [(sample, plan) for sample, plan in rows if plan]
    if not rows:
        raise GplanError("No training row has a plan, so there is nothing to fit a floor on.")
    return rows


def rows_to_copy(samples: Iterable[Sample], atoms: Atoms) -> LabelledRows:
    """The labelled rows whose plan passes the whole rule filter, so that it may be an answer.

    Raises:
        GplanError: no row is left.
    """
    rows = labelled_rows(samples, atoms)
    good = [not check_plan(atoms.text(plan), atoms.library) for plan in rows.plans]
    if not any(good):
        raise GplanError(
            "Every training plan breaks a rule of the library, so there is nothing to fit a floor "
            "on that answers with training plans; mend the labels."
        )
    return LabelledRows(
        tuple(itertools.compress(rows.samples, good)),
        tuple(itertools.compress(rows.plans, good)),
        rows.left_out,
    )


def in_fixed_order(samples: Iterable[Sample]) -> list[Sample]:
    """The rows by their columns' text, so that sums and ties don't hang on the order given."""
    return sorted(samples, key=lambda sample: tuple(sample.to_dict().values()))


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
