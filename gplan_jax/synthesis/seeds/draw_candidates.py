"""What experts are asked to judge: drawn rows with their own plan and reasoning, or a teacher's."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from rich.table import Table

from gplan_jax.chat import RequestFailed
from gplan_jax.foundation.errors import GplanError, NothingKept, RowError
from gplan_jax.foundation.faulty_rows import SKIP_HINT, FaultyRows, Streak
from gplan_jax.foundation.progress import track
from gplan_jax.foundation.streams import map_ordered
from gplan_jax.foundation.tables import TextTable
from gplan_jax.gsisr import (
    IntentLibrary,
    RowForm,
    Sample,
    canonical_plan,
    check_plan,
    read_numbered_samples,
)
from gplan_jax.gsisr.service import record_service
from gplan_jax.synthesis.seeds.review_file import Decision, write_review
from gplan_jax.synthesis.seeds.seed_candidates import (
    OWN,
    SUFFIX,
    Draft,
    SeedCandidate,
    environment,
    faults_of,
    write_candidates,
)
from gplan_jax.synthesis.teachers.load import note_of
from gplan_jax.synthesis.teachers.seed_selection import Stratum, stratum_of
from gplan_jax.synthesis.teachers.teacher import Teacher


@dataclass(frozen=True, slots=True)
class Draw:
    """What was drawn."""

    # (number in the file, from 1, row, stratum), in the order of the review.
    rows: Sequence[tuple[int, Sample, Stratum]]
    strata: Mapping[Stratum, tuple[int, int]]  # Stratum -> (users drawn, users there).


def draw_rows(
    path: str | Path,
    count: int,
    seed: int,
    *,
    form: RowForm | None = None,
    faulty: FaultyRows | None = None,
) -> Draw:
    """Draws up to ``count`` rows of ``path``, as many from each stratum as there are.

    Strata take turns, so an expert who stops half-way has seen all of them. One row of each user is
    drawn by a hash of the seed, so that it depends on no other user.
    """
    faulty = faulty or FaultyRows()
    users: dict[str, tuple[bytes, int, Stratum]] = {}
    rows = read_numbered_samples(path, form=form, faulty=faulty)
    for number, sample in track(rows, "draw"):
        try:
            stratum = stratum_of(sample)
        except GplanError as error:
            mend = f"Mend it, or {SKIP_HINT}."
            faulty.add(RowError(path, number, None, str(error).rstrip("."), mend))
            continue
        digest = hashlib.sha256(f"{seed}:{sample.id}:{number}".encode()).digest()
        drawn = (digest, number, stratum)
        users[sample.id] = min(users.get(sample.id, drawn), drawn)
    strata: dict[Stratum, list[tuple[bytes, int, Stratum]]] = {}
    for entry in sorted(users.values()):
        strata.setdefault(entry[2], []).append(entry)
    # The largest strata first: where the last turn is not a full one, they have most to show.
    turns = zip_longest(*(strata[s] for s in sorted(strata, key=lambda s: (-len(strata[s]), s))))
    chosen = [entry for turn in turns for entry in turn if entry is not None][:count]
    wanted = {number for _, number, _ in chosen}
    again = read_numbered_samples(path, form=form, faulty=FaultyRows("skip")) if wanted else ()
    found = {number: sample for number, sample in again if number in wanted}
    drawn_rows = [(number, found[number], stratum) for _, number, stratum in chosen]
    counts = {s: sum(stratum == s for _, _, stratum in drawn_rows) for s in strata}
    return Draw(drawn_rows, {s: (counts[s], len(strata[s])) for s in sorted(strata)})


@dataclass(frozen=True, slots=True)
class CandidatesReport:
    """What ``write_review_files`` wrote."""

    candidates: int
    strata: Mapping[Stratum, tuple[int, int]]  # Stratum -> (candidates, users there).
    origins: Mapping[str, int]  # Who proposed -> candidates.
    faulty: int  # Candidates whose proposal breaks a rule or lacks reasoning; experts mend them.
    skipped: int
    candidates_path: Path  # The file beside the review file.


def write_review_files(
    data: str | Path,
    out: Path,
    library: IntentLibrary,
    teacher: Teacher,
    *,
    count: int,
    seed: int = 0,
    faulty: FaultyRows | None = None,
) -> CandidatesReport:
    """Draws rows and writes their review file, and the candidates' file beside it.

    ``teacher`` plans or explains where a row has no plan or reasoning; it is closed at the end.
    """
    candidates_path = check_out(out)
    faulty = faulty or FaultyRows()
    already = faulty.total
    draw = draw_rows(data, count, seed, form=library.rows, faulty=faulty)

    def read(label: str, what: str) -> Draft:
        try:
            return Draft.of_label(label, library)
        except GplanError as error:
            raise _NoPlan(f"{what} can't be reviewed: {error}") from None

    async def propose(sample: Sample) -> tuple[Draft, str]:
        """The plan and reasoning to judge, and whose they are."""
        if not sample.raw_labels.strip():
            answer = await teacher.answer(sample)
            if answer.faults:
                why = "; ".join(fault.message for fault in answer.faults)
                said = f"the answer of {teacher.name} has no plan: {why}"
                raise RequestFailed(said, "Change the teacher file")
            return read(answer.text, f"the answer of {teacher.name}"), teacher.name
        own = read(sample.raw_labels, "the label")
        broken = check_plan(canonical_plan(own.plan, library), library)
        # What breaks the format or the schema can't be explained; experts mend it first.
        if own.reasoning or any(violation.tier != "logic" for violation in broken):
            return own, OWN
        trace = await teacher.explain(sample.with_label(""), own.plan)
        explained = Draft.make(own.plan, dict(trace.blocks), library)
        return explained, f"{OWN}, explained by {teacher.name}"

    async def proposed(drawn: tuple[int, Sample, Stratum]) -> tuple[Draft, str] | RowError:
        number, sample, _ = drawn
        try:
            return await propose(sample)
        except (_NoPlan, RequestFailed) as error:
            mend = error.mend if isinstance(error, RequestFailed) else "Mend the row"
            return RowError(
                data, number, sample.form.label, str(error).rstrip("."), f"{mend}, or {SKIP_HINT}."
            )

    candidates: list[SeedCandidate] = []
    streak = Streak(f"the labels in {data}, teacher {teacher.name}")
    stream = map_ordered(proposed, draw.rows, at_once=teacher.at_once, close=teacher.close)
    with closing(stream):
        results = track(stream, "propose", len(draw.rows), lambda: note_of(teacher))
        for (number, sample, stratum), result in zip(draw.rows, results, strict=True):
            if isinstance(result, RowError):
                faulty.add(result)
                streak.add(str(result))
                continue
            streak.add(None)
            proposal, origin = result
            candidates.append(
                SeedCandidate(
                    row=len(candidates) + 1,
                    source_row=number,
                    sample=sample.with_label(""),
                    stratum=stratum,
                    facts=environment(sample),
                    proposal=proposal,
                    origin=origin,
                )
            )
    if not candidates:
        first = "".join(f" The first: {error}" for error in faulty.errors[already : already + 1])
        count = faulty.total - already
        raise NothingKept(f"{data} gives no candidate; {count} rows are faulty.{first}")
    write_candidates(candidates_path, candidates)
    record_service(library, candidates_path)
    write_review(out, candidates, [Decision(c.row, c.proposal) for c in candidates], library)
    return CandidatesReport(
        len(candidates),
        draw.strata,
        Counter(candidate.origin for candidate in candidates),
        sum(bool(faults_of(candidate.proposal, library)) for candidate in candidates),
        faulty.total - already,
        candidates_path,
    )


class _NoPlan(GplanError):
    """A label or an answer that holds no plan: the fault of one row."""


def check_out(out: Path) -> Path:
    """Where the candidates of review file ``out`` go."""
    if out.suffix != ".csv" or "." in out.stem:
        raise GplanError(f"{out} must be named NAME.csv, without another dot (review.csv).")
    candidates_path = out.with_name(out.stem + SUFFIX)
    for path in (out, candidates_path, *sorted(out.parent.glob(f"{out.stem}.*.csv"))):
        if path.exists():
            raise GplanError(
                f"{path} is there already and may hold decisions; name another --out, or move it."
            )
    return candidates_path


def strata_table(counts: Mapping[Stratum, tuple[int, int]], taken: str, there: str) -> Table:
    """A line a stratum: how many were taken of how many that are there."""
    rows: list[tuple[str, ...] | None] = [
        (trigger or "-", place, *(f"{n:,}" for n in figures))
        for (trigger, place), figures in counts.items()
    ]
    sums = (sum(pair[i] for pair in counts.values()) for i in (0, 1))
    rows += [None, ("all", "", *(f"{n:,}" for n in sums))]
    return TextTable(("trigger", "place", taken, there), rows, words=2).rich()
