"""Which rows become candidates: a stratified draw by trigger and place, a user at most once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import SKIP_HINT, FaultyRows
from gplan_jax.foundation.progress import track
from gplan_jax.gsisr import Sample, read_numbered_samples
from gplan_jax.synthesis.teachers.seed import Stratum, stratum_of


@dataclass(frozen=True, slots=True)
class Draw:
    """What was drawn.

    Attributes:
        rows: (number in the file, from 1, row, stratum), in the order of the review.
        strata: stratum -> (users drawn, users there).
    """

    rows: Sequence[tuple[int, Sample, Stratum]]
    strata: Mapping[Stratum, tuple[int, int]]


def draw_rows(
    path: str | Path,
    count: int,
    seed: int,
    *,
    faulty: FaultyRows | None = None,
) -> Draw:
    """Draws up to ``count`` rows of ``path``, as many from each stratum as there are.

    One row of each user is drawn by a hash of the seed, so that it depends on no other user. Then
    every stratum gives one user in turn until there are enough; so each stretch of the review
    covers all strata, and an expert who stops half-way has still seen all of them. The file is
    read twice and never held.

    Raises:
        GplanError, RowError: as ``read_samples`` does, and where a row's times can't be read.
    """
    faulty = faulty or FaultyRows()
    users: dict[str, tuple[bytes, int, Stratum]] = {}
    rows = read_numbered_samples(path, faulty=faulty)
    for number, sample in track(rows, "draw"):
        try:
            stratum = stratum_of(sample)
        except GplanError as error:
            mend = f"Mend it, or {SKIP_HINT}."
            faulty.add(RowError(path, number, None, str(error).rstrip("."), mend))
            continue
        drawn = (_hash(seed, sample.id, number), number, stratum)
        users[sample.id] = min(users.get(sample.id, drawn), drawn)
    strata: dict[Stratum, list[tuple[bytes, int, Stratum]]] = {}
    for entry in sorted(users.values()):
        strata.setdefault(entry[2], []).append(entry)
    # The largest strata first: where the last turn is not a full one, they have most to show.
    turns = zip_longest(*(strata[s] for s in sorted(strata, key=lambda s: (-len(strata[s]), s))))
    chosen = [entry for turn in turns for entry in turn if entry is not None][:count]
    found = dict(_fetch(path, {number for _, number, _ in chosen}))
    drawn_rows = [(number, found[number], stratum) for _, number, stratum in chosen]
    counts = {s: sum(stratum == s for _, _, stratum in drawn_rows) for s in strata}
    return Draw(drawn_rows, {s: (counts[s], len(strata[s])) for s in sorted(strata)})


def _hash(seed: int, user: str, number: int) -> bytes:
    return hashlib.sha256(f"{seed}:{user}:{number}".encode()).digest()


def _fetch(path: str | Path, numbers: set[int]) -> Iterator[tuple[int, Sample]]:
    if not numbers:
        return
    for number, sample in read_numbered_samples(path, faulty=FaultyRows("skip")):
        if number in numbers:
            yield number, sample
