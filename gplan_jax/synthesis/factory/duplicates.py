"""Rows that say what an earlier one said: the same to the letter, or but for what hardly matters.

Two rows are exact duplicates where their context and plan are the same, and near ones where their
normal forms are: all columns but ``id`` (a user may come under another one), with the times cut to
the hour and runs of white space made one space, and the plan. The reasoning doesn't count: two
explanations of one plan in one context are not two rows to learn from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Literal

from gplan_jax.gsisr import Plan, Sample
from gplan_jax.gsisr.context_pairs import CONTEXT_COLUMNS
from gplan_jax.gsisr.facts import ORDER_TIMES, REQUEST_TIME

Kind = Literal["exact", "near"]
TO_THE_HOUR = len("2026-01-31 12")
_TIMES = {REQUEST_TIME, *ORDER_TIMES}
_NEAR_COLUMNS = tuple(column for column in CONTEXT_COLUMNS if column != "id")


class Duplicates:
    """What was seen so far, as 8-byte digests: about 150 bytes of memory a row that is kept.

    With n rows two different ones are taken for duplicates with a probability of n^2 / 2^65; at
    ten million rows, one in 370,000.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, int]] = {}

    def find(self, row: int, sample: Sample, plan: Plan) -> tuple[Kind, int] | None:
        """How ``sample`` with ``plan`` repeats a row and that row's number; None where it is new.

        A new one is remembered under ``row``.
        """
        exact = _digest((*(getattr(sample, column) for column in CONTEXT_COLUMNS),), plan)
        first = self._seen.setdefault(near_digest(sample, plan), (exact, row))
        if first[1] == row:
            return None
        return ("exact" if first[0] == exact else "near"), first[1]


def near_digest(sample: Sample, plan: Plan) -> int:
    """The digest of a row's normal form."""
    values = ((column, getattr(sample, column)) for column in _NEAR_COLUMNS)
    texts = (value.strip()[:TO_THE_HOUR] if column in _TIMES else value for column, value in values)
    return _digest((" ".join(text.split()) for text in texts), plan)


def _digest(texts: Iterable[str], plan: Plan) -> int:
    form = json.dumps([*texts, plan], ensure_ascii=False, sort_keys=True)
    return int.from_bytes(hashlib.blake2b(form.encode(), digest_size=8).digest(), "big")
