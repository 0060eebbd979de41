"""What experts are asked to judge: drawn rows with their own plan and reasoning, or a teacher's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gplan_jax.chat.errors import RequestFailed
from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import SKIP_HINT, FaultyRows
from gplan_jax.foundation.progress import track
from gplan_jax.foundation.streams import map_ordered
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan, check_plan
from gplan_jax.synthesis.seeds.candidates import (
    OWN,
    SUFFIX,
    Candidate,
    write_candidates,
)
from gplan_jax.synthesis.seeds.draft import Draft, faults_of
from gplan_jax.synthesis.seeds.drawing import draw_rows
from gplan_jax.synthesis.seeds.environment import environment
from gplan_jax.synthesis.seeds.review_file import Decision, write_review
from gplan_jax.synthesis.teachers.load import note_of
from gplan_jax.synthesis.teachers.protocol import Teacher
from gplan_jax.synthesis.teachers.seed import LABEL, Stratum

Numbered = tuple[int, Sample, Stratum]


@dataclass(frozen=True, slots=True)
class CandidatesReport:
    """What ``write_review_files`` wrote.

    Attributes:
        candidates: their number.
        strata: stratum -> (candidates, users there).
        origins: who proposed -> candidates.
        faulty: candidates whose proposal breaks a rule or lacks reasoning; experts mend them.
        skipped: rows left out.
        candidates_path: the file beside the review file.
    """

    candidates: int
    strata: Mapping[Stratum, tuple[int, int]]
    origins: Mapping[str, int]
    faulty: int
    skipped: int
    candidates_path: Path


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

    A row with a plan keeps it, and its reasoning; a plan without reasoning is explained by
    ``teacher``, a row without a plan is planned for by it. ``teacher`` is closed at the end.

    Raises:
        GplanError: ``out`` is there already (it may hold decisions), is no .csv file, or has the
            name of a reviewer's copy.
        GplanError, RowError: the data can't be read, or the teacher gives no plan for a row.
    """
    candidates_path = check_out(out)
    faulty = faulty or FaultyRows()
    already = faulty.total
    draw = draw_rows(data, count, seed, faulty=faulty)

    async def proposed(numbered: Numbered) -> tuple[Draft, str] | RowError:
        number, sample, _ = numbered
        try:
            return await _proposal(sample, library, teacher)
        except (_NoPlan, RequestFailed) as error:
            mend = f"Mend the row, or {SKIP_HINT}."
            return RowError(data, number, LABEL, str(error), mend)

    found: list[tuple[Numbered, tuple[Draft, str]]] = []
    stream = map_ordered(proposed, draw.rows, at_once=teacher.at_once, close=teacher.close)
    with closing(stream):
        for numbered, result in zip(
            draw.rows,
            track(stream, "propose", len(draw.rows), lambda: note_of(teacher)),
            strict=True,
        ):
            if isinstance(result, RowError):
                faulty.add(result)
            else:
                found.append((numbered, result))
    candidates = [
        Candidate(
            row, number, sample.with_label(""), stratum, environment(sample), proposal, origin
        )
        for row, ((number, sample, stratum), (proposal, origin)) in enumerate(found, start=1)
    ]
    if not candidates:
        raise GplanError(f"{data} gives no candidate; {faulty.total - already} rows are faulty.")
    write_candidates(candidates_path, candidates)
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


async def _proposal(sample: Sample, library: IntentLibrary, teacher: Teacher) -> tuple[Draft, str]:
    """The plan and reasoning to judge, and whose they are."""
    if not sample.raw_labels.strip():
        answer = await teacher.answer(sample)
        return _draft(answer.text, library, f"the answer of {teacher.name}"), teacher.name
    own = _draft(sample.raw_labels, library, "the label")
    broken = check_plan(canonical_plan(own.plan, library), library)
    if own.reasoning or any(violation.tier != "logic" for violation in broken):
        return own, OWN
    trace = await teacher.explain(sample.with_label(""), own.plan)
    return Draft.make(own.plan, dict(trace.blocks), library), f"{OWN}, explained by {teacher.name}"


def _draft(label: str, library: IntentLibrary, what: str) -> Draft:
    try:
        return Draft.of_label(label, library)
    except GplanError as error:
        raise _NoPlan(f"{what} can't be reviewed: {error}") from None


def check_out(out: Path) -> Path:
    """Where the candidates of review file ``out`` go.

    Raises:
        GplanError: the name isn't NAME.csv, or a file is there that may hold an expert's work.
    """
    if out.suffix != ".csv" or "." in out.stem:
        raise GplanError(f"{out} must be named NAME.csv, without another dot (review.csv).")
    candidates_path = out.with_name(out.stem + SUFFIX)
    for path in (out, candidates_path, *sorted(out.parent.glob(f"{out.stem}.*.csv"))):
        if path.exists():
            raise GplanError(
                f"{path} is there already and may hold decisions; name another --out, or move it."
            )
    return candidates_path
