"""Counterfactual pairs: rows in another time or place, each context with the teacher's own plan.

The pair construction of SC-DPO (paper, section 4.2.1). Pairs whose two plans are equal teach no
preference: they are counted, and may be kept apart for an evaluation of what should stay.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from rich.table import Table

from gplan_jax.chat import RequestFailed
from gplan_jax.foundation.errors import GplanError, NothingKept, RowError
from gplan_jax.foundation.faulty_rows import SKIP_HINT, FaultyRows, Streak
from gplan_jax.foundation.files import report_path, write_json
from gplan_jax.foundation.progress import track
from gplan_jax.foundation.streams import map_ordered
from gplan_jax.foundation.tables import TextTable
from gplan_jax.gsisr import (
    ContextPair,
    IntentLibrary,
    Plan,
    Provenance,
    RowPlace,
    Sample,
    check_plan,
    parse_label,
    read_numbered_samples,
)
from gplan_jax.gsisr.context_pairs import (
    PASSED,
    PairWriter,
    changed_columns,
    context_pair_writer,
)
from gplan_jax.gsisr.service import record_service
from gplan_jax.synthesis.pairs.perturbations import (
    Catalogue,
    PerturbationSpec,
    anchor_of,
    harvest,
    load_spec,
    perturbed,
)
from gplan_jax.synthesis.teachers.load import note_of, settings_of
from gplan_jax.synthesis.teachers.teacher import RuleTeacher, Teacher

# What came of a perturbation of a row: its "pair" was written; its two plans are "equal"; the
# teacher's answer "failed" the filter; the row leaves no room for it ("not_applicable"). What came
# of the row as it is, where that ended it: the answer "failed", a time or flag is "unreadable", no
# perturbation applies ("unchangeable").
PairVerdict = Literal["pair", "equal", "failed", "not_applicable", "unreadable", "unchangeable"]
ANCHOR = "anchor"  # Stands for the row as it is, where a perturbation is named otherwise.
TRIED: tuple[PairVerdict, ...] = ("pair", "equal", "failed")


@dataclass(frozen=True)
class PairRecipe:
    """All that decides which pairs a row yields, beside the row itself."""

    spec: PerturbationSpec
    catalogue: Catalogue
    teacher: Teacher
    library: IntentLibrary
    per_anchor: int = 1  # Most pairs of a row, each by another perturbation.
    seed: int = 0  # A row's draws depend on it, the row and the catalogue alone.


@dataclass(frozen=True, slots=True)
class PairCandidate:
    """What came of one perturbation of a row, or of the row as it is (ANCHOR)."""

    perturbation: str
    verdict: PairVerdict
    pair: ContextPair | None = None  # Of "pair" and "equal".
    fault: RowError | None = None  # Of "failed", "unreadable" and "unchangeable".


@dataclass(frozen=True)
class PairReport:
    """What became of the rows of a file."""

    anchors: int  # Rows read.
    without_pair: int  # Those of them that gave no pair.
    skipped: int  # Faults left out: rows that can't be read, and candidates with a fault.
    verdicts: Mapping[str, Mapping[PairVerdict, int]]  # Perturbation or ANCHOR -> verdict -> count.

    def total(self, verdict: PairVerdict) -> int:
        return sum(counts.get(verdict, 0) for counts in self.verdicts.values())

    def reasons(self) -> str:
        """Why candidates were skipped, with their numbers, in brackets; "" where none was."""
        words: dict[PairVerdict, str] = {
            "unreadable": "rows with an unreadable time or flag",
            "unchangeable": "rows of which nothing can be changed",
            "failed": "answers that failed",
        }
        found = [f"{n} {word}" for verdict, word in words.items() if (n := self.total(verdict))]
        return f" ({', '.join(found)})" if found else ""

    def to_dict(self) -> dict[str, Any]:
        return {
            "anchors": self.anchors,
            "without_pair": self.without_pair,
            "skipped": self.skipped,
            "candidates": {verdict: self.total(verdict) for verdict in get_args(PairVerdict)},
            "by_perturbation": {
                name: {verdict: counts.get(verdict, 0) for verdict in (*TRIED, "not_applicable")}
                for name, counts in self.verdicts.items()
                if name != ANCHOR
            },
        }


def report_table(report: PairReport) -> Table:
    """A line a perturbation: how often the teacher was asked, and what came of it."""
    names = [name for name in report.verdicts if name != ANCHOR]
    lines = {name: report.verdicts[name] for name in names}
    verdicts: tuple[PairVerdict, ...] = (*TRIED, "not_applicable")
    lines["all"] = {v: sum(lines[name].get(v, 0) for name in names) for v in verdicts}
    rows: list[Sequence[str] | None] = []
    for name, counts in lines.items():
        tried = sum(counts.get(verdict, 0) for verdict in TRIED)
        figures = [counts.get(verdict, 0) for verdict in verdicts]
        rows.append((name, *(f"{n:,}" for n in (tried, *figures))))
    rows.insert(-1, None)
    headings = ("perturbation", "tried", "pairs", "equal plans", "failed", "not applicable")
    return TextTable(headings, rows).rich()


async def candidates_of(sample: Sample, where: RowPlace, recipe: PairRecipe) -> list[PairCandidate]:
    """What comes of the perturbations of a row, until it has ``per_anchor`` pairs."""
    teacher = recipe.teacher

    def faulty(name: str, verdict: PairVerdict, problem: str, mend: str) -> PairCandidate:
        fault = RowError(where.file, where.row, None, problem, f"{mend}, or {SKIP_HINT}.")
        return PairCandidate(name, verdict, fault=fault)

    def failed(name: str, error: RowError | RequestFailed) -> PairCandidate:
        to = "the row as it is" if name == ANCHOR else name
        why = error.problem if isinstance(error, RowError) else str(error).rstrip(".")
        problem = f"the answer of teacher {teacher.name} to {to} fails: {why}"
        mend = error.mend if isinstance(error, RequestFailed) else "Mend the teacher"
        return faulty(name, "failed", problem, mend)

    async def answered(context: Sample) -> tuple[Sample, Plan]:
        """The context with the teacher's answer as its label, and the plan in it."""
        answer = await teacher.answer(context)
        labelled = context.with_label(answer.text)
        plan = [] if answer.faults else parse_label(labelled, recipe.library, where).plan
        if broken := answer.faults or check_plan(answer.text, recipe.library):
            problem = "; ".join(violation.message for violation in broken)
            raise RowError(where.file, where.row, None, problem, "Mend the teacher.")
        return labelled, plan

    def generator(purpose: str) -> random.Random:
        """Random numbers that depend on the seed, the purpose and the row's context alone."""
        context = sample.context().values()
        return random.Random(json.dumps([recipe.seed, purpose, *context], ensure_ascii=False))

    # The row as it is: it must be readable, and the teacher must have a plan for it.
    try:
        anchor = anchor_of(sample)
    except GplanError as error:
        return [faulty(ANCHOR, "unreadable", str(error).rstrip("."), "Mend the row")]
    try:
        context, plan = await answered(sample.with_label(""))
    except (RowError, RequestFailed) as error:
        return [failed(ANCHOR, error)]
    # The order in which the perturbations are tried, drawn by weight, none twice. The larger of
    # u^(1/w) comes first: a weighted draw without replacement (Efraimidis 2006).
    uniform = generator("order")
    keys = {name: uniform.random() ** (1 / w) for name, w in recipe.spec.weights.items()}
    found: list[PairCandidate] = []
    for name in sorted(keys, key=lambda name: -keys[name]):
        changed = perturbed(name, anchor, recipe.spec, recipe.catalogue, generator(name))
        if changed is None:
            found.append(PairCandidate(name, "not_applicable"))
            continue
        try:
            counterfactual, other_plan = await answered(changed)
        except (RowError, RequestFailed) as error:
            found.append(failed(name, error))
            continue
        columns = changed_columns(context, counterfactual)
        origin = Provenance(context.id, where.row, name, columns, teacher.name, PASSED)
        pair = ContextPair(f"{where.row}:{name}", context, counterfactual, origin)
        found.append(PairCandidate(name, "equal" if other_plan == plan else "pair", pair))
        if sum(candidate.verdict == "pair" for candidate in found) == recipe.per_anchor:
            return found
    if all(candidate.verdict == "not_applicable" for candidate in found):
        names = ", ".join(recipe.spec.weights)
        problem = f"nothing can be changed: none of {names} applies"
        found.append(faulty(ANCHOR, "unchangeable", problem, "Add perturbations to the spec"))
    return found


def write_counterfactuals(
    source: str | Path,
    out: str | Path,
    library: IntentLibrary,
    *,
    unchanged: str | Path | None = None,
    spec: PerturbationSpec | None = None,
    teacher: Teacher | None = None,
    per_anchor: int = 1,
    seed: int = 0,
    limit: int | None = None,
    faulty: FaultyRows | None = None,
) -> PairReport:
    """Writes context pairs of the rows of ``source`` to ``out`` (see ``gsisr.context_pairs``).

    The rows are read twice, first for their places and holidays, and never held; their labels are
    not read. NAME.report.json beside ``out`` has the counts and the settings. Files appear whole or
    not at all. Pairs whose plans are equal go to ``unchanged``, where given. ``teacher``, the rules
    where None, plans for both contexts and is closed at the end. Only the first ``limit`` rows are
    anchors; the places still come from all.

    GplanError for an unreadable source, an output that is the source or no .jsonl file, or no pair.
    """
    taken = {Path(source).resolve(): "the source"}
    for path in (Path(path) for path in (out, unchanged) if path):
        if path.resolve() in taken:
            raise GplanError(f"{path} is also {taken[path.resolve()]}; name another file.")
        taken[path.resolve()] = "another output"
    if per_anchor < 1:
        raise GplanError(f"per_anchor is {per_anchor}; a row gives at least 1 pair.")
    spec, teacher = spec or load_spec(library=library), teacher or RuleTeacher(library)
    faulty = faulty or FaultyRows()
    already = faulty.total
    with ExitStack() as stack:
        writers: dict[PairVerdict, PairWriter] = {}
        writers["pair"] = stack.enter_context(context_pair_writer(out))
        if unchanged:
            writers["equal"] = stack.enter_context(context_pair_writer(unchanged))

        # First pass: the catalogue of all rows, and their number. Faults count in the second one.
        rows = 0

        def counted() -> Iterator[Sample]:
            nonlocal rows
            for _, sample in read_numbered_samples(
                source, form=library.rows, faulty=FaultyRows(faulty.on_error)
            ):
                rows += 1
                yield sample

        catalogue = harvest(track(counted(), "places"), spec.holidays)
        recipe = PairRecipe(spec, catalogue, teacher, library, per_anchor, seed)

        # Second pass: as many rows at once as the teacher answers, their candidates in row order.
        async def candidates(row: tuple[int, Sample]) -> list[PairCandidate]:
            return await candidates_of(row[1], RowPlace(source, row[0]), recipe)

        anchors = islice(read_numbered_samples(source, form=library.rows, faulty=faulty), limit)
        found = stack.enter_context(
            closing(map_ordered(candidates, anchors, at_once=teacher.at_once, close=teacher.close))
        )
        total = rows if limit is None else min(limit, rows)
        verdicts = {name: Counter[PairVerdict]() for name in (ANCHOR, *spec.weights)}
        read, without_pair, streak = 0, 0, Streak(f"teacher {teacher.name}")
        for of_row in track(found, "counterfactuals", total, lambda: note_of(teacher)):
            read += 1
            without_pair += all(candidate.verdict != "pair" for candidate in of_row)
            for candidate in of_row:
                verdicts[candidate.perturbation][candidate.verdict] += 1
                if candidate.verdict in TRIED:
                    streak.add(str(candidate.fault) if candidate.fault else None)
                if candidate.fault:
                    faulty.add(candidate.fault)
                elif candidate.pair and candidate.verdict in writers:
                    writers[candidate.verdict](candidate.pair)
        report = PairReport(read, without_pair, faulty.total - already, verdicts)
        if not report.total("pair"):
            equal, failed = report.total("equal"), report.total("failed")
            faults = faulty.errors[already:]
            first = f" The first fault: {faults[0]}" if faults else ""
            raise NothingKept(
                f"{source}: none of {report.anchors} rows gave a pair; {equal} with equal plans, "
                f"{failed} with a failed answer, {report.total('not_applicable')} times a "
                f"perturbation did not apply.{first}"
            )
    settings = {
        "data": str(source),
        "teacher": settings_of(teacher),
        "per_anchor": per_anchor,
        "seed": seed,
        "limit": limit,
        "spec": spec.model_dump(mode="json"),
    }
    record_service(library, out, unchanged)
    write_json(report_path(out), {**report.to_dict(), "settings": settings})
    return report
