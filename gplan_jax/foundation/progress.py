"""Progress on stderr: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")
# A text, or a function that is asked for one whenever the bar is drawn: it should be quick.
Note = str | Callable[[], str]
PLAIN_LINE_SECONDS, FIRST_LINE_SECONDS = 15.0, 4.0


class ProgressBar:
    """A bar with a free text beside it; where stderr is no terminal, a line every 15 seconds.

    The first of these comes after 4 seconds, whether or not anything is done yet, with ``note``.
    """

    def __init__(
        self, description: str, total: int | None, *, start: int = 0, note: str = ""
    ) -> None:
        console = Console(stderr=True)
        self._description, self._total, self._note = description, total, note
        self._start = self._done = start
        self._live: Progress | None = None
        self._started = self._last_line = time.monotonic()
        if console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _RateColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                _NoteColumn(),
                console=console,
            )
            self._task = self._live.add_task(description, total=total, completed=start, note=note)
        self._console = console
        self._first = threading.Timer(FIRST_LINE_SECONDS, self._show_start)
        self._first.daemon = True

    def __enter__(self) -> ProgressBar:
        (self._live or self._first).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._first.cancel()
        if self._live:
            self._live.stop()

    def _show_start(self) -> None:
        of = "" if self._total is None else f" of {self._total}"
        said = f", {self._note}" if self._note else ""
        line = f"{self._description}: {self._done}{of} so far{said}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def advance(self, note: Note = "", *, steps: int = 1) -> None:
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
            left = None if self._total is None else self._total - self._done
            pace = pace_text(self._done - self._start, left, now - self._started)
            parts = [f"{self._done}{of}", pace, _read(note)]
            line = f"{self._description}: {', '.join(part for part in parts if part)}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def track(
    iterable: Iterable[T], description: str, total: int | None = None, note: Note = ""
) -> Iterator[T]:
    """Yields the items of ``iterable`` while a progress bar counts them and shows ``note``."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with ProgressBar(description, total) as bar:
        for item in iterable:
            yield item
            bar.advance(note)


def pace_text(done: int, left: int | None, seconds: float) -> str:
    """The rate of ``done`` steps, and the time left or taken: "12.5/s, 0:40 left"."""
    if seconds <= 0 or done <= 0:
        return ""
    rate = done / seconds
    if left is None:
        return rate_text(rate)
    time_left = f"{duration_text(left / rate)} left" if left > 0 else f"in {duration_text(seconds)}"
    return f"{rate_text(rate)}, {time_left}"


def rate_text(rate: float) -> str:
    """Three digits of a rate a second: 1,234/s, 123/s, 12.3/s, 1.23/s, 0.012/s."""
    if rate >= 100:
        return f"{rate:,.0f}/s"
    return f"{rate:.1f}/s" if rate >= 10 else f"{rate:.2f}/s" if rate >= 0.1 else f"{rate:.3f}/s"


def duration_text(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03, 2:03, 0:03."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


class _RateColumn(ProgressColumn):
    """Items a second over the last half minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else rate_text(speed), style="progress.data.speed")


class _NoteColumn(ProgressColumn):
    """The note, asked for anew whenever the bar is drawn."""

    def render(self, task: Task) -> Text:
        return Text(_read(task.fields["note"]))


def _read(note: Note) -> str:
    return note() if callable(note) else note
