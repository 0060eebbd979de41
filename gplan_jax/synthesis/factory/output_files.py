"""The files of a run, named after the rows' file, and how they are written, all or none; why a row
is not kept: it has no answer, the filter finds a fault, or an earlier row says it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import atomic_write, file_digest, json_text
from gplan_jax.foundation.row_files import check_suffix
from gplan_jax.gsisr import (
    IntentLibrary,
    Label,
    Plan,
    RowForm,
    RowPlace,
    Sample,
    Violation,
    check_plan,
    parse_label,
)
from gplan_jax.gsisr.facts import ORDER_TIMES, REQUEST_TIME
from gplan_jax.gsisr.samples import SampleWriter, sample_writer

RemovalTier = Literal["answer", "format", "schema", "logic", "duplicate"]
# In the order in which a row passes them. The three between are the paper's (section 3.2).
TIERS: tuple[RemovalTier, ...] = ("answer", "format", "schema", "logic", "duplicate")
FILTER_TIERS: tuple[RemovalTier, ...] = ("format", "schema", "logic")
TO_THE_HOUR = len("2026-01-31 12")
_TIMES = {REQUEST_TIME, *ORDER_TIMES}
LineWriter = Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Removal:
    """Why a row was removed."""

    tier: RemovalTier  # tier, code: of the first rule it breaks, tiers in their order.
    code: str
    messages: tuple[str, ...]  # Of all rules it breaks.
    raw: str  # The answer as it came; "" where there was none.

    @classmethod
    def of_faults(cls, raw: str, faults: Sequence[Violation]) -> Removal:
        """The removal of an answer that breaks at least one rule."""
        first = min(faults, key=lambda fault: TIERS.index(fault.tier))
        return cls(first.tier, first.code, tuple(fault.message for fault in faults), raw)

    def to_dict(self, row: int, sample: Sample) -> dict[str, Any]:
        """A line of the file of removed rows."""
        origin = {"row": row, "id": sample.id, "tier": self.tier, "code": self.code}
        return {**origin, "messages": list(self.messages), "raw": self.raw}


def check_label(sample: Sample, library: IntentLibrary) -> Label | tuple[Violation, ...]:
    """The label of ``sample`` where it and its reasoning (if any) pass, else its faults."""
    if faults := check_plan(sample.raw_labels, library):
        return tuple(faults)
    try:
        return parse_label(sample, library, RowPlace("the answer", 0))
    except GplanError as error:
        problem = getattr(error, "problem", str(error))
        return (Violation("format", "broken_reasoning", problem),)


class Duplicates:
    """Rows seen so far, as 8-byte digests: about 150 bytes of memory a row that is kept.

    The reasoning doesn't count: two explanations of one plan are not two rows to learn from. With
    n rows two different ones are taken for duplicates with a probability of n^2 / 2^65.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, int]] = {}  # digest of the normal form -> (exact, row)

    def find(
        self, row: int, sample: Sample, plan: Plan
    ) -> tuple[Literal["exact", "near"], int] | None:
        """How ``sample`` with ``plan`` repeats which row; None where it is new."""
        columns = sample.context()
        exact = _digest(columns.values(), plan)
        times = {sample.form.names[field] for field in _TIMES}
        # Near ones agree in all but the id, with times cut to the hour and single blanks.
        del columns[sample.form.names["id"]]
        near = _digest(
            (
                " ".join((text.strip()[:TO_THE_HOUR] if column in times else text).split())
                for column, text in columns.items()
            ),
            plan,
        )
        first = self._seen.setdefault(near, (exact, row))
        if first[1] == row:
            return None
        return ("exact" if first[0] == exact else "near"), first[1]


def _digest(texts: Iterable[str], plan: Plan) -> int:
    form = json.dumps([*texts, plan], ensure_ascii=False, sort_keys=True)
    return int.from_bytes(hashlib.blake2b(form.encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True)
class OutputFiles:
    """Where the results of a run go: F.csv, F_test.csv, F.removed.jsonl and so on."""

    train: Path

    @property
    def test(self) -> Path:
        """Rows of users kept back."""
        return self.train.with_stem(f"{self.train.stem}_test")

    @property
    def removed(self) -> Path:
        """Each removed row and why."""
        return self._beside("removed.jsonl")

    @property
    def origin(self) -> Path:
        """Where each kept row comes from."""
        return self._beside("origin.jsonl")

    @property
    def report(self) -> Path:
        """Counts and settings."""
        return self._beside("report.json")

    @property
    def cache(self) -> Path:
        """A paid teacher's answers."""
        return self._beside("cache.sqlite")

    def check(self, inputs: dict[str, Path | None], *, test: bool) -> None:
        """Refuses to write over an input, over a file that no run made, or beside a stale one."""
        check_suffix(self.train)
        mine = {path.resolve() for path in (self.train, self.test, self.removed, self.origin)}
        for name, path in inputs.items():
            if path is not None and path.resolve() in mine:
                raise GplanError(f"{path} is {name} and would be overwritten; name another --out.")
        if self.train.exists() and not self.report.exists():
            raise GplanError(
                f"{self.train} exists, and no {self.report.name} stands beside it that would show "
                "that such a run wrote it. Name another --out, or remove it."
            )
        if self.test.exists() and not test:
            raise GplanError(
                f"{self.test} is left from a run with test rows, and this one has none. Remove it, "
                "or name another --out."
            )

    def _beside(self, ending: str) -> Path:
        return self.train.with_name(f"{self.train.stem}.{ending}")


@dataclass(frozen=True)
class OutputWriters:
    """What writes a row to each file of a run, and the one report.

    ``test`` is ``train`` where no rows are kept back.
    """

    train: SampleWriter
    test: SampleWriter
    removed: LineWriter
    origin: LineWriter
    report: LineWriter


@contextmanager
def open_outputs(
    files: OutputFiles, form: RowForm | None, *, test: bool, origin: bool
) -> Iterator[OutputWriters]:
    """Yields the writers; the files appear together when the block ends well, or none of them."""
    with ExitStack() as stack:
        # The first one opened is the last to appear: the rows come when all else is there.
        train = stack.enter_context(sample_writer(files.train, form))
        report = stack.enter_context(atomic_write(files.report))
        yield OutputWriters(
            train,
            stack.enter_context(sample_writer(files.test, form)) if test else train,
            stack.enter_context(_line_writer(files.removed)),
            stack.enter_context(_line_writer(files.origin)) if origin else lambda line: None,
            lambda values: report.write_text(json_text(values, indent=2) + "\n", encoding="utf-8"),
        )


@contextmanager
def _line_writer(path: Path) -> Iterator[LineWriter]:
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield lambda line: file.write(json_text(line) + "\n")


def file_identity(path: Path) -> dict[str, str]:
    """What a report says about an input file: its name and the SHA-256 of its bytes."""
    return {"file": path.name, "sha256": file_digest(path)}
