"""Errors a user can act on: each names what is at fault and the mend."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


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


OnError = Literal["raise", "skip"]


class FaultyRows:
    """What becomes of faulty rows: the first one ends the work, or all are left out and kept here.

    One object goes through all readers of a command, so that its faults end up in one place.

    Args:
        on_error: "raise" ends at the first faulty row, "skip" leaves it out.
    """

    def __init__(self, on_error: OnError = "raise") -> None:
        self.on_error = on_error
        self.errors: list[RowError] = []

    @property
    def skips(self) -> bool:
        """Whether faulty rows are left out."""
        return self.on_error == "skip"

    def add(self, error: RowError) -> None:
        """Raises the error, or keeps it where faulty rows are left out."""
        if not self.skips:
            raise error
        self.errors.append(error)
