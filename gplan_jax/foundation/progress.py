"""Progress on stderr: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gplan_jax.foundation.errors import RowError

T = TypeVar("T")
PLAIN_LINE_SECONDS = 15.0


class ProgressBar:
    """A bar with a free text beside it; where stderr is no terminal, a line every 15 seconds."""

    def __init__(self, description: str, total: int | None, *, start: int = 0) -> None:
        console = Console(stderr=True)
        self._description, self._total, self._done = description, total, start
        self._live: Progress | None = None
        self._last_line = time.monotonic()
        if console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            self._task = self._live.add_task(description, total=total, completed=start, note="")
        self._console = console

    def __enter__(self) -> ProgressBar:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def advance(self, note: str = "", *, steps: int = 1) -> None:
        """Counts ``steps`` done and shows ``note`` beside the bar."""
        self._done += steps
        if self._live:
            self._live.update(self._task, completed=self._done, note=note)
            return
        now = time.monotonic()
        finished = self._total is not None and self._done == self._total
        if finished or now - self._last_line >= PLAIN_LINE_SECONDS:
            self._last_line = now
            of = f"/{self._total}" if self._total is not None else ""
            line = f"{self._description}: {self._done}{of} {note}".rstrip()
            self._console.print(line, highlight=False, soft_wrap=True)


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields the items of ``iterable`` while a progress bar counts them."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with ProgressBar(description, total) as bar:
        for item in iterable:
            yield item
            bar.advance()


def report_skipped(skipped: Sequence[RowError], *, most: int = 20) -> None:
    """Counts the rows left out by --on-error skip on stderr, and lists the first ``most``."""
    if not skipped:
        return
    console = Console(stderr=True)
    console.print(f"Skipped {len(skipped)} faulty rows:", highlight=False)
    for error in skipped[:most]:
        console.print(f"  {error}", highlight=False, markup=False, soft_wrap=True)
    if len(skipped) > most:
        console.print(f"  ... and {len(skipped) - most} more", highlight=False)
