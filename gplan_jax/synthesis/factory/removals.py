"""Why a row is not kept: it has no answer, the filter finds a fault, or an earlier row says it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import (
    IntentLibrary,
    Label,
    Plan,
    RowPlace,
    Sample,
    Violation,
    check_plan,
    parse_label,
)
from gplan_jax.gsisr.facts import ORDER_TIMES, REQUEST_TIME

RemovalTier = Literal["answer", "format", "schema", "logic", "duplicate"]
# In the order in which a row passes them. The three between are the paper's (section 3.2).
TIERS: tuple[RemovalTier, ...] = ("answer", "format", "schema", "logic", "duplicate")
FILTER_TIERS: tuple[RemovalTier, ...] = ("format", "schema", "logic")
TO_THE_HOUR = len("2026-01-31 12")
_TIMES = {REQUEST_TIME, *ORDER_TIMES}


@dataclass(frozen=True, slots=True)
class Removal:
    """Why a row was removed."""

    tier: RemovalTier  # tier, code: of the first rule it breaks, tiers in their order.
    code: str
    messages: tuple[str, ...]  # Of all rules it breaks.
    raw: str  # The answer as it came; "" where there was none.

    @classmethod
    def of_faults(cls, raw: str, faults: Sequence[Violation]) -> Removal:
        """The removal of an answer that breaks at least one rule."""
        first = min(faults, key=lambda fault: TIERS.index(fault.tier))
        return cls(first.tier, first.code, tuple(fault.message for fault in faults), raw)

    def to_dict(self, row: int, sample: Sample) -> dict[str, Any]:
        """A line of the file of removed rows."""
        origin = {"row": row, "id": sample.id, "tier": self.tier, "code": self.code}
        return {**origin, "messages": list(self.messages), "raw": self.raw}


def check_label(sample: Sample, library: IntentLibrary) -> Label | tuple[Violation, ...]:
    """The label of ``sample`` where it and its reasoning (if any) pass, else its faults."""
    if faults := check_plan(sample.raw_labels, library):
        return tuple(faults)
    try:
        return parse_label(sample, library, RowPlace("the answer", 0))
    except GplanError as error:
        problem = getattr(error, "problem", str(error))
        return (Violation("format", "broken_reasoning", problem),)


class Duplicates:
    """Rows seen so far, as 8-byte digests: about 150 bytes of memory a row that is kept.

    The reasoning doesn't count: two explanations of one plan are not two rows to learn from. With
    n rows two different ones are taken for duplicates with a probability of n^2 / 2^65.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, int]] = {}  # digest of the normal form -> (exact, row)

    def find(
        self, row: int, sample: Sample, plan: Plan
    ) -> tuple[Literal["exact", "near"], int] | None:
        """How ``sample`` with ``plan`` repeats which row; None where it is new."""
        columns = sample.context()
        exact = _digest(columns.values(), plan)
        times = {sample.form.names[field] for field in _TIMES}
        # Near ones agree in all but the id, with times cut to the hour and single blanks.
        del columns[sample.form.names["id"]]
        near = _digest(
            (
                " ".join((text.strip()[:TO_THE_HOUR] if column in times else text).split())
                for column, text in columns.items()
            ),
            plan,
        )
        first = self._seen.setdefault(near, (exact, row))
        if first[1] == row:
            return None
        return ("exact" if first[0] == exact else "near"), first[1]


def _digest(texts: Iterable[str], plan: Plan) -> int:
    form = json.dumps([*texts, plan], ensure_ascii=False, sort_keys=True)
    return int.from_bytes(hashlib.blake2b(form.encode(), digest_size=8).digest(), "big")
