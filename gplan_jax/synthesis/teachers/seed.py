"""A seed: a context, the plan an expert approved for it, and the reasoning between the two.

The paper's "Intent-Environment-Logic" triplets (section 3.2): the intents are the plan, the
environment is the context, the logic is the reasoning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.gsisr import (
    IntentLibrary,
    Plan,
    RowPlace,
    Sample,
    check_plan,
    facts_of,
    parse_label,
    read_numbered_samples,
)
from gplan_jax.reasoning import ReasoningTrace

Stratum = tuple[str, str]
_MEND = "Mend the row, or make the seed file anew with gplan seeds import."


@dataclass(frozen=True, slots=True)
class Seed:
    """One triplet."""

    sample: Sample  # The context; ``raw_labels`` holds reasoning and plan in canonical form.
    plan: Plan
    trace: ReasoningTrace  # One STEP an intent.

    @property
    def stratum(self) -> Stratum:
        return stratum_of(self.sample)


def stratum_of(sample: Sample) -> Stratum:
    """(``Facts.order_type``, ``Facts.order_distance``): these two tell most about the plan."""
    facts = facts_of(sample)
    return facts.order_type, facts.order_distance


def read_seeds(path: str | Path, library: IntentLibrary) -> list[Seed]:
    """Reads a seed file: rows of the service, each with reasoning and a plan that passes.

    RowError where a row's times can't be read, it has no reasoning, or its label breaks the form,
    the library or a rule of the filter.
    """
    rows = read_numbered_samples(path, form=library.rows)
    return [read_seed(sample, library, RowPlace(path, row)) for row, sample in rows]


def read_seed(sample: Sample, library: IntentLibrary, where: RowPlace) -> Seed:
    """Checks one labelled sample in full; RowError as ``read_seeds`` says."""
    try:
        facts_of(sample)
    except GplanError as error:
        raise _fault(where, None, str(error)) from None
    try:
        label = parse_label(sample, library, where)
    except RowError as error:
        raise _fault(where, sample.form.label, error.problem) from None
    if label.trace is None:
        raise _fault(where, sample.form.label, "a seed needs its reasoning before the plan")
    if broken := check_plan(label.text, library):
        raise _fault(where, sample.form.label, "; ".join(violation.message for violation in broken))
    return Seed(sample.with_label(label.text), label.plan, label.trace)


def _fault(where: RowPlace, column: str | None, problem: str) -> RowError:
    return RowError(where.file, where.row, column, problem.rstrip("."), _MEND)
