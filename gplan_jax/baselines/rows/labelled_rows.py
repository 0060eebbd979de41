"""Rows to learn from: those with a usable plan, and folds that keep a user's rows together."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.foundation.buckets import bucket
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Sample, check_plan, parse_plan


@dataclass(frozen=True)
class LabelledRows:
    """Rows to learn from, with their plans as atoms."""

    samples: tuple[Sample, ...]
    plans: tuple[tuple[int, ...], ...]
    left_out: tuple[str, ...]  # why each other row was left out, in the order of the rows


def labelled_rows(samples: Iterable[Sample], atoms: Atoms) -> LabelledRows:
    """The rows whose label is a plan of admissible intents, of an admissible length.

    A plan that breaks a logic rule (a repeated intent, two of one group, a reference to nothing)
    stays, as it does where planners are trained. GplanError where no row is left.
    """
    kept: list[tuple[Sample, tuple[int, ...]]] = []
    left_out: list[str] = []
    bounds = atoms.library.plan_length
    for number, sample in enumerate(samples, start=1):
        where = f"row {number} (id {sample.id})"
        plan = parse_plan(sample.raw_labels, atoms.library)
        if not plan:
            left_out.append(f"{where} has no plan")
            continue
        if not bounds.minimum <= len(plan) <= bounds.maximum:
            wanted = f"{bounds.minimum} to {bounds.maximum}"
            left_out.append(f"{where} has {len(plan)} intents, not {wanted}")
            continue
        try:
            kept.append((sample, atoms.ids(plan)))
        except GplanError as error:
            left_out.append(f"{where}: {error}")
    if not kept:
        found = f" The first one: {left_out[0]}." if left_out else ""
        raise GplanError(f"No training row has a usable plan, so there is nothing to fit.{found}")
    return LabelledRows(
        tuple(sample for sample, _ in kept), tuple(ids for _, ids in kept), tuple(left_out)
    )


def rows_to_copy(samples: Iterable[Sample], atoms: Atoms) -> LabelledRows:
    """The labelled rows whose plan passes the whole rule filter; GplanError where none does."""
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


@dataclass(frozen=True)
class Fold:
    """One fold: ascending indices of the rows to learn from and of the rows to predict."""

    train: tuple[int, ...]
    test: tuple[int, ...]


def folds_by_id(samples: Sequence[Sample], count: int, seed: int = 0) -> list[Fold]:
    """``count`` folds; each row is tested in one, together with all the rows of its id.

    Ids are dealt out by number of rows, the largest first (among equals by a salted hash of the
    id), each to the fold with the fewest rows so far. So folds differ by no more rows than one id
    has, and the order of the rows does not matter.
    """
    if count < 2:
        raise GplanError(f"{count} folds are asked for; with fewer than 2 nothing is held out.")
    rows_of = Counter(sample.id for sample in samples)
    if len(rows_of) < count:
        raise GplanError(
            f"The rows have {len(rows_of)} ids, too few for {count} folds that keep the rows of an "
            "id together; ask for fewer folds or give more users."
        )
    sizes = [0] * count
    fold_of: dict[str, int] = {}
    for user in sorted(rows_of, key=lambda user: (-rows_of[user], bucket(str(seed), user))):
        fold = sizes.index(min(sizes))
        fold_of[user] = fold
        sizes[fold] += rows_of[user]
    parts: list[tuple[list[int], list[int]]] = [([], []) for _ in range(count)]
    for index, sample in enumerate(samples):
        for fold, (train, test) in enumerate(parts):
            (test if fold_of[sample.id] == fold else train).append(index)
    return [Fold(tuple(train), tuple(test)) for train, test in parts]


def check_apart(train: Iterable[Sample], test: Iterable[Sample]) -> None:
    """Refuses two parts that share a user, by name."""
    both = sorted({sample.id for sample in train} & {sample.id for sample in test})
    if both:
        more = f" (and {len(both) - 1} more ids)" if len(both) > 1 else ""
        raise GplanError(
            f"Rows of id {both[0]}{more} are among both the training rows and the test rows, so a "
            "model could know its user already; split by id (folds_by_id, split_by_id)."
        )
