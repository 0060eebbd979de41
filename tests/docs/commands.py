"""The commands in README and docs, as they are printed there."""

from __future__ import annotations

import itertools
import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
MARK = re.compile(r"<!-- run: (quick|slow) -->")
# Of a guide, which is run as a whole: what is cut where it need not take minutes (FROM -> TO), or
# the file that the block is the text of.
GUIDE = re.compile(r"<!-- run: guide(?: file (?P<file>\S+))?(?P<cuts>(?:; .+? -> .+?)*) -->")
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


@dataclass(frozen=True)
class Step:
    """What a reader of a guide does next: types a line, runs a program, writes a file."""

    place: str  # page:line, for messages
    kind: str  # "shell", "python", or the name of the file
    text: str


def steps_of(page: Path, *, cut: bool) -> Iterator[Step]:
    """A guide's marked blocks in order, each line of the shell by itself; ``cut`` to seconds."""
    lines = page.read_text("utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not (mark := GUIDE.match(line)):
            continue
        place, rest = f"{page.name}:{number}", lines[number:]
        fence = re.match(r"```(\w+)", rest[0])
        body = list(itertools.takewhile(lambda text: text and text != "```", rest[bool(fence) :]))
        if fence:  # A program or a file may have empty lines.
            body = rest[1 : rest.index("```")]
        text = textwrap.dedent("\n".join(body)) + "\n"
        for change in mark["cuts"].split("; ")[1:] if cut else ():
            before, after = change.split(" -> ")
            assert before in text, f"{place}: {before} is not there to be cut"
            text = text.replace(before, after)
        if fence:
            yield Step(place, mark["file"] or fence[1], text)
            continue
        line = ""
        for part in text.splitlines():
            line += part.removesuffix("\\")
            if not part.endswith("\\") and line.count("'") % 2 == 0:  # else it goes on
                yield Step(place, "shell", line)
                line = ""
