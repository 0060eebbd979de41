"""What one user prefers where the facts leave several plans equally good."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gplan_jax.gsisr import Sample
from gplan_jax.gsisr.row_form import Group

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Draws:
    """Draws that are the same for the same user and question.

    A hash of the user's own columns (and of the trigger's, where ``taste`` in rules.yaml says so),
    never of time and place: so two contexts of one anchor differ in plan only because time or place
    differs.
    """

    digest: bytes  # 32 bytes that decide between options of equal standing

    def level(self, question: str) -> float:
        """A number in [0, 1), the same for the same user and question."""
        found = hashlib.blake2b(question.encode(), key=self.digest, digest_size=8).digest()
        return int.from_bytes(found, "big") / 2**64

    def choose(self, question: str, options: Sequence[tuple[T, float]]) -> T:
        """One of the options, over all users in proportion to its weight."""
        level = self.level(question) * sum(weight for _, weight in options)
        for option, weight in options:
            level -= weight
            if level < 0:
                return option
        return options[-1][0]


def digest_of(sample: Sample, groups: Collection[Group]) -> bytes:
    """The hash of a row's columns of these groups, by their roles (``RowForm.groups``)."""
    text = "\x1f".join(sample.texts_of(groups))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()
