"""Item sequences of public data: read, leave-one-out, packed batches, and ranking metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gplan_jax.foundation.errors import GplanError


@dataclass(frozen=True)
class ItemData:
    """Every user's items in time order; items are numbered from 1, 0 is padding."""

    histories: tuple[np.ndarray, ...]
    items: int

    @property
    def actions(self) -> int:
        return sum(len(history) for history in self.histories)

    def held_out(self) -> np.ndarray:
        """Users with three items or more: the last is for test, the one before for validation."""
        return np.array([u for u, h in enumerate(self.histories) if len(h) >= 3], np.int64)

    def training(self, user: int) -> np.ndarray:
        """What may be learnt from: all but the last two items, or all where there are only two."""
        history = self.histories[user]
        return history[:-2] if len(history) >= 3 else history


def read_items(path: str | Path) -> ItemData:
    """Reads lines of ``user item``, a user's lines in time order; both are whole numbers from 1.

    Raises:
        GplanError: a line is not two whole numbers above 0, or the file has none.
    """
    histories: dict[int, list[int]] = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) != 2 or not all(f.isascii() and f.isdigit() and int(f) for f in fields):
                raise GplanError(
                    f"{path}, line {number}: {line.strip()!r}. A line is a user and an item, two "
                    "whole numbers from 1."
                )
            histories.setdefault(int(fields[0]), []).append(int(fields[1]))
    if not histories:
        raise GplanError(f"{path} holds no action; give a file of lines 'user item'.")
    rows = tuple(np.array(history, np.int32) for history in histories.values())
    return ItemData(rows, int(max(row.max() for row in rows)))


class Packed(NamedTuple):
    """Several sequences in each row: no position is wasted on padding, and one shape is compiled.

    Attributes:
        items, segments, positions: (R, L); segments count a row's sequences from 1, 0 is padding;
            positions count so that a sequence's last one is ``longest - 1``.
        row, end: (sequences,) where each sequence's last position lies.
    """

    items: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    row: np.ndarray
    end: np.ndarray


def pack(sequences: Sequence[np.ndarray], length: int, longest: int) -> Packed:
    """Lays sequences one after another into rows of ``length``; the next row begins where one does
    not fit. Of a sequence above ``longest`` the last items are kept. None may be empty.

    Raises:
        GplanError: ``longest`` is above ``length``.
    """
    if longest > length:
        raise GplanError(f"longest is {longest}, but a row has {length} positions.")
    sizes = np.array([min(len(sequence), longest) for sequence in sequences], np.int64)
    row, start, segment = _places(sizes, length)
    shape = (int(row[-1]) + 1 if len(row) else 0, length)
    items, segments, positions = (np.zeros(shape, np.int32) for _ in range(3))
    for number, sequence in enumerate(sequences):
        size = sizes[number]
        where = row[number], slice(start[number], start[number] + size)
        items[where] = sequence[-size:]
        segments[where] = segment[number]
        positions[where] = np.arange(longest - size, longest)
    return Packed(items, segments, positions, row, start + sizes - 1)


def _places(sizes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    row, start, segment = (np.zeros(len(sizes), np.int64) for _ in range(3))
    here = used = count = 0
    for number, size in enumerate(sizes.tolist()):
        if used + size > length:
            here, used, count = here + 1, 0, 0
        count += 1
        row[number], start[number], segment[number] = here, used, count
        used += size
    return row, start, segment


def batches(rows: int, size: int) -> Iterator[slice]:
    """Slices of ``size`` rows; the last may be short."""
    for begin in range(0, rows, size):
        yield slice(begin, min(begin + size, rows))


def unseen_candidates(data: ItemData, users: np.ndarray, count: int, seed: int) -> np.ndarray:
    """For each user ``count`` different items that the user never saw, (users, count).

    Drawn evenly from all items but those of the user's whole history, test item included.

    Raises:
        GplanError: a user has seen so much that fewer than ``count`` items are left.
    """
    rng = np.random.default_rng(seed)
    found = np.zeros((len(users), count), np.int32)
    for place, user in enumerate(users):
        seen = set(data.histories[user].tolist())
        if data.items - len(seen) < count:
            raise GplanError(
                f"User {user + 1} has seen {len(seen)} of {data.items} items; {count} others are "
                "not left. Ask for fewer candidates."
            )
        drawn: dict[int, None] = {}
        while len(drawn) < count:
            more = rng.integers(1, data.items + 1, 2 * count).tolist()
            drawn.update(dict.fromkeys(item for item in more if item not in seen))
        found[place] = list(drawn)[:count]
    return found


def ranks(target_N: np.ndarray, others_NxC: np.ndarray) -> np.ndarray:
    """Rank of each target among its alternatives, 0 the best; equal scores stand before it.

    So a model that scores everything alike gains nothing. Alternatives that don't count are -inf.
    """
    return (others_NxC >= target_N[:, None]).sum(-1)


def ranking_metrics(rank_N: np.ndarray, k: int = 10) -> dict[str, float]:
    """HR@k, the share of ranks below k, and NDCG@k, the mean of 1 / log2(rank + 2) over those."""
    hit = rank_N < k
    gains = np.where(hit, 1 / np.log2(rank_N + 2.0), 0.0)
    return {f"hr{k}": float(hit.mean()), f"ndcg{k}": float(gains.mean())}
