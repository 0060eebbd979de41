"""Faulty rows: one policy for every reader and every command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from rich.console import Console

from gplan_jax.foundation.errors import GplanError, NothingKept, RowError

OnError = Literal["raise", "skip"]
SKIP_HINT = "skip faulty rows with --on-error skip (data.on_error=skip of a config)"

WARNED_IDS = 5  # that a warning names
# After so many failures in a row a teacher or judge is at fault, not the rows; the first number
# holds before the first success.
MOST_FAILED_AT_FIRST, MOST_FAILED_IN_A_ROW = 50, 500

T = TypeVar("T")
U = TypeVar("U")


class FaultyRows:
    """The first faulty row ends the work ("raise"), or all are left out and kept here ("skip").

    One object goes through all readers of a command, so that its faults end up in one place. It
    holds ``keep`` errors at most, where a log may have millions of them; all where None.
    """

    def __init__(self, on_error: OnError = "raise", *, keep: int | None = None) -> None:
        self.on_error: OnError = on_error
        self.errors: list[RowError] = []
        self.counts: Counter[str] = Counter()
        self._keep = keep
        self.warned: dict[str, tuple[int, list[str]]] = {}  # what -> how many, the first ids

    @property
    def skips(self) -> bool:
        return self.on_error == "skip"

    @property
    def total(self) -> int:
        return self.counts.total()

    def add(self, error: RowError, kind: str = "row") -> None:
        """Raises the error, or keeps it under its kind where faulty rows are left out."""
        if not self.skips:
            raise error
        self.counts[kind] += 1
        if self._keep is None or len(self.errors) < self._keep:
            self.errors.append(error)

    def warn(self, what: str, row_id: str) -> None:
        """Counts a row that is kept but worth a look; the report has "N rows ``what``; ids ..."."""
        count, ids = self.warned.get(what, (0, []))
        self.warned[what] = count + 1, [*ids, row_id][:WARNED_IDS]

    def sound(self, path: str | Path, items: Iterable[T], check: Callable[[T], U]) -> Iterator[U]:
        """Yields ``check(item)`` where it raises no RowError; GplanError where nothing is left."""
        already, yielded = len(self.errors), False
        for item in items:
            try:
                result = check(item)
            except RowError as error:
                self.add(error)
                continue
            yielded = True
            yield result
        if not yielded:
            raise empty_data_set(path, self.errors[already:])

    def report(self, most: int = 20) -> None:
        """Counts what was left out on stderr, and lists the first ``most``; warnings before."""
        console = Console(stderr=True)
        for what, (count, ids) in self.warned.items():
            console.print(
                f"warning: {count} rows {what}; ids {', '.join(ids)}{' ...' * (count > len(ids))}",
                highlight=False, markup=False, soft_wrap=True,
            )  # fmt: skip
        if not self.total:
            return
        console.print(f"Skipped {self.total} faulty rows:", highlight=False)
        for error in self.errors[:most]:
            console.print(f"  {error}", highlight=False, markup=False, soft_wrap=True)
        if self.total > most:
            console.print(f"  ... and {self.total - most} more", highlight=False)


class Streak:
    """Ends a run in which nothing succeeds any more; ``who`` answers."""

    def __init__(self, who: str) -> None:
        self._who, self._failed, self._most = who, 0, MOST_FAILED_AT_FIRST

    def add(self, failure: str | None) -> None:
        """Counts a row by why it failed, None where it did not; NothingKept where it's too many."""
        self._failed = 0 if failure is None else self._failed + 1
        if failure is None:
            self._most = MOST_FAILED_IN_A_ROW
        if self._failed == self._most:
            raise NothingKept(
                f"{self._failed} rows in a row came to nothing, so something is wrong with "
                f"{self._who} or its prompt; the run stops, and nothing is written. The last one: "
                f"{failure}"
            )


def empty_data_set(path: str | Path, faulty: Sequence[RowError]) -> GplanError:
    """The error of a file that has no row to work on, with the first fault of those it has."""
    if not faulty:
        return GplanError(f"{path} is an empty data set: it has no rows.")
    return GplanError(
        f"{path} is an empty data set: all {len(faulty)} rows are faulty. "
        f"The first fault: {faulty[0]}"
    )
