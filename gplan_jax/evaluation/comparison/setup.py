"""What goes into a comparison: rows and folds, arms and settings, plans predicted elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gplan_jax.baselines.fitting.arms import Arm, Arms
from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.baselines.rows.labelled_rows import check_apart, folds_by_id, labelled_rows
from gplan_jax.evaluation.comparison.results import ComparedFile
from gplan_jax.foundation.config import override, parse_config
from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.files import file_digest, read_records
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan, parse_plan, read_samples

VALIDATION_PARTS = 7  # One of them, 14% of a fold's training rows, validates.


@dataclass(frozen=True)
class FoldRows:
    """Indices of rows learnt from (train, validation) and scored (test); no id is in two."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class ComparedRows:
    """The rows of a comparison."""

    learnt: Sequence[Sample]  # rows of the training file
    scored: Sequence[Sample]  # rows of the file that is predicted; with folds they are the same
    folds: tuple[FoldRows, ...]
    without_plan: tuple[str, ...]  # reasons for the rows that are neither learnt from nor scored
    # Reasons for the rows that are scored but not learnt from, since the library does not admit
    # their plan.
    not_learnt: tuple[str, ...]
    data: ComparedFile  # the scored rows
    train_data: ComparedFile | None = None  # those learnt from, where that is another file

    @property
    def order(self) -> list[int]:
        """The rows that are scored, in the order of their file."""
        return sorted(row for fold in self.folds for row in fold.test)


@dataclass(frozen=True)
class ComparisonSetup:
    """All that a worker needs to know."""

    rows: ComparedRows
    arms: Arms  # the arms that can take part
    names: tuple[str, ...]  # those that do, in the table's order
    # Arm -> values over its default settings, beneath those of a trial.
    overrides: Mapping[str, Mapping[str, Any]]
    mode: InputMode  # what the networks see of a row
    library: IntentLibrary
    trials: int  # each arm has the first so many of its declared ones
    seeds: int  # fits of the chosen trial in each fold
    out: Path  # the results directory

    def is_floor(self, name: str) -> bool:
        """Whether an arm is a floor: nothing to try, and no other seed gives another result."""
        entry = self.arms.entries.get(name)
        return isinstance(entry, Arm) and entry.floor

    def trials_of(self, name: str) -> int:
        return 1 if self.is_floor(name) else self.trials

    def tries(self, name: str) -> bool:
        """Whether validation rows choose anything for an arm: among trials, or when to stop."""
        return self.trials_of(name) > 1 or self.arms[name].stops_early

    def seeds_of(self, name: str) -> int:
        return 1 if self.is_floor(name) else self.seeds

    def settings(self, name: str, trial: int) -> Any:
        """The settings of an arm in a trial; GplanError names what is wrong with an override."""
        arm = self.arms[name]
        values = {**self.overrides.get(name, {}), **arm.trials[trial]}
        return parse_config(arm.settings, values, source=f"--set of {name}")


def rows_of_folds(path: Path, library: IntentLibrary, folds: int) -> ComparedRows:
    """One file, each row scored in the fold that holds it out."""
    samples = list(read_samples(path, form=library.rows))
    planned, without = _with_plan(samples, library, path)
    usable, not_learnt = _usable(samples, library, path)
    dealt = [
        _fold(samples, [planned[i] for i in f.train], [planned[i] for i in f.test], usable, number)
        for number, f in enumerate(folds_by_id([samples[i] for i in planned], folds))
    ]
    data = _described(path, [samples[i] for i in planned])
    return ComparedRows(samples, samples, tuple(dealt), without, not_learnt, data)


def rows_of_files(train_path: Path, test_path: Path, library: IntentLibrary) -> ComparedRows:
    """Two files without a common id, the rows of the second scored: one fold."""
    train, test = (list(read_samples(path, form=library.rows)) for path in (train_path, test_path))
    try:
        check_apart(train, test)
    except GplanError as error:
        raise GplanError(f"{train_path} and {test_path}: {error}") from None
    learnable, no_plan = _with_plan(train, library, train_path)
    scored, without = _with_plan(test, library, test_path)
    if not scored:
        raise GplanError(f"{test_path}: no row has a plan to score against.")
    usable, not_learnt = _usable(train, library, train_path)
    return ComparedRows(
        learnt=train,
        scored=test,
        folds=(_fold(train, learnable, scored, usable, 0),),
        without_plan=(*no_plan, *without),
        not_learnt=not_learnt,
        data=_described(test_path, [test[i] for i in scored]),
        train_data=_described(train_path, train),
    )


def read_added(path: Path, rows: ComparedRows, library: IntentLibrary) -> list[str]:
    """The plan texts that another program has predicted for the scored rows, in their order.

    Its rows have "id", "text" and "label". They are matched by "row", counted from 1 in the data
    file, where they have it, else by their order among the scored rows.
    """
    numbers = rows.order
    found: dict[int, str] = {}
    form = "Each row has the strings id, text and label, as gplan evaluate writes them."
    for line, row in read_records(path, ("id", "text", "label"), form):
        number = row.get("row")
        if number is None:
            if line > len(numbers):
                raise GplanError(f"{path} has more than the {len(numbers)} rows that are scored.")
            number = numbers[line - 1] + 1
        elif not isinstance(number, int) or not 1 <= number <= len(rows.scored):
            problem = f"is {number!r}, but the data's rows are 1 to {len(rows.scored)}"
            raise RowError(path, line, "row", problem, form)
        sample = rows.scored[number - 1]
        same = f"Rows must be those of the data, row {number} here; predict that file."
        if row["id"] != sample.id:
            problem = f"is {row['id']!r}, but the data's row has {sample.id!r}"
            raise RowError(path, line, "id", problem, same)
        if parse_plan(row["label"], library) != parse_plan(sample.raw_labels, library):
            raise RowError(path, line, "label", "is another plan than the data's row has", same)
        found[number - 1] = canonical_plan(parse_plan(row["text"], library), library)
    if missing := [number for number in numbers if number not in found]:
        raise GplanError(
            f"{path} has no prediction for {len(missing)} of the {len(numbers)} scored rows, the "
            f"first being row {missing[0] + 1}; predict all of them with gplan evaluate."
        )
    return [found[number] for number in numbers]


def parse_overrides(
    options: Mapping[str, Sequence[str]], arms: Arms, names: Sequence[str], trials: int
) -> dict[str, dict[str, Any]]:
    """Arm -> its overrides, from arm -> ["key=value", ...], each checked against its settings."""
    found: dict[str, dict[str, Any]] = {}
    for name, texts in options.items():
        if name not in names:
            raise GplanError(f"--set {name}.{texts[0]}: {name} takes no part in the comparison.")
        values = override({}, texts)
        for trial in arms[name].trials[:trials]:
            if tried := sorted(set(trial) & set(values)):
                raise GplanError(
                    f"--set {name}.{tried[0]}: the trials of {name} vary it, so it can't be fixed; "
                    "leave it out, or compare without tuning (--trials 1)."
                )
        parse_config(arms[name].settings, values, source=f"--set of {name}")
        found[name] = values
    return found


def _fold(
    samples: Sequence[Sample],
    train: Sequence[int],
    test: Sequence[int],
    usable: frozenset[int],
    number: int,
) -> FoldRows:
    """A fold whose training rows are split by id once more: what is fitted, and what chooses."""
    learnt = [i for i in train if i in usable]
    users = len({samples[i].id for i in learnt})
    if users < 2:
        raise GplanError(
            f"Fold {number + 1} has usable training rows of {users} ids; at least two are needed, "
            "so that one can validate. Give more users, or ask for fewer folds."
        )
    count = min(VALIDATION_PARTS, users)
    held = folds_by_id([samples[i] for i in learnt], count, seed=number)[0]
    train, validation = ([learnt[i] for i in part] for part in (held.train, held.test))
    return FoldRows(tuple(train), tuple(validation), tuple(test))


def _with_plan(
    samples: Sequence[Sample], library: IntentLibrary, path: Path
) -> tuple[list[int], tuple[str, ...]]:
    planned = [i for i, s in enumerate(samples) if parse_plan(s.raw_labels, library)]
    missing = sorted(set(range(len(samples))) - set(planned))
    reasons = [f"{path.name}, row {i + 1} (id {samples[i].id}) has no plan" for i in missing]
    return planned, tuple(reasons)


def _usable(
    samples: Sequence[Sample], library: IntentLibrary, path: Path
) -> tuple[frozenset[int], tuple[str, ...]]:
    """Indices of the rows to learn from, and why those with another plan are not among them."""
    labelled = labelled_rows(samples, Atoms.of(library))
    kept = {id(sample) for sample in labelled.samples}
    reasons = [f"{path.name}, {r}" for r in labelled.left_out if not r.endswith("has no plan")]
    return frozenset(i for i, s in enumerate(samples) if id(s) in kept), tuple(reasons)


def _described(path: Path, samples: Sequence[Sample]) -> ComparedFile:
    return ComparedFile(
        file=str(path),
        rows=len(samples),
        ids=len({sample.id for sample in samples}),
        sha256=file_digest(path),
    )
