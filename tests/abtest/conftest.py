"""Small logs for the tests of A/B tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

HEADER = "user,day,arm,page,impressions,clicks\n"  # a log may have columns of its own
WriteLog = Callable[..., Path]


@pytest.fixture
def write_log(tmp_path: Path) -> WriteLog:
    """Writes lines of a CSV log, below the usual heading, and gives its path."""

    def write(*lines: str, header: str = HEADER) -> Path:
        path = tmp_path / "log.csv"
        path.write_text(header + "".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def users_log(write_log: WriteLog) -> Callable[..., Path]:
    """A log of so many users an arm, of whom the first so many click, over some days."""

    def write(
        arms: dict[str, tuple[int, int]], days: Iterable[int] = (2, 3), more: Iterable[str] = ()
    ) -> Path:
        lines = [
            f"{arm}{user},2026-11-{day:02},{arm},general,2,{int(user < clicked)}"
            for arm, (users, clicked) in arms.items()
            for user in range(users)
            for day in days
        ]
        return write_log(*lines, *more)

    return write
