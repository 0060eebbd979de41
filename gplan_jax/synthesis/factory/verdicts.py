"""The filter's verdict on one answer: the label it holds, or the first tier that it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import (
    IntentLibrary,
    Label,
    RowPlace,
    Sample,
    Violation,
    check_plan,
    parse_label,
)

Tier = Literal["answer", "format", "schema", "logic", "duplicate"]
# In the order in which a row meets them. The three between are the paper's (section 3.2).
TIERS: tuple[Tier, ...] = ("answer", "format", "schema", "logic", "duplicate")
FILTER_TIERS: tuple[Tier, ...] = ("format", "schema", "logic")


@dataclass(frozen=True, slots=True)
class Removal:
    """Why a row was removed.

    Attributes:
        tier, code: of the first rule it breaks, tiers in their order.
        messages: of all rules it breaks.
        raw: the answer as it came; "" where there was none.
    """

    tier: Tier
    code: str
    messages: tuple[str, ...]
    raw: str

    def to_dict(self, row: int, sample: Sample) -> dict[str, Any]:
        """A line of the file of removed rows."""
        origin = {"row": row, "id": sample.id, "tier": self.tier, "code": self.code}
        return {**origin, "messages": list(self.messages), "raw": self.raw}


def no_answer(why: str) -> Removal:
    """The verdict on a row whose request failed; a later run asks again."""
    return Removal("answer", "no_answer", (why,), "")


def broken_rules(raw: str, faults: Sequence[Violation]) -> Removal:
    """The verdict on an answer that breaks at least one rule."""
    first = min(faults, key=lambda fault: TIERS.index(fault.tier))
    return Removal(first.tier, first.code, tuple(fault.message for fault in faults), raw)


def verdict(sample: Sample, library: IntentLibrary) -> Label | tuple[Violation, ...]:
    """The label in ``raw_labels`` of ``sample`` where it passes the whole filter, else its faults.

    Beside the rules of ``check_plan``, the reasoning in front of a plan must be well formed, with
    one step for each intent (format: broken_reasoning). Rows without reasoning pass.
    """
    if faults := check_plan(sample.raw_labels, library):
        return tuple(faults)
    try:
        return parse_label(sample, library, RowPlace("the answer", 0))
    except GplanError as error:
        problem = getattr(error, "problem", str(error))
        return (Violation("format", "broken_reasoning", problem),)
