"""One reviewer's decisions and their file: read, changed one at a time, saved at once."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.gsisr import IntentLibrary
from gplan_jax.synthesis.seeds.draft import DraftFault, faults_of
from gplan_jax.synthesis.seeds.review_file import (
    Decision,
    read_review,
    review_line,
    verdict_faults,
    write_lines,
)
from gplan_jax.synthesis.seeds.seed_candidates import SeedCandidate, load_candidates

_NAME = re.compile(r"[\w-]{1,40}")


class Outdated(Exception):
    """A change to a decision that is no longer as the reviewer saw it; ``saved`` is as it is."""

    def __init__(self, saved: SavedDecision) -> None:
        super().__init__("the decision was changed elsewhere")
        self.saved = saved


class NotASeed(Exception):
    """A verdict that doesn't fit what was left; ``faults`` say why."""

    def __init__(self, faults: Sequence[RowError]) -> None:
        super().__init__("the verdict can't be taken")
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class SavedDecision:
    """A decision as it is on the disk."""

    decision: Decision
    version: str  # a hash of its line, so that it outlives the server
    faults: tuple[DraftFault, ...]  # what is wrong with its draft


class ReviewStore:
    """The decisions of one reviewer; every change is on the disk before it is acknowledged.

    Threads may share it. Where another program has changed the file meanwhile, it is read again
    before anything is written, so neither side's decisions are lost.
    """

    def __init__(
        self, path: Path, reviewer: str, candidates: list[SeedCandidate], library: IntentLibrary
    ) -> None:
        """Begins the file where it is missing; GplanError as ``read_review`` where it is faulty."""
        self.path, self.reviewer, self.library = path, reviewer, library
        self.candidates = candidates
        self.id = hashlib.sha256(repr(candidates).encode()).hexdigest()[:16]
        self._lock = threading.Lock()
        self._saved: list[SavedDecision] = []
        self._lines: list[str] = []
        self._stamp: tuple[int, int, int] | None = None
        if path.exists():
            self._read()
        else:
            self._hold([Decision(c.row, c.proposal, reviewer=reviewer) for c in candidates])
            self._write()

    def all(self) -> list[SavedDecision]:
        """Every decision, in the order of the rows."""
        with self._lock:
            self._refresh()
            return list(self._saved)

    def change(self, decision: Decision, version: str) -> SavedDecision:
        """Saves a decision made looking at ``version``; Outdated where it is another one by now.

        The same change once more, as after a lost answer, is fine. NotASeed where it is accepted or
        edited and ``verdict_faults`` finds faults.
        """
        candidate = self.candidates[decision.row - 1]
        decision = dataclasses.replace(decision, reviewer=self.reviewer)
        with self._lock:
            self._refresh()
            at = decision.row - 1
            saved, line = self._saved[at], review_line(candidate, decision, self.library)
            if line == self._lines[at]:
                return saved
            if saved.version != version:
                raise Outdated(saved)
            if faults := verdict_faults(self.path, candidate, decision, self.library):
                raise NotASeed(faults)
            before = self._lines[at]
            self._lines[at] = line
            try:
                self._write()
            except OSError:
                self._lines[at] = before
                raise
            self._saved[at] = self._kept(decision, line)
            return self._saved[at]

    def _refresh(self) -> None:
        if self._stamp != _stamp(self.path):
            self._read()

    def _read(self) -> None:
        stamp = _stamp(self.path)
        read = {d.row: d for d in read_review(self.path, self.candidates, self.library)}
        self._hold([read.get(c.row, Decision(c.row, c.proposal)) for c in self.candidates])
        self._stamp = stamp

    def _hold(self, decisions: Sequence[Decision]) -> None:
        both = zip(self.candidates, decisions, strict=True)
        self._lines = [review_line(c, d, self.library) for c, d in both]
        self._saved = [self._kept(d, line) for d, line in zip(decisions, self._lines, strict=True)]

    def _write(self) -> None:
        write_lines(self.path, self._lines, self.library)
        self._stamp = _stamp(self.path)

    def _kept(self, decision: Decision, line: str) -> SavedDecision:
        version = hashlib.sha256(line.encode()).hexdigest()[:16]
        return SavedDecision(decision, version, tuple(faults_of(decision.draft, self.library)))


def open_review(
    review: Path, reviewer: str, library: IntentLibrary, candidates: Path | None = None
) -> ReviewStore:
    """The store of a reviewer's own copy, review.csv -> review.anna.csv; begun where missing."""
    if not _NAME.fullmatch(reviewer):
        raise GplanError(
            f"{reviewer!r} can't name a reviewer: letters, digits, _ and -, at most 40 of them."
        )
    base, _, owner = review.stem.rpartition(".")
    if owner == reviewer and base:
        own = review
    elif base:
        raise GplanError(
            f"{review} is the copy of {owner}; name {base}.csv, or --reviewer {owner}."
        )
    else:
        own = review.with_name(f"{review.stem}.{reviewer}.csv")
    _, found = load_candidates([review], candidates, library)
    if not own.exists():
        # A copy starts from the proposals; decisions made in the file itself aren't passed over.
        proposals = {c.row: c.proposal for c in found}
        read = read_review(review, found, library)
        begun = [d.row for d in read if d.verdict or d.comment or d.draft != proposals[d.row]]
        if begun:
            raise GplanError(
                f"{review} holds work on {len(begun)} candidates already (first in row {begun[0]})."
                f" To go on with it, copy it to {own}."
            )
    return ReviewStore(own, reviewer, found, library)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise GplanError(f"{path} is no longer there; put it back.") from None
    return found.st_mtime_ns, found.st_size, found.st_ino
