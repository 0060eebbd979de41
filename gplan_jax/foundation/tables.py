"""Tables of figures: drawn by rich on a terminal, as plain text or as Markdown in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box as boxes
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

NOTHING = "–"
Cell = str | Text


@dataclass(frozen=True)
class TextTable:
    """A table before it is drawn. Cells are text, never markup: they may be a model's words."""

    headings: Sequence[str]  # Several lines in one keep a column of figures narrow.
    rows: Sequence[Sequence[Cell] | None]  # Empty cells at the end may lack; None is a rule.
    words: int = 1  # Columns, from the left, of words; figures are set to the right.
    title: str = ""
    caption: str = ""
    plain: bool = False  # Horizontal rules only, for wide tables.

    def rich(self) -> Table:
        table = Table(
            title=Text(self.title) if self.title else None,
            title_justify="left",
            caption=Text(self.caption) if self.caption else None,
            caption_justify="left",
            show_header=any(self.headings),
            box=boxes.HORIZONTALS if self.plain else boxes.HEAVY_HEAD,
            padding=(0, 1, 0, 0) if self.plain else (0, 1),
            pad_edge=not self.plain,
        )
        for column, heading in enumerate(self.headings):
            of_words = column < self.words
            table.add_column(
                Text(heading),
                justify="left" if of_words else "right",
                vertical="bottom",
                no_wrap=not of_words,
                overflow="fold" if of_words else "ellipsis",
            )
        for row in self.rows:
            if row is None:
                table.add_section()
            else:
                table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
        return table

    def markdown(self) -> str:
        """The table as Markdown, its caption below; rules are left out."""
        heads = [heading.replace("-\n", "").replace("\n", " ") for heading in self.headings]
        marks = ["---" if column < self.words else "---:" for column in range(len(heads))]
        lines = [_markdown_line(heads), _markdown_line(marks)]
        for row in filter(None, self.rows):
            missing = [""] * (len(heads) - len(row))
            lines.append(_markdown_line([*map(str, row), *missing]))
        return "\n".join([*lines, *(["", self.caption] if self.caption else [])]) + "\n"


def plain_text(content: RenderableType, *, width: int = 100) -> str:
    """``content`` as lines of text without colours, for files and tests."""
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(content)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.strip().replace("|", "\\|") for cell in cells) + " |"
