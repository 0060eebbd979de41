"""Arms that were predicted elsewhere: a predictions.jsonl over the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.files import read_jsonl
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan, parse_plan

_MEND = "Each row has the strings id, text and label, as gplan evaluate writes them."


def read_added(
    path: Path, numbers: Sequence[int], samples: Sequence[Sample], library: IntentLibrary
) -> list[str]:
    """The plan texts of a file for the rows that are scored.

    Rows are matched by "row", counted from 1 in the data file, where the file's rows have it, else
    by their order among the scored rows.

    Args:
        path: its rows have "id", "text" and "label".
        numbers: the scored rows, counted from 0.
        samples: all rows of the data file.
        library: reads the labels.

    Raises:
        GplanError: the file is broken, has other rows, or lacks one.
        RowError: a row lacks a text, or its id or label is not that of the data's row.
    """
    found: dict[int, str] = {}
    for line, row in enumerate(read_jsonl(path), start=1):
        if not isinstance(row, dict):
            raise RowError(path, line, None, "is not a JSON object", _MEND)
        for key in ("id", "text", "label"):
            if not isinstance(row.get(key), str):
                raise RowError(path, line, key, "is missing or not a string", _MEND)
        number = _number(path, line, row, numbers, samples)
        _check_same(path, line, row, samples[number], number, library)
        found[number] = canonical_plan(parse_plan(row["text"], library), library)
    if missing := [number for number in numbers if number not in found]:
        raise GplanError(
            f"{path} has no prediction for {len(missing)} of the {len(numbers)} scored rows, the "
            f"first being row {missing[0] + 1}; predict all of them with gplan evaluate."
        )
    return [found[number] for number in numbers]


def _number(
    path: Path, line: int, row: dict[str, Any], numbers: Sequence[int], samples: Sequence[Sample]
) -> int:
    number = row.get("row")
    if number is None:
        if line > len(numbers):
            raise GplanError(f"{path} has more than the {len(numbers)} rows that are scored.")
        return numbers[line - 1]
    if not isinstance(number, int) or not 1 <= number <= len(samples):
        problem = f"is {number!r}, but the data's rows are 1 to {len(samples)}"
        raise RowError(path, line, "row", problem, _MEND)
    return number - 1


def _check_same(
    path: Path, line: int, row: dict[str, Any], sample: Sample, number: int, library: IntentLibrary
) -> None:
    mend = f"Rows must be those of the data, row {number + 1} here; predict that file."
    if row["id"] != sample.id:
        problem = f"is {row['id']!r}, but the data's row has {sample.id!r}"
        raise RowError(path, line, "id", problem, mend)
    if parse_plan(row["label"], library) != parse_plan(sample.raw_labels, library):
        raise RowError(path, line, "label", "is another plan than the data's row has", mend)
