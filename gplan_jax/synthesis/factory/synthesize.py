"""The factory: contexts -> teacher -> filter -> duplicates -> split by user -> files.

Memory holds only counts and digests. A stopped run is continued by running it again: a paid
teacher keeps its answers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gplan_jax.chat import ChatClient, Connect, RequestFailed
from gplan_jax.chat.ledger import spent_line
from gplan_jax.chat.messages import ASK_AGAIN
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows, Streak
from gplan_jax.foundation.progress import Note, ProgressBar
from gplan_jax.foundation.streams import map_ordered
from gplan_jax.gsisr import (
    IntentLibrary,
    Label,
    RowForm,
    Sample,
    read_numbered_samples,
    split_by_id,
)
from gplan_jax.gsisr.facts import facts_of_row
from gplan_jax.gsisr.service import record_service
from gplan_jax.synthesis.factory.factory_report import FactoryReport, Part, PlanMix
from gplan_jax.synthesis.factory.output_files import (
    Duplicates,
    OutputFiles,
    Removal,
    check_label,
    file_identity,
    open_outputs,
)
from gplan_jax.synthesis.teachers.load import RULES, load_teacher, note_of, settings_of
from gplan_jax.synthesis.teachers.seed_selection import read_seeds
from gplan_jax.synthesis.teachers.teacher import RuleTeacher, Teacher, TeacherAnswer
from gplan_jax.synthesis.world.data_world import world_contexts
from gplan_jax.synthesis.world.faults import FAULTY_SHARE

T = TypeVar("T")
# A row to plan for: its number where it comes from, counted from 1, and its columns, unlabelled.
NumberedContext = tuple[int, Sample]
Answered = TeacherAnswer | RequestFailed


@dataclass(frozen=True)
class SynthesisSettings:
    """What a run is asked for."""

    out: Path  # The file of training rows; the others stand beside it, see ``OutputFiles``.
    rows: int | None = None  # Rows to keep, of the simulated world.
    data: Path | None = None  # Contexts to plan for instead; all of them are asked for.
    limit: int | None = None  # Only the first rows of ``data``.
    seed: int = 0  # Of the world and of the split.
    test_fraction: float = 0.0  # Share of the users whose rows are kept back as test rows.
    # Seed file: examples for a language model, and what the report compares with.
    seeds: Path | None = None
    # "rules" or a teacher file; the rules of the world answer its contexts with faults.
    teacher: str = RULES
    overrides: Sequence[str] = ()  # ``key=value`` changes to the teacher file.
    cache: Path | None = None  # A paid teacher's answers; beside ``out`` where None.
    compare: Path | None = None  # Rows that the report compares with instead of the seeds.
    connect: Connect = ChatClient  # What a language model is asked by.


@dataclass(frozen=True)
class SynthesisResult:
    """A run's report, what it was compared with, its files, and what its requests came to."""

    report: FactoryReport
    compared: PlanMix | None
    files: OutputFiles
    note: str


def synthesize(
    settings: SynthesisSettings, library: IntentLibrary, *, faulty: FaultyRows | None = None
) -> SynthesisResult:
    """A run from its settings: reads, asks, filters and writes; see ``run_factory``."""
    if (settings.rows is None) == (settings.data is None):
        raise GplanError("Name either --rows N, rows of the simulated world, or --data FILE.")
    if settings.rows is not None and settings.limit is not None:
        raise GplanError("--limit takes the first rows of --data; with --rows there is no file.")
    if not 0 <= settings.test_fraction < 1:
        raise GplanError(f"test_fraction is {settings.test_fraction}; it lies from 0 to below 1.")
    files, faulty = OutputFiles(settings.out), faulty or FaultyRows()
    inputs = {"data": settings.data, "seeds": settings.seeds, "compare": settings.compare}
    spoken = {"data": "the data", "seeds": "the seed file", "compare": "compared with"}
    files.check(
        {spoken[name]: path for name, path in inputs.items()}, test=settings.test_fraction > 0
    )

    # What the kept plans are compared with: a file of its own, else the seeds.
    seeds = read_seeds(settings.seeds, library) if settings.seeds else []
    compared = None
    if settings.compare:
        compared = PlanMix.of_file(settings.compare, library)
    elif seeds:
        compared = PlanMix.of_plans((seed.plan for seed in seeds), library)

    # The contexts. A file is read to its end first.
    if settings.data is None:
        contexts, total = numbered(world_contexts(library, settings.seed)), settings.rows
    else:
        trial = FaultyRows(faulty.on_error)
        cut: dict[str, Any] = {"limit": settings.limit, "form": library.rows}
        # A faulty row ends the run here, before the teacher has cost something.
        total = sum(1 for _ in file_contexts(settings.data, trial, **cut))
        contexts = file_contexts(settings.data, faulty, **cut)

    teacher: Teacher
    if settings.teacher == RULES and settings.data is None and not settings.overrides:
        teacher = RuleTeacher(library, 0.0 if library.rows else FAULTY_SHARE)
    else:
        cache = settings.cache or files.cache
        named = (settings.teacher, settings.overrides, cache, library, seeds)
        teacher = load_teacher(*named, settings.connect)
    library_text = library.model_dump_json()
    report = run_factory(
        contexts,
        teacher,
        library,
        files,
        test_fraction=settings.test_fraction,
        seed=settings.seed,
        wanted=settings.rows,
        compare=compared,
        # What decides the bytes of a run: options, inputs by their hash, the teacher's settings.
        settings={
            "rows": settings.rows,
            "limit": settings.limit,
            "seed": settings.seed,
            "test_fraction": settings.test_fraction,
            "on_error": faulty.on_error,
            "library": {
                "name": library.name,
                "sha256": hashlib.sha256(library_text.encode()).hexdigest(),
            },
            **{name: path and file_identity(path) for name, path in inputs.items()},
            "teacher": settings_of(teacher),
        },
        total=total,
        note=lambda: note_of(teacher),
        faulty=faulty,
    )
    record_service(library, files.train, files.test)
    return SynthesisResult(report, compared, files, note_of(teacher))


def run_factory(
    contexts: Iterable[NumberedContext],
    teacher: Teacher,
    library: IntentLibrary,
    files: OutputFiles,
    *,
    test_fraction: float = 0.0,
    seed: int = 0,
    wanted: int | None = None,
    compare: PlanMix | None = None,
    settings: Mapping[str, Any] | None = None,
    total: int | None = None,
    note: Note = "",
    faulty: FaultyRows | None = None,
) -> FactoryReport:
    """Asks the teacher about each context and writes ``files``, all at the end or none.

    Every context is kept or removed; its row number stands in one file exactly. The run stops at
    ``wanted`` kept rows. ``faulty`` gets the faults met while ``contexts`` is read; ``total`` and
    ``note`` are for the progress bar. The teacher is closed at the end.
    """
    report = FactoryReport(library)
    duplicates = Duplicates()

    async def ask(context: NumberedContext) -> tuple[NumberedContext, Answered]:
        try:
            return context, await teacher.answer(context[1])
        except RequestFailed as error:
            return context, error

    source = UntilEnough(contexts, lambda: math.inf if wanted is None else wanted - report.kept)
    answers = map_ordered(ask, source, at_once=teacher.at_once, close=teacher.close)
    opened = open_outputs(files, library.rows, test=test_fraction > 0, origin=True)
    bar = ProgressBar("synthesize", wanted or total)
    streak = Streak(f"teacher {teacher.name}")
    with opened as writers, closing(answers) as stream, bar:
        for (row, sample), answer in stream:
            source.settle()
            origin = answer.origin if isinstance(answer, TeacherAnswer) else {}
            if "requests" in origin:
                report.spent.add(origin["requests"], origin)
                report.structured[origin["structured"]] += 1
            found = check_answer(row, sample, answer, library, duplicates)
            if isinstance(found, Label):
                streak.add(None)
                labelled = sample.with_label(found.text)
                held_back = test_fraction and split_by_id([labelled], test_fraction, seed)[1]
                part: Part = "test" if held_back else "train"
                (writers.test if part == "test" else writers.train)(labelled)
                where = {"row": row, "id": sample.id, "part": part, "teacher": teacher.name}
                writers.origin({**where, **origin})
                report.keep(labelled, found, part, origin)
            else:
                writers.removed(found.to_dict(row, sample))
                report.remove(found, origin)
                shown = f" It answered: {found.raw[:400]!r}" if found.raw else ""
                why = f"{found.tier}/{found.code}: {'; '.join(found.messages)}.{shown}"
                streak.add(None if found.tier == "duplicate" else why)
            # A bar towards so many rows counts kept ones, one over a file every row.
            bar.advance(note, steps=int(wanted is None or isinstance(found, Label)))
        report.skipped = faulty.total if faulty else 0
        writers.report(report.to_dict(compare) | {"settings": dict(settings or {})})
    return report


def check_answer(
    row: int,
    context: Sample,
    answer: Answered,
    library: IntentLibrary,
    duplicates: Duplicates,
) -> Label | Removal:
    """The label of a row that is kept, or why it is not; ``answer`` may say why there is none."""
    if isinstance(answer, RequestFailed):
        code = "no_answer" if answer.mend == ASK_AGAIN else "refused"
        return Removal("answer", code, (str(answer),), "")
    if answer.faults:
        return Removal.of_faults(answer.text, answer.faults)
    found = check_label(context.with_label(answer.text), library)
    if not isinstance(found, Label):
        return Removal.of_faults(answer.text, found)
    if repeated := duplicates.find(row, context, found.plan):
        kind, earlier = repeated
        said = "the same" if kind == "exact" else "nearly the same"
        message = f"Row {earlier} has {said} context and the same plan"
        return Removal("duplicate", kind, (message,), found.text)
    return found


def file_contexts(
    path: str | Path,
    faulty: FaultyRows,
    *,
    limit: int | None = None,
    form: RowForm | None = None,
) -> Iterator[NumberedContext]:
    """Streams a file's first ``limit`` contexts, without their labels; their times are checked."""

    def checked(context: NumberedContext) -> NumberedContext:
        row, sample = context
        facts_of_row(sample, path, row)
        return row, sample.with_label("")

    rows = read_numbered_samples(path, form=form, faulty=faulty, limit=limit)
    return faulty.sound(path, rows, checked)


def numbered(samples: Iterable[Sample]) -> Iterator[NumberedContext]:
    """Contexts counted from 1, without their labels."""
    return ((i, sample.with_label("")) for i, sample in enumerate(samples, start=1))


class UntilEnough(Iterator[T]):
    """The items of a stream, but never more under way than are still wanted.

    It pauses, as if at its end, and goes on once an item turned out useless, so a paid teacher
    isn't asked for a row too many. (A generator would have ended for good.)
    """

    def __init__(self, items: Iterable[T], missing: Callable[[], float]) -> None:
        """``missing`` says how many more are wanted of those whose worth isn't known yet."""
        self._items, self._missing, self._out = iter(items), missing, 0

    def __next__(self) -> T:
        if self._out >= self._missing():
            raise StopIteration
        item = next(self._items)
        self._out += 1
        return item

    def settle(self) -> None:
        """The worth of one item that was out is known."""
        self._out -= 1


def end_message(result: SynthesisResult) -> str:
    """What a finished run says: what was kept, what it came to, and where it is."""
    report, files = result.report, result.files
    rows, users = report.parts, report.users
    lines = [f"{rows['train']:,} rows of {len(users['train']):,} users are in {files.train}."]
    if files.test.exists():
        test = f"{rows['test']:,} rows of {len(users['test']):,} other users"
        lines.append(f"  test rows            {test}, in {files.test}")
    lines += [
        f"  removed, and why     {report.removed.total():,}, in {files.removed}",
        f"  by the filter        {report.filtered:.1%} of the answers",
        f"  of first answers     {report.filtered_first:.1%} (the paper's: {FAULTY_SHARE:.1%})",
        f"  duplicates           {report.tier('duplicate'):,}",
        f"  repaired             {report.repaired:,} of the rows kept",
    ]
    if bound := report.structured["json_schema"]:
        lines.append(f"  held to a schema     {bound:,} first answers, so fewer of them are faulty")
    unanswered = report.codes("answer")
    if count := unanswered.get("no_answer"):
        lines.append(f"  without an answer    {count:,}; running the command again asks again")
    if count := unanswered.get("refused"):
        lines.append(f"  refused              {count:,}; the server would refuse them again")
    lines += [
        f"  origin of each row   {files.origin}",
        f"  counts, settings     {files.report}",
    ]
    if blocks := report.mix.suggested_target_blocks():
        lines.append(f"  suggested B*         optimizer.target_blocks={blocks}")
    if result.note:
        lines += [
            f"  all these answers    {spent_line(report.spent.to_dict())}",
            f"  this run             {result.note}",
        ]
    return "\n".join(lines)
