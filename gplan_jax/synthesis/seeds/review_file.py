"""The review file: a CSV that an expert edits in a spreadsheet program or on the review page.

Cells that no one edits are compared with the candidates' file on reading, so that columns sorted
apart or rewritten cells come to light. What could run as a formula (``= + - @`` at a cell's start,
or behind a semicolon, tab or line break, at which a program set to another separator begins a cell;
OWASP, "CSV Injection") gets an apostrophe in front, and so does an apostrophe there, so that
reading takes away exactly what writing has added.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from gplan_jax.foundation.errors import GplanError, RowError, meant
from gplan_jax.foundation.files import atomic_write, strict_json
from gplan_jax.gsisr import IntentLibrary, canonical_plan
from gplan_jax.synthesis.seeds.seed_candidates import (
    PLAN,
    Draft,
    SeedCandidate,
    block_names,
    environment_text,
    faults_of,
    plan_words,
)

ReviewVerdict = Literal["", "accept", "edit", "reject"]
VERDICTS: tuple[ReviewVerdict, ...] = get_args(ReviewVerdict)
KEPT: tuple[ReviewVerdict, ...] = ("accept", "edit")
DELIMITERS = (",", ";", "\t")
GUARD = "'"
# Where a formula could begin: at the start, or behind what another program may take for the end of
# a cell, since a quote in the middle of what it takes for one protects nothing.
_FORMULA = re.compile("(^|[;\t\r\n])(?=[\"\\s]*['=+@＝＋－＠-])|^(?=[\t\r\n])")
_GUARDED = re.compile(f"(^|[;\t\r\n]){GUARD}")
MOST_FAULTS = 30
_ROW, _ID, _WORDS, _VERDICT = "row", "id", "plan_words", "verdict"
_FIXED = ("trigger", "place", "facts")
_SAVE_AS = "Save it as 'CSV UTF-8'"
_PUT_BACK = "Put the cell back as it was; columns may have been sorted apart."


@dataclass(frozen=True, slots=True)
class Decision:
    """What one reviewer made of one candidate."""

    row: int
    draft: Draft  # Plan and reasoning as the reviewer left them.
    # "" while undecided; "accept" leaves the proposal as it was, "edit" changes it.
    verdict: ReviewVerdict = ""
    comment: str = ""  # comment, reviewer: free text.
    reviewer: str = ""


def differing_parts(decisions: Iterable[Decision]) -> list[Literal["plan", "reasoning"]]:
    """In what the drafts differ of decisions that keep their candidate."""
    kept = [decision.draft for decision in decisions if decision.verdict in KEPT]
    parts: list[Literal["plan", "reasoning"]] = ["plan", "reasoning"]
    return [p for p in parts if any(getattr(d, p) != getattr(kept[0], p) for d in kept)]


def verdict_faults(
    path: Path | str, candidate: SeedCandidate, decision: Decision, library: IntentLibrary
) -> list[RowError]:
    """Why a decision can't become a seed; [] for one that is no seed anyway.

    "accept" keeps the proposal to the letter, "edit" changes it. Page and import check by this.
    """
    if decision.verdict not in KEPT:
        return []
    draft, proposal = decision.draft, candidate.proposal
    blocks = dict.fromkeys([*proposal.reasoning, *draft.reasoning])
    changed = [PLAN] if draft.plan != proposal.plan else []
    changed += [n for n in blocks if draft.reasoning.get(n) != proposal.reasoning.get(n)]
    found: list[tuple[str, str, str]] = []
    if decision.verdict == "accept":
        problem = "this was changed, but the verdict is accept"
        found += [(column, problem, "Write edit, or put the text back.") for column in changed]
    elif not changed:
        problem = "the verdict is edit, but nothing was changed"
        found.append((_VERDICT, problem, "Change what is wrong, or write accept."))
    mend = "Mend it, or reject the candidate."
    found += [(fault.column, fault.message, mend) for fault in faults_of(draft, library)]
    return [RowError(path, decision.row, column, *rest) for column, *rest in found]


def raise_faults(path: Path | str, faults: Sequence[RowError]) -> None:
    """Raises one GplanError with every fault, a line each; does nothing where there is none."""
    if not faults:
        return
    lines = [str(fault) for fault in faults[:MOST_FAULTS]]
    if len(faults) > MOST_FAULTS:
        lines.append(f"... and {len(faults) - MOST_FAULTS} more")
    noun = "fault" if len(faults) == 1 else "faults"
    raise GplanError(f"{path} has {len(faults)} {noun}:\n  " + "\n  ".join(lines))


# Writing


def columns_of(library: IntentLibrary) -> tuple[str, ...]:
    """The columns of a review file."""
    blocks = block_names(library.plan_length.maximum)
    return (
        *(_ROW, _ID, *_FIXED, _WORDS, PLAN),
        *(*blocks, _VERDICT, "comment", "reviewer", "faults"),
    )


def review_line(candidate: SeedCandidate, decision: Decision, library: IntentLibrary) -> str:
    """The line of a review file for one candidate, its end included."""
    draft = decision.draft
    cells = {
        _ROW: str(candidate.row),
        _ID: candidate.sample.id,
        **_fixed_cells(candidate),
        _WORDS: plan_words(draft.plan, library),
        PLAN: canonical_plan(draft.plan, library),
        **draft.reasoning,
        _VERDICT: decision.verdict,
        "comment": decision.comment,
        "reviewer": decision.reviewer,
        "faults": "; ".join(fault.message for fault in faults_of(draft, library)),
    }
    return _csv_line([guarded(cells.get(column, "")) for column in columns_of(library)])


def write_lines(path: Path, lines: Iterable[str], library: IntentLibrary) -> None:
    """Writes a review file with a byte order mark, whole or not at all, down to the disk."""
    text = "".join([_csv_line(columns_of(library)), *lines])
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(text.encode("utf-8-sig"))
        file.flush()
        os.fsync(file.fileno())


def write_review(
    path: Path,
    candidates: Sequence[SeedCandidate],
    decisions: Sequence[Decision],
    library: IntentLibrary,
) -> None:
    """Writes a review file: one decision for each candidate, in the same order."""
    both = zip(candidates, decisions, strict=True)
    write_lines(path, (review_line(c, d, library) for c, d in both), library)


def guarded(text: str) -> str:
    """The text as a cell holds it.

    >>> guarded("=1+1"), guarded("'tis"), guarded("1+1"), guarded("a;=1+1")
    ("'=1+1", "''tis", '1+1', "a;'=1+1")
    """
    return _FORMULA.sub(lambda found: found[0] + GUARD, text)


def unguarded(cell: str) -> str:
    """The text of a cell; reverses ``guarded``. What an expert typed without a guard stays."""
    return _GUARDED.sub(r"\1", cell)


def _csv_line(cells: Iterable[str]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue()


def _fixed_cells(candidate: SeedCandidate) -> dict[str, str]:
    values = (*candidate.stratum, environment_text(candidate.facts))
    return dict(zip(_FIXED, values, strict=True))


# Reading


def read_reviews(
    reviews: Sequence[Path], candidates: Sequence[SeedCandidate], library: IntentLibrary
) -> list[dict[int, Decision]]:
    """Each review's decisions by row without the undecided; GplanError as ``read_review`` says."""
    if len({review.resolve() for review in reviews}) < len(reviews):
        raise GplanError("A review file is named twice.")
    read = [read_review(review, candidates, library) for review in reviews]
    return [{d.row: d for d in decisions if d.verdict} for decisions in read]


def read_review(
    path: Path, candidates: Sequence[SeedCandidate], library: IntentLibrary
) -> list[Decision]:
    """Reads a review file as any spreadsheet program saves it: commas, semicolons or tabs.

    Lines may be missing or moved; rows in errors are those of the column ``row``.
    """
    by_row = {candidate.row: candidate for candidate in candidates}
    decisions: dict[int, Decision] = {}
    faults: list[RowError] = []
    for position, cells in enumerate(_lines(path, library), start=1):
        if isinstance(cells, str):
            faults.append(RowError(path, position, None, cells, "Mend the line."))
            continue
        # A spreadsheet may have made 7 into 7.0 or 7,0.
        number = re.fullmatch(r"\s*(\d{1,9})(?:[.,]0+)?\s*", cells[_ROW])
        candidate = by_row.get(int(number[1])) if number else None
        if candidate is None:
            problem = f"{cells[_ROW]!r} is not the row of one of the {len(by_row)} candidates"
            faults.append(RowError(path, position, _ROW, problem, _PUT_BACK))
        elif candidate.row in decisions:
            mend = "Leave one of the two lines."
            faults.append(RowError(path, candidate.row, _ROW, "the row is there twice", mend))
        else:
            try:
                decisions[candidate.row] = _decision(path, candidate, cells, library, faults)
            except RowError as error:
                faults.append(error)
    raise_faults(path, faults)
    return [decisions[row] for row in sorted(decisions)]


def _decision(
    path: Path,
    candidate: SeedCandidate,
    cells: Mapping[str, str],
    library: IntentLibrary,
    faults: list[RowError],
) -> Decision:
    """The decision of a line; faults beside which the line can still be read are appended."""

    def fault(column: str, problem: str, mend: str) -> RowError:
        return RowError(path, candidate.row, column, problem, mend)

    # What nobody edits is the candidate's, but for what re-saving may change.
    for column, value in _fixed_cells(candidate).items():
        if _plain(cells[column]) != _plain(value):
            problem = f"this is not the candidate's: {_excerpt(cells[column])}"
            faults.append(fault(column, problem, _PUT_BACK))
    id_, own = cells[_ID].strip(), candidate.sample.id.strip()
    # Spreadsheets take zeros in front away from a number.
    if id_ != own and not (own.isdecimal() and id_.lstrip("0") == own.lstrip("0")):
        problem = f"this is {cells[_ID]!r} but the candidate's is {candidate.sample.id!r}"
        faults.append(fault(_ID, problem, _PUT_BACK))

    try:
        plan = strict_json(cells[PLAN], "The plan")
        if not (isinstance(plan, list) and all(isinstance(intent, dict) for intent in plan)):
            raise GplanError("the plan must be a JSON array of objects")
        for number, intent in enumerate(plan, start=1):
            if wrong := [key for key, text in intent.items() if not isinstance(text, str)]:
                raise GplanError(f"intent {number}: {', '.join(wrong)} must be text")
    except GplanError as error:
        mend = "Write the plan as JSON with straight quotes, as it was."
        raise fault(PLAN, str(error), mend) from None
    names = block_names(library.plan_length.maximum)
    draft = Draft.make(plan, {name: cells[name] for name in names}, library)
    words = {_plain(plan_words(p, library)) for p in (plan, candidate.proposal.plan)}
    if _plain(cells[_WORDS]) not in words:
        mend = f"Change {PLAN}; the words follow from it."
        faults.append(fault(_WORDS, "the plan was changed in words only", mend))
    verdict = cells[_VERDICT].strip().lower()
    if verdict not in VERDICTS:
        problem = f"{_excerpt(cells[_VERDICT])} is no verdict{meant(verdict, VERDICTS)}"
        raise fault(_VERDICT, problem, "Write accept, edit or reject, or leave it empty.")
    comment, reviewer = cells["comment"].strip(), cells["reviewer"].strip()
    return Decision(candidate.row, draft, verdict, comment, reviewer)


def _lines(path: Path, library: IntentLibrary) -> Iterator[dict[str, str] | str]:
    """The lines of a review file by column, or what is wrong with one; empty ones are left out."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise GplanError(f"{path} does not exist.") from None
    except UnicodeDecodeError as error:
        raise GplanError(f"{path} is not UTF-8 text ({error.reason}). {_SAVE_AS}.") from None
    header, _, _ = text.partition("\n")
    delimiter = max(DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield f"broken CSV: {error}"
            continue
        if cells is None:
            break
        if not any(cell.strip() for cell in cells):
            continue
        if names is None:
            names = [cell.strip() for cell in cells]
            while names and not names[-1]:
                names.pop()
            known = columns_of(library)
            problems = {
                "missing columns": [name for name in known if name not in names],
                "unknown columns": [name for name in names if name not in known],
                "columns given twice": [name for name in known if names.count(name) > 1],
            }
            told = [f"{what}: {', '.join(found)}" for what, found in problems.items() if found]
            if told:
                told_all = "; ".join(told)
                raise GplanError(f"{path}: {told_all}. Put the header line back as it was.")
        elif len(cells) > len(names) and any(cells[len(names) :]):
            yield f"{len(cells)} cells under {len(names)} columns"
        else:
            padded = [*cells, *[""] * (len(names) - len(cells))]
            yield {n: unguarded(c) for n, c in zip(names, padded, strict=False) if n}
    if names is None:
        raise GplanError(f"{path} is empty: it has no header line.")


def _plain(text: str) -> str:
    """A text without what re-saving may change: kinds and numbers of spaces and line breaks."""
    return " ".join(text.split())


def _excerpt(text: str) -> str:
    line = _plain(text)
    return repr(line if len(line) <= 40 else line[:40] + "...")
