"""Labels read strictly: what a model learns from must be right, or name the row that is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import SKIP_HINT, FaultyRows
from gplan_jax.gsisr.facts import ORDER_TIMES, request_time, time_of
from gplan_jax.gsisr.filter import Violation, check_plan
from gplan_jax.gsisr.library import IntentLibrary
from gplan_jax.gsisr.plans import Plan, canonical_plan, parse_plan
from gplan_jax.gsisr.samples import Sample, read_numbered_samples
from gplan_jax.reasoning import (
    GSISR_LATENTS,
    LatentVocabulary,
    ReasoningTrace,
    parse_trace,
    split_response,
    write_trace,
)

LABEL_COLUMN = "raw_labels"
_MEND = f"Mend the label, or {SKIP_HINT}."


@dataclass(frozen=True)
class RowPlace:
    """Where a sample comes from, for error messages: its file and row, counted from 1."""

    file: str | Path
    row: int


@dataclass(frozen=True)
class Label:
    """A checked label: its trace where it has one, its plan, and both in canonical writing."""

    trace: ReasoningTrace | None
    plan: Plan
    text: str
    broken: tuple[Violation, ...] = ()  # logic rules that the plan breaks


def parse_label(
    sample: Sample,
    library: IntentLibrary,
    where: RowPlace,
    vocabulary: LatentVocabulary = GSISR_LATENTS,
) -> Label:
    """Reads and checks ``raw_labels`` of a sample that comes from ``where``.

    A label that breaks a logic rule of ``check_plan`` can still be learnt from; ``broken`` tells.
    RowError where the label is empty, its JSON broken, an intent outside the library, its reasoning
    malformed, or the number of steps not that of intents; all faults of the plan at once.
    """
    try:
        return _parse(sample.raw_labels, library, vocabulary)
    except GplanError as error:
        problem = str(error).rstrip(".")
        raise RowError(where.file, where.row, sample.form.label, problem, _MEND) from None


def read_labelled_samples(
    path: str | Path,
    library: IntentLibrary,
    *,
    vocabulary: LatentVocabulary = GSISR_LATENTS,
    faulty: FaultyRows | None = None,
) -> Iterator[tuple[Sample, Label]]:
    """Yields samples with their checked labels; faulty rows, times and labels are handled alike.

    Rows that break a logic rule are yielded, and told of by the report of ``faulty``. Raises as
    ``read_samples`` and ``parse_label`` do.
    """
    faulty = faulty or FaultyRows()

    def labelled(numbered: tuple[int, Sample]) -> tuple[Sample, Label]:
        row, sample = numbered
        try:
            request_time(sample)
            for column in ORDER_TIMES:
                time_of(sample, column)
        except GplanError as error:
            problem = str(error).rstrip(".")
            raise RowError(path, row, None, problem, f"Mend it, or {SKIP_HINT}.") from None
        label = parse_label(sample, library, RowPlace(path, row), vocabulary)
        if label.broken:
            faulty.warn(f"break a logic rule of the filter in {path}", sample.id)
        return sample, label

    return faulty.sound(
        path, read_numbered_samples(path, form=library.rows, faulty=faulty), labelled
    )


def _parse(raw_label: str, library: IntentLibrary, vocabulary: LatentVocabulary) -> Label:
    if not raw_label.strip():
        raise GplanError("the label is empty; expected a plan")
    thought, _ = split_response(raw_label)
    broken = tuple(check_plan(raw_label, library))
    if faults := [fault.message for fault in broken if fault.tier != "logic"]:
        raise GplanError("; ".join(faults))
    plan = parse_plan(raw_label, library)
    if thought is None:
        return Label(None, plan, canonical_plan(plan, library), broken)
    trace = parse_trace(thought, vocabulary)
    if trace.step_count != len(plan):
        raise GplanError(
            f"the reasoning has {trace.step_count} steps but the plan has {len(plan)} intents"
        )
    return Label(trace, plan, write_trace(trace) + canonical_plan(plan, library), broken)
