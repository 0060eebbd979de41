"""The files of a run, named after the rows' file, and how they are written: all or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import atomic_write, file_digest
from gplan_jax.foundation.row_files import check_suffix
from gplan_jax.foundation.strict_json import json_text
from gplan_jax.gsisr import RowForm
from gplan_jax.gsisr.sample_files import SampleWriter, sample_writer

LineWriter = Callable[[Any], object]


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
