"""Tastes: what a user prefers where the facts leave several plans equally good.

A taste is a hash of the columns that contexts of one user share (profile, history, order), never
of time and place; so two contexts of one anchor differ in plan only because time or place differs.
Only a part of it shows in the history.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gplan_jax.gsisr import Sample
from gplan_jax.gsisr.context_pairs import SHARED_COLUMNS

T = TypeVar("T")

# Words in the histories that show a liking, and how much more weight its options then have.
DRIVING_WORDS = ("加油", "充电", "停车", "服务区", "收费站")
DRIVING_COUNT = 2
LIKINGS: Mapping[str, tuple[str, ...]] = {
    "景点": ("景区", "公园", "博物", "古镇", "寺庙", "文物"),
    "购物": ("商场", "超市", "商业街", "便利店", "市场"),
    "休闲娱乐": ("网吧", "足疗", "影", "KTV", "游乐", "按摩", "SPA", "洗浴"),
}
LIKED = 2.0


@dataclass(frozen=True, slots=True)
class Taste:
    """What one user prefers."""

    digest: bytes  # 32 bytes that decide between options of equal standing.
    drives: bool  # The history shows a car.
    likes: frozenset[str]  # The tags that the history shows a liking for.

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


def taste_of(sample: Sample) -> Taste:
    text = "\x1f".join(getattr(sample, column) for column in SHARED_COLUMNS)
    history = sample.short_term_behavior_seq + sample.long_term_behavior
    return Taste(
        hashlib.blake2b(text.encode(), digest_size=32).digest(),
        sum(history.count(word) for word in DRIVING_WORDS) >= DRIVING_COUNT,
        frozenset(tag for tag, words in LIKINGS.items() if any(word in history for word in words)),
    )
