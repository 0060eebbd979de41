"""Candidates: rows with a proposed plan and reasoning, to be reviewed; and their file.

The file lies beside the review file, as review.candidates.jsonl. It holds what no expert edits:
the context and the proposal, by row. No spreadsheet program ever opens it, so neither times nor
ids nor long histories can be damaged there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import read_jsonl, write_jsonl
from gplan_jax.gsisr import IntentLibrary, Sample
from gplan_jax.gsisr.context_pairs import CONTEXT_COLUMNS
from gplan_jax.synthesis.seeds.draft import Draft
from gplan_jax.synthesis.seeds.environment import Environment
from gplan_jax.synthesis.teachers.seed import Stratum

SUFFIX = ".candidates.jsonl"
OWN = "the row"
_KEYS = ("row", "source_row", "origin", "trigger", "place", "facts", "plan", "reasoning", "context")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row to review.

    Attributes:
        row: its number in the review, from 1.
        source_row: its number in the file it was drawn from.
        sample: the context; ``raw_labels`` is "".
        stratum: (trigger, place).
        facts: the context in words.
        proposal: plan and reasoning before any expert has seen them.
        origin: "the row" for a label that the row had, else the name of the teacher.
    """

    row: int
    source_row: int
    sample: Sample
    stratum: Stratum
    facts: Environment
    proposal: Draft
    origin: str


def write_candidates(path: Path, candidates: Iterable[Candidate]) -> None:
    """Writes candidates, a JSON object a line; the file appears whole or not at all."""
    write_jsonl(path, map(_to_json, candidates))


def read_candidates(path: Path, library: IntentLibrary) -> list[Candidate]:
    """Reads what ``write_candidates`` wrote.

    Raises:
        GplanError: the file is missing or damaged; the line is named.
    """
    found = []
    for line, value in enumerate(read_jsonl(path), start=1):
        try:
            found.append(_from_json(value, library))
        except (GplanError, TypeError, KeyError, ValueError) as error:
            raise GplanError(
                f"{path}, line {line}: not a candidate ({error}). "
                "Take the file as gplan seeds candidates wrote it."
            ) from None
    if [candidate.row for candidate in found] != list(range(1, len(found) + 1)):
        raise GplanError(
            f"{path}: candidates are missing or out of order; take the file as it was."
        )
    return found


def candidates_of(review: Path) -> Path:
    """The candidates' file of a review file or of a reviewer's copy: review.anna.csv -> review.

    Raises:
        GplanError: there is none beside it.
    """
    names = [review.stem, *([review.stem.rpartition(".")[0]] if "." in review.stem else [])]
    paths = [review.with_name(name + SUFFIX) for name in names]
    for path in paths:
        if path.is_file():
            return path
    raise GplanError(
        f"{review} lacks the file with its candidates: neither {' nor '.join(map(str, paths))} is "
        "there. Put it beside the review file, or name it with --candidates."
    )


def _to_json(candidate: Candidate) -> dict[str, Any]:
    values = (
        candidate.row,
        candidate.source_row,
        candidate.origin,
        *candidate.stratum,
        [list(fact) for fact in candidate.facts],
        candidate.proposal.plan,
        dict(candidate.proposal.reasoning),
        {column: getattr(candidate.sample, column) for column in CONTEXT_COLUMNS},
    )
    return dict(zip(_KEYS, values, strict=True))


def _from_json(value: Mapping[str, Any], library: IntentLibrary) -> Candidate:
    if set(value) != set(_KEYS) or set(value["context"]) != set(CONTEXT_COLUMNS):
        raise GplanError("keys are missing or unknown")
    return Candidate(
        row=int(value["row"]),
        source_row=int(value["source_row"]),
        sample=Sample(**value["context"], raw_labels=""),
        stratum=(value["trigger"], value["place"]),
        facts=tuple((title, text) for title, text in value["facts"]),
        proposal=Draft.make(value["plan"], value["reasoning"], library),
        origin=value["origin"],
    )
