"""Errors a user can act on: each names what is at fault and the mend."""

from __future__ import annotations

from pathlib import Path


class GplanError(Exception):
    """Bad input or surroundings; the command line prints the message and exits with 2."""


class RowError(GplanError):
    """A problem in one data row.

    Args:
        file: the file that holds the row.
        row: its number, counting data rows from 1 (a CSV header is not a row).
        column: the column at fault, or None where the whole row is.
        problem: what was found and what was expected.
        mend: what the user can do about it.
    """

    def __init__(
        self, file: str | Path, row: int, column: str | None, problem: str, mend: str
    ) -> None:
        self.file, self.row, self.column = Path(file), row, column
        self.problem, self.mend = problem, mend
        place = f"{file}, row {row}" + (f", column {column}" if column else "")
        super().__init__(f"{place}: {problem}. {mend}")
