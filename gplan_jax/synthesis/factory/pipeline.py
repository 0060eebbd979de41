"""The factory's line: contexts -> teacher -> filter -> duplicates -> split by user -> files.

Nothing is remembered but counts and digests, so a run takes the same memory at any length. It is a
function of its arguments, and a paid teacher keeps its answers, so a run that was stopped is
continued by running it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from gplan_jax.chat.errors import RequestFailed
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.progress import Note, ProgressBar
from gplan_jax.foundation.streams import map_ordered
from gplan_jax.gsisr import IntentLibrary, Label, split_by_id
from gplan_jax.synthesis.factory.contexts import Context, UntilEnough
from gplan_jax.synthesis.factory.duplicates import Duplicates
from gplan_jax.synthesis.factory.mix import Mix
from gplan_jax.synthesis.factory.outputs import Outputs, Writers, open_outputs
from gplan_jax.synthesis.factory.report import Part, Report
from gplan_jax.synthesis.factory.verdicts import Removal, broken_rules, no_answer, verdict
from gplan_jax.synthesis.teachers.protocol import Answer, Teacher

# So many rows in a row without one that passes: the teacher is at fault, not the rows.
HOPELESS = 500


@dataclass(frozen=True)
class Recipe:
    """All that decides what becomes of a context.

    Attributes:
        test_fraction: share of the users whose rows go to the file of test rows.
        seed: of that choice.
        wanted: stop once so many rows are kept; all contexts are asked for where None.
        compare: the plans that the report sets the kept ones beside.
        settings: what else the report should say about the run, in plain JSON values.
    """

    teacher: Teacher
    library: IntentLibrary
    test_fraction: float = 0.0
    seed: int = 0
    wanted: int | None = None
    compare: Mix | None = None
    settings: Mapping[str, Any] | None = None


def run(
    contexts: Iterable[Context],
    recipe: Recipe,
    outputs: Outputs,
    *,
    total: int | None = None,
    note: Note = "",
    faulty: FaultyRows | None = None,
) -> Report:
    """Asks the teacher about each context and writes the files of ``outputs``, all at the end.

    Every context is either kept or removed; its row number stands in one file exactly. The teacher
    is closed at the end.

    Args:
        total: how many contexts there are, for the progress bar.
        note: what the bar shows beside the rate.
        faulty: where the faults of rows that can't be read turn up while ``contexts`` is read.

    Raises:
        GplanError: whatever ends a run: a faulty context, a server that can't be reached, a spent
            budget, a teacher none of whose answers passes. No file appears then.
    """
    teacher, library = recipe.teacher, recipe.library
    report = Report(library)
    duplicates = Duplicates()

    async def ask(context: Context) -> tuple[Context, Answer | str]:
        try:
            return context, await teacher.answer(context.sample)
        except RequestFailed as error:
            return context, str(error)

    def missing() -> float:
        return math.inf if recipe.wanted is None else recipe.wanted - report.kept

    source = UntilEnough(contexts, missing)
    answers = map_ordered(ask, source, at_once=teacher.at_once, close=teacher.close)
    opened = open_outputs(outputs, test=recipe.test_fraction > 0, origin=True)
    bar = ProgressBar("synthesize", recipe.wanted or total)
    in_vain = 0
    with opened as writers, closing(answers) as stream, bar:
        for context, answer in stream:
            source.settle()
            found = judge(context, answer, library, duplicates)
            origin = answer.origin if isinstance(answer, Answer) else {}
            if "requests" in origin:
                report.spent.add(origin)
            if isinstance(found, Label):
                _keep(context, found, origin, recipe, writers, report)
            else:
                report.remove(found)
                writers.removed(found.to_dict(*context))
            wasted = isinstance(found, Removal) and found.tier != "duplicate"
            in_vain = in_vain + 1 if wasted else 0
            if isinstance(found, Removal) and in_vain == HOPELESS:
                raise _hopeless(found, teacher)
            counts = recipe.wanted is None or isinstance(found, Label)
            bar.advance(note, steps=int(counts))
        report.skipped = faulty.total if faulty else 0
        writers.report(report.to_dict(recipe.compare) | {"settings": dict(recipe.settings or {})})
    return report


def judge(
    context: Context, answer: Answer | str, library: IntentLibrary, duplicates: Duplicates
) -> Label | Removal:
    """The label of a row that is kept, or why it is not.

    Args:
        answer: the teacher's, or why there is none.
        duplicates: the rows kept so far; this one is added where it is kept.
    """
    if isinstance(answer, str):
        return no_answer(answer)
    if answer.faults:
        return broken_rules(answer.text, answer.faults)
    found = verdict(context.sample.with_label(answer.text), library)
    if not isinstance(found, Label):
        return broken_rules(answer.text, found)
    if repeated := duplicates.find(context.row, context.sample, found.plan):
        kind, row = repeated
        message = f"Row {row} has {'the same' if kind == 'exact' else 'nearly the same'} context"
        return Removal("duplicate", kind, (f"{message} and the same plan",), found.text)
    return found


def _keep(
    context: Context,
    label: Label,
    origin: Mapping[str, Any],
    recipe: Recipe,
    writers: Writers,
    report: Report,
) -> None:
    sample = context.sample.with_label(label.text)
    part: Part = "train"
    if recipe.test_fraction and split_by_id([sample], recipe.test_fraction, recipe.seed)[1]:
        part = "test"
    (writers.test if part == "test" else writers.train)(sample)
    where = {"row": context.row, "id": sample.id, "part": part, "teacher": recipe.teacher.name}
    writers.origin({**where, **origin})
    report.keep(sample, label, part, origin)


def _hopeless(last: Removal, teacher: Teacher) -> GplanError:
    why = "; ".join(last.messages)
    shown = f" It answered: {last.raw[:400]!r}" if last.raw else ""
    return GplanError(
        f"{HOPELESS} rows in a row were removed, so something is wrong with teacher {teacher.name} "
        f"or its prompt. The last one, {last.tier}/{last.code}: {why}.{shown}"
    )
