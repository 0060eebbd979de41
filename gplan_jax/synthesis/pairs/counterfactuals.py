"""Counterfactual pairs: rows in another time or place, each context with the teacher's own plan.

The pair construction of SC-DPO (paper, section 4.2.1). Pairs whose two plans are equal teach no
preference: they are counted, and may be kept apart for an evaluation of what should stay.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import SKIP_HINT, FaultyRows
from gplan_jax.foundation.files import write_json
from gplan_jax.foundation.progress import track
from gplan_jax.foundation.streams import map_ordered
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
    CONTEXT_COLUMNS,
    PASSED,
    PairWriter,
    changed_columns,
    context_pair_writer,
)
from gplan_jax.synthesis.pairs.catalogue import Catalogue, harvest
from gplan_jax.synthesis.pairs.counterfactual_report import ANCHOR, Report, Verdict, report_path
from gplan_jax.synthesis.pairs.perturbation_spec import PerturbationSpec, load_spec
from gplan_jax.synthesis.pairs.perturbations import Anchor, anchor_of, perturbed
from gplan_jax.synthesis.teachers.load import note_of, settings_of
from gplan_jax.synthesis.teachers.protocol import ROW_TROUBLE, Teacher
from gplan_jax.synthesis.teachers.rule_teacher import RuleTeacher

_MEND = f"Mend the row, or {SKIP_HINT}."
_SPEC_MEND = f"Add perturbations to the spec, or {SKIP_HINT}."
_ROW_TROUBLE = (RowError, *ROW_TROUBLE)
_TEACHER_MEND = f"Mend the teacher, or {SKIP_HINT}."


@dataclass(frozen=True)
class Recipe:
    """All that decides which pairs a row yields, beside the row itself.

    Attributes:
        per_anchor: most pairs of a row, each by another perturbation.
        seed: of every draw; a row's draws depend on it, the row and the catalogue alone.
    """

    spec: PerturbationSpec
    catalogue: Catalogue
    teacher: Teacher
    library: IntentLibrary
    per_anchor: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """What came of one perturbation of a row, or of the row as it is.

    Attributes:
        perturbation: its name; "anchor" for the row as it is.
        verdict: see ``Verdict``.
        pair: there for "pair" and "equal".
        fault: there for "failed", "unreadable" and "unchangeable".
    """

    perturbation: str
    verdict: Verdict
    pair: ContextPair | None = None
    fault: RowError | None = None


async def candidates_of(sample: Sample, where: RowPlace, recipe: Recipe) -> list[Candidate]:
    """What comes of the perturbations of a row, until it has ``per_anchor`` pairs."""
    try:
        anchor = anchor_of(sample)
    except GplanError as error:
        return [_fault("unreadable", where, str(error).rstrip("."), _MEND)]
    try:
        context, plan = await _answered(sample.with_label(""), where, recipe)
    except _ROW_TROUBLE as error:
        return [_failed(ANCHOR, where, error, recipe)]
    found: list[Candidate] = []
    for name in _order(sample, recipe):
        found.append(await _candidate(name, anchor, context, plan, where, recipe))
        if sum(candidate.verdict == "pair" for candidate in found) == recipe.per_anchor:
            return found
    if all(candidate.verdict == "not_applicable" for candidate in found):
        names = ", ".join(recipe.spec.weights)
        problem = f"nothing can be changed: none of {names} applies"
        found.append(_fault("unchangeable", where, problem, _SPEC_MEND))
    return found


async def _candidate(
    name: str, anchor: Anchor, context: Sample, plan: Plan, where: RowPlace, recipe: Recipe
) -> Candidate:
    generator = _generator(anchor.sample, name, recipe)
    changed = perturbed(name, anchor, recipe.spec, recipe.catalogue, generator)
    if changed is None:
        return Candidate(name, "not_applicable")
    try:
        counterfactual, other_plan = await _answered(changed, where, recipe)
    except _ROW_TROUBLE as error:
        return _failed(name, where, error, recipe)
    columns = changed_columns(context, counterfactual)
    origin = Provenance(context.id, where.row, name, columns, recipe.teacher.name, PASSED)
    pair = ContextPair(f"{where.row}:{name}", context, counterfactual, origin)
    return Candidate(name, "equal" if other_plan == plan else "pair", pair)


async def _answered(context: Sample, where: RowPlace, recipe: Recipe) -> tuple[Sample, Plan]:
    """The context with the teacher's answer as its label, and the plan in it.

    Raises:
        RowError: the teacher's answer can't be read, or breaks a rule.
        RequestFailed: it has none.
    """
    answer = await recipe.teacher.answer(context)
    answered = context.with_label(answer.text)
    plan = [] if answer.faults else parse_label(answered, recipe.library, where).plan
    if broken := answer.faults or check_plan(answer.text, recipe.library):
        problem = "; ".join(violation.message for violation in broken)
        raise RowError(where.file, where.row, None, problem, _TEACHER_MEND)
    return answered, plan


def _failed(name: str, where: RowPlace, error: GplanError, recipe: Recipe) -> Candidate:
    to = "the row as it is" if name == ANCHOR else name
    why = error.problem if isinstance(error, RowError) else str(error).rstrip(".")
    problem = f"the answer of teacher {recipe.teacher.name} to {to} fails: {why}"
    fault = RowError(where.file, where.row, None, problem, _TEACHER_MEND)
    return Candidate(name, "failed", fault=fault)


def _fault(verdict: Verdict, where: RowPlace, problem: str, mend: str) -> Candidate:
    return Candidate(ANCHOR, verdict, fault=RowError(where.file, where.row, None, problem, mend))


def _order(sample: Sample, recipe: Recipe) -> list[str]:
    """The perturbations in the order in which a row tries them: drawn by weight, none twice."""
    generator = _generator(sample, "order", recipe)
    # The larger of u^(1/w) comes first: a weighted draw without replacement (Efraimidis 2006).
    keys = {name: generator.random() ** (1 / w) for name, w in recipe.spec.weights.items()}
    return sorted(keys, key=lambda name: -keys[name])


def _generator(sample: Sample, purpose: str, recipe: Recipe) -> random.Random:
    """Random numbers that depend on the seed, the purpose and the row's context alone."""
    context = [getattr(sample, column) for column in CONTEXT_COLUMNS]
    return random.Random(json.dumps([recipe.seed, purpose, *context], ensure_ascii=False))


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
) -> Report:
    """Writes context pairs of the rows of ``source`` to ``out`` (see ``gsisr.context_pairs``).

    The rows are read twice, first for their places and holidays, and never held. Beside ``out``
    stands NAME.report.json with the counts and the settings. Files appear whole or not at all.

    Args:
        source: rows; their own labels are not looked at.
        unchanged: where given, the pairs whose plans are equal go there, in the same form.
        spec: the perturbations; the shipped spec where None.
        teacher: who plans for both contexts; the rules where None. It is closed at the end.
        per_anchor: most pairs of a row.
        limit: only the first rows are anchors; the places still come from all rows.
        faulty: what becomes of faulty rows and candidates.

    Raises:
        GplanError: an unreadable source, an output that is the source or no .jsonl file, or no
            pair at all.
        RowError: a fault that is not skipped.
    """
    _check_outputs(Path(source), [Path(path) for path in (out, unchanged) if path])
    if per_anchor < 1:
        raise GplanError(f"per_anchor is {per_anchor}; a row gives at least 1 pair.")
    spec, teacher = spec or load_spec(), teacher or RuleTeacher(library)
    faulty = faulty or FaultyRows()
    already = faulty.total
    with ExitStack() as stack:
        writers: dict[Verdict, PairWriter] = {}
        writers["pair"] = stack.enter_context(context_pair_writer(out))
        if unchanged:
            writers["equal"] = stack.enter_context(context_pair_writer(unchanged))
        catalogue, rows = _survey(source, spec, FaultyRows(faulty.on_error))
        recipe = Recipe(spec, catalogue, teacher, library, per_anchor, seed)
        numbered = read_numbered_samples(source, faulty=faulty)
        total = rows if limit is None else min(limit, rows)

        async def candidates(row: tuple[int, Sample]) -> list[Candidate]:
            return await candidates_of(row[1], RowPlace(source, row[0]), recipe)

        anchors = islice(numbered, limit)
        found = stack.enter_context(
            closing(map_ordered(candidates, anchors, at_once=teacher.at_once, close=teacher.close))
        )
        tracked = track(found, "counterfactuals", total, lambda: note_of(teacher))
        report = _write(tracked, recipe, writers, faulty)
        report = dataclasses.replace(report, skipped=faulty.total - already)
        if not report.total("pair"):
            raise _no_pair(source, report, faulty.errors[already:])
    settings = {
        "data": str(source),
        "teacher": settings_of(teacher),
        "per_anchor": per_anchor,
        "seed": seed,
        "limit": limit,
        "spec": spec.model_dump(mode="json"),
    }
    write_json(report_path(out), {**report.to_dict(), "settings": settings})
    return report


def _write(
    found: Iterable[Sequence[Candidate]],
    recipe: Recipe,
    writers: Mapping[Verdict, PairWriter],
    faulty: FaultyRows,
) -> Report:
    """Writes the pairs among the candidates of each row, and counts all of them."""
    verdicts = {name: Counter[Verdict]() for name in (ANCHOR, *recipe.spec.weights)}
    anchors = without_pair = 0
    for candidates in found:
        anchors += 1
        without_pair += all(candidate.verdict != "pair" for candidate in candidates)
        for candidate in candidates:
            verdicts[candidate.perturbation][candidate.verdict] += 1
            if candidate.fault:
                faulty.add(candidate.fault)
            elif candidate.pair and candidate.verdict in writers:
                writers[candidate.verdict](candidate.pair)
    return Report(anchors, without_pair, 0, verdicts)


def _check_outputs(source: Path, outputs: list[Path]) -> None:
    taken = {source.resolve(): "the source"}
    for path in outputs:
        if path.resolve() in taken:
            raise GplanError(f"{path} is also {taken[path.resolve()]}; name another file.")
        taken[path.resolve()] = "another output"


def _survey(
    source: str | Path, spec: PerturbationSpec, faulty: FaultyRows
) -> tuple[Catalogue, int]:
    """The catalogue of all rows and their number."""
    rows = 0

    def counted() -> Iterator[Sample]:
        nonlocal rows
        for _, sample in read_numbered_samples(source, faulty=faulty):
            rows += 1
            yield sample

    catalogue = harvest(track(counted(), "places"), spec.holidays)
    return catalogue, rows


def _no_pair(source: str | Path, report: Report, faults: list[RowError]) -> GplanError:
    equal, failed = report.total("equal"), report.total("failed")
    counts = f"{equal} with equal plans, {failed} with a failed answer"
    first = f" The first fault: {faults[0]}" if faults else ""
    return GplanError(
        f"{source}: none of {report.anchors} rows gave a pair; {counts}, "
        f"{report.total('not_applicable')} times a perturbation did not apply.{first}"
    )
