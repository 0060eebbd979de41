"""One value from several judges' values for the same row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

Combine = Literal["mean", "majority"]


def combined(values: Sequence[float | None], how: Combine, *, default: float) -> float | None:
    """The judges' mean, or the value that most of them gave.

    None where no more than half of the judges gave a value: a row should not change its judges
    from run to run unnoticed. Where several values are given equally often, the one nearest to
    ``default`` counts, and of two as near the lower one.
    """
    given = [value for value in values if value is not None]
    if 2 * len(given) <= len(values):
        return None
    if how == "mean":
        return sum(given) / len(given)
    votes = Counter(given)
    return min(votes, key=lambda value: (-votes[value], abs(value - default), value))
