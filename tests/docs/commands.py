"""The commands in README and docs, as they are printed there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
MARK = re.compile(r"<!-- run: (quick|slow) -->")
SYNOPSIS = re.compile(r"[\[\]]|\.\.\.")  # of a line that shows a form, not a command


@dataclass(frozen=True)
class Command:
    """A line of a block, continued lines joined."""

    page: str
    line: int
    words: tuple[str, ...]  # from "gplan" on
    run: str  # how its block is marked: "quick", "slow", or "" where it isn't


def commands_of(page: Path) -> Iterator[Command]:
    """All `gplan` commands in a page's indented and fenced blocks; synopses are left out."""
    name, run, joined, start, fenced = str(page.relative_to(REPOSITORY)), "", "", 0, False
    within = False  # a block that is marked
    for number, line in enumerate(page.read_text("utf-8").splitlines(), start=1):
        if mark := MARK.match(line):
            run, within = mark.group(1), False
        elif line.startswith("```"):
            fenced = not fenced
        elif within and not (line.startswith("    ") or fenced):
            run = ""  # the block is over
        if not (line.startswith("    ") or fenced):
            continue
        within = bool(run)
        start = start if joined else number
        text = re.sub(r"(^|\s+)# .*$", "", line.strip())
        joined += text.removesuffix("\\")
        if text.endswith("\\"):
            continue
        whole, joined = joined, ""
        for part in re.split(r"\s(?:&&|;|\|)\s|;\s", whole):
            part = re.sub(r"\s>+\s?\S+|\s&$", "", part)
            part = re.sub(r"^(\./dev |\$ |[A-Z_]+=\S+ )+", "", part.strip())
            if part.startswith("gplan ") and not SYNOPSIS.search(part.replace("'.[", "")):
                yield Command(name, start, tuple(shlex.split(part)), run)
