"""The plans to judge: contexts without labels, and of every answer the parsed plan alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gplan_jax.baselines.fitting.arms import FLOORS
from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import read_records
from gplan_jax.gsisr import (
    IntentLibrary,
    Plan,
    Sample,
    check_plan,
    parse_plan,
    read_labelled_samples,
    read_numbered_samples,
    read_samples,
)
from gplan_jax.gsisr.facts import facts_of_row

LABELS = "labels"
_MEND = 'Each row is a JSON object with the strings "id" and "text", as gplan evaluate writes it.'


@dataclass(frozen=True, slots=True)
class PlanToJudge:
    """One plan for one context; the context's ``raw_labels`` is ""."""

    source: str  # whose plan it is: the name of a predictions file, "labels", or a floor's
    row: int  # of the data, counted from 1
    sample: Sample
    plan: Plan  # [] where the answer holds none
    filter_pass: bool  # of the whole answer


def read_rows(
    path: Path,
    library: IntentLibrary,
    *,
    limit: int | None = None,
    faulty: FaultyRows | None = None,
) -> list[Sample]:
    """The rows of a data file, labels and all; their times can be read.

    Where faulty rows are left out, they are those that ``gplan evaluate`` leaves out, so that its
    predictions still belong to the rest; rows without labels are faulty then.
    """
    if faulty and faulty.skips:
        pairs = read_labelled_samples(path, library, faulty=faulty)
        return list(islice((sample for sample, _ in pairs), limit))
    rows = []
    for number, sample in islice(read_numbered_samples(path, form=library.rows), limit):
        facts_of_row(sample, path, number)
        rows.append(sample)
    return rows


def plans_of_predictions(
    name: str, path: Path, rows: Sequence[Sample], library: IntentLibrary, *, cut: bool = False
) -> list[PlanToJudge]:
    """The plans of a predictions.jsonl; of its lines only "id" and "text" are looked at.

    ``cut`` says that ``rows`` are the first of the data, so the file may go on.
    """
    lines = list(islice(read_records(path, ("id", "text"), _MEND), len(rows) + (not cut)))
    if len(lines) != len(rows):
        more = "more" if len(lines) > len(rows) else f"only {len(lines)}"
        raise GplanError(
            f"{path} has {more} predictions for {len(rows)} rows of data. Give the data they were "
            "made from, with the --limit and --on-error of gplan evaluate."
        )
    texts: list[str] = []
    for (number, line), sample in zip(lines, rows, strict=True):
        if line["id"] != sample.id:
            problem = f"is {line['id']!r}, but row {number} of the data has id {sample.id!r}"
            mend = "Give the data that the predictions were made from, with the same --on-error."
            raise RowError(path, number, "id", problem, mend)
        texts.append(line["text"])
    return list(_plans(name, rows, texts, library))


def plans_of_labels(rows: Sequence[Sample], library: IntentLibrary) -> list[PlanToJudge]:
    """The plans of the rows' own labels, to calibrate a judge; GplanError where a row has none."""
    plans = list(_plans(LABELS, rows, (sample.raw_labels for sample in rows), library))
    if empty := [plan.row for plan in plans if not plan.plan]:
        raise GplanError(
            f"{len(empty)} rows have no plan in raw_labels (the first is row {empty[0]}); "
            "--labels judges labelled rows."
        )
    return plans


def plans_of_floors(
    rows: Sequence[Sample], train: Path, library: IntentLibrary
) -> dict[str, list[PlanToJudge]]:
    """Floor -> its plans, fitted on the labelled rows of ``train``, of which none may be judged."""
    train_rows = list(read_samples(train, form=library.rows))
    if both := {row.with_label("") for row in train_rows} & {row.with_label("") for row in rows}:
        raise GplanError(
            f"{len(both)} rows of {train} are also rows to judge, so the floors would know the "
            "answers; split the data by id."
        )
    fitted = {name: fit(train_rows, library) for name, fit in FLOORS.items()}
    return {
        name: list(_plans(name, rows, floor.predict(rows), library))
        for name, floor in fitted.items()
    }


def _plans(
    source: str, rows: Sequence[Sample], texts: Iterable[str], library: IntentLibrary
) -> Iterator[PlanToJudge]:
    for number, (sample, text) in enumerate(zip(rows, texts, strict=True), start=1):
        context = sample.with_label("")
        passes = not check_plan(text, library)
        yield PlanToJudge(source, number, context, parse_plan(text, library), passes)
