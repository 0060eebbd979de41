"""A run of the factory from its options: which contexts, which teacher, which files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import IntentLibrary
from gplan_jax.synthesis.factory.contexts import Context, file_contexts, numbered
from gplan_jax.synthesis.factory.mix import Mix, mix_of, mix_of_file
from gplan_jax.synthesis.factory.outputs import Outputs, file_hash
from gplan_jax.synthesis.factory.pipeline import Recipe, run
from gplan_jax.synthesis.factory.report import Report
from gplan_jax.synthesis.teachers.load import RULES, load_teacher, note_of, settings_of
from gplan_jax.synthesis.teachers.protocol import Teacher
from gplan_jax.synthesis.teachers.rule_teacher import RuleTeacher
from gplan_jax.synthesis.teachers.seed import Seed, read_seeds
from gplan_jax.synthesis.world.faults import FAULTY_SHARE
from gplan_jax.synthesis.world.simulation import simulate_contexts


@dataclass(frozen=True)
class Order:
    """What is asked of the factory.

    Attributes:
        out: the file of training rows; the others stand beside it, see ``Outputs``.
        rows: rows to keep, of the simulated world.
        data: contexts to plan for instead; all of them are asked for.
        limit: only the first rows of ``data``.
        seed: of the world and of the split.
        test_fraction: share of the users whose rows are kept back as test rows.
        seeds: seed file: examples for a language model, and what the report compares with.
        teacher: "rules" or a teacher file; the rules of the world answer its contexts with faults.
        overrides: ``key=value`` changes to the teacher file.
        cache: a paid teacher's answers; beside ``out`` where None.
        compare: rows that the report compares with instead of the seeds.
    """

    out: Path
    rows: int | None = None
    data: Path | None = None
    limit: int | None = None
    seed: int = 0
    test_fraction: float = 0.0
    seeds: Path | None = None
    teacher: str = RULES
    overrides: Sequence[str] = ()
    cache: Path | None = None
    compare: Path | None = None


@dataclass(frozen=True)
class Finished:
    """A run's report, what it was compared with, its files, and what its requests came to."""

    report: Report
    compared: Mix | None
    outputs: Outputs
    note: str


def synthesize(
    order: Order, library: IntentLibrary, *, faulty: FaultyRows | None = None
) -> Finished:
    """Carries out an order: reads, asks, filters and writes; see ``pipeline.run``.

    A file of contexts is read once before the teacher is asked anything, so that a faulty row ends
    the run before it has cost something.

    Args:
        faulty: what becomes of faulty rows of ``order.data``.

    Raises:
        GplanError, RowError: the order contradicts itself, a file can't be read or may not be
            written over, or the run can't go on.
    """
    _check(order)
    outputs = Outputs(order.out)
    inputs = {"the data": order.data, "the seed file": order.seeds, "compared with": order.compare}
    outputs.check(inputs, test=order.test_fraction > 0)
    faulty = faulty or FaultyRows()
    seeds = read_seeds(order.seeds, library) if order.seeds else []
    compared = mix_of_file(order.compare, library) if order.compare else None
    compared = compared or (mix_of((seed.plan for seed in seeds), library) if seeds else None)
    total = (
        order.rows
        if order.data is None
        else sum(1 for _ in _contexts(order, FaultyRows(faulty.on_error)))
    )
    teacher = _teacher(order, outputs, library, seeds)
    recipe = Recipe(
        teacher,
        library,
        test_fraction=order.test_fraction,
        seed=order.seed,
        wanted=order.rows,
        compare=compared,
        settings=_settings(order, teacher, library, faulty),
    )
    report = run(
        _contexts(order, faulty),
        recipe,
        outputs,
        total=total,
        note=lambda: note_of(teacher),
        faulty=faulty,
    )
    return Finished(report, compared, outputs, note_of(teacher))


def _check(order: Order) -> None:
    if (order.rows is None) == (order.data is None):
        raise GplanError("Name either --rows N, rows of the simulated world, or --data FILE.")
    if order.rows is not None and order.limit is not None:
        raise GplanError("--limit takes the first rows of --data; with --rows there is no file.")
    if not 0 <= order.test_fraction < 1:
        raise GplanError(f"test_fraction is {order.test_fraction}; it lies from 0 to below 1.")


def _contexts(order: Order, faulty: FaultyRows) -> Iterator[Context]:
    if order.data is None:
        return numbered(simulate_contexts(order.seed))
    return file_contexts(order.data, faulty, limit=order.limit)


def _teacher(
    order: Order, outputs: Outputs, library: IntentLibrary, seeds: Sequence[Seed]
) -> Teacher:
    if order.teacher == RULES and order.data is None and not order.overrides:
        return RuleTeacher(library, FAULTY_SHARE)
    return load_teacher(
        order.teacher, order.overrides, order.cache or outputs.cache, library, seeds
    )


def _settings(
    order: Order, teacher: Teacher, library: IntentLibrary, faulty: FaultyRows
) -> dict[str, Any]:
    """What decides the bytes of a run: options, inputs by their hash, the teacher's settings."""
    files = {"data": order.data, "seeds": order.seeds, "compare": order.compare}
    text = library.model_dump_json()
    return {
        "rows": order.rows,
        "limit": order.limit,
        "seed": order.seed,
        "test_fraction": order.test_fraction,
        "on_error": faulty.on_error,
        "library": {"name": library.name, "sha256": hashlib.sha256(text.encode()).hexdigest()},
        **{
            name: {"file": path.name, "sha256": file_hash(path)} if path else None
            for name, path in files.items()
        },
        "teacher": settings_of(teacher),
    }
