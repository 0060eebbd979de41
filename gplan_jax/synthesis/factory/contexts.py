"""What goes into the factory: numbered contexts, from a file or from the simulated world."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import SKIP_HINT, FaultyRows
from gplan_jax.gsisr import Sample, facts_of, read_numbered_samples

T = TypeVar("T")
_MEND = f"Mend the row, or {SKIP_HINT}."


class Context(NamedTuple):
    """A row to plan for: its number where it comes from, counted from 1, and its columns."""

    row: int
    sample: Sample


def file_contexts(
    path: str | Path, faulty: FaultyRows, *, limit: int | None = None
) -> Iterator[Context]:
    """Streams the contexts of a file, without their labels; their times are checked.

    Args:
        limit: only the first so many rows of the file are looked at.

    Raises:
        GplanError, RowError: the file can't be read, has no row, or a row is faulty.
    """

    def context(numbered: tuple[int, Sample]) -> Context:
        row, sample = numbered
        try:
            _check(sample)
        except GplanError as error:
            raise RowError(path, row, None, str(error).rstrip("."), _MEND) from None
        return Context(row, sample.with_label(""))

    return faulty.sound(path, read_numbered_samples(path, faulty=faulty, limit=limit), context)


def numbered(samples: Iterable[Sample]) -> Iterator[Context]:
    """Contexts counted from 1, without their labels."""
    return (Context(i, sample.with_label("")) for i, sample in enumerate(samples, start=1))


class UntilEnough(Iterator[T]):
    """The items of a stream, but never more under way than are still wanted.

    It pauses, as if at its end, while as many items are out as are missing, and goes on once one of
    them turned out useless. So a teacher that is paid by the answer isn't asked for a row too many.
    """

    def __init__(self, items: Iterable[T], missing: Callable[[], float]) -> None:
        """``missing`` says how many more are wanted of those whose worth isn't known yet."""
        self._items, self._missing, self._out = iter(items), missing, 0

    def __next__(self) -> T:
        if self._out >= self._missing():
            raise StopIteration
        item = next(self._items)
        self._out += 1
        return item

    def settle(self) -> None:
        """The worth of one item that was out is known."""
        self._out -= 1


def _check(sample: Sample) -> None:
    """Raises GplanError where the facts can't be told, or a text could not be written again."""
    facts_of(sample)
    try:
        "".join(sample.to_dict().values()).encode()
    except UnicodeEncodeError as error:
        raise GplanError(f"a text is not Unicode ({error.reason})") from None
