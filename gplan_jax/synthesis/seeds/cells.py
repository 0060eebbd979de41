"""Cells that a spreadsheet program shows as text: none of them begins a formula.

A cell that begins with one of ``= + - @`` (also in full width), a tab or a line break could be run
as a formula or a command (OWASP, "CSV Injection"). Such a cell gets an apostrophe in front, and so
does one that begins with an apostrophe, so that reading takes away exactly what writing has added.
"""

from __future__ import annotations

GUARD = "'"
DANGEROUS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")


def guarded(text: str) -> str:
    """The text as a cell holds it.

    >>> guarded("=1+1"), guarded("'tis"), guarded("1+1")
    ("'=1+1", "''tis", '1+1')
    """
    return GUARD + text if text.startswith((GUARD, *DANGEROUS)) else text


def unguarded(cell: str) -> str:
    """The text of a cell; reverses ``guarded``. What an expert typed without a guard stays."""
    return cell.removeprefix(GUARD)
