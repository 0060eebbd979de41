"""Errors a user can act on: each names what is at fault and the mend."""

from __future__ import annotations

from pathlib import Path


class GplanError(Exception):
    """Bad input or surroundings; the command line prints the message and exits with 2."""


class NothingKept(GplanError):
    """Nothing of a run succeeded, so it leaves no rows or scores; the command exits with 3."""


class RowError(GplanError):
    """A problem in one data row.

    ``row`` counts data rows from 1 (a CSV header is not a row); ``column`` is None where the whole
    row is at fault; ``problem`` says what was found and expected, ``mend`` what the user can do.
    """

    def __init__(
        self, file: str | Path, row: int, column: str | None, problem: str, mend: str
    ) -> None:
        self.file, self.row, self.column = Path(file), row, column
        self.problem, self.mend = problem, mend
        place = f"{file}, row {row}" + (f", column {column}" if column else "")
        super().__init__(f"{place}: {problem}. {mend}")

    def __reduce__(self) -> tuple[type[RowError], tuple[object, ...]]:
        """How it comes back from another process: by its parts, not by its message."""
        return RowError, (self.file, self.row, self.column, self.problem, self.mend)
