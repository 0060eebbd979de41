"""What is missing or odd in each column of a file of rows, for people who describe a service."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.row_files import column_names, read_rows
from gplan_jax.gsisr.facts import facts_of, place_kind, time_of
from gplan_jax.gsisr.filter import check_plan
from gplan_jax.gsisr.library import IntentLibrary
from gplan_jax.gsisr.row_form import ROLES, TIME_ROLES
from gplan_jax.gsisr.samples import Sample

LONGEST = 16  # characters of an example


@dataclass
class ColumnReport:
    """One column: the rows that say something in it, and what is odd about how many of them."""

    column: str
    role: str
    filled: int = 0
    example: str = ""
    odd: Counter[str] = field(default_factory=Counter)

    def said(self) -> str:
        """What is odd, in words, with the numbers of rows."""
        return "; ".join(f"{what} ({n})" if n else what for what, n in self.odd.items())


def check_rows(
    path: Path, library: IntentLibrary, *, limit: int | None = None
) -> tuple[list[ColumnReport], int]:
    """A report for each column of the service and of the file, and how many rows were read.

    GplanError where the file can't be read; faulty rows are counted where their fault lies.
    """
    form, there = library.form, column_names(path)
    reports = {name: ColumnReport(name, c.role or "") for name, c in form.columns.items()}
    for name in reports:
        if name not in there:
            kind = "missing, and required" if name in form.required else "missing: taken as empty"
            reports[name].odd[kind] = 0
    extra = [name for name in there if name not in reports]
    reports |= {name: ColumnReport(name, "-") for name in extra}
    for name in extra:
        said = "ignored" if form.others == "ignore" else "not in service.yaml: refused"
        reports[name].odd[said] = 0
    count, columns = 0, [name for name in reports if name in there]
    for _, cells in islice(read_rows(path, columns, only=False), limit):
        count += 1
        if isinstance(cells, RowError):
            if cells.column:
                reports[cells.column].odd["not text or a number"] += 1
            continue
        for name, text in cells.items():
            reports[name].filled += bool(text.strip())
            reports[name].example = reports[name].example or " ".join(text.split())[:LONGEST]
        known = {name: text for name, text in cells.items() if name in form.columns}
        sample = Sample.from_context(known, library.rows)
        for role, problem in _odd(sample, library):
            if (column := form.names[ROLES[role]]) in reports:
                reports[column].odd[problem] += 1
    return list(reports.values()), count


def _odd(sample: Sample, library: IntentLibrary) -> list[tuple[str, str]]:
    form, found = sample.form, []
    for role in TIME_ROLES:
        try:
            if time_of(sample, ROLES[role]) is None and role == "time":
                found.append((role, "empty"))
        except GplanError:
            found.append((role, "no time as YYYY-MM-DD HH:MM:SS"))
    for role in ("weekend", "holiday"):
        if form.has(role) and getattr(sample, ROLES[role]) not in ("0", "1", ""):
            found.append((role, "neither 0 nor 1"))
    if form.kinds and place_kind(sample.current_tag, form) == "other":
        found.append(("category", "of no kind in rows.kinds"))
    for role, entries in (("recent", form.recent), ("habits", form.habits)):
        text = getattr(sample, ROLES[role])
        parts = [part for part in text.split(entries.separator) if part.strip()]
        if len(entries.read(text)) < len(parts):
            found.append((role, f"not as rows.{role}.entry"))
    label = sample.raw_labels
    if label.strip():
        found += [("label", v.code) for v in check_plan(label, library)[:1]]
    if not found:
        facts_of(sample)  # What no column by itself tells.
    return found
